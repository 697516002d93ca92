"""The frontier on real nets: every sample passes every node once, live values are those of the fused net, budgets change
nothing; and the gathering of rows against a naive loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from netfiles import written
from zipping import MODELS, ROOMY, images_of, planned, silent, swept

from onnxzip.analysis.coupling import linear_view
from onnxzip.calibration import frontier as frontier_module
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.gathering import draw, unfold
from onnxzip.calibration.places import PIECE_BYTES, HostPlace, piece_for
from onnxzip.calibration.store import Store
from onnxzip.fusion.assembling import assemble
from onnxzip.fusion.zipped import Zipped
from onnxzip.fusion.zipping import zip_nets
from onnxzip.loading import load
from onnxzip.matching.methods import ZIP
from onnxzip.net import BATCH, Net, Port, producers
from onnxzip.runtime import Session, open_session

FLOAT = np.dtype(np.float32)
COUNTS = {"low": 60, "high": 85}
PAIRS = [("lenet5", 1.0), ("lenet5", 0.5), ("resnet", 0.5), ("mobilenet", 0.5)]


def prepared(family: str, share: float) -> tuple[frontier_module.Plan, dict[str, np.ndarray]]:
    plan = planned({t: MODELS / f"{family}-fashion-{t}.onnx" for t in COUNTS}, share)
    return plan, {t: images_of(f"fashion-{t}", n) for t, n in COUNTS.items()}


def zipped(frontier: Frontier) -> Zipped:
    return zip_nets(frontier.plan, ZIP, frontier, tick=silent)


class Counting:
    """`open_session` that counts the samples each node of each net is run on."""

    def __init__(self) -> None:
        self.samples: list[Counter[str]] = []

    def __call__(self, net: Net, device: str, threads: int) -> Session:
        session, seen = open_session(net, device, threads), Counter[str]()
        self.samples.append(seen)

        class Counted(Session):
            def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
                for node in net.nodes:
                    seen[node.name] += len(next(iter(feeds.values())))
                return super().run(feeds)

        return Counted(session.name, session.provider, session.outputs, session.inner)


@pytest.mark.parametrize(("family", "share"), PAIRS)
def test_each_sample_passes_each_node_once(monkeypatch: pytest.MonkeyPatch, family: str, share: float) -> None:
    plan, data = prepared(family, share)
    counting = Counting()
    monkeypatch.setattr(frontier_module, "open_session", counting)
    monkeypatch.setattr(frontier_module, "BATCH_BYTES", 1 << 20)
    with swept(plan, data) as frontier:
        assert len(counting.samples) == len(plan.tasks)
        for task, seen in zip(plan.tasks, counting.samples, strict=True):
            assert set(seen.values()) == {COUNTS[task]}
        counting.samples.clear()
        zipped(frontier)
    seen = sum(counting.samples, Counter[str]())
    for placed in plan.layout.placed:
        if placed.role is not None and placed.node.name in read_by_weights(plan):
            assert seen[placed.node.name] == sum(COUNTS[t] for t in placed.owners), placed.node.name
    assert set(seen) <= {p.node.name for p in plan.layout.placed}


def read_by_weights(plan: frontier_module.Plan) -> set[str]:
    """Nodes of the fused net that some weights read, directly or not: the others need not run."""
    fitted = {w.name for w in plan.layout.weights}
    maker = {v: p.node for p in plan.layout.placed for v in p.node.outputs}
    stack = [v for p in plan.layout.placed if fitted & set(p.node.inputs) for v in p.node.inputs]
    found: set[str] = set()
    while stack:
        node = maker.get(str(stack.pop()))
        if node is not None and node.name not in found:
            found.add(node.name)
            stack.extend(node.inputs)
    return found


class Keeping(Store):
    """A store that remembers all live values it was ever given."""

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self.live: dict[tuple[int, str, int], np.ndarray] = {}

    def put(self, key: object, array: np.ndarray) -> None:
        if isinstance(key, tuple) and len(key) == 3:
            self.live[key] = array.copy()
        super().put(key, array)


@pytest.mark.parametrize(("family", "share"), PAIRS)
def test_live_values_are_those_of_the_fused_net(monkeypatch: pytest.MonkeyPatch, family: str, share: float) -> None:
    plan, data = prepared(family, share)
    stores: list[Keeping] = []
    monkeypatch.setattr("zipping.Store", lambda budget: stores.append(Keeping(budget)) or stores[-1])
    with swept(plan, data) as frontier:
        found = zipped(frontier)
    net = assemble(plan, found.params)
    live = stores[0].live
    made = producers(net.nodes)
    names = sorted({name for _, name, _ in live if name in made})
    assert len(names) >= 2
    session = open_session(replace(net, outputs=tuple(Port(v, net.dtypes[v], net.shapes[v]) for v in names)), "cpu", 1)
    for k, x in enumerate(data.values()):
        outputs = session.run({net.inputs[0].name: x})
        for name in names:
            parts = [live[key] for key in sorted(key for key in live if key[:2] == (k, name))]
            if parts:
                scale = float(np.abs(outputs[name]).max())
                np.testing.assert_allclose(np.concatenate(parts), outputs[name], rtol=1e-4, atol=1e-5 * scale)


def test_beyond_its_budget_the_store_uses_files_and_nothing_else_changes() -> None:
    plan, data = prepared("lenet5", 0.5)
    with swept(plan, data, ROOMY) as roomy, swept(plan, data, 100_000) as tight:
        stores = [frontier.place._store for frontier in (roomy, tight)]
        assert not stores[0]._files and stores[1]._files
        assert stores[1].used <= 100_000
        folder = Path(str(stores[1]._folder.name)) if stores[1]._folder else None
        a, b = zipped(roomy), zipped(tight)
        assert folder is not None and folder.exists()
    assert not folder.exists()
    assert a.params.keys() == b.params.keys()
    for name, array in a.params.items():
        assert np.array_equal(array, b.params[name])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")
def test_a_scratch_file_is_mapped_while_it_is_used() -> None:
    """Pages of a mapping that stays would count as memory in use."""
    with Store(0) as store:
        store.put("x", np.arange(6.0))
        assert store._folder is not None
        array = store.get("x")
        assert store._folder.name in Path("/proc/self/maps").read_text() and array.tolist() == [0, 1, 2, 3, 4, 5]
        del array
        assert store._folder.name not in Path("/proc/self/maps").read_text()
        store.drop("x")
        assert "x" not in store and not list(Path(store._folder.name).iterdir())


def test_a_finished_step_leaves_nothing_behind() -> None:
    plan, data = prepared("lenet5", 1.0)
    with swept(plan, data) as frontier:
        zipped(frontier)
        assert not frontier._positions
        assert not [key for key in frontier.place._store._arrays if isinstance(key, tuple) and key[0] == "target"]


class TestPieces:
    def test_what_comes_of_pieces_is_what_comes_of_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net, images = load(MODELS / "vgg-fashion-low.onnx", "net"), images_of("fashion-low", 23)
        feeds, session, place = {net.inputs[0].name: images}, open_session(net, "cpu", 1), HostPlace(Store(ROOMY))
        (name,), runs, run = session.outputs, list[int](), Session.run

        def noting(session: Session, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            runs.append(len(next(iter(feeds.values()))))
            return run(session, feeds)

        monkeypatch.setattr(Session, "run", noting)
        whole, found = place.run(session, feeds), place.run(session, feeds, 5)
        assert runs == [23, 5, 5, 5, 5, 3]
        assert found[name].shape == whole[name].shape
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(whole[name]), rtol=1e-5, atol=1e-5)

    def test_their_size_follows_the_widest_value(self) -> None:
        ports = [Port("x", FLOAT, (BATCH, 3)), Port("y", FLOAT, (BATCH, 2, 4))]
        assert piece_for(ports, PIECE_BYTES // 7) == 7
        assert piece_for(ports, 2 * PIECE_BYTES) == 1

    @pytest.mark.parametrize("shape", [(4, BATCH), (-3, 5), (3, 5)])
    def test_there_are_none_where_the_batch_does_not_come_first(self, shape: tuple[int, ...]) -> None:
        assert piece_for([Port("x", FLOAT, (BATCH, 3)), Port("y", FLOAT, shape)], 1) is None


@pytest.mark.parametrize(("positions", "wanted"), [(5, 5), (5, 9), (6, 1), (9, 2), (400, 7), (9, 8), (2, 1)])
def test_draw_repeats_no_position_and_itself(positions: int, wanted: int) -> None:
    found = draw(np.random.default_rng(4), 300, positions, wanted)
    assert found.shape == (300, min(wanted, positions))
    assert (np.diff(found, axis=1) > 0).all() and found.min() >= 0 and found.max() < positions
    assert np.array_equal(found, draw(np.random.default_rng(4), 300, positions, wanted))


@pytest.mark.parametrize(("positions", "wanted"), [(12, 2), (12, 5)])
def test_draw_takes_every_choice_alike(positions: int, wanted: int) -> None:
    """Each position in wanted / positions of 20,000 samples, within five standard deviations."""
    share = wanted / positions
    times = np.bincount(draw(np.random.default_rng(5), 20_000, positions, wanted).ravel(), minlength=positions)
    assert np.abs(times - 20_000 * share).max() < 5 * np.sqrt(20_000 * share * (1 - share))


NODES = {
    "pads": ("Conv <pads = [1,2,0,1]> (x, w, b)", (5, 3, 3, 3), 5),
    "strides": ("Conv <strides = [2,3], pads = [1,1,1,1]> (x, w, b)", (5, 3, 3, 2), 5),
    "dilations": ("Conv <dilations = [2,1], pads = [2,0,2,0]> (x, w, b)", (4, 3, 3, 3), 4),
    "depthwise": ("Conv <group = 3, pads = [1,1,1,1]> (x, w, b)", (6, 1, 3, 3), 6),
    "transposed": ("ConvTranspose <strides = [2,2], pads = [1,0,1,0]> (x, w, b)", (3, 4, 3, 3), 4),
    "transposed_padded": ("ConvTranspose <strides = [2,2], output_padding = [1,1]> (x, w, b)", (3, 4, 2, 3), 4),
}


@pytest.mark.parametrize("kind", NODES)
def test_unfolded_rows_times_the_matrix_are_the_nodes_outputs(tmp_path: Path, kind: str) -> None:
    call, shape, outs = NODES[kind]
    sizes = ",".join(map(str, shape))
    ports = f"float[N,3,8,7] x, float[{sizes}] w, float[{outs}] b"
    net = load(written(tmp_path, f"g ({ports}) => (float[N,{outs},H,W] y) {{ y = {call} }}"))
    (node,) = net.nodes
    found = linear_view(net, node)
    assert found is not None
    linear, view = found
    x = np.random.default_rng(6).standard_normal((4, 3, 8, 7)).astype(np.float32)
    (y,) = open_session(net, "cpu", 1).run({net.inputs[0].name: x}).values()
    taps = linear.taps(view)
    at = draw(np.random.default_rng(7), 4, len(taps), 9)
    rows = unfold(x, linear.channel(view), taps, np.arange(4), at)
    matrix = linear.to_matrix(view, net.params[str(node.inputs[1])])
    assert rows.shape == (4 * 9, taps.shape[1], 3)
    for n in range(4):
        for k, p in enumerate(at[n]):
            for t, q in enumerate(taps[p]):
                expected = x[n].reshape(3, -1)[:, q] if q >= 0 else np.zeros(3)
                np.testing.assert_array_equal(rows[9 * n + k, t], expected)
            groups = rows[9 * n + k].reshape(taps.shape[1], len(matrix), -1)
            out = np.einsum("goki,kgi->go", matrix, groups).ravel() + net.params[str(node.inputs[2])]
            np.testing.assert_allclose(out, y[n].reshape(outs, -1)[:, p], rtol=1e-4, atol=1e-4)
