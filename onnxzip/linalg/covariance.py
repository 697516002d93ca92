"""Covariances from sums over rows: E[x x'] - E[x] E[x]', zero for what varies by rounding alone."""

from __future__ import annotations

import numpy as np


def centred(products: np.ndarray, total: np.ndarray, count: np.ndarray, rounding: float) -> np.ndarray:
    """Covariances: float64 [channels, channels].

    Args:
        products: sum of x x'; total: sum of x; count: of rows.
        rounding: of the products, relative: a channel whose variance is below so much of its mean square is constant.
    """
    mean, square = total / count, products / count
    energy = np.diagonal(square)
    varies = energy - mean**2 > rounding * energy
    return np.where(np.outer(varies, varies), square - np.outer(mean, mean), 0.0)


def root_of(covariance: np.ndarray) -> np.ndarray:
    """R [n, n] with R R' = a symmetric matrix, less what rounding has left of negative eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))
