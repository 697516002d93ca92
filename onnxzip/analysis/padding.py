"""Axes that a node adds channels to.

    n i *s -> n (front + i + back) *s

Where weights make what is there (an identity branch to a wider block, a row of ones beside the values of linear attention), it
goes on between what is added. Where no weights make that elsewhere, it is no channel space: it stands in every piece of the
value, of which each task has one. Positions keep their order, as do channels of which some are cut off, or repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnxzip.analysis.places import keeps_order
from onnxzip.analysis.spaces import Space, concatenation
from onnxzip.analysis.unification import SpaceMismatch, unify
from onnxzip.net import Node


@dataclass(frozen=True)
class Padded:
    """An axis before and behind a node that adds to it, and how many it adds at either end."""

    node: Node
    before: Space
    behind: Space
    front: int
    back: int


Grown = tuple[Space, tuple[Space, ...]]  # the channels before a node, and those that it adds to them


def grow(padded: Iterable[Padded], made: Iterable[Space]) -> tuple[list[Grown], list[tuple[Space, str]]]:
    """Couple axes before and behind.

    Args:
        padded: in the order of the nodes; made: the axes that weights make.

    Returns:
        The axes that grow; and those that keep their order, with the reason.
    """
    made, grown, pins = tuple(made), list[Grown](), list[tuple[Space, str]]()
    for one in padded:
        channels = {id(a) for space in made for a in space.atoms()}
        why = keeps_order(one.node)
        if any(id(a) in channels for a in one.before.atoms()):
            front, back = ([Space(n)] if n else [] for n in (one.front, one.back))
            try:
                unify(concatenation([*front, one.before, *back]), one.behind)
            except SpaceMismatch as mismatch:
                why = f"{one.node.op} {one.node.name!r}: {mismatch}"
            else:
                grown.append((one.before, (*front, *back)))
                continue
        pins += [(space, why) for space in (one.before, one.behind)]
    return grown, pins
