"""Channel spaces as expressions: atoms, products (major first) and sums (concatenations), and their unification.

Unifying two expressions makes them one space; where one of two composites has the finer parts, the other is cut to fit:
5 = 2 + 3 in a sum, 6 = 2 * 3 in a product. A batch axis has size -1, a k-fold batch axis -k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


class SpaceMismatch(ValueError):
    """Two axes that must change together cannot."""


@dataclass(eq=False)
class Space:
    """A node of the expression under construction; `bound` once unification has replaced it by another one."""

    size: int
    kind: str = "atom"  # atom | product | sum
    parts: tuple[Space, ...] = ()
    bound: Space | None = None

    def resolved(self) -> Space:
        space = self
        while space.bound is not None:
            space = space.bound
        return space

    def atoms(self) -> Iterator[Space]:
        space = self.resolved()
        if space.kind == "atom":
            yield space
        for part in space.parts:
            yield from part.atoms()


def product(parts: Sequence[Space]) -> Space:
    """The space of all combinations, first part major."""
    flat = [q for p in parts for q in _flattened(p, "product") if q.size != 1]
    return flat[0] if len(flat) == 1 else Space(math.prod(p.size for p in flat), "product", tuple(flat))


def concatenation(parts: Sequence[Space]) -> Space:
    """The parts one after the other."""
    flat = [q for p in parts for q in _flattened(p, "sum")]
    return flat[0] if len(flat) == 1 else Space(sum(p.size for p in flat), "sum", tuple(flat))


def _flattened(space: Space, kind: str) -> tuple[Space, ...]:
    space = space.resolved()
    if space.kind != kind:
        return (space,)
    return tuple(q for p in space.parts for q in _flattened(p, kind))


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
    elif a.kind == b.kind:
        for p, q in _refinement(a, b):
            unify(p, q)
    else:
        raise SpaceMismatch(f"a {a.kind} of {a.size} channels meets a {b.kind}")


def _bind(atom: Space, to: Space) -> None:
    if any(part is atom for part in to.atoms()) and to is not atom:
        raise SpaceMismatch(f"an axis of {atom.size} would contain itself")
    atom.bound = to


def _refinement(a: Space, b: Space) -> Iterator[tuple[Space, Space]]:
    """Cut both at each other's boundaries; yield the parts in pairs."""
    left, right = list(_flattened(a, a.kind)), list(_flattened(b, b.kind))
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
    """Cut `size` off the front of an atom."""
    rest = space.size - size if kind == "sum" else space.size // size
    whole = size + rest if kind == "sum" else size * rest
    if space.kind != "atom" or whole != space.size:
        raise SpaceMismatch(f"cannot cut {size} off a {space.kind} of {space.size} channels")
    head, tail = Space(size), Space(rest)
    space.bound = Space(space.size, kind, (head, tail))
    return head, tail


@dataclass(frozen=True)
class Expr:
    """A finished expression over numbered atoms.

    Attributes:
        kind: atom, product or sum.
        size: number of channels; negative for multiples of the batch.
        atom: the number, where it is one.
        parts: of a composite.
    """

    kind: str
    size: int
    atom: int = -1
    parts: tuple[Expr, ...] = ()

    def atoms(self) -> tuple[int, ...]:
        """Numbers of all atoms, in order."""
        if self.kind == "atom":
            return (self.atom,)
        return tuple(a for p in self.parts for a in p.atoms())

    def mapped(self, change: Callable[[Expr], Expr]) -> Expr:
        """The expression with every atom replaced."""
        if self.kind == "atom":
            return change(self)
        parts = tuple(p.mapped(change) for p in self.parts)
        size = sum(p.size for p in parts) if self.kind == "sum" else math.prod(p.size for p in parts)
        return Expr(self.kind, size, -1, parts)


def finish(space: Space, numbers: dict[int, int]) -> Expr:
    """Freeze an expression; `numbers` (identity of an atom -> its number) grows by the atoms not seen before."""
    space = space.resolved()
    if space.kind == "atom":
        return Expr("atom", space.size, numbers.setdefault(id(space), len(numbers)))
    return Expr(space.kind, space.size, -1, tuple(finish(p, numbers) for p in _flattened(space, space.kind)))


@dataclass(frozen=True)
class Inside:
    """Chosen channels of an atom that lies inside another one: an order of its own for every channel of that one.

    Attributes:
        outer: the number of the other atom; index: int [its chosen channels, channels].
    """

    outer: int
    index: np.ndarray


Chosen = Mapping[int, "np.ndarray | Inside"]


def positions(expr: Expr, chosen: Chosen) -> np.ndarray:
    """Where the chosen channels of some atoms lie along an axis: flat int indices, in the order of the choice.

    Atoms that are not in `chosen` are taken whole.
    """
    if expr.kind == "atom":
        found = chosen.get(expr.atom)
        assert not isinstance(found, Inside)
        return np.arange(abs(expr.size)) if found is None else found
    if expr.kind == "sum":
        starts = np.cumsum([0, *(p.size for p in expr.parts)])
        return np.concatenate([positions(p, chosen) + s for p, s in zip(expr.parts, starts, strict=False)])
    flat = np.zeros(1, np.int64)
    place: dict[int, np.ndarray] = {}  # which of its chosen channels an atom has in each entry
    for part in expr.parts:
        found = chosen.get(part.atom)
        if isinstance(found, Inside):
            rows = found.index[place[found.outer]]
        else:
            rows = np.broadcast_to(own := positions(part, chosen), (len(flat), len(own)))
        place = {atom: np.repeat(k, rows.shape[1]) for atom, k in place.items()}
        place[part.atom] = np.tile(np.arange(rows.shape[1]), len(flat))
        flat = (flat[:, None] * abs(part.size) + rows).reshape(-1)
    return flat
