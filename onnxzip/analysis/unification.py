"""Unification of channel spaces: making two expressions one, and cutting one where the other has finer parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnxzip.analysis.spaces import Space, concatenation, flattened, product
from onnxzip.net import Axis, Net, consumers
from onnxzip.ops.notation import Term

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "PRelu"})


class SpaceMismatch(ValueError):
    """Two axes that must change together cannot."""


def unify(a: Space, b: Space) -> None:
    """Make two spaces one.

    Raises:
        SpaceMismatch: their sizes or their structures contradict each other.
    """
    a, b = a.resolved(), b.resolved()
    if a is b:
        return
    if a.size != b.size:
        raise SpaceMismatch(f"an axis of {a.size} meets one of {b.size}")
    if a.kind == "atom":
        _bind(a, b)
    elif b.kind == "atom":
        _bind(b, a)
    elif a.kind == b.kind and a.kind in ("sum", "product"):
        for p, q in _refinement(a, b):
            unify(p, q)
    elif a.kind == b.kind and len(a.parts) == len(b.parts):
        for p, q in zip(a.parts, b.parts, strict=True):
            unify(p, q)
    elif {a.kind, b.kind} == {"sum", "product"}:
        _stack(*((a, b) if a.kind == "sum" else (b, a)))
    elif {a.kind, b.kind} in ({"sum", "woven"}, {"sum", "stack"}):
        _unravel(*((a, b) if a.kind == "sum" else (b, a)))
    else:
        raise SpaceMismatch(f"a {a.kind} of {a.size} channels meets a {b.kind}")


def meet(term: Term, space: Space, labels: dict[str, Space]) -> None:
    """Unify an axis with what its term says; `labels` grows by the names that were not known.

    Raises:
        SpaceMismatch: they contradict each other.
    """
    if term.single is not None:
        unify(labels.setdefault(term.single, space), space)
        return
    known = [labels[n] for n in term.names if n in labels]
    missing = [n for n in term.names if n not in labels]
    if len(missing) > 1:
        raise SpaceMismatch(f"lengths of {missing} are not known")
    rest = space.size
    for part in known:
        rest = rest - part.size if term.sum else rest // part.size
    if missing:
        labels[missing[0]] = Space(rest)
    unify((concatenation if term.sum else product)([labels[n] for n in term.names]), space)


def _stack(total: Space, factors: Space) -> None:
    """Read a sum as (z c)."""
    axis, *inner = (p.resolved() for p in factors.parts)
    if axis.kind != "atom" or len(inner) != 1 or inner[0].kind != "atom" or inner[0].size < 0:
        raise SpaceMismatch(f"a sum of {total.size} channels meets a product")
    parts, rest = [], total
    for _ in range(axis.size - 1):
        head, rest = cut(rest, inner[0].size)
        parts.append(head)
    _bind(inner[0], Space(inner[0].size, "stack", (*parts, rest), axis=axis))
    factors.bound = total


def _unravel(total: Space, other: Space) -> None:
    """Cut a weave or a stack to the parts of a sum."""
    rest = other
    for part in total.parts[:-1]:
        head, rest = cut(rest, part.size)
        unify(part, head)
    unify(total.parts[-1], rest)


def _bind(atom: Space, to: Space) -> None:
    if any(part is atom for part in to.atoms()) and to is not atom:
        raise SpaceMismatch(f"an axis of {atom.size} would contain itself")
    atom.bound = to


def _refinement(a: Space, b: Space) -> Iterator[tuple[Space, Space]]:
    """Cut both at each other's boundaries; yield the parts in pairs."""
    left, right = list(flattened(a, a.kind)), list(flattened(b, b.kind))
    while left and right:
        p, q = left.pop(0).resolved(), right.pop(0).resolved()
        if p.size == q.size:
            yield p, q
            continue
        long, short, rest = (p, q, left) if abs(p.size) > abs(q.size) else (q, p, right)
        head, tail = _cut(long, short.size, a.kind)
        rest.insert(0, tail)
        yield head, short
    if left or right:
        raise SpaceMismatch(f"two {a.kind}s of {a.size} channels have different parts")


