"""Products of free factors: channels permuted by hand, as no coupling says that they may be, are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from architectures import Architecture, Maker, model_of
from fusing import check_all_shared, check_close, check_tasks, check_valid, fuse, make, net_of, outputs, permuted, samples_for
from netfiles import written

from onnxzip.analysis import analyse
from onnxzip.analysis.steps import channels_at
from onnxzip.loading import load
from onnxzip.matching.match import channel_places
from onnxzip.net import Net

PIECES, UNITS = 3, 6
WAYS = {  # from rows [pieces * units] to units
    "largest": "m = ReduceMax<axes = [1], keepdims = 0>(b)",
    "mean": "a = Relu(b) m = ReduceMean<axes = [1], keepdims = 0>(a)",
    "token by token": "c = MatMul(b, mix) a = Relu(c) m = ReduceMean<axes = [1], keepdims = 0>(a)",
}


def blocks(folder: Path, name: str, way: str, order: np.ndarray) -> Net:
    """A layer's rows, as three blocks of units each, and what another layer reads of them; units in some order, one for all
    blocks."""
    rng = np.random.default_rng(3)
    w, mix, head = (rng.standard_normal(s).astype(np.float32) for s in ((4, PIECES, UNITS), (UNITS, UNITS), (UNITS, 5)))
    if way == "token by token":
        mix = mix[order]
    else:
        head = head[order]
    graph = (
        f"g (float[N, 4] x, float[4, {PIECES * UNITS}] w, float[{UNITS}, 5] head, float[{UNITS}, {UNITS}] mix)"
        f" => (float[N, 5] y) <int64[3] shape = {{0, {PIECES}, {UNITS}}}> {{"
        f"  p = MatMul(x, w) b = Reshape(p, shape) {WAYS[way]} r = Relu(m) y = MatMul(r, head) }}"
    )
    return load(written(folder, graph, w=w[:, :, order].reshape(4, -1), mix=mix, head=head), name)


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("way", WAYS)
def test_units_made_in_blocks_are_matched(way: str, layout: str, tmp_path: Path) -> None:
    net = blocks(tmp_path, "a", way, np.arange(UNITS))
    copy = blocks(tmp_path, "b", way, np.random.default_rng(1).permutation(UNITS))
    feeds = samples_for(net, 7)
    check_close(outputs(copy, feeds)["y"], outputs(net, feeds)["y"], 1e-5)
    fused = fuse([net, copy], 1.0, layout)
    check_all_shared(fused.plan)
    assert fused.plan.shared_spaces()[0].shared == UNITS
    check_tasks(fused, [net, copy], 1e-4)
    if layout == "wide":
        check_tasks(fuse([net, copy], 0.5, layout), [net, copy], 1e-4)


@pytest.mark.parametrize("method", ["zip", "mtz"])
def test_channels_that_a_depthwise_layer_makes_of_each(method: str, tmp_path: Path) -> None:
    """Two of each channel, to which a layer adds something: two are in an order of their own for each."""

    def build(m: Maker, width: int, classes: int) -> str:
        x = m.relu(m.conv("image", (width, 3, 3, 3)))
        x = m.conv(x, (2 * width, 1, 3, 3), group=width)
        y = m.conv(m.relu(m.conv(x, (width, 2 * width, 1, 1))), (2 * width, width, 1, 1))
        return m.pool_head(m.relu(m.op("Add", x, y)), 2 * width, classes)

    net, other = (net_of(tmp_path, model_of(Architecture(build), seed), name) for seed, name in ((1, "a"), (2, "b")))
    copy = permuted(net, 5, "b")
    fused = fuse([net, copy], method=method)
    check_all_shared(fused.plan)
    assert next(s.inside for s in fused.plan.shared_spaces())
    check_tasks(fused, [net, copy], 1e-4)
    for share in (0.5, 0.0):
        check_valid(fuse([net, other], share, method=method), [net, other])


@pytest.mark.parametrize("family", ["rotated_partly", "rotated_pairs"])
class TestTurnedByPositions:
    """Channels of one key, all of whose queries have them head by head; positions turn some of them."""

    def test_every_row_of_a_step_is_of_one_channel(self, family: str, tmp_path: Path) -> None:
        """The rows of a channel are those of all heads, and none of the channels that stand beside it in a head."""
        plan = analyse([make(tmp_path, family, k) for k in (1, 2)])
        steps = [s for s in plan.steps if len(s.spaces) == 2]
        assert len(steps) == 2
        for step in steps:
            expr = channels_at(plan.overlay, step.parts[0], "net1", step.parts[0].outputs[0])
            rows = [r for n in step.spaces for r in channel_places(plan, expr, plan.spaces[n], "net1").ravel()]
            assert sorted(rows) == list(range(expr.size))

    def test_strangers_keep_the_order_of_angles(self, family: str, tmp_path: Path) -> None:
        nets = [make(tmp_path, family, k) for k in (1, 2)]
        fused = fuse(nets)
        check_all_shared(fused.plan)
        assert [s.sizes["net1"] for s in fused.plan.shared_spaces() if s.ordered] == [2]
        tables = [a for a in nets[0].params.values() if a.shape == (6, 4)]
        assert len(tables) == 2
        for table in tables:
            assert any(np.array_equal(table, a) for a in fused.net.params.values())
