"""Tables whose channels no weights make: what they share, which channels each net keeps, and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from architectures import TOKENS
from fusing import check_tasks, check_valid, fuse, outputs
from netfiles import written

from onnxzip.analysis import analyse
from onnxzip.calibration.samples import Source
from onnxzip.errors import UnsupportedError
from onnxzip.loading import load
from onnxzip.matching.methods import METHODS, ZIP
from onnxzip.net import Net

WIDTH, HIDDEN = 6, 8


def drawn(net: Net, seed: int) -> Net:
    """A net with random params."""
    rng = np.random.default_rng(seed)
    params = {k: rng.standard_normal(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a for k, a in net.params.items()}
    return replace(net, params=params)


def text_net(folder: Path, name: str, seed: int, width: int = WIDTH, rows: int = TOKENS) -> Net:
    """Words, embedded, transposed, read by a convolution."""
    graph = (
        f"text (int64[N, 5] x, float[{rows}, {width}] table, float[{HIDDEN}, {width}, 2] w, float[{HIDDEN}] b,"
        f" float[{HIDDEN}, 3] head) => (float[N, 3] y) {{"
        "  e = Gather(table, x) t = Transpose<perm = [0, 2, 1]>(e) c = Conv(t, w, b) r = Relu(c)"
        "  m = ReduceMax<axes = [2], keepdims = 0>(r) y = MatMul(m, head) }"
    )
    return drawn(load(written(folder, graph, 17), name), seed)


def tabular_net(folder: Path, name: str, seed: int) -> Net:
    """Two categories, each embedded by a table of its own, joined and read by a layer."""
    graph = (
        f"tabular (int64[N, 2] x, float[{TOKENS}, {WIDTH}] table, float[{TOKENS}, 4] other, float[{WIDTH + 4}, {HIDDEN}] w,"
        f" float[{HIDDEN}] b, float[{HIDDEN}, 3] head) => (float[N, 3] y) {{"
        "  i, j = Split<axis = 1>(x) e = Gather(table, i) f = Gather(other, j) z = Concat<axis = 2>(e, f)"
        "  p = MatMul(z, w) c = Add(p, b) r = Relu(c) h = MatMul(r, head)"
        "  y = ReduceMean<axes = [1], keepdims = 0>(h) }"
    )
    return drawn(load(written(folder, graph, 17), name), seed)


def steep(net: Net, seed: int) -> Net:
    """The net with a table most of which lies along half as many axes as it has channels, all of these alike."""
    rng, (rows, width) = np.random.default_rng(seed), net.params["table"].shape
    u, _, v = np.linalg.svd(rng.standard_normal((rows, width)), full_matrices=False)
    table = u * np.where(np.arange(width) < width // 2, 3.0, 0.3) @ v
    return replace(net, params={**net.params, "table": table.astype(np.float32)})


def tables_of(net: Net) -> list[np.ndarray]:
    return [net.params[str(n.inputs[0])] for n in net.nodes if n.op == "Gather" and n.inputs[0] in net.params]


def drawn_twice(folder: Path, graph: str) -> list[Net]:
    """Two nets of one graph, with params of their own."""
    return [drawn(load(written(folder, graph, 17), name), seed) for seed, name in ((1, "a"), (2, "b"))]


def pair(folder: Path, make: Callable[[Path, str, int], Net] = text_net) -> list[Net]:
    return [make(folder, name, seed) for seed, name in ((1, "a"), (2, "b"))]


def test_tables_are_shared_along_their_principal_axes(tmp_path: Path) -> None:
    """Three axes of each net tell nearly all of it; three of its columns as they stand tell less."""
    lost = dict[bool, list[float]]()
    for seed in range(4):
        nets = [steep(text_net(tmp_path, name, 2 * seed + k, rows=60), 2 * seed + k) for k, name in enumerate("ab")]
        feeds = {"x": np.random.default_rng(seed).integers(0, 60, (400, 5))}
        for turn in (True, False):
            sources = [Source(("a", "b"), feeds, {})]
            fused = fuse(nets, [("*", 1.0), ("*Conv*", 0.0)], sources=sources, how=replace(ZIP, turn=turn))
            assert [t.shape for t in tables_of(fused.net)] == [(60, WIDTH)]
            assert bool(fused.zipped.turned) == turn
            found = outputs(fused.net, feeds)
            for net in nets:
                want = outputs(net, feeds)["y"]
                lost.setdefault(turn, []).append(float(np.linalg.norm(found[f"{net.name}_y"] - want) / np.linalg.norm(want)))
    assert np.mean(lost[True]) < 0.8 * np.mean(lost[False]), lost


def test_a_shared_column_is_one_of_its_originals(tmp_path: Path) -> None:
    """Columns joined with others have no free basis: each is that of the net it follows, half of them each net's."""
    nets = pair(tmp_path, tabular_net)
    fused = fuse(nets)
    for table, name in zip(tables_of(fused.net), ("table", "other"), strict=True):
        led = [[any(np.array_equal(c, own) for own in net.params[name].T) for c in table.T] for net in nets]
        assert [sum(some) for some in led] == [table.shape[1] // 2] * 2
        assert np.sum(led, axis=0).tolist() == [1] * table.shape[1]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_one_frozen_table_is_held_once_and_as_it_is(share: float, tmp_path: Path) -> None:
    first, second = pair(tmp_path)
    frozen = first.params["table"]
    second = replace(second, params={**second.params, "table": frozen})
    fused = fuse([first, second], share)
    (table,) = tables_of(fused.net)
    assert table.tobytes() == frozen.tobytes()
    assert all("Gather" not in s.name for s in fused.plan.shared_spaces())


def test_half_of_the_columns(tmp_path: Path) -> None:
    fused = fuse(pair(tmp_path), 0.5)
    assert sorted(t.shape[1] for t in tables_of(fused.net)) == [WIDTH // 2] * 3
    assert fuse(pair(tmp_path), 0.5, "wide").plan.shared_spaces()[0].shared == WIDTH // 2


def test_nothing_shared_leaves_the_originals(tmp_path: Path) -> None:
    for make in (text_net, tabular_net):
        nets = pair(tmp_path, make)
        check_tasks(fuse(nets, 0.0), nets, 1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_every_method_merges_tables(method: str, share: float, tmp_path: Path) -> None:
    for make in (text_net, tabular_net):
        nets = pair(tmp_path, make)
        fused = fuse(nets, share, method=method)
        assert fused.plan.shared_spaces()[0].shared >= WIDTH // 2
        again = [nets[0], replace(nets[0], name="b")]
        check_tasks(fuse(again, share, method=method), again, 1e-4)


def test_tables_of_other_widths(tmp_path: Path) -> None:
    nets = [text_net(tmp_path, "a", 1, WIDTH), text_net(tmp_path, "b", 2, WIDTH + 2)]
    space = fuse(nets).plan.shared_spaces()[0]
    assert (space.shared, sum(space.counts.values())) == (WIDTH, WIDTH + 2)


def test_tables_of_other_rows_begin_heads(tmp_path: Path) -> None:
    nets = [text_net(tmp_path, "a", 1), text_net(tmp_path, "b", 2, rows=TOKENS + 1)]
    with pytest.raises(UnsupportedError, match="Gather"):
        analyse(nets)


def test_what_a_recurrent_node_reads_is_not_made_anew(tmp_path: Path) -> None:
    """Weights of an LSTM that each net keeps: with another net's columns it would compute nothing of use."""
    graph = (
        f"text (int64[N, 5] x, float[{TOKENS}, {WIDTH}] table, float[1, 16, {WIDTH}] w, float[1, 16, 4] r)"
        "  => (float[N, 1, 4] y) {"
        "  e = Gather(table, x) o, y = LSTM<hidden_size = 4, layout = 1>(e, w, r) }"
    )
    nets = drawn_twice(tmp_path, graph)
    with pytest.raises(UnsupportedError, match="share nothing"):
        analyse(nets)


def test_what_is_summed_without_weights_is_not_made_anew(tmp_path: Path) -> None:
    """The second order of a factorisation machine, |sum e|^2 over channels: no weights could undo another net's columns."""
    graph = (
        f"machine (int64[N, 2] x, float[{TOKENS}, {WIDTH}] table, float[{WIDTH}, {HIDDEN}] w, float[{HIDDEN}, 1] head)"
        "  => (float[N, 1] y) {"
        "  e = Gather(table, x) s = ReduceMean<axes = [1], keepdims = 0>(e) q = Mul(s, s)"
        "  o = ReduceMean<axes = [1], keepdims = 1>(q) p = MatMul(s, w) r = Relu(p) d = MatMul(r, head) y = Add(o, d) }"
    )
    nets = drawn_twice(tmp_path, graph)
    because = r"Gather \[.*\] has other params than in '.*', and these stay as they are: ReduceMean '.*' sums over its columns"
    with pytest.raises(UnsupportedError, match=f"share nothing .*{because} without weights"):
        analyse(nets)
    frozen = [replace(n, params={**n.params, "table": nets[0].params["table"]}) for n in nets]
    (table,) = tables_of(fuse(frozen).net)
    assert table.tobytes() == nets[0].params["table"].tobytes()


def test_each_table_and_each_sum_that_stays_apart_has_a_reason_of_its_own(tmp_path: Path) -> None:
    """Tables of the second and of the first order (DeepFM), beside layers that read the same numbers."""
    graph = (
        f"machine (int64[N, 2] x, float[{TOKENS}, {WIDTH}] table, float[{TOKENS}, 2] line, float[2, {HIDDEN}] w,"
        f" float[{HIDDEN}, 1] head) => (float[N, 1] y) {{ one = Constant<value = int64[1] {{1}}>()"
        "  two = Constant<value = int64[1] {2}>()"
        "  e = Gather(table, x) l = Gather(line, x) a = ReduceSum<keepdims = 0>(e, one) q = Mul(a, a)"
        "  o = ReduceSum(q, one) f = ReduceSum<keepdims = 0>(l, two) g = ReduceSum(f, one) s = Mul(o, g)"
        "  z = Cast<to = 1>(x) p = MatMul(z, w) r = Relu(p) d = MatMul(r, head) y = Add(d, s) }"
    )
    kept = "has other params than in 'a', and these stay as they are: ReduceSum"
    found = {r.where: r.why for r in analyse(drawn_twice(tmp_path, graph)).refusals}
    tables = [why for why in found.values() if why.startswith("Gather")]
    assert [why.split(" 'Reduce")[0] for why in tables] == [
        f"Gather [{TOKENS}, {WIDTH}] {kept}", f"Gather [{TOKENS}, 2] {kept}"
    ]
    assert any("Add reads 's', too, to which nothing in 'a' corresponds" in why for why in found.values())


def test_a_norm_that_is_spelled_out_is_no_sum(tmp_path: Path) -> None:
    """Its mean and its variance go back to the channels that they are of: layers read these, as behind any norm."""
    graph = (
        f"normed (int64[N, 2] x, float[{TOKENS}, {WIDTH}] table, float[{WIDTH}, {HIDDEN}] w, float[{HIDDEN}, 3] head)"
        "  => (float[N, 2, 3] y) {"
        "  e = Gather(table, x) m = ReduceMean<axes = [-1]>(e) c = Sub(e, m) q = Mul(c, c) v = ReduceMean<axes = [-1]>(q)"
        "  d = Sqrt(v) z = Div(c, d) p = MatMul(z, w) r = Relu(p) y = MatMul(r, head) }"
    )
    nets = drawn_twice(tmp_path, graph)
    fused = fuse(nets)
    assert [s.shared for s in fused.plan.shared_spaces()] == [WIDTH, HIDDEN] and not fused.plan.refusals
    check_valid(fused, nets)


def test_positions_follow_as_words_do(tmp_path: Path) -> None:
    """What is added to each word's columns is that of the net which a column follows, too."""
    graph = (
        f"text (int64[N, 5] x, float[{TOKENS}, {WIDTH}] table, float[5, {WIDTH}] place, float[{HIDDEN}, {WIDTH}, 2] w,"
        f" float[{HIDDEN}] b, float[{HIDDEN}, 3] head) => (float[N, 3] y) {{"
        "  e = Gather(table, x) p = Add(e, place) g = Relu(p) t = Transpose<perm = [0, 2, 1]>(g) c = Conv(t, w, b)"
        "  r = Relu(c) m = ReduceMax<axes = [2], keepdims = 0>(r) y = MatMul(m, head) }"
    )
    nets = drawn_twice(tmp_path, graph)
    fused = fuse(nets)
    words, places = fused.net.params["table"], fused.net.params["place"]
    for k in range(WIDTH):
        (led,) = [(n, j) for n in nets for j in range(WIDTH) if np.array_equal(n.params["table"][:, j], words[:, k])]
        assert np.array_equal(led[0].params["place"][:, led[1]], places[:, k])


@pytest.mark.parametrize("order", ["cab", "abc"])
def test_a_net_that_gives_its_words_on_keeps_its_table(order: str, tmp_path: Path) -> None:
    """Its own layers come first, before those of the nets that share theirs."""
    nets = []
    for seed, name in enumerate(order):
        alone = name == "c"
        act, window = ("Tanh", 3) if alone else ("Relu", 2)
        graph = (
            f"text (int64[N, 5] x, float[{TOKENS}, {WIDTH}] table, float[{HIDDEN}, {WIDTH}, {window}] w, float[{HIDDEN}] b,"
            f" float[{HIDDEN}, 3] head) => (float[N, 3] y{f', float[N, 5, {WIDTH}] z' * alone}) {{"
            f"  e = Gather(table, x) q = {act}(e) t = Transpose<perm = [0, 2, 1]>(q) c = Conv(t, w, b) r = {act}(c)"
            f"  m = ReduceMax<axes = [2], keepdims = 0>(r) y = MatMul(m, head) {'z = Identity(e)' * alone} }}"
        )
        nets.append(drawn(load(written(tmp_path, graph, 17), name), seed))
    fused = fuse(nets, 0.5)
    check_valid(fused, nets)
    assert fused.plan.shared_spaces()[0].counts[frozenset("ab")] == WIDTH // 2
