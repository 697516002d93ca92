"""REPAIR: fused rows scaled and shifted so that each channel has the mean and the deviation of its originals again.

    w <- s w,  b <- s b + m - s n,    s = mean_t std(p_t) / mean_t std(w z_t),  m = mean_t E[p_t],  n = mean_t E[w z_t]

over the tasks t that own the channel, each on its own data: z_t what the fused net computes up to there, restored rows
included, p_t what the original net does. Without it, the variance of averaged channels collapses, layer after layer (Jordan,
Sedghi, Saukh, Entezari, Neyshabur: REPAIR, ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxzip.fusion.spread import Spread

SMALLEST = 1e-6  # deviation over root mean square below which a channel counts as constant: it is shifted, not scaled


def restored(rows: np.ndarray, spreads: Sequence[Spread]) -> np.ndarray:
    """Rows [.., columns], the constant last, with means and deviations restored.

    Args:
        spreads: of every owner, as shapes [..].
    """
    mean, wanted = (np.mean([s[k] for s in spreads], axis=0) for k in (0, 2))
    deviation, goal = (np.mean([np.sqrt(np.maximum(s[k], 0.0)) for s in spreads], axis=0) for k in (1, 3))
    varies = deviation > SMALLEST * np.sqrt(deviation**2 + mean**2)
    scale = np.where(varies, goal / np.where(varies, deviation, 1.0), 1.0)
    found = rows * scale[..., None]
    found[..., -1] += wanted - scale * mean
    return np.asarray(found)
