"""Moments of fused inputs z and targets p: count, sum z z', sum z p, sum p^2. Additive over batches, machines and files.

The last column of z is the constant 1. "Hessian" in the papers on layer-wise compression is 2 E[z z'].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxzip.linalg.symmetric import Float, Pair, Symmetric

Arrays = Mapping[str, NDArray[Any]]

WAITING_BYTES = 16 << 20  # rows that wait for more, so that the sums in float64 are not touched for a few rows at a time


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

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.zz + other.zz, self.zp + other.zp, self.pp + other.pp)

    def means(self) -> Moments:
        """Means over the rows, of these sums over them."""
        return Moments(self.count, self.zz / self.count, self.zp / self.count, self.pp / self.count)


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
    """Moments of fitted and of held-out rows, summed up batch by batch.

    Attributes:
        products: which of zz, zp and pp it needs.
    """

    products: ClassVar[tuple[str, ...]]

    def add(self, held: bool, z: Float, p: Float) -> None:
        """Add rows."""

    def add_products(self, held: bool, count: int, found: Mapping[str, Float]) -> None:
        """Add products of so many rows, by name."""

    def settle(self) -> None:
        """Let no row wait for more: float32 products never reach over this call, whatever rows come before or after it."""

    def arrays(self) -> Arrays:
        """The sums of both sides by name. What is written into them takes their place: sums of several processes."""

    def moments(self, held: bool) -> Moments | ChannelMoments:
        """Those of the rows added so far."""


class DenseSums:
    """Moments of rows z [rows, columns] and p [rows, targets]; both sides' z'z share one array."""

    products: ClassVar[tuple[str, ...]] = ("zz", "zp", "pp")

    def __init__(self, columns: int, targets: int) -> None:
        self._zz = Pair(columns)
        self._zp = np.zeros((2, columns, targets))
        self._pp = np.zeros((2, targets))
        self._count = np.zeros(2, np.int64)
        self._waiting: tuple[list[Float], list[Float]] = ([], [])

    def add(self, held: bool, z: Float, p: Float) -> None:
        """Add rows; products in the precision of z, sums in float64."""
        self._zp[int(held)] += z.T @ p
        self._pp[int(held)] += np.einsum("rt,rt->t", p, p, dtype=np.float64)
        self._count[int(held)] += len(z)
        waiting = self._waiting[held]
        waiting.append(z)
        if sum(len(w) for w in waiting) >= z.shape[1] or sum(w.nbytes for w in waiting) >= WAITING_BYTES:
            self._flush(held)

    def add_products(self, held: bool, count: int, found: Mapping[str, Float]) -> None:
        """Add products of so many rows."""
        self._zz.add_product(held, found["zz"])
        self._zp[int(held)] += found["zp"]
        self._pp[int(held)] += found["pp"]
        self._count[int(held)] += count

    def settle(self) -> None:
        """Form the products of rows that wait."""
        for held in (False, True):
            self._flush(held)

    def arrays(self) -> Arrays:
        """The sums of both sides."""
        self.settle()
        return {"count": self._count, "zz": self._zz.packed, "zp": self._zp, "pp": self._pp}

    def moments(self, held: bool) -> Moments:
        """Those of the rows added so far."""
        self._flush(held)
        side = int(held)
        return Moments(int(self._count[side]), Symmetric([(1.0, self._zz[held])]), self._zp[side], self._pp[side])

    def _flush(self, held: bool) -> None:
        waiting = self._waiting[held]
        if waiting:
            self._zz.add_rows(held, waiting[0] if len(waiting) == 1 else np.concatenate(waiting))
            waiting.clear()


class DiagonalSums:
    """Moments of rows in which each channel has its own columns: z [rows, channels, columns], p [rows, channels, targets]."""

    products: ClassVar[tuple[str, ...]] = ("zz", "zp", "pp")

    def __init__(self, channels: int, columns: int, targets: int) -> None:
        self._zz = np.zeros((2, channels, columns, columns))
        self._zp = np.zeros((2, channels, columns, targets))
        self._pp = np.zeros((2, channels, targets))
        self._count = np.zeros(2, np.int64)

    def add(self, held: bool, z: Float, p: Float) -> None:
        """Add rows; products in the precision of z, sums in float64."""
        by_channel, targets = np.ascontiguousarray(z.transpose(1, 2, 0)), np.ascontiguousarray(p.transpose(1, 0, 2))
        products = {
            "zz": np.matmul(by_channel, by_channel.swapaxes(1, 2)),
            "zp": np.matmul(by_channel, targets),
            "pp": np.einsum("crm,crm->cm", targets, targets, dtype=np.float64),
        }
        self.add_products(held, len(z), products)

    def add_products(self, held: bool, count: int, found: Mapping[str, Float]) -> None:
        """Add products of so many rows."""
        for name, total in (("zz", self._zz), ("zp", self._zp), ("pp", self._pp)):
            total[int(held)] += found[name]
        self._count[int(held)] += count

    def settle(self) -> None:
        """No row waits."""

    def arrays(self) -> Arrays:
        """The sums of both sides."""
        return {"count": self._count, "zz": self._zz, "zp": self._zp, "pp": self._pp}

    def moments(self, held: bool) -> ChannelMoments:
        """Those of the rows added so far."""
        side = int(held)
        return ChannelMoments(int(self._count[side]), self._zz[side], self._zp[side], self._pp[side])


class EnergySums:
    """Counts and sums of p^2 alone, for a least squares that is solved from the rows themselves."""

    products: ClassVar[tuple[str, ...]] = ("pp",)

    def __init__(self, targets: int) -> None:
        self._pp = np.zeros((2, targets))
        self._count = np.zeros(2, np.int64)

    def add(self, held: bool, z: Float, p: Float) -> None:
        """Add rows."""
        self.add_products(held, len(z), {"pp": np.einsum("rt,rt->t", p, p, dtype=np.float64)})

    def add_products(self, held: bool, count: int, found: Mapping[str, Float]) -> None:
        """Add products of so many rows."""
        self._pp[int(held)] += found["pp"]
        self._count[int(held)] += count

    def settle(self) -> None:
        """No row waits."""

    def arrays(self) -> Arrays:
        """The sums of both sides."""
        return {"count": self._count, "pp": self._pp}

    def moments(self, held: bool) -> Moments:
        """Those of the rows added so far, without z'z and z'p."""
        return Moments(int(self._count[int(held)]), Symmetric.of(np.zeros((0, 0))), np.zeros((0, 0)), self._pp[int(held)])
