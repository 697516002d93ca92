"""Choosing columns that tell most of all of them: pivoted Cholesky of their covariance.

Each pivot is the column with the largest variance that those before it leave unexplained: column subset selection, see
Higham, Analysis of the Cholesky decomposition of a semi-definite matrix (in: Reliable Numerical Computation, 1990), and
LAPACK's pstrf.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpstrf

from onnxzip.linalg.ridge import factorised, solve_factorised

RIDGE = 1e-9  # of the mean variance, so that nothing is singular


@dataclass(frozen=True)
class Pivots:
    """Columns in the order in which they are chosen.

    Attributes:
        order: int [columns].
        factor: float64 [columns, columns], lower triangle; its rows in that order.
    """

    order: np.ndarray
    factor: np.ndarray

    def left(self, count: int) -> np.ndarray:
        """Variance of each column that the first so many of the order leave unexplained: float64 [columns]."""
        found = np.zeros(len(self.order))
        found[self.order] = np.square(self.factor[:, count:]).sum(axis=1)
        return found


def pivots(covariance: np.ndarray) -> Pivots:
    """Columns by what each tells beyond those before it.

    Args:
        covariance: float64 [columns, columns].
    """
    ridge = RIDGE * max(float(np.trace(covariance)) / len(covariance), 0.0)
    factor, order, rank, _ = dpstrf(covariance + ridge * np.eye(len(covariance)), lower=1, tol=0.0)
    factor[:, rank:] = 0.0  # where nothing is left to explain, pstrf stops and leaves there what it found
    return Pivots(order - 1, np.tril(factor))


def unexplained(covariance: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The covariance of what some columns leave unexplained: zero where it is theirs.

    Args:
        covariance: float64 [columns, columns]; given: int [some columns].
    """
    if not len(given):
        return covariance
    known = covariance[given]
    left = covariance - known.T @ solve_factorised(factorised(covariance[np.ix_(given, given)], RIDGE), known)
    left[given] = 0.0
    left[:, given] = 0.0
    return np.asarray(left)
