"""Channels of nets that were trained from one start, or one from the other: their weights still are nearly the same.

Rows w_t of some nets, over the inputs of the fused net, are akin where sum_t |w_t - mean|^2 < a sum_t |w_t|^2, a = 1 / 20 (two
rows at a cosine above 0.9). Such channels are paired where they stand, before all others: several that do nearly the same are
told apart by their weights, not by what few samples say. And nobody leads them, since their mean is of use to all. So it is
with rows of any places that are the same but for rounding, a = 1 / 1000.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.fusion.problem import Reads, original_rows
from onnxzip.fusion.targets import rows_of
from onnxzip.fusion.work import Work
from onnxzip.linalg.ridge import TINY
from onnxzip.matching.match import Matches, Places

RowsOf = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]  # task -> channels: task -> [those channels, columns]
AKIN = 0.05  # a
ALIKE = 1e-3  # a, wherever they stand


def siblings(
    rows_of: RowsOf, space: SpacePlan, room: Mapping[Owners, int], decided: Sequence[Mapping[str, int]]
) -> list[dict[str, int]]:
    """Groups of channels that stand in the same place of their nets and are akin, the nearest where there is no room for all.

    Args:
        rows_of: original rows of some channels, to be compared.
        room: how many groups each owner set may have.
        decided: groups whose channels are in no other.
    """
    found = list[dict[str, int]]()
    for owners, count in room.items():
        taken = {i for group in (*decided, *found) for t, i in group.items() if t in owners}
        free = [i for i in range(min(space.sizes[t] for t in owners)) if i not in taken]
        at = {t: np.array(free, np.int64) for t in sorted(owners)}
        if free and count:
            apart = distances(rows_of, at)
            nearest = np.argsort(apart, kind="stable")[: min(count, int((apart < AKIN).sum()))]
            found += [{t: int(channels[k]) for t, channels in at.items()} for k in np.sort(nearest)]
    return found


def alike(
    rows_of: RowsOf, space: SpacePlan, room: Mapping[Owners, int], decided: Sequence[Mapping[str, int]]
) -> list[dict[str, int]]:
    """Groups of channels that are the same but for rounding, wherever they stand.

    Args:
        rows_of: original rows of some channels, to be compared.
        room: how many groups each owner set may have.
        decided: groups whose channels are in no other.
    """
    found = list[dict[str, int]]()
    for owners, count in room.items():
        taken = {t: {g[t] for g in (*decided, *found) if t in g} for t in owners}
        free = {t: np.array([i for i in range(space.sizes[t]) if i not in taken[t]], np.int64) for t in sorted(owners)}
        rows = rows_of(free)
        first, *others = free
        partners = {t: _nearest(rows[first], rows[t]) for t in others}
        whole = np.flatnonzero(np.all([p >= 0 for p in partners.values()], axis=0))[:count]
        found += [
            {first: int(free[first][k])} | {t: int(free[t][p[k]]) for t, p in partners.items()} for k in whole
        ]
    return found


def _nearest(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each row the one of the others that is the same but for rounding, and to which it is the nearest; -1: none."""
    if not len(rows) or not len(others):
        return np.full(len(rows), -1)
    energy = np.square(rows).sum(axis=1)[:, None] + np.square(others).sum(axis=1)
    apart = (energy - 2 * rows @ others.T) / 2 / np.maximum(energy, TINY)
    near = apart.argmin(axis=1)
    mutual = (apart.argmin(axis=0)[near] == np.arange(len(rows))) & (apart.min(axis=1) < ALIKE)
    return np.where(mutual, near, -1)


def distances(rows_of: RowsOf, at: Mapping[str, np.ndarray]) -> np.ndarray:
    """How far the original rows of groups are from their mean, relative to their energy: [groups], 0 where all are zero.

    Args:
        at: task -> int [groups], its channel in each.
    """
    rows = list(rows_of(at).values())
    mean = np.zeros_like(rows[0])
    for mine in rows:
        mean += mine / len(rows)
    energy = np.sum([_squares(r) for r in rows], axis=0)
    for mine in rows:
        mine -= mean
    return np.asarray(np.sum([_squares(r) for r in rows], axis=0) / np.maximum(energy, TINY))


def _squares(rows: np.ndarray) -> np.ndarray:
    """The energy of each row, without a copy of them: they may be as large as a layer of the widest nets."""
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def fitted_rows(work: Work, reads: Reads, space: SpacePlan, matches: Matches) -> RowsOf:
    """Original rows of a step in fused columns, several of one channel side by side."""

    def found(at: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        group, known = rows_of(work, space, list(at))
        return {
            t: original_rows(work.plan, work.step, reads, group, t, matches)[places_of(known[t])[c]].reshape(len(c), -1)
            for t, c in at.items()
        }

    return found


def places_of(rows: Places) -> np.ndarray:
    """The rows of each channel of a task, those of all that lies inside it side by side: int [channels, rows]."""
    return np.concatenate([r.reshape(len(r), -1) for r in rows.values()], axis=1)
