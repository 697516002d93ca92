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


def make_tied(folder: Path, tied: int | None, name: str) -> Net:
    """Means over the channels of two convolutions, multiplied; the weights of one are used once more, and cannot be shared."""

    def build(m: Maker, width: int, classes: int) -> list[str]:
        parts = [m.relu(m.conv("image", (n, 3, k, k))) for n, k in ((LEFT, 3), (RIGHT, 1))]
        product = m.op("Mul", *(m.op("ReduceMean", p, axes=[1], keepdims=1) for p in parts))
        outs = [m.gemm(m.op("Flatten", product), 144, classes)]
        if tied is not None:
            weight = [n.input[1] for n in m.nodes if n.op_type == "Conv"][tied]
            outs.append(m.op("Conv", m.op("Tanh", "image"), weight, pads=[(3, 1)[tied] // 2] * 4))
        return outs

    return net_of(folder, model_of(Architecture(build), 1, classes=3), name)


def test_values_that_other_tasks_have_in_common_meet_for_each_task(tmp_path: Path) -> None:
    """Of two factors one is the same for a and b, the other for b and c: b has a product of its own, as the others have."""
    nets = [make_tied(tmp_path, tied, name) for tied, name in ((1, "a"), (None, "b"), (0, "c"))]
    fused = fuse(nets)
    owners = {o for s in fused.plan.shared_spaces() for o in s.counts}
    assert {frozenset("ab"), frozenset("bc")} <= owners
    check_valid(fused, nets)
    check_tasks(fused, nets, 1e-4)


def gated_beside(m: Maker, width: int, classes: int) -> str:
    """Features under a gate of one channel, beside the features themselves."""
    x = m.relu(m.conv("image", (8, 3, 3, 3)))
    gate = m.op("Sigmoid", m.conv(x, (1, 8, 1, 1)))
    both = m.op("Concat", m.op("Mul", x, gate), x, axis=1)
    return m.pool_head(m.relu(m.conv(both, (8, 16, 1, 1))), 8, classes)


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_what_each_task_has_for_itself_beside_what_is_shared(share: float, layout: str, tmp_path: Path) -> None:
    """A Concat leaves out operands that have none of the channels that it joins, and no others."""
    nets = [net_of(tmp_path, model_of(Architecture(gated_beside), seed), name) for seed, name in ((1, "a"), (2, "b"))]
    gate = next(s.name for s in analyse(nets).shared_spaces() if set(s.sizes.values()) == {1})
    fused = fuse(nets, [("*", share), (gate, 0.0)], layout)
    check_valid(fused, nets)
    assert next(s for s in fused.plan.shared_spaces() if s.sizes["a"] == 8).shared == round(8 * share)


SMALL: dict[str, Callable[[Maker, str], list[str]]] = {
    "split": lambda m, x: parts_of(m, x, 6, 2, 4),
    "split, one channel": lambda m, x: parts_of(m, x, 11, 1),
    "slice": lambda m, x: [m.op("Slice", x, m.ints(k), m.ints(n), m.ints(1)) for k, n in ((0, 1), (1, 12))],
}


def parts_of(m: Maker, x: str, *sizes: int) -> list[str]:
    first = m.op("Split", x, m.ints(*sizes), outputs=len(sizes), axis=1)
    return [first, *(f"{first}_{k}" for k in range(1, len(sizes)))]


def cut_up(kind: str) -> Architecture:
    """Channels in parts of different sizes that meet again, beside one channel more."""

    def build(m: Maker, width: int, classes: int) -> str:
        sizes = {"split": (6, 2, 4), "split, one channel": (11, 1), "slice": (1, 11)}[kind]
        parts = SMALL[kind](m, m.conv("image", (12, 3, 3, 3)))
        made = [m.conv(m.relu(p), (8, n, 1, 1)) for p, n in zip(parts, sizes, strict=True)]
        both = m.op("Concat", *made, m.op("Sigmoid", m.conv("image", (1, 3, 1, 1))), axis=1)
        return m.pool_head(m.relu(m.conv(both, (8, 8 * len(made) + 1, 1, 1))), 8, classes)

    return Architecture(build)


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", SMALL)
def test_parts_of_which_little_or_nothing_is_shared(kind: str, share: float, layout: str, tmp_path: Path) -> None:
    nets = [net_of(tmp_path, model_of(cut_up(kind), seed), name) for seed, name in ((1, "a"), (2, "b"))]
    fused = fuse(nets, share, layout)
    check_valid(fused, nets)
    assert not [v for v, shape in fused.plan.layout.shapes.items() if 0 in shape]
    if not share:
        check_tasks(fused, nets, 1e-5)


def gated(m: Maker, width: int, classes: int) -> str:
    x = m.relu(m.conv("image", (8, 3, 3, 3)))
    return m.pool_head(m.op("Mul", x, m.op("Sigmoid", m.conv(x, (1, 8, 1, 1)))), 8, classes)


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7])
def test_one_channel_is_shared_as_soon_as_any_are(share: float, layout: str, tmp_path: Path) -> None:
    """It has no parts, and where it is not shared nothing that it is a gate of can be."""
    nets = [net_of(tmp_path, model_of(Architecture(gated), seed), name) for seed, name in ((1, "a"), (2, "b"))]
    fused = fuse(nets, share, layout)
    check_valid(fused, nets)
    assert [s.shared for s in fused.plan.shared_spaces()] == [round(8 * share), int(share > 0)]
    assert fused.plan.refusals == ()
    assert [n.op for n in fused.net.nodes].count("Sigmoid") == (1 if share else 2)
