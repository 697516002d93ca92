"""What moments cannot tell, as their products are float32 and only the sums of these float64.

    E (w.z - p)^2 = E[p^2] - 2 w.c + w' G w

is a small difference of large numbers. With each G_ij off by e |G_ij| at random, w' G w is off by

    e (sum_ij w_i^2 w_j^2 G_ij^2)^1/2 <= e sum_i w_i^2 G_ii

A fit to errors below that follows the rounding of G and c, and takes rows away from where they were right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxzip.linalg.symmetric import Float

ROUNDING = 16 * float(np.finfo(np.float32).eps)  # e: of 14,400 rows, 6 and 100 columns, means 0 to 10, at most 12.6 eps


def within_rounding(missed: Float, rows: Float, squares: Float, energy: Float) -> NDArray[np.bool_]:
    """Which squared errors may be rounding alone: bool [..., rows].

    Args:
        missed, energy: squared errors as moments tell them, and those of the targets, [..., rows].
        rows: w, [..., rows, columns].
        squares: the diagonal of G, [..., columns].
    """
    found: NDArray[np.bool_] = missed <= ROUNDING * (energy + np.einsum("...rc,...c->...r", rows**2, squares))
    return found
