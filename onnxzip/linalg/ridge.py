"""Least squares damped towards given rows, the damping chosen on held-out rows.

    w(l) = w0 + (G + l d I)^-1 (c - G w0),   G = E[z z'], c = E[z p], d = mean diagonal of G

Each l that is tried costs one Cholesky factorisation; the three to five that a search downhill takes are several times cheaper
than the eigendecomposition that would serve all of them (n^3/3 operations each against about 9 n^3). With more columns than
rows the same w comes from the rows x rows system (ridge regression in dual form: Saunders, Gammerman, Vovk, ICML 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from onnxzip.linalg.rounding import within_rounding
from onnxzip.linalg.symmetric import Float, Symmetric

Matrix = Float | Symmetric
Factor = tuple[Float, bool]
Solution = TypeVar("Solution")

TINY = float(np.finfo(np.float64).tiny)

GRID: tuple[float, ...] = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)
HELD_SHARE = 0.2  # of the rows are held out; once the damping is chosen, they are fitted, too
START = 4  # where in the grid the search begins: the damping that most layers end near
PROBED = 64  # rows that choose the damping for all, evenly spread
TIE = 1e-6  # of two dampings whose held-out errors differ by less than this fraction, the stronger is taken
STAY = 1e3  # damping with which rows all but stay where they are


@dataclass(frozen=True)
class Quality:
    """How well rows fit.

    Attributes:
        damping: the chosen l, relative to the mean diagonal.
        error: held-out squared error over held-out energy of the targets, of the rows that chose the damping.
    """

    damping: float
    error: float


@dataclass(frozen=True)
class Fit:
    """Fitted rows.

    Attributes:
        rows: [rows, columns].
        damping, error: see Quality.
        system: that gave the rows from all samples, for those who fit further with it; None where held-out ones took no part.
    """

    rows: Float
    damping: float
    error: float
    system: System | None = field(default=None, repr=False, compare=False)

    @property
    def quality(self) -> Quality:
        """What is told of the fit."""
        return Quality(self.damping, self.error)


@dataclass(frozen=True)
class System:
    """A damped system about a centre w0.

    Attributes:
        factor: Cholesky, of G + l d I.
        pull: G w0, [columns, rows].
        centre: w0, [rows, columns].
    """

    factor: Factor
    pull: Float
    centre: Float

    def solve(self, zp: Float) -> Float:
        """Rows for the products zp [columns, rows] of inputs and targets."""
        rows: Float = self.centre + solve_factorised(self.factor, zp - self.pull).T
        return rows


@dataclass(frozen=True)
class Normal:
    """Normal equations: weighted means over all tasks that take part.

    Attributes:
        zz: [columns, columns]; zp: [columns, rows]; pp: [rows].
    """

    zz: Matrix
    zp: Float
    pp: Float

    def some(self, at: NDArray[np.intp]) -> Normal:
        """The same for some of the rows."""
        return Normal(self.zz, self.zp[:, at], self.pp[at])

    def missed(self, rows: Float, products: Float) -> Float:
        """Mean squared error of each row; products: zz rows', [columns, rows]."""
        found: Float = self.pp - 2 * np.einsum("rc,cr->r", rows, self.zp) + np.einsum("rc,cr->r", rows, products)
        return found

    def relative_error(self, rows: Float) -> float:
        """Mean squared error of rows over the mean square of their targets, each summed over the rows."""
        return _relative(self.missed(rows, self.zz @ rows.T), float(self.pp.sum()))


def _relative(missed: Float, energy: float) -> float:
    """The sum of squared errors, not below 0, over the energy of their targets; that sum where these are all zero."""
    error = float(np.maximum(missed.sum(), 0))
    return error / energy if energy > 0 else error


def factorised(zz: Matrix, damping: float) -> Factor:
    """Cholesky factor of G + l d I; l grows tenfold until there is one.

    Args:
        zz: [n, n] symmetric, positive semidefinite.

    Raises:
        ValueError: the matrix holds NaN or Inf.
    """
    whole = Symmetric.of(zz)
    mean = whole.trace() / len(whole)
    if not np.isfinite(mean):
        raise ValueError("moments hold NaN or Inf")
    floor = max(mean, TINY) * max(damping, 1e-12)
    while True:
        matrix, lower = whole.formed()
        np.einsum("ii->i", matrix)[...] += floor
        try:
            factor: Factor = cho_factor(matrix, lower=lower, overwrite_a=True, check_finite=False)
        except LinAlgError:
            floor *= 10
            continue
        return factor


def solve_factorised(factor: Factor, right: Float) -> Float:
    """(G + l d I)^-1 right, for right [n, m]."""
    solution: Float = cho_solve(factor, right, check_finite=False)
    return solution


def solve_damped(zz: Matrix, right: Float, damping: float) -> Float:
    """(G + l d I)^-1 right, factorised for this one use; see `factorised`."""
    return solve_factorised(factorised(zz, damping), right)


