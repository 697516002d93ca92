"""How fused channels and the originals that they stand for spread over the data of one task: means, variances, covariances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.linalg.moments import ChannelMoments
from onnxzip.linalg.ridge import HELD_SHARE


class Spread(NamedTuple):
    """Means and variances over rows, of the fused channels and of their originals, and their covariances."""

    mean: np.ndarray
    variance: np.ndarray
    wanted_mean: np.ndarray
    wanted_variance: np.ndarray
    covariance: np.ndarray


def spread_of(rows: np.ndarray, stats: TaskStatistics, at: np.ndarray) -> Spread:
    """Of dense rows [rows, columns]; at: the original row of each."""
    if stats.rows is not None and stats.held_rows is not None:
        z, p = (np.concatenate(both) for both in zip(stats.rows, stats.held_rows, strict=True))
        fused, wanted = z @ rows.T, p[:, at]
        means = fused.mean(axis=0), wanted.mean(axis=0)
        together = np.einsum("rk,rk->k", fused - means[0], wanted - means[1]) / len(fused)
        return Spread(means[0], fused.var(axis=0), means[1], wanted.var(axis=0), together)
    a, b = 1 - HELD_SHARE, HELD_SHARE
    train, held = stats.train, stats.held
    products = (a * train.zz + b * held.zz).settled() @ rows.T
    zp = stats.products_with(at)
    mean, wanted = products[-1], zp[-1]
    squares = (a * train.pp + b * held.pp)[at]
    together = np.einsum("rc,cr->r", rows, zp) - mean * wanted
    return Spread(mean, np.einsum("rc,cr->r", rows, products) - mean**2, wanted, squares - wanted**2, together)


def spread_of_channels(rows: np.ndarray, train: ChannelMoments, held: ChannelMoments) -> Spread:
    """Of a diagonal step's rows [channels, rows per channel, columns]."""
    a, b = 1 - HELD_SHARE, HELD_SHARE
    zz, zp, pp = (a * getattr(train, k) + b * getattr(held, k) for k in ("zz", "zp", "pp"))
    products = rows @ zz
    mean, wanted = products[..., -1], zp[:, -1, :]
    together = np.einsum("cmk,ckm->cm", rows, zp) - mean * wanted
    return Spread(mean, np.einsum("cmk,cmk->cm", rows, products) - mean**2, wanted, pp - wanted**2, together)
