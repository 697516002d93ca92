"""How much of some targets one row over the same inputs explains: Q = C' (G + l d I)^-1 C, C = sum w z p, G = sum w z z'.

A row fitted to targets i and j together has the squared error (e_i - Q_ii) + (e_j - Q_jj) - 2 Q_ij, e the targets' energy:
one factorisation serves all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import block_diag, solve_triangular

from onnxzip.linalg.ridge import Matrix, factorised, solve_damped
from onnxzip.linalg.symmetric import Float


def explained_by_moments(zz: Matrix, zp: Float, damping: float) -> Float:
    """Q from moments: with L L' the damped matrix, (L^-1 C)' (L^-1 C).

    Args:
        zz: [columns, columns]; zp: [columns, targets]; damping: l, relative to the mean diagonal d of zz.

    Returns:
        [targets, targets].
    """
    factor, lower = factorised(zz, damping)
    half = solve_triangular(factor, zp, trans=not lower, lower=lower, check_finite=False)
    found: Float = half.T @ half
    return found


def explained_by_rows(z: Float, targets: Sequence[Float], damping: float) -> Float:
    """The same from the rows themselves, for more columns than rows: Q = P' (P - s (K + s I)^-1 P), K = z z', s = l d.

    Args:
        z: [samples, columns], scaled by the root of the rows' weight.
        targets: [samples of one task, targets], scaled alike: task after task they take up the rows of z; a target is zero
            on the samples of other tasks.

    Returns:
        [targets of all tasks, targets of all tasks].
    """
    kernel = (z @ z.T).astype(np.float64)
    shift = damping * float(np.trace(kernel)) / z.shape[1]
    p = block_diag(*targets)
    found: Float = p.T @ (p - shift * solve_damped(kernel, p, shift * len(kernel) / float(np.trace(kernel))))
    return found
