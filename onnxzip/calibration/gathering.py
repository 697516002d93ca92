"""Rows of a layer's least squares: sampled output positions, and what each of them reads.

Only sampled positions are ever unfolded.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import numpy as np

from onnxzip.calibration.recipe import Recipe, Term

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


def flat_rows(rows: int, count: int, before: int, samples: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Where positions of samples lie among all rows of a value, in C order.

    Args:
        rows: of the value; count: its samples; before: positions in front of the batch, 0 for a value that all samples share.
        samples, at: which samples, and which position of each.
    """
    if before == 0:
        return np.asarray(0 * samples + at)
    behind = rows // (count * before)
    if before == 1:
        return np.asarray(samples * behind + at)
    return np.asarray((at // behind * count + samples) * behind + at % behind)


def channel_last(x: np.ndarray, channel: int) -> np.ndarray:
    """A value [n, ..] as a view [n, the other axes, channels]."""
    moved = np.moveaxis(x, channel, -1) if channel != x.ndim - 1 else x
    if channel == 1 and x.ndim > 2:
        return x.reshape(len(x), x.shape[1], -1).swapaxes(1, 2)
    return moved.reshape(len(x), -1, x.shape[channel])


def pick(
    x: np.ndarray, channel: int, samples: np.ndarray, at: np.ndarray, before: int = 1, count: int | None = None
) -> np.ndarray:
    """Channels at sampled positions: [len(samples) * wanted, channels].

    Args:
        x: of `count` samples, None for as many as its first axis is long; before: as in `flat_rows`.
        samples: int [s], which of them; at: int [s, wanted].
    """
    flat = channel_last(x, channel)
    if flat.shape[1] == 1 and _leads(flat, before, count):
        return np.ascontiguousarray(flat[samples, 0])
    return _chosen(flat, before, count, samples[:, None], at).reshape(-1, flat.shape[2])


def unfold(
    x: np.ndarray, channel: int, taps: np.ndarray, samples: np.ndarray, at: np.ndarray, before: int = 1,
    count: int | None = None,
) -> np.ndarray:
    """What sampled output positions read: [len(samples) * wanted, taps, channels], zeros where a tap lies outside.

    Args:
        x: a node's input or a piece of it; channel: its channel axis; taps: int [positions, K], input positions of each
            output position, -1 outside; samples: int [s], which samples; at: int [s, wanted], output positions.
        before, count: as in `pick`.
    """
    flat = channel_last(x, channel)
    if taps.size == 1 and flat.shape[1] == 1 and _leads(flat, before, count):
        whole: np.ndarray = flat[samples]
        return whole
    index = taps[at]
    rows = _chosen(flat, before, count, samples[:, None, None], index)
    rows[index < 0] = 0
    unfolded: np.ndarray = rows.reshape(-1, taps.shape[1], flat.shape[2])
    return unfolded


def _leads(flat: np.ndarray, before: int, count: int | None) -> bool:
    """Whether the first axis is the batch and nothing else."""
    return (before == 1 or count == 1) and count in (None, len(flat))


def _chosen(flat: np.ndarray, before: int, count: int | None, samples: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Channels at positions of samples; any at a negative position."""
    if _leads(flat, before, count):
        return np.asarray(flat[samples, at])
    rows = flat_rows(flat.shape[0] * flat.shape[1], count or len(flat), before, samples, np.maximum(at, 0))
    return np.asarray(flat[np.divmod(rows, flat.shape[1])])


def rows_of(
    recipe: Recipe, values: Mapping[Hashable, np.ndarray], samples: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a recipe makes of some samples.

    Args:
        values: all that the recipe reads, for n samples.
        samples: int [s], which of the n; at: int [n, wanted], sampled output positions of all.

    Returns:
        z [rows, columns] and p [rows, targets]; of a diagonal step [rows, channels, columns] and [rows, channels, targets].
    """
    pieces = [
        unfold(values[r.value], r.channel, r.taps, samples, at[samples], r.before, len(at))[:, :, r.first : r.first + r.size]
        for r in recipe.reads
    ]
    p = np.zeros((len(samples) * at.shape[1], recipe.targets), np.float32)
    for term in recipe.terms:
        found = _sampled(values[term.value], term, samples, at)[:, _plain(term.at)]
        p[:, _plain(term.to)] += found if (term.factor == 1).all() else found * term.factor
    if recipe.channels:
        parts = [np.concatenate([r.swapaxes(1, 2), np.ones((len(r), r.shape[2], 1), r.dtype)], axis=2) for r in pieces]
        return np.concatenate(parts, axis=1), p.reshape(len(p), recipe.channels, -1)
    flat = [r.reshape(len(r), -1) for r in pieces]
    return np.concatenate([*flat, np.ones((len(p), 1), np.float32)], axis=1), p


def _sampled(x: np.ndarray, term: Term, samples: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values at the sampled positions; those without a channel axis hold nothing else."""
    if term.channel is not None:
        return pick(x, term.channel, samples, at[samples], term.before, len(at))
    rows: np.ndarray = x.reshape(len(at), -1, x.shape[1])[samples].reshape(-1, x.shape[1])
    return rows


def _plain(index: np.ndarray) -> np.ndarray | slice:
    """Successive columns as a slice, which copies nothing."""
    steady = len(index) > 0 and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all()
    return slice(int(index[0]), int(index[-1]) + 1) if steady else index