def _cut(space: Space, size: int, kind: str) -> tuple[Space, Space]:
    """Cut `size` off the front of a part of a sum or of a product."""
    if kind == "sum":
        return cut(space, size)
    if space.kind != "atom" or space.size % size:
        raise SpaceMismatch(f"cannot cut {size} off a {space.kind} of {space.size} channels")
    head, tail = Space(size), Space(space.size // size)
    space.bound = Space(space.size, kind, (head, tail))
    return head, tail


def cut(space: Space, size: int) -> tuple[Space, Space]:
    """The first channels of a space, and the others.

    Raises:
        SpaceMismatch: it cannot be cut there.
    """
    head, tail = _halves(space, size)
    return concatenation(head), concatenation(tail)


def _halves(space: Space, size: int) -> tuple[list[Space], list[Space]]:
    """What stands before and behind a cut, one part after the other; nothing before the first channel, or behind the last."""
    space = space.resolved()
    if size in (0, space.size):
        return ([space], []) if size else ([], [space])
    if space.kind == "atom" and 0 < size < space.size:
        space.bound = Space(space.size, "sum", (Space(size), Space(space.size - size)))
        return [space.bound.parts[0]], [space.bound.parts[1]]
    if space.kind == "sum":
        return _halves_of_all(space.parts, size)
    if space.kind == "woven":
        return _halves_of_weave(space, size)
    if space.kind == "stack":
        head, tail = zip(*(cut(p, size) for p in space.parts), strict=True)
        return [replace(space, size=size, parts=head)], [replace(space, size=space.size - size, parts=tail)]
    rest = math.prod(p.size for p in space.parts[1:])
    if space.kind != "product" or size % rest:
        raise SpaceMismatch(f"cannot cut {size} off a {space.kind} of {space.size} channels")
    before, behind = cut(space.parts[0], size // rest)
    return [product([before, *space.parts[1:]])], [product([behind, *space.parts[1:]])]


def _halves_of_all(parts: Sequence[Space], size: int) -> tuple[list[Space], list[Space]]:
    head: list[Space] = []
    tail: list[Space] = []
    for part in parts:
        before, behind = _halves(part, min(size, part.size))
        head, tail, size = [*head, *before], [*tail, *behind], max(0, size - part.size)
    return head, tail


def _halves_of_weave(space: Space, size: int) -> tuple[list[Space], list[Space]]:
    """Whole rounds through all parts; the round in which the cut falls stands apart, channel by channel."""
    rounds, extra = divmod(size, len(space.parts))
    first, rest = zip(*(_halves(p, rounds) for p in space.parts), strict=True)
    one, last = zip(*(_halves_of_all(r, min(1, extra)) for r in rest), strict=True)
    apart = [p for some in one for p in some]
    return [*_woven(first), *apart[:extra]], [*apart[extra:], *_woven(last)]


def _woven(parts: Sequence[list[Space]]) -> list[Space]:
    joined = [concatenation(p) for p in parts if p]
    return [Space(sum(p.size for p in joined), "woven", tuple(joined))] if joined else []


def standing_for_all(net: Net) -> frozenset[Axis]:
    """Axes of params with one entry, which some node that reads it has stand for all of a longer axis: it is no channel for
    another one, either, which has one channel there."""
    found = set[Axis]()
    for value, nodes in consumers(net.nodes).items():
        if value not in net.params or len(nodes) < 2 or any(n.op not in _BROADCASTING for n in nodes):
            continue
        rank = len(net.shapes[value])
        for dim in (d for d, size in enumerate(net.shapes[value]) if size == 1):
            sizes = {shape[dim - rank] for n in nodes if len(shape := net.shapes[n.outputs[0]]) >= rank}
            found |= {Axis(value, dim)} if sizes - {1} else set()
    return frozenset(found)
