"""Channels that a node tells apart by their places: taps of kernels that a layer makes, experts that a TopK chooses from,
pairs that positions turn.

Where weights make such channels, their order is the same in all nets, as that of the bins of a spectrum is: they are shared in
it, all of them. Elsewhere they are pinned, as they are beside channels that cannot be shared (gates of units that are an
input).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from onnxzip.analysis.nesting import standing_alone
from onnxzip.analysis.spaces import Expr
from onnxzip.net import Axis, Net, Node


def keeps_order(node: Node) -> str:
    """Why channels are pinned that a node tells apart by their places."""
    return f"{node.op} {node.name!r} keeps the order of these channels"


def told_by_place(
    net: Net, axes: Mapping[Axis, Expr], placed: Collection[tuple[Node, frozenset[int]]], made: Collection[Expr],
    produced: Collection[int], ordered: frozenset[int], pinned: dict[int, str],
) -> tuple[frozenset[int], Mapping[str, frozenset[int]]]:
    """Sort what nodes tell apart by its place into what can be shared in its order, and what is pinned.

    Args:
        axes: the space of each axis.
        placed: nodes and the atoms that they tell apart.
        made: axes that weights make.
        produced: atoms that weights make; ordered: those that are known to be in a fixed order.
        pinned: atom -> reason; grows.

    Returns:
        Atoms in a fixed order; and per node, those that it tells apart, of which it needs all at once.
    """
    needed = dict[str, frozenset[int]]()
    free = frozenset(produced) - pinned.keys()
    free -= _beside_others(made, free, frozenset[int]().union(*(atoms for _, atoms in placed)))
    for node, atoms in placed:
        mine = atoms & free
        ordered |= mine
        needed[node.name] = needed.get(node.name, frozenset()) | mine
        for atom in atoms - ordered:
            pinned.setdefault(atom, keeps_order(node))
    return ordered | (_turned(net, axes) & standing_alone(made) & frozenset(produced)), needed


def _beside_others(made: Iterable[Expr], free: frozenset[int], told: frozenset[int]) -> set[int]:
    """Atoms of products with a factor that is not free, or with several that are told apart (the two sides of a block)."""
    products = [(e, [p for p in e.parts if p.size != 1]) for expr in made for e in expr.walk() if e.kind == "product"]
    held = (e for e, parts in products
            if not all(free.issuperset(p.atoms()) for p in parts) or sum(not told.isdisjoint(p.atoms()) for p in parts) > 1)
    return {a for e in held for a in e.atoms()}


def _turned(net: Net, axes: Mapping[Axis, Expr]) -> frozenset[int]:
    """Atoms whose channels stand in pairs that a node turns, position by position, each by an angle of its own: rotary
    positions. Outside of heads, too, whatever has another angle is another channel."""
    found: set[int] = set()
    for value in dict.fromkeys(v for node in net.nodes if node.op == "Mul" for v in node.read if v in net.params):
        array = net.params[value]
        varying = [d for d, n in enumerate(array.shape) if n > 1 and np.ptp(array, axis=d).any()]
        for expr in (axes[Axis(value, d)] for d in varying if len(varying) > 1):
            sizes = {p.atom: p.size for p in expr.walk() if p.kind == "atom" and p.size != 1}
            found |= sizes.keys() if [2 * n for n in sizes.values()] == [expr.size] else set()
    return frozenset(found)