def fit_primal(
    train: Normal, held: Normal | None, centre: Float, grid: Sequence[float] = GRID, worth: float = 0.0
) -> Fit:
    """Damped rows for the best damping of a grid; those that meet their held-out targets at the centre stay there.

    Args:
        train, held: normal equations of fitted and of held-out rows; without held-out rows the first damping is taken.
        centre: [rows, columns], what is damped towards.
        grid: dampings, strongest first.
        worth: as of `best_damping`.
    """
    pull = train.zz @ centre.T
    if held is None or len(grid) == 1:
        rows = System(factorised(train.zz, grid[0]), pull, centre).solve(train.zp)
        return Fit(rows, grid[0], float("nan") if held is None else held.relative_error(rows))
    held_pull = held.zz @ centre.T
    missed = held.missed(centre, held_pull)
    met = within_rounding(missed, centre, Symmetric.of(held.zz).diagonal(), held.pp)
    if met.all():
        return Fit(centre, STAY, _relative(missed, float(held.pp.sum())))
    at = np.arange(0, len(centre), -(-len(centre) // PROBED))
    probe, judge = train.some(at), held.some(at)

    def attempt(damping: float) -> tuple[float, Float]:
        rows = System(factorised(train.zz, damping), pull[:, at], centre[at]).solve(probe.zp)
        return judge.relative_error(rows), rows

    damping, error, _ = best_damping(grid, attempt, worth)
    a, b = 1 - HELD_SHARE, HELD_SHARE
    system = System(factorised(a * train.zz + b * held.zz, damping), a * pull + b * held_pull, centre)
    rows = np.where(met[:, None], centre, system.solve(a * train.zp + b * held.zp))
    return Fit(rows, damping, error, system)


def best_damping(
    grid: Sequence[float], attempt: Callable[[float], tuple[float, Solution]], worth: float = 0.0
) -> tuple[float, float, Solution]:
    """The damping of least held-out error, found downhill from the grid's middle; of two as good the stronger.

    Args:
        grid: strongest first.
        attempt: damping -> held-out error, solution.
        worth: by how much, of the error where rows stay where they are, they must gain to be moved at all.

    Returns:
        Damping, error and solution.
    """
    tried: dict[int, tuple[float, Solution]] = {}

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
    least = error(k)
    if worth:
        unmoved = attempt(STAY)
        if least >= (1 - worth) * unmoved[0]:
            return STAY, *unmoved
    return grid[k], *tried[k]


def fit_dual(
    z: Float, p: Float, held_z: Float, held_p: Float, centre: Float, grid: Sequence[float] = GRID, worth: float = 0.0
) -> Fit:
    """The same from the rows themselves, for more columns than rows.

    Args:
        z: [samples, columns] and p: [samples, rows], each scaled by the root of its weight; held_z, held_p likewise.
        centre: [rows, columns].
    """
    at = np.arange(0, len(centre), -(-len(centre) // PROBED) if len(grid) > 1 else 1)
    residual, held_residual = (_residual(*rows, centre[at]) for rows in ((z, p[:, at]), (held_z, held_p[:, at])))
    kernel, cross = ((rows @ z.T).astype(np.float64) for rows in (z, held_z))
    energy = float((held_p[:, at].astype(np.float64) ** 2).sum())

    def attempt(damping: float) -> tuple[float, Float]:
        alpha = solve_damped(kernel, residual, damping * len(z) / z.shape[1])
        return _relative((held_residual - cross @ alpha) ** 2, energy), alpha

    damping, error, alpha = best_damping(grid, attempt, worth)
    if len(grid) > 1:
        z, p = (_joined(*parts) for parts in ((z, held_z), (p, held_p)))
        alpha = solve_damped((z @ z.T).astype(np.float64), _residual(z, p, centre), damping * len(z) / z.shape[1])
    rows = alpha.T @ z
    rows += centre
    return Fit(rows, damping, error)


def _joined(train: Float, held: Float) -> Float:
    """Fitted and held-out rows, each scaled by the root of what all of them count."""
    return np.concatenate([train * np.float32(np.sqrt(1 - HELD_SHARE)), held * np.float32(np.sqrt(HELD_SHARE))])


def _residual(z: Float, p: Float, centre: Float) -> Float:
    """What rows leave of targets: float64 [samples, rows]."""
    left: Float = (p - z @ centre.T).astype(np.float64)
    return left


def fit_diagonal(
    zz: Float, zp: Float, held: tuple[Float, Float, Float] | None, centre: Float, grid: Sequence[float] = GRID
) -> Fit:
    """Many small systems with one damping for all; rows that meet their held-out targets at the centre stay there.

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
    energy = float(held_pp.sum())

    def missed(rows: Float) -> Float:
        known = np.einsum("cmk,ckm->cm", rows, held_zp)
        found: Float = held_pp - 2 * known + np.einsum("cmk,cmk->cm", rows @ held_zz, rows)
        return found

    def attempt(damping: float) -> tuple[float, Float]:
        rows = solve(damping)
        return _relative(missed(rows), energy), rows

    met = within_rounding(missed(centre), centre, np.einsum("ckk->ck", held_zz), held_pp)
    damping, error, rows = best_damping(grid, attempt)
    return Fit(np.where(met[..., None], centre, rows), damping, error)
