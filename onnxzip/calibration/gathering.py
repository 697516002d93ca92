"""Rows of a layer's least squares: sampled output positions, and what each of them reads.

Measured choice: rows are gathered by numpy and multiplied by its BLAS. At the sizes met here (500 to 4,608 columns) z'z costs
half a matrix product there (a symmetric rank-k update: 97 to 184 GFLOP/s on two cores counted as a full product) against 48 to
79 GFLOP/s of a MatMul inside ONNX Runtime, and only sampled positions are ever unfolded.
"""

from __future__ import annotations

import math

import numpy as np

from onnxzip.ops import Linear, View

ROWS_PER_COLUMN = 10
MIN_ROWS = 10_000


def positions_per_image(samples: int, positions: int, columns: int) -> int:
    """How many output positions to sample of each image: about ten rows a column, spread over all images."""
    return min(positions, math.ceil(max(ROWS_PER_COLUMN * columns, MIN_ROWS) / samples))


def draw(rng: np.random.Generator, samples: int, positions: int, wanted: int) -> np.ndarray:
    """Positions of each sample, without repetition: ascending int [samples, wanted]."""
    if wanted >= positions:
        return np.broadcast_to(np.arange(positions), (samples, positions))
    if 4 * wanted > positions:
        keys = rng.random((samples, positions), dtype=np.float32)
        return np.sort(np.argpartition(keys, wanted, axis=1)[:, :wanted], axis=1)
    at = np.sort(rng.integers(0, positions, (samples, wanted)), axis=1)
    while (again := at[:, 1:] == at[:, :-1]).any():  # positions drawn twice are drawn anew: every choice stays equally likely
        rows = np.flatnonzero(again.any(axis=1))
        part, twice = at[rows], again[rows]
        part[:, 1:][twice] = rng.integers(0, positions, int(twice.sum()))
        at[rows] = np.sort(part, axis=1)
    return at


def channel_last(x: np.ndarray, channel: int) -> np.ndarray:
    """A value [n, ..] as a view [n, positions, channels]."""
    moved = np.moveaxis(x, channel, -1) if channel != x.ndim - 1 else x
    if channel == 1 and x.ndim > 2:
        return x.reshape(len(x), x.shape[1], -1).swapaxes(1, 2)
    return moved.reshape(len(x), -1, x.shape[channel])


def pick(x: np.ndarray, channel: int, at: np.ndarray) -> np.ndarray:
    """Channels at sampled positions: [n * wanted, channels].

    Args:
        x: [n, ...]; at: int [n, wanted].
    """
    flat = channel_last(x, channel)
    if flat.shape[1] == 1:
        return np.ascontiguousarray(flat[:, 0])
    picked: np.ndarray = flat[np.arange(len(x))[:, None], at].reshape(-1, flat.shape[2])
    return picked


def unfold(x: np.ndarray, linear: Linear, view: View, taps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """What sampled output positions read: [n * wanted, taps, channels], zeros where a tap lies outside.

    Args:
        x: [n, ...], the node's input or a piece of it; taps: int [positions, K]; at: int [n, wanted].
    """
    flat = channel_last(x, linear.channel(view))
    if taps.size == 1 and flat.shape[1] == 1:
        return flat
    index = taps[at]
    rows = flat[np.arange(len(x))[:, None, None], index]
    rows[index < 0] = 0
    unfolded: np.ndarray = rows.reshape(-1, taps.shape[1], flat.shape[2])
    return unfolded
