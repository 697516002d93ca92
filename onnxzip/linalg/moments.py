"""Moments of fused inputs z and targets p: count, sum z z', sum z p, sum p^2. Additive over batches, machines and files.

The last column of z is the constant 1. "Hessian" in the papers on layer-wise compression is 2 E[z z'].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxzip.linalg.symmetric import Pair, Symmetric

Float = NDArray[np.floating]


@dataclass(frozen=True)
class Moments:
    """Sums over rows, float64; or means over them.

    Attributes:
        count: number of rows.
        zz: [columns, columns]; zp: [columns, targets]; pp: [targets], of squares.
    """

    count: int
    zz: Symmetric
    zp: Float
    pp: Float


@dataclass(frozen=True)
class ChannelMoments:
    """The same where each channel has columns of its own.

    Attributes:
        count: number of rows.
        zz: [channels, columns, columns]; zp: [channels, columns, targets]; pp: [channels, targets].
    """

    count: int
    zz: Float
    zp: Float
    pp: Float

    def __add__(self, other: ChannelMoments) -> ChannelMoments:
        return ChannelMoments(self.count + other.count, self.zz + other.zz, self.zp + other.zp, self.pp + other.pp)


class Sums(Protocol):
    """Moments of fitted and of held-out rows, summed up batch by batch."""

    def add(self, held: bool, z: Float, p: Float) -> None:
        """Add rows."""

    def moments(self, held: bool) -> Moments | ChannelMoments:
        """Those of the rows added so far."""


class DenseSums:
    """Moments of rows z [rows, columns] and p [rows, targets]; both sides' z'z share one array."""

    def __init__(self, columns: int, targets: int) -> None:
        self._zz = Pair(columns)
        self._zp = np.zeros((2, columns, targets))
        self._pp = np.zeros((2, targets))
        self._count = [0, 0]

    def add(self, held: bool, z: Float, p: Float) -> None:
        """Add rows; products in the precision of z, sums in float64."""
        self._zz.add_rows(held, z)
        self._zp[int(held)] += z.T @ p
        self._pp[int(held)] += np.einsum("rt,rt->t", p, p, dtype=np.float64)
        self._count[held] += len(z)

    def add_products(self, held: bool, count: int, zz: Float, zp: Float, pp: Float) -> None:
        """Add z'z, z'p and the sums of p^2 of so many rows."""
        self._zz.add_product(held, zz)
        self._zp[int(held)] += zp
        self._pp[int(held)] += pp
        self._count[held] += count

    def moments(self, held: bool) -> Moments:
        """Those of the rows added so far; they follow when more are added."""
        return Moments(self._count[held], Symmetric([(1.0, self._zz[held])]), self._zp[int(held)], self._pp[int(held)])


class DiagonalSums:
    """Moments of rows in which each channel has its own columns: z [rows, channels, columns], p [rows, channels, targets]."""

    def __init__(self) -> None:
        self._totals: dict[bool, ChannelMoments] = {}

    def add(self, held: bool, z: Float, p: Float) -> None:
        """Add rows."""
        found = diagonal_moments_of(z, p)
        self._totals[held] = self._totals[held] + found if held in self._totals else found

    def moments(self, held: bool) -> ChannelMoments:
        """Those of the rows added so far."""
        return self._totals[held]


class EnergySums:
    """Counts and sums of p^2 alone, for a least squares that is solved from the rows themselves."""

    def __init__(self, targets: int) -> None:
        self._pp = np.zeros((2, targets))
        self._count = [0, 0]

    def add(self, held: bool, z: Float, p: Float) -> None:
        """Add rows."""
        self._pp[int(held)] += np.einsum("rt,rt->t", p, p, dtype=np.float64)
        self._count[held] += len(z)

    def moments(self, held: bool) -> Moments:
        """Those of the rows added so far, without z'z and z'p."""
        return Moments(self._count[held], Symmetric.of(np.zeros((0, 0))), np.zeros((0, 0)), self._pp[int(held)])


def diagonal_moments_of(z: Float, p: Float) -> ChannelMoments:
    """Moments of rows in which each channel has its own few columns.

    Args:
        z: [rows, channels, columns]; p: [rows, channels, targets per channel].
    """
    by_channel, targets = np.ascontiguousarray(z.transpose(1, 2, 0)), np.ascontiguousarray(p.transpose(1, 0, 2))
    return ChannelMoments(
        len(z),
        np.matmul(by_channel, by_channel.swapaxes(1, 2)).astype(np.float64),
        np.matmul(by_channel, targets).astype(np.float64),
        np.einsum("crm,crm->cm", targets, targets, dtype=np.float64),
    )
