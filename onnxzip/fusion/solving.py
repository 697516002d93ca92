"""One least squares over the data of several tasks: rows that come near the targets of all of them, each with its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.linalg.ridge import Fit, Normal, fit_dual, fit_primal


@dataclass(frozen=True)
class Chosen:
    """Some rows of a strand as a task sees them.

    Attributes:
        at: its original rows.
        weight: of its error, where all tasks count alike.
        emphasis: how much more, or less, it counts in the fit.
    """

    stats: TaskStatistics
    at: np.ndarray
    weight: float
    emphasis: float = 1.0


def fit_linear(chosen: Sequence[Chosen], centre: np.ndarray, grid: Sequence[float], worth: float = 0.0) -> Fit:
    """Rows for the best damping of a grid, from moments, or from the rows themselves where those are kept instead.

    Args:
        centre: [rows, columns], what is damped towards.
        grid: dampings, strongest first.
        worth: by how much, of the held-out error where rows stay at the centre, they must gain to be moved at all.
    """
    if chosen[0].stats.rows is not None:
        return fit_dual(*_stacked(chosen), centre, grid, worth)
    return fit_primal(_normal(chosen, "train"), _normal(chosen, "held"), centre, grid, worth)


def power_of_two(weight: float) -> float:
    """What weights of this size are divided by, under the root, so that float32 can hold rows that they scale: the fit is the
    same, bit for bit."""
    return float(2.0 ** np.floor(np.log2(np.sqrt(weight))))


def _normal(chosen: Sequence[Chosen], side: str) -> Normal:
    """Normal equations of a shared fit: of fitted rows, "train", or of held-out ones, "held"."""
    parts = [(c.weight * c.emphasis, c.at, getattr(c.stats, side)) for c in chosen]
    return Normal(
        reduce(add, [w * m.zz for w, _, m in parts]).settled(),
        reduce(add, [w * m.zp[:, at] for w, at, m in parts]),
        reduce(add, [w * m.pp[at] for w, at, m in parts]),
    )


def _stacked(chosen: Sequence[Chosen]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of all owners, each scaled by the root of what it counts: z, p, held-out z, held-out p."""
    parts: list[list[np.ndarray]] = [[], [], [], []]
    unit = power_of_two(max(c.weight * c.emphasis for c in chosen))
    for c in chosen:
        assert c.stats.rows is not None
        for k, (z, p) in enumerate(c.stats.rows):
            root = np.float32(np.sqrt(c.weight * c.emphasis / max(len(z), 1)) / unit)
            parts[2 * k].append(z * root)
            parts[2 * k + 1].append(p[:, c.at] * root)
    z, p, held_z, held_p = (np.concatenate(x) for x in parts)
    return z, p, held_z, held_p
