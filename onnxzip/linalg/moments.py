"""Moments of fused inputs z and targets p: count, sum z z', sum z p, sum p^2. Additive over batches, machines and files.

The last column of z is the constant 1. "Hessian" in the papers on layer-wise compression is 2 E[z z'].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]


@dataclass(frozen=True)
class Moments:
    """Sums over samples, float64.

    Attributes:
        count: number of rows.
        zz: [columns, columns] or, of a diagonal step, [channels, columns, columns].
        zp: [columns, targets] or [channels, columns, targets per channel].
        pp: [targets] or [channels, targets per channel]; sums of squares.
    """

    count: int
    zz: Float
    zp: Float
    pp: Float

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.zz + other.zz, self.zp + other.zp, self.pp + other.pp)

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """The same as arrays by name, as they go to files and to other processes."""
        return {"count": np.array([self.count], np.int64), "zz": self.zz, "zp": self.zp, "pp": self.pp}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Moments:
        """What `as_arrays` made arrays of."""
        return cls(int(arrays["count"][0]), arrays["zz"], arrays["zp"], arrays["pp"])


def moments_of(z: Float, p: Float) -> Moments:
    """Moments of rows.

    Args:
        z: [rows, columns]; p: [rows, targets].
    """
    return Moments(
        len(z), (z.T @ z).astype(np.float64), (z.T @ p).astype(np.float64), np.einsum("rt,rt->t", p, p, dtype=np.float64)
    )


def diagonal_moments_of(z: Float, p: Float) -> Moments:
    """Moments of rows in which each channel has its own few columns.

    Args:
        z: [rows, channels, columns]; p: [rows, channels, targets per channel].
    """
    by_channel, targets = np.ascontiguousarray(z.transpose(1, 2, 0)), np.ascontiguousarray(p.transpose(1, 0, 2))
    return Moments(
        len(z),
        np.matmul(by_channel, by_channel.swapaxes(1, 2)).astype(np.float64),
        np.matmul(by_channel, targets).astype(np.float64),
        np.einsum("crm,crm->cm", targets, targets, dtype=np.float64),
    )
