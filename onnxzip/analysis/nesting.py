"""Products of free factors: heads, and the channels inside each of them.

A value [batch, tokens, (h d)] of attention, which is [batch, h, tokens, d] elsewhere, stays the same net with its heads h in
any order and the channels d of each head in an order of its own. So h makes strands like any other space, and d lies inside
h: it is taken whole, and its order is found head by head. d lies inside h where it never stands without it:

    product (h d)                  h in front of it, among the same factors
    an axis d of its own           of a computed value that has h on another axis

A factor that is no such thing (its order is fixed, or params of its own stand along it, as in rotary embeddings) keeps its
order inside every channel of the free factor.

The free factor is the one that weights make elsewhere without the other (the features c that a predicted matrix (r c) is
multiplied with), or else the one that weights read without the other (the units w of a maxout layer (k w), each the largest of
k pieces; the features c of tokens (t c) that one layer makes and another reads token by token). Where weights make both
without the other, none is kept, and coupling refuses the product.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from onnxzip.analysis.spaces import Expr
from onnxzip.net import Axis, Net


@dataclass(frozen=True)
class Nesting:
    """What becomes of the factors of products.

    Attributes:
        inside: atom -> the atom that it lies inside of.
        kept: atoms that keep their order inside of another one.
    """

    inside: Mapping[int, int]
    kept: frozenset[int]


def standing_alone(exprs: Iterable[Expr]) -> frozenset[int]:
    """Atoms outside of products, but for those with single channels (pairs that positions turn), on axes that weights make or
    read."""
    flat = (e for expr in exprs for e in (expr.parts if expr.kind == "sum" else (expr,)))
    return frozenset(e.atom for e in map(_without_singles, flat) if e.kind == "atom")


def _without_singles(expr: Expr) -> Expr:
    """The factor of a product that is more than a concatenation of single channels, where it is the only one."""
    many = [p for p in expr.parts if p.kind != "sum" or any(q.size != 1 for q in p.parts)] if expr.kind == "product" else []
    return many[0] if len(many) == 1 else expr


def nest(
    net: Net, axes: Mapping[Axis, Expr], produced: frozenset[int], free: frozenset[int], made: Collection[Expr],
    read: frozenset[int]
) -> Nesting:
    """Sort the factors of all products into those that carry strands and those that follow them.

    Args:
        axes: the space of each axis; made: those that weights make.
        produced: atoms that weights produce; free: those of them that may be in any order; read: those that some weights read
            outside of every product.
    """
    alone = standing_alone(made)
    single = {e.atom for some in axes.values() for e in some.walk() if e.kind == "atom" and e.size == 1}
    free = free - single
    outer: dict[int, int] = {}
    kept: set[int] = set()
    for factors in _products(axes.values()):
        carrying = [p for p in factors if any(a in free for a in p.atoms())]
        first = (p for some in (alone, read) for p in carrying if p.atom in some)
        lead = next(chain(first, carrying), None)
        if lead is None or lead.kind != "atom":
            continue
        head = lead.atom
        for part in factors:
            for atom in part.atoms():
                if atom == head or atom not in produced:
                    continue
                if part.kind != "atom" or atom not in free or outer.setdefault(atom, head) != head:
                    kept.add(atom)
    kept |= {atom for atom, head in outer.items() if head in outer}
    without = {atom: _standing_without(net, axes, atom, head) for atom, head in outer.items() if atom not in kept}
    kept |= {atom for atom, found in without.items() if found}
    kept |= _further(made, {atom: head for atom, head in outer.items() if atom not in kept})
    heads = set(outer.values()) - kept
    return Nesting({a: h for a, h in outer.items() if a not in kept and h in heads}, frozenset(kept - heads - alone))


def _further(made: Iterable[Expr], outer: Mapping[int, int]) -> set[int]:
    """Atoms that keep their order since another one lies inside of the same head in a product that weights make (queries of
    several heads for one key): the one that weights make without the others is free, else the first."""
    inner = [[p.atom for p in factors if p.atom in outer] for factors in _products(made)]
    sole, found = {some[0] for some in inner if len(some) == 1}, set[int]()
    for some in (some for some in inner if some):
        one = next((a for a in some if a in sole), some[0])
        found |= {a for a in some if a != one and outer[a] == outer[one]}
    return found


def _products(exprs: Iterable[Expr]) -> Iterator[tuple[Expr, ...]]:
    """The factors of every product, those inside of sums too."""
    for whole in dict.fromkeys(exprs):
        yield from (e.parts for e in whole.walk() if e.kind == "product")


def _standing_without(net: Net, axes: Mapping[Axis, Expr], atom: int, head: int) -> bool:
    """Whether an atom stands anywhere without its head."""
    for axis, expr in axes.items():
        if atom not in expr.atoms():
            continue
        if expr.kind == "atom":
            others = [axes[Axis(axis.value, d)] for d in range(len(net.shapes[axis.value])) if d != axis.dim]
            if axis.value in net.params or not any(head in e.atoms() for e in others):
                return True
        elif not _behind(expr, atom, head):
            return True
    return False


def _behind(expr: Expr, atom: int, head: int) -> bool:
    """Whether every occurrence of an atom in a composite is a factor behind its head."""
    if expr.kind == "product":
        at = [k for k, p in enumerate(expr.parts) if p.atom == atom]
        heads = [k for k, p in enumerate(expr.parts) if p.atom == head]
        if at and (not heads or len(at) > 1 or heads[0] > at[0]):
            return False
    elif any(p.atom == atom for p in expr.parts):
        return False
    return all(_behind(p, atom, head) for p in expr.parts if p.kind != "atom")
