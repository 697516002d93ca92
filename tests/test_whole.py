"""A node that needs all channels at once reads them as each task has them, also where some are shared and some not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from architectures import Architecture, Maker, model_of
from fusing import check_tasks, check_valid, fuse, net_of

from onnxzip.analysis import analyse
from onnxzip.net import Net

LEFT, RIGHT = 4, 6
WHOLE: dict[str, Callable[[Maker, str], str]] = {
    "softmax": lambda m, x: m.op("Softmax", x, axis=1),
    "mean": lambda m, x: m.op("Mul", x, m.op("Sigmoid", m.op("ReduceMean", x, axes=[1], keepdims=1))),
    "local response": lambda m, x: m.op("LRN", x, size=5, alpha=1.0),
    "squares": lambda m, x: m.op("LpNormalization", x, axis=1),
}


def make(folder: Path, kind: str, name: str) -> Net:
    """Two convolutions side by side, of which a node needs all channels."""

    def build(m: Maker, width: int, classes: int) -> str:
        parts = [m.relu(m.conv("image", (n, 3, k, k))) for n, k in ((LEFT, 3), (RIGHT, 1))]
        x = WHOLE[kind](m, m.op("Concat", *parts, axis=1))
        return m.pool_head(m.relu(m.conv(x, (width, LEFT + RIGHT, 3, 3))), width, classes)

    return net_of(folder, model_of(Architecture(build), 1), name)


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("kind", WHOLE)
def test_parts_that_are_not_shared_alike_meet_for_each_task(kind: str, part: int, layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, kind, name) for name in ("a", "b")]
    names = [s.name for s in analyse(nets).shared_spaces()]
    fused = fuse(nets, [("*", 1.0), (names[part], 0.0)], layout)
    check_valid(fused, nets)
    check_tasks(fused, nets, 1e-4)
    assert [s.shared for s in fused.plan.shared_spaces()][1 - part] == (LEFT, RIGHT)[1 - part]
