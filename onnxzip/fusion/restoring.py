"""REPAIR: fused rows scaled and shifted so that each channel has the mean and the deviation of its originals again.

    w <- s w,  b <- s b + m - s n,    s = mean_t std(p_t) / mean_t std(w z_t),  m = mean_t E[p_t],  n = mean_t E[w z_t]

over the tasks t that own the channel, each on its own data: z_t what the fused net computes up to there, restored rows
included, p_t what the original net does. Without it, the variance of averaged channels collapses, layer after layer (Jordan,
Sedghi, Saukh, Entezari, Neyshabur: REPAIR, ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.linalg.moments import ChannelMoments
from onnxzip.linalg.ridge import HELD_SHARE

SMALLEST = 1e-6  # deviation over root mean square below which a channel counts as constant: it is shifted, not scaled


class Spread(NamedTuple):
    """Means and variances over the rows of one task, of the fused channels and of their originals."""

    mean: np.ndarray
    variance: np.ndarray
    wanted_mean: np.ndarray
    wanted_variance: np.ndarray


def spread_of(rows: np.ndarray, stats: TaskStatistics, at: np.ndarray) -> Spread:
    """Of dense rows [rows, columns]; at: the original row of each."""
    if stats.rows is not None:
        z, p = (np.concatenate(both) for both in zip(*stats.rows, strict=True))
        fused, wanted = z @ rows.T, p[:, at]
        return Spread(fused.mean(axis=0), fused.var(axis=0), wanted.mean(axis=0), wanted.var(axis=0))
    a, b = 1 - HELD_SHARE, HELD_SHARE
    train, held = stats.train, stats.held
    products = (a * train.zz + b * held.zz).settled() @ rows.T
    mean, wanted = products[-1], stats.products_with(at)[-1]
    squares = (a * train.pp + b * held.pp)[at]
    return Spread(mean, np.einsum("rc,cr->r", rows, products) - mean**2, wanted, squares - wanted**2)


def spread_of_channels(rows: np.ndarray, train: ChannelMoments, held: ChannelMoments) -> Spread:
    """Of a diagonal step's rows [channels, rows per channel, columns]."""
    a, b = 1 - HELD_SHARE, HELD_SHARE
    zz, zp, pp = (a * getattr(train, k) + b * getattr(held, k) for k in ("zz", "zp", "pp"))
    products = rows @ zz
    mean, wanted = products[..., -1], zp[:, -1, :]
    return Spread(mean, np.einsum("cmk,cmk->cm", rows, products) - mean**2, wanted, pp - wanted**2)


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
