"""Nets of different depth: the trunk goes on behind what one of them has more, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from architectures import Architecture, Maker, basic_block, layer_normed, model_of
from fusing import check_all_shared, check_close, check_tasks, check_valid, fuse, net_of, outputs, permuted, samples_for

from onnxzip.analysis import Plan, analyse
from onnxzip.net import Net

EXACT = 1e-5
Shape = tuple[int, ...]


def chain(more: int, seed: int = 1, width: int = 6, kind: str = "Relu", zero: bool = False) -> Architecture:
    """Convolutions; `more` of them between the first one and the pooling. All else is drawn from one seed."""

    def build(m: Maker, _: int, classes: int) -> str:
        m.rng = np.random.default_rng(seed)
        x = m.op(kind, m.conv("image", (width, 3, 3, 3)))
        main = m.rng
        for k in range(more):
            m.rng = np.random.default_rng(100 + k)
            x = m.op(kind, m.conv(x, (width, width, 3, 3)))
        m.rng = main
        x = m.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        return m.pool_head(m.relu(m.conv(x, (2 * width, width, 3, 3))), 2 * width, classes)

    return Architecture(build)


def plain(m: Maker, y: str, channels: int) -> str:
    return y


def rectified(m: Maker, y: str, channels: int) -> str:
    """Causal convolutions (Bai et al., arXiv 1803.01271): padded, cut and rectified before the sum."""
    return m.relu(m.op("Slice", y, m.ints(0), m.ints(-1), m.ints(3)))


def gated(m: Maker, y: str, channels: int) -> str:
    """Squeeze and excitation before the sum (Hu et al., CVPR 2018)."""
    squeezed = m.relu(m.conv(m.op("GlobalAveragePool", y), (3, channels, 1, 1)))
    return m.op("Mul", m.op("Sigmoid", m.conv(squeezed, (channels, 3, 1, 1))), y)


def depthwise(m: Maker, y: str, channels: int) -> str:
    return m.op("Elu", m.conv(y, (channels, 1, 3, 3), group=channels))


def residual(
    blocks: tuple[int, ...], scale: float = 1.0, width: int = 6, end: Callable[[Maker, str, int], str] = plain
) -> Architecture:
    """Stages of residual blocks; all behind the first of a stage are drawn apart, their last weights times `scale`.

    Args:
        end: what follows the last weights of a branch before it is added.
    """

    def build(m: Maker, _: int, classes: int) -> str:
        x, before = m.relu(m.conv("image", (width, 3, 3, 3))), width
        for stage, count in enumerate(blocks):
            after = width * 2**stage
            x = basic_block(m, x, before, after, 1 if stage == 0 else 2)
            main = m.rng
            for k in range(count - 1):
                m.rng = np.random.default_rng(100 * stage + k)
                pads = [1, 1, 1, 2 if end is rectified else 1]
                y = m.conv(m.relu(m.conv(x, (after, after, 3, 3))), (after, after, 3, 3), bias=False, pads=pads)
                x = m.relu(m.op("Add", x, end(m, m.op("Mul", y, m.param(np.float32(scale))), after)))
            m.rng, before = main, after
        return m.pool_head(x, before, classes)

    return Architecture(build)


def normed(blocks: tuple[int, ...]) -> Architecture:
    """Stages of tokens whose norms stand before each branch, and before the layer that begins the next stage."""

    def build(m: Maker, w: int, classes: int) -> str:
        x, before = "x", 10
        for stage, count in enumerate(blocks):
            after, main = w * (stage + 1), m.rng
            x = m.matmul(x, before, after)
            for k in range(count):
                m.rng = np.random.default_rng(100 * stage + k)
                y = m.matmul(m.op("Tanh", m.matmul(layer_normed(m, x, after), after, 2 * w)), 2 * w, after)
                x = m.op("Add", x, y)
            m.rng, before = main, after
            x = layer_normed(m, x, after)
        return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), before, classes)

    return Architecture(build, {"x": (6, 10)})


def nets_of(folder: Path, *built: Architecture) -> list[Net]:
    return [net_of(folder, model_of(a, 1, classes=3 + k), f"net{k}") for k, a in enumerate(built)]


def shared(plan: Plan) -> list[int]:
    return [space.shared for space in plan.shared_spaces()]


def relative(fused: Net, nets: list[Net]) -> list[float]:
    feeds = samples_for(nets[0], 40, 8)
    found = outputs(fused, feeds)
    pairs = [(outputs(n, feeds)["out0"], found[f"{n.name}_out0"]) for n in nets]
    return [float(np.linalg.norm(got - want) / np.linalg.norm(want)) for want, got in pairs]


DEEPER = {
    "one more": (chain(0), chain(1), 3), "three more": (chain(0), chain(3), 5), "the first is deeper": (chain(2), chain(0), 4),
    "another width": (chain(0, width=4), chain(2), 4), "residual": (residual((1, 1, 1)), residual((2, 3, 1)), 9),
    "each has more": (residual((2, 1, 1)), residual((1, 2, 1)), 8),
    "rectified": (residual((1, 1)), residual((3, 1), end=rectified), 6),
    "gated": (residual((1, 1)), residual((2, 1), end=gated), 6),
    "depthwise": (residual((1, 1)), residual((2, 1), end=depthwise), 5),
    "norms before": (normed((1, 1)), normed((3, 1)), 6),
}


CASES = [*((case, "strands") for case in DEEPER), ("three more", "wide"), ("residual", "wide")]


@pytest.mark.parametrize(("case", "layout"), CASES)
def test_trunk_goes_on_behind_what_is_more(case: str, layout: str, tmp_path: Path) -> None:
    *built, spaces = DEEPER[case]
    nets = nets_of(tmp_path, *built)
    fused = fuse(nets, 1.0, layout)
    assert len(shared(fused.plan)) == spaces and all(shared(fused.plan))
    assert fused.plan.extensions and all("the trunk runs through it" in e.why for e in fused.plan.extensions)
    assert not fused.plan.refusals
    check_valid(fused, nets)
    check_valid(fuse(nets, 0.5, layout), nets)


def test_nets_with_neutral_layers_are_the_nets(tmp_path: Path) -> None:
    for case, (*built, _) in DEEPER.items():
        nets = nets_of(tmp_path, *built)
        plan = analyse(nets)
        for net in nets:
            grown, feeds = plan.nets[net.name], samples_for(net, 5, 8)
            assert len(grown.nodes) == len(net.nodes) + len(plan.added(net.name)), case
            check_close(outputs(grown, feeds)["out0"], outputs(net, feeds)["out0"], EXACT)


def test_nothing_shared_leaves_the_originals(tmp_path: Path) -> None:
    nets = nets_of(tmp_path, residual((1, 1)), residual((2, 3)))
    fused = fuse(nets, 0.0)
    assert not fused.plan.extensions
    check_tasks(fused, nets, EXACT)


def test_blocks_behind_which_only_heads_follow_stay_a_head(tmp_path: Path) -> None:
    """Running the other net through them would cost, and let nothing more be shared."""
    plan = analyse(nets_of(tmp_path, residual((1,)), residual((2,))))
    assert not plan.extensions
    assert any("its head starts here" in r.why for r in plan.refusals)


def test_a_net_and_its_deeper_copy_give_back_both(tmp_path: Path) -> None:
    """The blocks that are more add nothing: both nets compute the same, and one trunk does, too."""
    nets = nets_of(tmp_path, residual((1, 1)), residual((2, 1), scale=0.0))
    nets[1] = permuted(nets[1], 5)
    check_tasks(fuse(nets), nets, 1e-4)


def test_what_is_more_is_fitted_for_both(tmp_path: Path) -> None:
    """Blocks that add a little: both tasks stay close, and neither is given up for the other."""
    nets = nets_of(tmp_path, residual((1, 1)), residual((3, 1), scale=0.1))
    assert max(relative(fuse(nets).net, nets)) < 0.2


def test_of_three_nets_two_are_alike(tmp_path: Path) -> None:
    nets = nets_of(tmp_path, chain(1), residual((1, 1)), chain(3))
    fused = fuse(nets)
    check_valid(fused, nets)
    owners = [set(space.sizes) for space in fused.plan.shared_spaces() if space.shared]
    assert {"net0", "net1", "net2"} in owners and owners.count({"net0", "net2"}) == 3
    assert any(r.where.startswith("net1") or "net1" in r.why for r in fused.plan.refusals)


def test_two_shallow_nets_and_a_deep_one(tmp_path: Path) -> None:
    nets = nets_of(tmp_path, chain(0), chain(2), chain(0, seed=2))
    fused = fuse(nets)
    check_valid(fused, nets)
    check_all_shared(fused.plan)
    assert {t for e in fused.plan.extensions for t in e.nodes} == {"net0", "net2"}


@pytest.mark.parametrize(("kind", "word"), [("HardSwish", "changes what passes"), ("Tanh", "changes what passes")])
def test_layers_without_a_neutral_form_are_refused_with_the_reason(kind: str, word: str, tmp_path: Path) -> None:
    nets = nets_of(tmp_path, chain(0, kind=kind), chain(1, kind=kind))
    fused = fuse(nets)
    check_valid(fused, nets)
    assert not fused.plan.extensions and len(shared(fused.plan)) == 1
    assert any("'net1' has more here (Conv_2 to" in r.why and word in r.why for r in fused.plan.refusals)
