"""Least squares damped towards given rows, the damping chosen on held-out rows.

    w(l) = w0 + (G + l d I)^-1 (c - G w0),   G = E[z z'], c = E[z p], d = mean diagonal of G

Each l that is tried costs one Cholesky factorisation; the three to five that a search downhill takes are several times cheaper
than the eigendecomposition that would serve all of them (n^3/3 operations each against about 9 n^3). With more columns than
rows the same w comes from the rows x rows system (ridge regression in dual form: Saunders, Gammerman, Vovk, ICML 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Float = NDArray[np.floating]
Factor = tuple[Float, bool]
Attempt = Callable[[float], tuple[float, Float]]

TINY = float(np.finfo(np.float64).tiny)

GRID: tuple[float, ...] = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)
HELD_SHARE = 0.2  # of the rows are held out; once the damping is chosen, they are fitted, too
START = 4  # where in the grid the search begins: the damping that most layers end near
TIE = 1e-6  # of two dampings whose held-out errors differ by less than this fraction, the stronger is taken


@dataclass(frozen=True)
class Fit:
    """Fitted rows.

    Attributes:
        rows: [rows, columns].
        damping: the chosen l, relative to the mean diagonal.
        error: held-out squared error over held-out energy of the targets.
        factor: of the damped matrix that gave the rows, for those who fit further with it.
    """

    rows: Float
    damping: float
    error: float
    factor: Factor | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Normal:
    """Normal equations: weighted means over all tasks that take part.

    Attributes:
        zz: [columns, columns]; zp: [columns, rows]; pp: [rows].
    """

    zz: Float
    zp: Float
    pp: Float

    def mixed(self, other: Normal, share: float) -> Normal:
        """Means over the rows of both, of which `share` are the other's."""
        a, b = 1 - share, share
        return Normal(a * self.zz + b * other.zz, a * self.zp + b * other.zp, a * self.pp + b * other.pp)

    def error(self, rows: Float) -> float:
        """Mean squared error of rows, summed over the rows."""
        return float((self.pp - 2 * np.einsum("rc,cr->r", rows, self.zp) + np.einsum("rc,rc->r", rows @ self.zz, rows)).sum())


def factorised(zz: Float, damping: float) -> Factor:
    """Cholesky factor of G + l d I; l grows tenfold until there is one.

    Args:
        zz: [n, n] symmetric, positive semidefinite.

    Raises:
        ValueError: the matrix holds NaN or Inf.
    """
    mean = float(np.trace(zz)) / len(zz)
    if not np.isfinite(mean):
        raise ValueError("moments hold NaN or Inf")
    floor = max(mean, TINY) * max(damping, 1e-12)
    while True:
        matrix = zz.astype(np.float64)
        matrix.flat[:: len(zz) + 1] += floor
        try:
            factor: Factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            floor *= 10
            continue
        return factor


def solve_factorised(factor: Factor, right: Float) -> Float:
    """(G + l d I)^-1 right, for right [n, m]."""
    solution: Float = cho_solve(factor, right, check_finite=False)
    return solution


def solve_damped(zz: Float, right: Float, damping: float) -> Float:
    """(G + l d I)^-1 right, factorised for this one use; see `factorised`."""
    return solve_factorised(factorised(zz, damping), right)


def fit_primal(train: Normal, held: Normal | None, centre: Float, grid: Sequence[float] = GRID) -> Fit:
    """Damped rows for the best damping of a grid.

    Args:
        train, held: normal equations of fitted and of held-out rows; without held-out rows the first damping is taken.
        centre: [rows, columns], what is damped towards.
        grid: dampings, strongest first.
    """
    right = train.zp - train.zz @ centre.T
    if held is None or len(grid) == 1:
        rows = centre + solve_damped(train.zz, right, grid[0]).T
        return Fit(rows, grid[0], float("nan") if held is None else held.error(rows) / max(float(held.pp.sum()), TINY))
    energy = max(float(held.pp.sum()), TINY)

    def attempt(damping: float) -> tuple[float, Float]:
        rows = centre + solve_damped(train.zz, right, damping).T
        return held.error(rows) / energy, rows

    damping, error, _ = best_damping(grid, attempt)
    whole = train.mixed(held, HELD_SHARE)
    factor = factorised(whole.zz, damping)
    rows = centre + solve_factorised(factor, whole.zp - whole.zz @ centre.T).T
    return Fit(rows, damping, error, factor)


