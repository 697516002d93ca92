"""Stacks away from their axis: where they stand without it, their parts are one space.

A channel shuffle reads a sum of z parts as a product (z c): there c stands for the channels of part z, whichever z tells.
Where c stands alone (behind a sum over z, on a param that is the same for all z, in front of a Tile that writes it z times),
its k-th channel is the k-th of every part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxzip.analysis.spaces import Expr, Space
from onnxzip.analysis.unification import SpaceMismatch, unify
from onnxzip.net import Axis, Net

Stuck = tuple[str, Space, str]  # value, stack, why its parts cannot be one


def join_parts(axes: Mapping[Axis, Space]) -> list[Stuck]:
    """Make the parts of all stacks one space that stand in some value without their axis; those for which that cannot be."""
    stuck: dict[int, Stuck] = {}
    while (found := next((pair for pair in _alone(axes) if id(pair[1]) not in stuck), None)) is not None:
        value, stack = found
        try:
            for part in stack.parts[1:]:
                unify(stack.parts[0], part)
        except SpaceMismatch as why:
            stuck[id(stack)] = (value, stack, str(why))
        else:
            stack.bound = stack.parts[0]
    return list(stuck.values())


def _alone(axes: Mapping[Axis, Space]) -> Iterator[tuple[str, Space]]:
    """Stacks in values that do not have their axis."""
    by_value: dict[str, list[Space]] = {}
    for axis, space in axes.items():
        by_value.setdefault(axis.value, []).append(space)
    for value, spaces in by_value.items():
        stacks = [s for space in spaces for s in _stacks(space)]
        atoms = {id(a) for space in spaces for a in space.atoms()} if stacks else set()
        for stack in stacks:
            if stack.axis is not None and not any(id(a) in atoms for a in stack.axis.atoms()):
                yield value, stack


def _stacks(space: Space) -> Iterator[Space]:
    """All stacks in an expression."""
    waiting = [space]
    while waiting:
        space = waiting.pop().resolved()
        waiting.extend(space.parts)
        if space.kind == "stack":
            yield space


def pin_stacked(net: Net, axes: Mapping[Axis, Expr], pinned: dict[int, str]) -> None:
    """A param along a stack and its axis holds the channels of all parts: these stay as they are."""
    for param in net.params:
        for expr in (axes[Axis(param, d)] for d in range(len(net.shapes[param]))):
            for atom in expr.atoms() if expr.kind == "stack" else ():
                pinned.setdefault(atom, f"param {param!r} stands along several channel spaces at once")
