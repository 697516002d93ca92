"""Least squares damped towards given rows, the damping chosen on held-out rows.

    w(l) = w0 + (G + l d I)^-1 (c - G w0),   G = E[z z'], c = E[z p], d = mean diagonal of G

The whole path over l costs one Cholesky factorisation per step of the grid, which at the sizes met here is several times
cheaper than the eigendecomposition that would serve all of them (n^3/3 against about 9 n^3 operations). With more columns than
rows the same w comes from the rows x rows system (ridge regression in dual form: Saunders, Gammerman, Vovk, ICML 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Float = NDArray[np.floating]

GRID: tuple[float, ...] = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)
HELD_SHARE = 0.2  # of the rows are held out; once the damping is chosen, they are fitted, too
PATIENCE = 3  # weaker dampings tried in vain before the path ends
TIE = 1e-6  # of two dampings whose held-out errors differ by less than this fraction, the stronger is taken


@dataclass(frozen=True)
class Fit:
    """Fitted rows.

    Attributes:
        rows: [rows, columns].
        damping: the chosen l, relative to the mean diagonal.
        error: held-out squared error over held-out energy of the targets.
    """

    rows: Float
    damping: float
    error: float


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


Factor = tuple[Float, bool]


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
    floor = max(mean, np.finfo(np.float64).tiny) * max(damping, 1e-12)
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
    energy = max(float(held.pp.sum()) if held is not None else 1.0, np.finfo(np.float64).tiny)
    best: Fit | None = None
    worse = 0
    for damping in grid if held is not None else grid[:1]:
        rows = centre + solve_damped(train.zz, right, damping).T
        error = held.error(rows) / energy if held is not None else float("nan")
        if best is None or error < best.error - TIE * abs(best.error) - TIE**2:
            best, worse = Fit(rows, damping, error), 0
        else:
            worse += 1
        if worse >= PATIENCE:
            break
    assert best is not None
    if held is None or len(grid) == 1:
        return best
    whole = train.mixed(held, HELD_SHARE)
    rows = centre + solve_damped(whole.zz, whole.zp - whole.zz @ centre.T, best.damping).T
    return Fit(rows, best.damping, best.error)


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
    scale = mean * z.shape[0] / max(float(np.trace(kernel)), np.finfo(np.float64).tiny)
    energy = max(float((held_p.astype(np.float64) ** 2).sum()), np.finfo(np.float64).tiny)
    best: tuple[float, float, Float] | None = None
    for damping in grid:
        alpha = solve_damped(kernel, residual, damping * scale)
        error = float(((held_residual - cross @ alpha) ** 2).sum()) / energy
        if best is None or error < best[0] * (1 - TIE) - 1e-14:
            best = (error, damping, alpha)
    assert best is not None
    error, damping, alpha = best
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
    best: Fit | None = None
    for damping in grid:
        rows = centre + np.linalg.solve(zz + (damping * mean)[:, None, None] * identity, right).swapaxes(1, 2)
        if held is None:
            return Fit(rows, damping, float("nan"))
        held_zz, held_zp, held_pp = held
        miss = held_pp - 2 * np.einsum("cmk,ckm->cm", rows, held_zp) + np.einsum("cmk,cmk->cm", rows @ held_zz, rows)
        error = max(0.0, float(miss.sum())) / max(float(held_pp.sum()), np.finfo(np.float64).tiny)
        if best is None or error < best.error * (1 - TIE) - 1e-14:
            best = Fit(rows, damping, error)
    assert best is not None
    return best
