"""Params that no fit makes: the mean of their owners' originals, channel by channel as these are matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Taken
from onnxzip.analysis.strands import Owners
from onnxzip.fusion.tables import Counts
from onnxzip.matching.match import Members, located


def take(
    plan: Plan, taken: Taken, members: Mapping[tuple[int, Owners], Members], counts: Counts
) -> tuple[np.ndarray, bool]:
    """A param without a fit: the mean of its owners' originals, channel by channel; and whether they were all the same.

    Args:
        counts: task -> how often each row of a table is looked up: the weights of the rows in the mean, where any is.
    """
    values, present = [], []
    for task in sorted(taken.owners):
        array = plan.nets[task].params[plan.overlay.values[taken.laid][task]]
        here = np.ones((), bool)
        for dim, expr in enumerate(plan.overlay.exprs(taken.laid, task)):
            if taken.keys and any(a in plan.spaces for a in expr.atoms()):
                at, _ = located(plan.overlay, expr, task, taken.keys, members)
                array = np.take(array, np.maximum(at, 0), axis=dim)
                here = here & (at >= 0).reshape([-1 if d == dim else 1 for d in range(array.ndim)])
        values.append(array)
        present.append(np.broadcast_to(here, array.shape))
    if len(values) == 1:
        return np.asarray(values[0], order="C"), True
    same = all(np.array_equal(np.where(p, v, 0), np.where(p, values[0], 0)) for v, p in zip(values, present, strict=True))
    if same and all(p.all() for p in present):
        return np.asarray(values[0], order="C"), True
    weights = np.stack(present) * _row_weights([counts.get(t) for t in sorted(taken.owners)], values[0].ndim)
    total = weights.sum(axis=0)
    mean = (np.stack(values) * weights).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.asarray(mean.astype(values[0].dtype), order="C"), same


def _row_weights(counts: Sequence[np.ndarray | None], rank: int) -> np.ndarray:
    """[tasks, rows, 1, ...]: the counts, or ones for rows that no task looks up; all ones without counts."""
    known = [c for c in counts if c is not None]
    if len(known) < len(counts):
        return np.ones((len(counts),) + (1,) * rank)
    stacked = np.stack(known)
    return np.where(stacked.sum(axis=0) > 0, stacked, 1.0).reshape(len(counts), -1, *(1,) * (rank - 1))
