"""Channel shuffles as expressions: sums read as stacks, weaves, and their cuts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from architectures import Architecture, Maker, model_of
from fusing import check_all_shared, check_tasks, check_valid, fuse, make, net_of, permuted

from onnxzip.analysis import analyse
from onnxzip.analysis.spaces import Expr, Space, concatenation, finish, positions, product
from onnxzip.analysis.unification import SpaceMismatch, cut, unify
from onnxzip.analysis.weaving import woven_spaces
from onnxzip.net import Net


def shuffled(total: Space, parts: int) -> Space:
    """What stands behind a channel shuffle."""
    axis, inner = Space(parts), Space(total.size // parts)
    unify(total, product([axis, inner]))
    return product([inner, axis])


def order_of(space: Space, atoms: list[Space]) -> list[int]:
    """Along an axis, numbers of channels that are counted through all atoms."""
    numbers: dict[int, int] = {}
    expr = finish(space, numbers)
    flat = [a for atom in atoms for a in finish(atom, numbers).atoms()]
    sizes = {e.atom: e.size for e in _leaves(finish(concatenation(atoms), numbers))}
    starts = dict(zip(flat, np.cumsum([0, *(sizes[a] for a in flat)]), strict=False))
    found = np.empty(expr.size, np.int64)
    for atom in expr.atoms():
        others = {a: np.zeros(0, np.int64) for a in expr.atoms() if a != atom}
        for c in range(sizes[atom]):
            found[positions(expr, {**others, atom: np.array([c])})] = starts[atom] + c
    return found.tolist()


def _leaves(expr: Expr) -> list[Expr]:
    return [expr] if expr.kind == "atom" else [e for p in expr.parts for e in _leaves(p)]


@pytest.mark.parametrize("size", [4, 5])
def test_a_shuffle_lets_parts_take_turns(size: int) -> None:
    atoms = [Space(size), Space(size), Space(size)]
    found = order_of(shuffled(concatenation(atoms), 3), atoms)
    assert found == np.arange(3 * size).reshape(3, size).T.reshape(-1).tolist()


@pytest.mark.parametrize("at", range(1, 10))
def test_a_cut_falls_anywhere(at: int) -> None:
    atoms = [Space(5), Space(5)]
    head, tail = cut(shuffled(concatenation(atoms), 2), at)
    want = np.arange(10).reshape(2, 5).T.reshape(-1).tolist()
    assert (head.size, tail.size) == (at, 10 - at)
    assert order_of(concatenation([head, tail]), atoms) == want


def test_shuffles_of_shuffles() -> None:
    """Half of what was shuffled is shuffled again, with new channels."""
    atoms = [Space(6), Space(6), Space(6)]
    head, _ = cut(shuffled(concatenation(atoms[:2]), 2), 6)
    found = order_of(shuffled(concatenation([head, atoms[2]]), 2), atoms)
    first = np.arange(12).reshape(2, 6).T.reshape(-1)[:6]
    assert found == np.stack([first, np.arange(12, 18)], axis=1).reshape(-1).tolist()


def test_weaves_of_other_parts_do_not_meet() -> None:
    two, three = shuffled(concatenation([Space(6), Space(6)]), 2), shuffled(concatenation([Space(4) for _ in range(3)]), 3)
    with pytest.raises(SpaceMismatch):
        unify(two, three)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_what_takes_turns_is_shared_alike(share: float, two: list[Net]) -> None:
    plan = analyse(two, [("*", share)])
    turning = {n for some in woven_spaces(plan.overlay) for n in some}
    assert len(turning) > 8 and all(plan.spaces[n].shared == plan.spaces[n].sizes["net1"] for n in turning)
    assert not plan.refusals


def test_where_one_is_not_shared_none_is(two: list[Net]) -> None:
    whole = analyse(two)
    one = next(s for s in whole.shared_spaces() if any(s.number in some for some in woven_spaces(whole.overlay)))
    plan = analyse(two, [("*", 1.0), (one.name, 0.0)])
    assert any("take turns" in r.why for r in plan.refusals)


@pytest.fixture
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Net]:
    return [make(tmp_path_factory.mktemp("nets"), "shuffled", k) for k in (1, 2)]


def test_a_product_that_was_made_before_its_factor_became_a_stack_is_a_weave() -> None:
    """The channels behind a shuffle are cut (a grouped Conv) when those before it are a product already."""
    before = Space(8)
    axis, inner = Space(4), Space(2)
    unify(before, product([inner, axis]))
    total = concatenation([Space(4), Space(4)])
    unify(total, product([axis, inner]))
    expr = finish(before, {})
    assert expr.kind == "woven" and [p.size for p in expr.parts] == [2, 2, 2, 2]
    assert sorted(expr.atoms()) == sorted(finish(total, {}).atoms())


SIDE, HALF = 12, 4
Middle = Callable[[Maker, str], tuple[str, int]]  # what comes of it, and its channels
ALONE: dict[str, Middle] = {
    "sum": lambda m, x: (m.op("ReduceMean", x, axes=[1], keepdims=0), HALF),
    "gate": lambda m, x: (m.op("Mul", x, m.op("Sigmoid", m.op("ReduceMax", x, axes=[1], keepdims=1))), 2 * HALF),
    "param": lambda m, x: (m.op("Mul", x, m.positive(HALF, 1, 1)), 2 * HALF),
}


def stacked(folder: Path, middle: Middle, seed: int, name: str) -> Net:
    """Two convolutions side by side, as [N, 2, channels, H, W] in the middle, then another one."""

    def build(m: Maker, width: int, classes: int) -> str:
        both = m.op("Concat", m.conv("image", (HALF, 3, 3, 3)), m.conv("image", (HALF, 3, 1, 1)), axis=1)
        x, channels = middle(m, m.op("Reshape", both, m.ints(0, 2, HALF, SIDE, SIDE)))
        x = m.conv(m.op("Reshape", x, m.ints(0, channels, SIDE, SIDE)), (width, channels, 3, 3))
        return m.pool_head(m.relu(x), width, classes)

    return net_of(folder, model_of(Architecture(build), seed), name)


@pytest.mark.parametrize("kind", ALONE)
def test_parts_are_one_space_where_a_stack_stands_without_its_axis(kind: str, tmp_path: Path) -> None:
    net, other = (stacked(tmp_path, ALONE[kind], seed, name) for seed, name in ((1, "a"), (2, "b")))
    copy = permuted(net, 5, "b")
    fused = fuse([net, copy])
    check_all_shared(fused.plan)
    check_tasks(fused, [net, copy], 1e-4)
    assert [s.sizes["a"] for s in fused.plan.shared_spaces()] == [HALF, 4]
    for share in (0.5, 0.0):
        check_valid(fuse([net, other], share), [net, other])


def test_parts_that_cannot_be_one_space_are_not_matched(tmp_path: Path) -> None:
    """The sum over both of what takes turns and of what has heads."""

    def build(m: Maker, width: int, classes: int) -> str:
        image = m.relu(m.conv("image", (5, 3, 1, 1)))
        both = m.op("Concat", m.conv(image, (HALF, 5, 3, 3)), m.conv(image, (HALF, 5, 1, 1)), axis=1)
        turns = m.op("Transpose", m.op("Reshape", both, m.ints(0, 2, HALF, SIDE, SIDE)), perm=[0, 2, 1, 3, 4])
        heads = m.op("Softmax", m.op("Reshape", m.conv(image, (2 * HALF, 5, 3, 3)), m.ints(0, 2, HALF, SIDE, SIDE)), axis=2)
        parts = (m.op("Reshape", v, m.ints(0, 2 * HALF, SIDE, SIDE)) for v in (turns, heads))
        x = m.op("Reshape", m.op("Concat", *parts, axis=1), m.ints(0, 2, 2 * HALF, SIDE, SIDE))
        x = m.op("ReduceMean", x, axes=[1], keepdims=0)
        return m.pool_head(m.relu(m.conv(x, (width, 2 * HALF, 3, 3))), width, classes)

    net = net_of(tmp_path, model_of(Architecture(build), 1), "a")
    copy = permuted(net, 5, "b")
    fused = fuse([net, copy])
    check_tasks(fused, [net, copy], 1e-4)
    assert fused.plan.shared_spaces()[0].shared == 5
    assert any("stand for those of several parts" in r.why for r in fused.plan.refusals)


def test_a_stack_is_cut_in_all_of_its_parts() -> None:
    atoms = [Space(6), Space(6)]
    axis, inner = Space(2), Space(6)
    unify(concatenation(atoms), product([axis, inner]))
    head, tail = Space(2), Space(4)
    unify(concatenation([head, tail]), inner)
    assert [p.size for p in finish(atoms[0], {}).parts] == [2, 4]
    channels = np.arange(12).reshape(2, 6)
    assert order_of(product([axis, tail]), atoms) == channels[:, 2:].reshape(-1).tolist()
    other = concatenation([tail, head])
    assert order_of(product([axis, other]), atoms) == channels[:, [2, 3, 4, 5, 0, 1]].reshape(-1).tolist()
    assert order_of(product([other, axis]), atoms) == channels[:, [2, 3, 4, 5, 0, 1]].T.reshape(-1).tolist()


def scales(folder: Path, seed: int, name: str) -> Net:
    """Linear attention with a head for each of two scales: queries, keys and values of both stand in one axis, and a row of
    ones beside the values sums up the keys (EfficientViT)."""

    def build(m: Maker, width: int, classes: int) -> str:
        image = m.relu(m.conv("image", (width, 3, 3, 3), strides=[2, 2]))
        first = m.conv(image, (3 * HALF, width, 1, 1))
        second = m.conv(m.conv(first, (3 * HALF, 1, 3, 3), group=3 * HALF), (3 * HALF, HALF, 1, 1), group=3)
        x = m.op("Reshape", m.op("Concat", first, second, axis=1), m.ints(0, 2, 3 * HALF, SIDE * SIDE // 4))
        q, k, v = (m.op("Slice", x, m.ints(n), m.ints(n + HALF), m.ints(2)) for n in range(0, 3 * HALF, HALF))
        one = m.param(np.array(1, np.float32))
        v = m.op("Pad", v, m.ints(0, 0, 0, 0, 0, 0, 1, 0), one)
        y = m.op("MatMul", m.op("MatMul", v, m.op("Transpose", m.op("Sigmoid", k), perm=[0, 1, 3, 2])), m.op("Sigmoid", q))
        y = m.op("Div", *(m.op("Slice", y, m.ints(a), m.ints(b), m.ints(2)) for a, b in ((0, HALF), (HALF, HALF + 1))))
        y = m.op("Reshape", y, m.ints(0, 2 * HALF, SIDE // 2, SIDE // 2))
        return m.pool_head(m.op("Add", m.conv(y, (width, 2 * HALF, 1, 1)), image), width, classes)

    return net_of(folder, model_of(Architecture(build), seed), name)


def test_heads_of_several_scales(tmp_path: Path) -> None:
    net, other = (scales(tmp_path, seed, name) for seed, name in ((1, "a"), (2, "b")))
    copy = permuted(net, 5, "b")
    fused = fuse([net, copy])
    check_all_shared(fused.plan)
    check_tasks(fused, [net, copy], 1e-4)
    assert [s.sizes["a"] for s in fused.plan.shared_spaces()] == [4] + [HALF] * 4
    for share in (0.5, 0.0):
        check_valid(fuse([net, other], share), [net, other])
