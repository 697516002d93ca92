"""Principal axes."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh


def principal_axes(covariance: np.ndarray) -> np.ndarray:
    """Orthonormal axes, those of the largest variance first, the largest component of each positive: float64 [axes, channels].

    Args:
        covariance: [channels, channels].
    """
    axes = eigh(covariance)[1].T[::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1)
    return np.asarray(axes * np.sign(largest))
