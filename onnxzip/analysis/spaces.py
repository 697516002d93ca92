"""Channel spaces as expressions: atoms, products (major first), sums (concatenations) and weaves, and their unification.

Unifying two expressions makes them one space; where one of two composites has the finer parts, the other is cut to fit:
5 = 2 + 3 in a sum, 6 = 2 * 3 in a product. A batch axis has size -1, a k-fold batch axis -k.

A channel shuffle reads a sum of z equal parts as a product (z c), and writes (c z). There c stands for a stack: whichever part
z tells. So (z stack) is the sum again, and (stack z) a weave, the first channels of all parts before their second ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(eq=False)
class Space:
    """A node of the expression under construction; `bound` once unification has replaced it by another one."""

    size: int
    kind: str = "atom"  # atom | product | sum | woven | stack
    parts: tuple[Space, ...] = ()
    bound: Space | None = None
    axis: Space | None = None  # of a stack: which part

    def resolved(self) -> Space:
        space = self
        while space.bound is not None:
            space = space.bound
        return space

    def atoms(self) -> Iterator[Space]:
        waiting = [self]
        while waiting:
            space = waiting.pop().resolved()
            if space.kind == "atom":
                yield space
            waiting.extend(reversed(space.parts))


def product(parts: Sequence[Space]) -> Space:
    """The space of all combinations, first part major."""
    flat = _unstacked([q for p in parts for q in flattened(p, "product") if q.size != 1])
    return flat[0] if len(flat) == 1 else Space(math.prod(p.size for p in flat), "product", tuple(flat))


def concatenation(parts: Sequence[Space]) -> Space:
    """The parts one after the other."""
    flat = [q for p in parts for q in flattened(p, "sum")]
    return flat[0] if len(flat) == 1 else Space(sum(p.size for p in flat), "sum", tuple(flat))


def _unstacked(factors: list[Space]) -> list[Space]:
    """Factors with a sum or a weave for every stack and its axis."""
    for k, (p, q) in enumerate(itertools.pairwise(factors)):
        if (behind := _told(p, q)) is not None:
            weaves = [Space(sum(c.size for c in some), "woven", some) for some in zip(*behind, strict=True)]
            return _unstacked([*factors[:k], concatenation(weaves), *factors[k + 2 :]])
        if (behind := _told(q, p)) is not None:
            return _unstacked([*factors[:k], concatenation([c for some in behind for c in some]), *factors[k + 2 :]])
    return factors


def _told(space: Space, axis: Space) -> list[tuple[Space, ...]] | None:
    """For each channel of an axis, what a stack, or a sum with stacks in it, is there; None where the axis tells nothing."""
    terms = flattened(space, "sum")
    stacks = {id(t) for t in terms if t.kind == "stack" and t.axis is not None and t.axis.resolved() is axis}
    return list(zip(*(t.parts if id(t) in stacks else [t] * axis.size for t in terms), strict=True)) if stacks else None


def flattened(space: Space, kind: str) -> tuple[Space, ...]:
    """The parts of a sum or of a product, in order, however deep it was built: it nests as deep as there were cuts."""
    found, waiting = [], [space]
    while waiting:
        space = waiting.pop().resolved()
        if space.kind == kind:
            waiting.extend(reversed(space.parts))
        else:
            found.append(space)
    return tuple(found)


@dataclass(frozen=True)
class Expr:
    """A finished expression over numbered atoms.

    Attributes:
        kind: atom, product, sum, woven or stack.
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

    def walk(self) -> Iterator[Expr]:
        """Itself, and all that it is made of."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def mapped(self, change: Callable[[Expr], Expr]) -> Expr:
        """The expression with every atom replaced."""
        if self.kind == "atom":
            return change(self)
        parts = tuple(p.mapped(change) for p in self.parts)
        sizes = [p.size for p in parts]
        size = math.prod(sizes) if self.kind == "product" else max(sizes) if self.kind == "stack" else sum(sizes)
        return Expr(self.kind, size, -1, parts)


def finish(space: Space, numbers: dict[int, int]) -> Expr:
    """Freeze an expression; `numbers` (identity of an atom -> its number) grows by the atoms not seen before."""
    space = space.resolved()
    if space.kind == "atom":
        return Expr("atom", space.size, numbers.setdefault(id(space), len(numbers)))
    parts = flattened(space, space.kind) if space.kind in ("sum", "product") else space.parts
    if space.kind == "product":  # a factor may have become a stack after it was made
        parts = tuple(_unstacked([*parts]))
        if len(parts) == 1:
            return finish(parts[0], numbers)
    return Expr(space.kind, space.size, -1, tuple(finish(p, numbers) for p in parts))


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
    if not any(atom in chosen for atom in expr.atoms()):
        return np.arange(abs(expr.size))
    if expr.kind == "atom":
        own = chosen[expr.atom]
        assert not isinstance(own, Inside)
        return own
    if expr.kind == "sum":
        starts = np.cumsum([0, *(p.size for p in expr.parts)])
        return np.concatenate([positions(p, chosen) + s for p, s in zip(expr.parts, starts, strict=False)])
    if expr.kind == "woven":
        return woven([positions(p, chosen) * len(expr.parts) + k for k, p in enumerate(expr.parts)])
    if expr.kind == "stack":  # channels of its parts are chosen only where all are in their original order
        first, *others = (positions(p, chosen) for p in expr.parts)
        assert all(np.array_equal(first, other) for other in others)
        return first
    assert expr.kind == "product"
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


def woven(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The first entries of all parts before their second ones; one part behind the other where they are not equally long."""
    even = len({len(p) for p in parts}) == 1
    return np.stack(parts, axis=1).reshape(-1) if even else np.concatenate(parts)
