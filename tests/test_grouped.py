"""Nodes in groups whose groups are made of other channels, each: strands of these must give every group as many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from architectures import IMAGE, Architecture, Build, Maker, model_of
from fusing import check_all_shared, check_tasks, check_valid, fuse, net_of, permuted

from onnxzip.analysis import Plan, analyse
from onnxzip.analysis.grouped import UNEVEN
from onnxzip.errors import UnsupportedError
from onnxzip.net import Net


def skewed(m: Maker, w: int, classes: int) -> str:
    """The first group has all of one part and a third of the other one."""
    parts = m.relu(m.conv("image", (w, 3, 3, 3))), m.relu(m.conv("image", (3 * w, 3, 1, 1)))
    x = m.relu(m.conv(m.op("Concat", *parts, axis=1), (2 * w, 2 * w, 3, 3), group=2))
    return m.pool_head(m.relu(m.conv(x, (w, 2 * w, 1, 1))), w, classes)


def regrouped(m: Maker, w: int, classes: int) -> str:
    """Two groups make what three read."""
    x = m.relu(m.conv("image", (6 * w, 3, 3, 3)))
    x = m.relu(m.conv(x, (6 * w, 3 * w, 3, 3), group=2))
    return m.pool_head(m.relu(m.conv(x, (6 * w, 2 * w, 3, 3), group=3)), 6 * w, classes)


def cut_behind(m: Maker, w: int, classes: int) -> str:
    """What two groups make is cut inside of the first one."""
    x = m.relu(m.conv("image", (2 * w, 3, 3, 3)))
    x = m.relu(m.conv(x, (4 * w, w, 3, 3), group=2))
    low = m.op("Split", x, m.ints(w, 3 * w), outputs=2, axis=1)
    high = m.relu(m.conv(f"{low}_1", (w, 3 * w, 1, 1)))
    return m.pool_head(m.op("Concat", high, m.relu(m.conv(low, (w, w, 1, 1))), axis=1), 2 * w, classes)


def beside_input(m: Maker, w: int, classes: int) -> str:
    """The first group has channels of the input and one that weights make, the second one four of these."""
    x = m.op("Concat", "image", m.relu(m.conv("image", (5, 3, 3, 3))), axis=1)
    return m.pool_head(m.relu(m.conv(x, (2 * w, 4, 3, 3), group=2)), 2 * w, classes)


EVERY = pytest.mark.parametrize("build", [skewed, regrouped, cut_behind, beside_input])


def made(folder: Path, build: Build, widths: Sequence[int]) -> list[Net]:
    family = Architecture(build, {"image": IMAGE})
    return [net_of(folder, model_of(family, k, w), f"net{k}") for k, w in enumerate(widths)]


def check_even(plan: Plan) -> None:
    """Rows and columns of every grouped node fit what it writes and reads."""
    for placed in plan.layout.placed:
        if placed.node.op == "Conv":
            groups = int(str(placed.node.attrs["group"]))
            weight = plan.layout.shapes[str(placed.node.inputs[1])]
            assert groups * weight[1] == plan.layout.shapes[str(placed.node.inputs[0])][1]
            assert weight[0] % groups == 0


@EVERY
@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("widths", [(4, 4), (4, 6, 5), (4, 4, 6)])
def test_every_strand_gives_all_groups_as_many(
    build: Build, layout: str, share: float, widths: Sequence[int], tmp_path: Path
) -> None:
    nets = made(tmp_path, build, widths)
    try:
        plan = analyse(nets, [("*", share)], layout)
    except UnsupportedError as error:
        assert "groups" in str(error)
        return
    check_even(plan)


@EVERY
def test_of_a_permuted_copy_all_is_shared(build: Build, tmp_path: Path) -> None:
    (net,) = made(tmp_path, build, [4])
    nets = [net, permuted(net, 5, "other")]
    fused = fuse(nets)
    check_all_shared(fused.plan)
    check_tasks(fused, nets, 1e-4)


@EVERY
def test_nets_that_share_nothing_compute_what_they_did(build: Build, tmp_path: Path) -> None:
    nets = made(tmp_path, build, (4, 6, 5))
    fused = fuse(nets, 0.0)
    check_valid(fused, nets)
    check_tasks(fused, nets, 1e-5)


@pytest.mark.parametrize("layout", ["strands", "wide"])
def test_where_groups_would_be_uneven_each_net_keeps_its_own(layout: str, tmp_path: Path) -> None:
    nets = made(tmp_path, regrouped, (4, 4, 6))
    fused = fuse(nets, 0.6, layout)
    assert UNEVEN in {r.why for r in fused.plan.refusals}
    check_valid(fused, nets)