def best_damping(grid: Sequence[float], attempt: Attempt) -> tuple[float, float, Float]:
    """The damping of least held-out error, found downhill from the grid's middle; of two as good the stronger.

    Args:
        grid: strongest first.
        attempt: damping -> held-out error, solution.

    Returns:
        Damping, error and solution.
    """
    tried: dict[int, tuple[float, Float]] = {}

    def error(k: int) -> float:
        if k not in tried:
            tried[k] = attempt(grid[k])
        return tried[k][0]

    k = start = min(START, len(grid) - 1)
    while k > 0 and error(k - 1) <= error(k) + TIE * abs(error(k)) + TIE**2:
        k -= 1
    if k == start:
        while k + 1 < len(grid) and error(k + 1) < error(k) - TIE * abs(error(k)) - TIE**2:
            k += 1
    error(k)
    return grid[k], *tried[k]


def fit_dual(
    z: Float, p: Float, held_z: Float, held_p: Float, centre: Float, grid: Sequence[float] = GRID
) -> Fit:
    """The same from the rows themselves, for more columns than rows.

    Args:
        z: [samples, columns] and p: [samples, rows], each scaled by the root of its weight; held_z, held_p likewise.
        centre: [rows, columns].
    """
    residual = (p - z @ centre.T).astype(np.float64)
    kernel = (z @ z.T).astype(np.float64)
    held_residual = (held_p - held_z @ centre.T).astype(np.float64)
    cross = (held_z @ z.T).astype(np.float64)
    mean = np.trace(kernel) / z.shape[1]
    scale = mean * z.shape[0] / max(float(np.trace(kernel)), TINY)
    energy = max(float((held_p.astype(np.float64) ** 2).sum()), TINY)

    def attempt(damping: float) -> tuple[float, Float]:
        alpha = solve_damped(kernel, residual, damping * scale)
        return float(((held_residual - cross @ alpha) ** 2).sum()) / energy, alpha

    damping, error, alpha = best_damping(grid, attempt)
    return Fit(centre + (alpha.T @ z), damping, error)


def fit_diagonal(
    zz: Float, zp: Float, held: tuple[Float, Float, Float] | None, centre: Float, grid: Sequence[float] = GRID
) -> Fit:
    """Many small systems with one damping for all.

    Args:
        zz: [channels, columns, columns]; zp: [channels, columns, rows per channel].
        held: the same of held-out rows, with pp: [channels, rows per channel].
        centre: [channels, rows per channel, columns].
    """
    mean = np.trace(zz, axis1=1, axis2=2) / zz.shape[-1]
    mean = np.where(mean > 0, mean, 1.0)
    right = zp - zz @ centre.swapaxes(1, 2)
    identity = np.eye(zz.shape[-1])

    def solve(damping: float) -> Float:
        return centre + np.linalg.solve(zz + (damping * mean)[:, None, None] * identity, right).swapaxes(1, 2)

    if held is None:
        return Fit(solve(grid[0]), grid[0], float("nan"))
    held_zz, held_zp, held_pp = held
    energy = max(float(held_pp.sum()), TINY)

    def attempt(damping: float) -> tuple[float, Float]:
        rows = solve(damping)
        miss = held_pp - 2 * np.einsum("cmk,ckm->cm", rows, held_zp) + np.einsum("cmk,cmk->cm", rows @ held_zz, rows)
        return max(0.0, float(miss.sum())) / energy, rows

    damping, error, rows = best_damping(grid, attempt)
    return Fit(rows, damping, error)
