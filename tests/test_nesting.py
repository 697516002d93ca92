"""Products of free factors: channels permuted by hand, as no coupling says that they may be, are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fusing import check_all_shared, check_close, check_tasks, fuse, outputs, samples_for
from netfiles import written

from onnxzip.loading import load
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
