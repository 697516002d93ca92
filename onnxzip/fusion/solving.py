"""One least squares over the data of several tasks: rows that come near the targets of all of them, each with its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.linalg.moments import Moments
from onnxzip.linalg.ridge import Fit, Normal, fit_dual, fit_primal


@dataclass(frozen=True)
class Chosen:
    """Some rows of a strand as a task sees them: its original rows `at`; its weight in the fit."""

    stats: TaskStatistics
    at: np.ndarray
    weight: float


def fit_linear(chosen: Sequence[Chosen], centre: np.ndarray, grid: Sequence[float]) -> Fit:
    """Rows for the best damping of a grid, from moments, or from the rows themselves where those are kept instead.

    Args:
        centre: [rows, columns], what is damped towards.
        grid: dampings, strongest first.
    """
    if chosen[0].stats.rows is not None:
        return fit_dual(*_stacked(chosen), centre, grid)
    train, held = _normal([(c, c.stats.train) for c in chosen]), _normal([(c, c.stats.held) for c in chosen])
    return fit_primal(train, held, centre, grid)


def rows_for(chosen: Sequence[Chosen], centre: np.ndarray, damping: float) -> np.ndarray:
    """Rows for one damping, from the fitted samples alone: [rows, columns]."""
    if chosen[0].stats.rows is not None:
        return fit_dual(*_stacked(chosen), centre, (damping,)).rows
    return fit_primal(_normal([(c, c.stats.train) for c in chosen]), None, centre, (damping,)).rows


def _normal(parts: Sequence[tuple[Chosen, Moments]]) -> Normal:
    """Normal equations of a shared fit."""
    return Normal(
        reduce(add, [c.weight * m.zz for c, m in parts]).settled(),
        reduce(add, [c.weight * m.zp[:, c.at] for c, m in parts]),
        reduce(add, [c.weight * m.pp[c.at] for c, m in parts]),
    )


def _stacked(chosen: Sequence[Chosen]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of all owners, each scaled by the root of its weight: z, p, held-out z, held-out p."""
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for c in chosen:
        assert c.stats.rows is not None and c.stats.held_rows is not None
        for k, (z, p) in enumerate((c.stats.rows, c.stats.held_rows)):
            root = np.float32(np.sqrt(c.weight / max(len(z), 1)))
            parts[2 * k].append(z * root)
            parts[2 * k + 1].append(p[:, c.at] * root)
    z, p, held_z, held_p = (np.concatenate(x) for x in parts)
    return z, p, held_z, held_p
