"""Heads and the channels inside them, embedding tables, and what exporters write around both."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from architectures import ARCHITECTURES, TOKENS, Architecture, Maker, encoder, model_of
from fusing import check_all_shared, check_tasks, check_valid, fuse, make, net_of, permuted
from netfiles import loaded, ops, written

from onnxzip.analysis import analyse
from onnxzip.analysis.coupling import couple
from onnxzip.analysis.spaces import Expr, Inside, positions
from onnxzip.calibration.samples import Source
from onnxzip.net import Axis

HEADS, INNER = 2, 4
MASK = """g (int64[N,4] x) => (float[N,1,1,4] y)
<int64 none = {0}, int64 one = {1}, int64[4] column = {0,1,2,3}, int64[3] behind = {1,2,3},
 int64[1] flat = {-1}, int64[1] four = {4}>
{
    shape = Shape(x)
    batch = Gather<axis=0>(shape, none)
    rows = Range(none, batch, one)
    sample = Unsqueeze(rows, behind)
    %s
    y = Cast<to=1>(found)
}"""
FLAT = """start = Mul(sample, four)
    at = Add(start, column)
    all = Reshape(x, flat)
    found = Gather<axis=0>(all, at)"""
BY_PAIRS = """zeros = Mul(sample, none)
    tokens = Add(zeros, column)
    size = Shape(tokens)
    samples = Expand(sample, size)
    a = Unsqueeze(samples, index_axis)
    b = Unsqueeze(tokens, index_axis)
    at = Concat<axis=-1>(a, b)
    found = GatherND(x, at)"""


def test_positions_of_channels_inside_of_heads() -> None:
    three, heads, inner = (Expr("atom", n, k) for k, n in enumerate((3, 2, 4)))
    axis = Expr("product", 24, -1, (three, heads, inner))
    orders = np.array([[3, 2, 1, 0], [1, 0, 3, 2]])
    found = positions(axis, {1: np.array([1, 0]), 2: Inside(1, orders)})
    want = [p * 8 + h * 4 + c for p in range(3) for h, order in zip((1, 0), orders, strict=True) for c in order]
    assert found.tolist() == want


class TestCoupling:
    def test_channels_lie_inside_of_their_heads(self, tmp_path: Path) -> None:
        coupling = couple(make(tmp_path, "encoder", 1))
        sizes = {e.atom: e.size for e in coupling.axes.values() if e.kind == "atom"}
        assert sorted((sizes[a], sizes[h]) for a, h in coupling.inside.items()) == [(INNER, HEADS)] * 4
        assert len(set(coupling.inside.values())) == 2  # of each layer: queries with keys, and values
        assert not set(coupling.inside) & coupling.produced and set(coupling.inside.values()) <= coupling.produced

    def test_an_order_that_has_a_meaning_stays(self, tmp_path: Path) -> None:
        """Rotary positions are given for the channels of one head: heads may still be exchanged."""
        coupling = couple(make(tmp_path, "rotated", 1))
        assert len(coupling.inside) == 1 and not coupling.refusals
        heads = coupling.inside[next(iter(coupling.inside))]
        assert heads in coupling.produced and heads not in coupling.pinned

    def test_one_key_for_all_heads_leads_their_channels(self, tmp_path: Path) -> None:
        """Channels that weights make without heads, too, have one order for all heads, and these keep theirs."""
        graph = """g (float[N,5,6] x, float[6,8] wq, float[6,4] wk, float[8,3] wo) => (float[N,5,3] y)
        <int64[4] split = {0,0,2,4}, int64[3] join = {0,0,8}>
        {
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            heads = Reshape(q, split)
            first = Transpose<perm=[0,2,1,3]>(heads)
            keys = Unsqueeze<axes=[1]>(k)
            turned = Transpose<perm=[0,1,3,2]>(keys)
            scores = MatMul(first, turned)
            mixed = MatMul(scores, first)
            back = Transpose<perm=[0,2,1,3]>(mixed)
            flat = Reshape(back, join)
            y = MatMul(flat, wo)
        }"""
        net = replace(loaded(written(tmp_path, graph, 11)), name="a")
        coupling = couple(net)
        channels, heads = coupling.axes[Axis("k", 2)].atom, coupling.axes[Axis("heads", 2)].atom
        assert not coupling.inside and channels in coupling.produced - set(coupling.pinned) and heads in coupling.kept
        nets = [net, permuted(net, 7, "b")]
        fused = fuse(nets)
        check_all_shared(fused.plan)
        check_tasks(fused, nets, 1e-4)


class TestHeads:
    @pytest.mark.parametrize("family", ["encoder", "token_encoder", "joint_projection", "rotated_jointly"])
    def test_of_a_permuted_copy_each_finds_its_own(self, family: str, tmp_path: Path) -> None:
        """Heads in another order, and channels in an order of its own in each of them, of queries and keys and of values."""
        nets = [make(tmp_path, family, 1, "a"), permuted(make(tmp_path, family, 1, "b"), 7)]
        fused = fuse(nets)
        check_tasks(fused, nets, 1e-4)
        assert not [f for by_key in fused.zipped.fits.values() for fits in by_key.values() for f in fits]  # equal bit for bit
        heads = [s for s in fused.plan.shared_spaces() if s.inside]
        both = frozenset("ab")
        assert heads and all(s.shared == s.sizes["a"] for s in heads)
        for space in heads:
            for number in space.inside:
                orders = fused.zipped.members[number, both].index
                assert orders["a"].shape == orders["b"].shape == (HEADS, INNER)
                assert sorted(orders["b"][0]) == list(range(INNER))
                assert (orders["a"] != orders["b"]).any()

    def test_of_siblings_each_finds_its_own(self, tmp_path: Path) -> None:
        """Nets that differ a little have no equal rows: the order inside is found in what the rows explain."""
        net = make(tmp_path, "encoder", 1, "a")
        rng = np.random.default_rng(0)
        moved = {k: x + 0.01 * rng.standard_normal(x.shape).astype(np.float32) for k, x in net.params.items() if x.ndim > 1}
        nets = [net, permuted(replace(net, name="b", params={**net.params, **moved}), 7)]
        check_tasks(fuse(nets), nets, 0.2)

    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_are_shared_whole(self, layout: str, tmp_path: Path) -> None:
        nets = [make(tmp_path, "encoder", k, f"net{k}", width=8) for k in (1, 2)]
        fused = fuse(nets, 0.5, layout)
        both = frozenset(n.name for n in nets)
        half = {both: 2, frozenset(["net1"]): 2, frozenset(["net2"]): 2}
        for space in [s for s in fused.plan.shared_spaces() if s.inside]:
            assert space.counts == (half if layout == "wide" else {both: 4})  # a shared row could not read a head of one task
        stream = next(s for s in fused.plan.shared_spaces() if s.sizes["net1"] == 16)
        assert stream.shared == 16  # a norm needs all channels of a stream at once: it is shared whole, or not at all
        assert not fused.plan.refusals

    def test_no_share_of_a_stream_is_none(self, tmp_path: Path) -> None:
        nets = [make(tmp_path, "encoder", k, f"net{k}") for k in (1, 2)]
        plan = analyse(nets, [("*", 0.0)])
        assert all(len(owners) == 1 for s in plan.spaces.values() for owners in s.counts)

    def test_heads_of_another_size_are_not_paired(self, tmp_path: Path) -> None:
        longer = replace(ARCHITECTURES["encoder"], build=partial(encoder, inner=8))
        nets = [make(tmp_path, "encoder", 1, "a"), net_of(tmp_path, model_of(longer, 2), "b")]
        plan = analyse(nets)
        assert not [s for s in plan.shared_spaces() if s.inside] and plan.refusals

    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_keys_against_values_have_channels_on_two_axes(self, layout: str, tmp_path: Path) -> None:
        """Linear attention of one head: what is made of both needs all channels of both, as these need each other."""

        def build(m: Maker, width: int, classes: int) -> str:
            x = m.relu(m.conv("image", (width, 3, 3, 3), strides=[2, 2]))
            k, v, q = (m.op("Reshape", m.conv(x, (n, width, 1, 1)), m.ints(0, n, 36)) for n in (6, 5, 6))
            both = m.op("MatMul", v, m.op("Transpose", m.op("Softmax", k, axis=2), perm=[0, 2, 1]))
            y = m.op("Reshape", m.op("MatMul", both, m.op("Softmax", q, axis=1)), m.ints(0, 5, 6, 6))
            return m.pool_head(m.op("Add", m.conv(y, (width, 5, 1, 1)), x), width, classes)

        net, other = (net_of(tmp_path, model_of(Architecture(build), seed), name) for seed, name in ((1, "a"), (2, "b")))
        copy = permuted(net, 5, "b")
        fused = fuse([net, copy], 1.0, layout)
        check_all_shared(fused.plan)
        check_tasks(fused, [net, copy], 1e-4)
        assert [s.sizes["a"] for s in fused.plan.shared_spaces()] == [4, 6, 5]
        for share in (0.5, 0.0):
            check_valid(fuse([net, other], share, layout), [net, other])

    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_a_table_of_positions_beside_their_values_ends_nothing(self, layout: str, tmp_path: Path) -> None:
        """Channels in a fixed order inside of heads go with these, also where one matrix makes heads without such an order."""
        nets = [make(tmp_path, "rotated_jointly", k, f"net{k}", width=8) for k in (1, 2)]
        plan = analyse(nets, [("*", 0.5)], layout)
        heads = next(s for s in plan.shared_spaces() if s.inside)
        assert heads.sizes == {"net1": 4, "net2": 4} and heads.shared == 2 and not plan.refusals


class TestTables:
    def tables(self, folder: Path, tokens: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tables of two siblings, and that of their merge on data which hold tokens below the given numbers."""
        rng = np.random.default_rng(0)
        first = make(folder, "token_encoder", 1, "a")
        name = next(p for p, x in first.params.items() if x.ndim == 2 and len(x) == TOKENS)
        moved = first.params[name] + 0.05 * rng.standard_normal(first.params[name].shape).astype(np.float32)
        nets = [first, replace(first, name="b", params={**first.params, name: moved})]
        sources = [Source((n.name,), {"ids": rng.integers(0, t, (60, 6))}, {}) for n, t in zip(nets, tokens, strict=True)]
        fused = fuse(nets, sources=sources)
        stream = next(s for s in fused.plan.shared_spaces() if s.sizes["a"] == 8 and not s.inside)
        members = fused.zipped.members[stream.number, frozenset("ab")]
        assert np.array_equal(members.index["a"], members.index["b"])
        table = next(x for x in fused.net.params.values() if x.shape == moved.shape)
        return first.params[name][:, members.index["a"]], moved[:, members.index["a"]], table

    def test_a_shared_row_is_weighted_by_how_often_it_is_looked_up(self, tmp_path: Path) -> None:
        a, b, table = self.tables(tmp_path, (TOKENS, 4))
        np.testing.assert_allclose(table[4:], a[4:], atol=1e-6)  # of tokens that only the first task meets
        between = np.abs(table[:4] - b[:4]).sum() < np.abs(table[:4] - a[:4]).sum()  # the second meets them more often
        assert between and not np.allclose(table[:4], b[:4], atol=1e-3)

    def test_rows_that_nobody_looks_up_are_the_mean(self, tmp_path: Path) -> None:
        a, b, table = self.tables(tmp_path, (4, 4))
        np.testing.assert_allclose(table[4:], (a[4:] + b[4:]) / 2, atol=1e-6)

    def test_a_table_of_two_spaces_decides_the_match_of_both(self, tmp_path: Path) -> None:
        """A layer in two groups reads and writes a stream that begins with a table."""

        def build(m: Maker, width: int, classes: int) -> str:
            x = m.op("Gather", m.normal(TOKENS, 2 * width), "ids")
            y = m.op("Relu", m.conv(m.op("Transpose", x, perm=[0, 2, 1]), (2 * width, width, 1), group=2))
            x = m.op("Add", x, m.op("Transpose", m.conv(y, (2 * width, width, 1), group=2), perm=[0, 2, 1]))
            return m.gemm(m.op("ReduceMax", x, axes=[1], keepdims=0), 2 * width, classes)

        net = net_of(tmp_path, model_of(Architecture(build, {"ids": (6,)}, integers=("ids",)), 1), "a")
        nets = [net, permuted(net, 5, "b")]
        fused = fuse(nets)
        check_all_shared(fused.plan)
        check_tasks(fused, nets, 1e-4)


class TestMasks:
    def test_an_index_that_counts_up_is_a_reshape(self, tmp_path: Path) -> None:
        net = loaded(written(tmp_path, MASK % FLAT, 17))
        assert set(ops(net)) == {"Unsqueeze", "Cast"} and net.outputs[0].shape == (-1, 1, 1, 4)

    def test_so_is_one_of_pairs(self, tmp_path: Path) -> None:
        text = (MASK % BY_PAIRS).replace("int64[1] four", "int64[1] index_axis = {-1}, int64[1] four")
        assert set(ops(loaded(written(tmp_path, text, 17)))) == {"Unsqueeze", "Cast"}

    def test_another_index_stays(self, tmp_path: Path) -> None:
        text = """g (float[4,3] x) => (float[2,2,3] y) <int64[2,2] at = {0,1,3,2}> { y = Gather<axis=0>(x, at) }"""
        assert ops(loaded(written(tmp_path, text, 17))) == ["Gather"]
