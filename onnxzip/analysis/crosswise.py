"""Weights that run across the channels of a value: they mix its tokens, the same for every channel.

In a value [batch, tokens, channels] weights may make the channels in one layer, and the tokens, in the order of the input, in
another one (MLP-Mixer). Only one of the two axes can carry strands: the one that is in no fixed order. The tokens, and the
units that are made of them, keep their order, and the weights that make them are taken over as they are (`leading`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from onnxzip.analysis.spaces import Expr
from onnxzip.net import Axis, Net

Makes = tuple[Axis, Axis]  # of a node with weights: the axis that they sum over, the axis that they make


def made_across(
    net: Net, axes: Mapping[Axis, Expr], makes: Sequence[Makes], produced: Collection[int], orderly: Collection[int]
) -> frozenset[int]:
    """Atoms that weights make beside channels that are free, in a fixed order or from such atoms.

    Args:
        axes: the space of each axis; makes: of every node with weights.
        produced: atoms that weights make; orderly: atoms in a fixed order.
    """
    found: frozenset[int] = frozenset()
    while True:
        fixed = found.union(orderly)
        news = {
            atom
            for read, made in makes
            if _free_beside(net, axes, made, set(produced) - fixed)
            and (fixed.issuperset(axes[made].atoms()) or found.intersection(axes[read].atoms()))
            for atom in axes[made].atoms()
        }
        if news <= found:
            return found
        found |= news


def _free_beside(net: Net, axes: Mapping[Axis, Expr], made: Axis, free: Collection[int]) -> bool:
    """Whether a value has free channels on another axis than the one that is made."""
    others = (axes[Axis(made.value, d)] for d in range(len(net.shapes[made.value])) if d != made.dim)
    return any(atom in free for expr in others for atom in expr.atoms())


def pin_entangled(
    net: Net, axes: Mapping[Axis, Expr], weighted: Collection[str], produced: frozenset[int], ordered: frozenset[int],
    pinned: dict[int, str],
) -> dict[str, frozenset[int]]:
    """Pin the free factors of a product where there are several, and the channels of several axes of what weights make.

    One channel beside them (what a window along them makes, the weights of an attention pooling) takes no part in that.
    What nodes without weights make of two values (the keys against the values of linear attention) may have channels on
    several axes: these are needed all at once, as are channels against themselves, see `against_themselves`. So are a free
    factor and others that keep their order (the taps of kernels that a layer makes for each sample).

    Args:
        weighted: nodes with weights of their own.
        ordered: atoms that keep their order.

    Returns:
        Per node, the atoms of which it needs all channels for what it makes.
    """
    needed: dict[str, frozenset[int]] = {}
    for node in net.nodes:
        for value in node.outputs:
            exprs = [axes[Axis(value, d)] for d in range(len(net.shapes[value]))]
            free = [frozenset(a for a in e.atoms() if a in produced) for e in exprs]
            crowded = sum(map(bool, free)) > 1 and not _beside_or_square(exprs, free)
            if (crowded and node.name in weighted) or any(_entangled(e, produced - ordered - set(pinned)) for e in exprs):
                for atom in (a for f in free for a in f):
                    pinned.setdefault(atom, f"value {value!r} mixes several channel spaces")
            elif crowded or any(_entangled(e, produced - set(pinned)) for e in exprs):
                needed[node.name] = needed.get(node.name, frozenset()).union(*free)
    return needed


def _beside_or_square(exprs: Sequence[Expr], free: Sequence[frozenset[int]]) -> bool:
    """Whether all axes with free channels but those of a single one are one, or the same one."""
    long = [e for e, f in zip(exprs, free, strict=True) if f and e.size != 1]
    if len(long) == 1:
        return True
    return len(long) == sum(map(bool, free)) and len(set(long)) == 1 and long[0].kind == "atom"


def against_themselves(net: Net, axes: Mapping[Axis, Expr]) -> dict[str, frozenset[int]]:
    """Per node, the atoms that stand on several axes of what it computes (channel attention: a softmax over X X')."""
    found: dict[str, frozenset[int]] = {}
    for node in net.nodes:
        for value in node.outputs:
            times = Counter(a for d in range(len(net.shapes[value])) for a in set(axes[Axis(value, d)].atoms()))
            several = frozenset(a for a, count in times.items() if count > 1)
            found[node.name] = found.get(node.name, frozenset()) | several
    return found


def _entangled(expr: Expr, produced: frozenset[int]) -> bool:
    carrying = [p for p in expr.parts if any(a in produced for a in p.atoms())]
    return (expr.kind == "product" and len(carrying) > 1) or any(_entangled(p, produced) for p in expr.parts)
