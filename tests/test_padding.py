"""Channels that a Pad adds to others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from architectures import Architecture, Maker, model_of
from fusing import check_all_shared, check_tasks, check_valid, fuse, net_of, permuted

from onnxzip.analysis import analyse
from onnxzip.errors import UnsupportedError
from onnxzip.net import Net

MORE = 3
Build = Callable[[Maker, int, int], str]


def wider(m: Maker, width: int, classes: int) -> str:
    """Blocks of more channels than their skip, which gets zeros behind it, or on both sides; positions are padded, too."""
    x = m.relu(m.conv("image", (width, 3, 3, 3)))
    for front, back in ((0, MORE), (1, 2)):
        y = m.conv(m.op("Pad", x, m.ints(0, 0, 1, 1, 0, 0, 1, 1)), (width + MORE, width, 3, 3), pads=[0, 0, 0, 0])
        x = m.relu(m.op("Add", y, m.op("Pad", x, m.ints(0, front, 0, 0, 0, back, 0, 0))))
        width += MORE
    return m.pool_head(x, width, classes)


def beside_ones(m: Maker, width: int, classes: int) -> str:
    """What no weights make anywhere is read beside channels."""
    x = m.relu(m.conv("image", (width, 3, 3, 3)))
    x = m.op("Pad", x, m.ints(0, 1, 0, 0, 0, 2, 0, 0), m.param(np.array(0.5, np.float32)))
    return m.pool_head(m.relu(m.conv(x, (width, width + 3, 3, 3))), width, classes)


def cropped(m: Maker, width: int, classes: int) -> str:
    x = m.op("Pad", m.relu(m.conv("image", (width, 3, 3, 3))), m.ints(0, -1, 0, 0, 0, 1, 0, 0))
    return m.pool_head(m.relu(m.conv(x, (width, width, 3, 3))), width, classes)


def made(folder: Path, build: Build, seed: int, name: str) -> Net:
    return net_of(folder, model_of(Architecture(build), seed), name)


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("build", [wider, beside_ones])
def test_channels_beside_added_ones_are_shared(build: Build, layout: str, tmp_path: Path) -> None:
    net, other = (made(tmp_path, build, seed, name) for seed, name in ((1, "a"), (2, "b")))
    copy = permuted(net, 5, "b")
    fused = fuse([net, copy], 1.0, layout)
    check_all_shared(fused.plan)
    check_tasks(fused, [net, copy], 1e-4)
    for share in (0.5, 0.0):
        check_valid(fuse([net, other], share, layout), [net, other])


def test_channels_of_which_some_are_cut_off_keep_their_order(tmp_path: Path) -> None:
    nets = [made(tmp_path, cropped, seed, name) for seed, name in ((1, "a"), (2, "b"))]
    fused = fuse(nets)
    check_all_shared(fused.plan)
    check_valid(fused, nets)
    assert fused.plan.shared_spaces()[0].ordered
    wider_one = net_of(tmp_path, model_of(Architecture(cropped), 3, width=5), "c")
    with pytest.raises(UnsupportedError, match="its channels keep their order, and not all nets have as many"):
        analyse([nets[0], wider_one])


@pytest.mark.parametrize(("name", "share"), [("Conv_0", 0.0), ("Conv_3", 0.0), ("Conv_3", 0.4)])
def test_they_are_shared_alike_or_not_at_all(name: str, share: float, tmp_path: Path) -> None:
    """What a layer makes in the place of the zeros, and what stands beside them."""
    nets = [made(tmp_path, wider, seed, task) for seed, task in ((1, "a"), (2, "b"))]
    fused = fuse(nets, [("*", 1.0), (name, share)])
    check_valid(fused, nets)
    there, added, *_ = fused.plan.shared_spaces()
    assert (there.shared, added.shared) == ((4, MORE) if share else (0, 0))
    assert share > 0 or any("padded" in r.why for r in fused.plan.refusals)
