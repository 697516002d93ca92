"""Symmetric matrices of which one triangle is held, and weighted sums of them that are formed only where they are used.

Moment matrices are the largest things in memory. Two of them share one array (`Pair`), and the sums over tasks, means and
mixtures that a fit asks for are kept as what they are: numbers and the triangles that they multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsymm

Float = NDArray[np.floating]

PANEL = 512  # rows that are worked on at a time
FORMED_BYTES = 32 << 20  # a sum of several matrices up to this size is worth the room that it takes once it is formed


class Triangle(NamedTuple):
    """A symmetric matrix: float64 [n, n] in Fortran order, of which the lower or the upper triangle counts."""

    array: Float
    lower: bool


class Symmetric:
    """sum_k weight_k T_k, an operand of `+`, `*`, `@` and `np.asarray`; at most a few terms.

    Args:
        terms: weights and triangles of one size.
    """

    __array_ufunc__ = None  # numpy leaves operators with an array on the left to this class

    def __init__(self, terms: Sequence[tuple[float, Triangle]]) -> None:
        self.terms = tuple(terms)
        self.shape: tuple[int, int] = self.terms[0][1].array.shape

    @classmethod
    def of(cls, matrix: Symmetric | Float) -> Symmetric:
        """Any symmetric matrix as one of these; an array of float64 is not copied."""
        if isinstance(matrix, Symmetric):
            return matrix
        return cls([(1.0, Triangle(np.asarray(matrix, np.float64, order="C").T, True))])

    def __len__(self) -> int:
        return self.shape[0]

    def __mul__(self, factor: float) -> Symmetric:
        return Symmetric([(float(factor) * w, t) for w, t in self.terms])

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Symmetric:
        return self * (1.0 / float(divisor))

    def __add__(self, other: Symmetric) -> Symmetric:
        weights: dict[int, float] = {}
        triangles = {id(t.array): t for _, t in (*self.terms, *other.terms)}
        for weight, triangle in (*self.terms, *other.terms):
            weights[id(triangle.array)] = weights.get(id(triangle.array), 0.0) + weight
        return Symmetric([(w, triangles[k]) for k, w in weights.items()])

    def __matmul__(self, right: Float) -> Float:
        """[n, n] times [n, m]."""
        x = np.asarray(right, np.float64)
        found = np.zeros((len(self), x.shape[1]), order="F")
        for weight, (array, lower) in self.terms:
            found = dsymm(weight, array, x, 1.0, found, lower=lower, overwrite_c=True)
        return found

    def __rmatmul__(self, left: Float) -> Float:
        return (self @ np.asarray(left).T).T

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Float:
        array, lower = self.formed()
        half = np.tril(array) if lower else np.triu(array)
        full: Float = half + half.T
        full.flat[:: len(full) + 1] /= 2
        return full if dtype is None else full.astype(dtype)

    def trace(self) -> float:
        """Sum of the diagonal."""
        return sum(w * float(np.trace(t.array)) for w, t in self.terms)

    def diagonal(self) -> Float:
        """The diagonal: [n]."""
        found: Float = np.sum([w * np.diagonal(t.array) for w, t in self.terms], axis=0)
        return found

    def formed(self) -> Triangle:
        """The sum, as a triangle that nobody else holds."""
        first, lower = self.terms[0][1]
        total = np.empty(self.shape, order="F")
        np.multiply(first, self.terms[0][0], out=total)
        for weight, (array, other) in self.terms[1:]:
            same = array if other == lower else array.T
            for start in range(0, len(self), PANEL):
                total[:, start : start + PANEL] += weight * same[:, start : start + PANEL]
        return Triangle(total, lower)

    def settled(self) -> Symmetric:
        """The same for many products: a small sum of several matrices is formed once, a large one stays as it is."""
        if len(self.terms) == 1 or 8 * len(self) ** 2 > FORMED_BYTES:
            return self
        return Symmetric([(1.0, self.formed())])

    def cut(self, at: NDArray[np.intp]) -> Symmetric:
        """The rows and columns `at`: [len(at), len(at)]; itself where those are all of them."""
        if np.array_equal(at, np.arange(len(self))):
            return self
        array, lower = self.terms[0][1] if len(self.terms) == 1 else self.formed()
        weight = self.terms[0][0] if len(self.terms) == 1 else 1.0
        some = np.asfortranarray(array[np.ix_(at, at)])
        if not (np.diff(at) > 0).all():  # an entry may come from the triangle that does not count: its mirror image does
            counts = (at[:, None] >= at) if lower else (at[:, None] <= at)
            some = np.asfortranarray(np.where(counts, some, some.T))
        return Symmetric([(weight, Triangle(some, lower))])


class Pair:
    """Two symmetric matrices of one size, sums of products z'z, in one array.

    Attributes:
        packed: that array: [n + 1, n], diagonals side by side.
    """

    def __init__(self, size: int) -> None:
        self.packed = np.zeros((size + 1, size))

    def __getitem__(self, second: bool) -> Triangle:
        """The first matrix (its lower triangle in rows 1 to n), or the second (its upper one in rows 0 to n - 1)."""
        return Triangle(self.packed[:-1].T, True) if second else Triangle(self.packed[1:].T, False)

    def add_rows(self, second: bool, z: NDArray[np.float32]) -> None:
        """Add z'z of rows z [rows, n]; products in the precision of z, sums in float64."""
        for part, rest in self._panels(second):
            self._add(second, part, rest, z[:, part].T @ z[:, rest])

    def add_product(self, second: bool, zz: NDArray[np.float32]) -> None:
        """Add a product z'z [n, n]."""
        for part, rest in self._panels(second):
            self._add(second, part, rest, zz[part, rest])

    def _panels(self, second: bool) -> list[tuple[slice, slice]]:
        n = self.packed.shape[1]
        parts = [slice(start, min(start + PANEL, n)) for start in range(0, n, PANEL)]
        return [(p, slice(p.start, n) if second else slice(0, p.stop)) for p in parts]

    def _add(self, second: bool, part: slice, rest: slice, product: Float) -> None:
        """Add a panel: its square on the diagonal only where the triangle counts."""
        half = self.packed[:-1] if second else self.packed[1:]
        size = part.stop - part.start
        counts = np.tri(size, dtype=product.dtype)
        square = product[:, :size] if second else product[:, -size:]
        half[part, part] += square * (counts.T if second else counts)
        if second:
            half[part, part.stop : rest.stop] += product[:, size:]
        else:
            half[part, : part.start] += product[:, :-size]
