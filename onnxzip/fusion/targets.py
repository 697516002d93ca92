"""What one row explains of a space's targets, and which of a node's output rows its channels are.

With zz and zp as in `linalg.explained`, over the data of several tasks: Q = C' (G + l d I)^-1 C for all their rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from onnxzip.analysis.steps import channels_at
from onnxzip.analysis.strands import SpacePlan
from onnxzip.fusion.problem import Reads
from onnxzip.fusion.solving import power_of_two
from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.fusion.work import Work
from onnxzip.linalg.explained import explained_by_moments, explained_by_rows
from onnxzip.matching.grouping import Explained
from onnxzip.matching.match import Matches, Places, inner_places


@dataclass(frozen=True)
class Targets:
    """Targets of a space's channels.

    Attributes:
        group: of the node that makes the space's rows.
        energy: task -> [rows of the group].
        rows: task -> which of these are whose.
        explained: tasks -> Q over all their rows.
    """

    group: int
    energy: Mapping[str, np.ndarray]
    rows: Mapping[str, Places]
    explained: Callable[[tuple[str, ...]], Explained]


def targets_of(work: Work, reads: Reads, space: SpacePlan, tasks: Sequence[str], matches: Matches) -> Targets:
    """Targets of a space's channels, in the first group of the step's node that makes any."""
    group, mine = rows_of(work, space, tasks)
    stats = {t: work.statistics(t, reads, group, matches) for t in tasks}
    weight = work.weights({t: s.train.pp for t, s in stats.items()})
    energy = {t: weight[t] * s.train.pp for t, s in stats.items()}

    def explained(some: tuple[str, ...]) -> Explained:
        return _explained({t: stats[t] for t in some}, weight, work.method.match_damping)

    return Targets(group, energy, mine, explained)


def rows_of(work: Work, space: SpacePlan, tasks: Sequence[str]) -> tuple[int, dict[str, Places]]:
    """The first group of the step's node that makes rows of a space; and per task the rows there that each channel has."""
    part, found = work.step.parts[0], dict[str, Places]()
    group = 0
    for task in tasks:
        expr = channels_at(work.plan.overlay, part, task, part.outputs[0])
        places = {n: inner_places(work.plan, expr, space, n, task) for n in (*space.inside, None)}
        each = expr.size // work.reads[0].groups
        group = int(next(p for p in places.values() if p.size).min()) // each
        found[task] = {n: _within(p, group * each, each) for n, p in places.items() if p.size}
    return group, found


def _within(places: np.ndarray, start: int, length: int) -> np.ndarray:
    """Of places [channels, inside, places of each], those in a part of the axis, counted from its start."""
    inner = places - start
    return inner[..., ((inner >= 0) & (inner < length)).all(axis=(0, 1))]


def summed(q: np.ndarray, mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """q over the first rows of some channels and of others, plus q over their second rows, ...: [channels, others].

    Args:
        mine, other: int [channels, rows of each].
    """
    return np.asarray(reduce(np.add, [q[np.ix_(i, j)] for i, j in zip(mine.T, other.T, strict=True)]))


def _explained(stats: Mapping[str, TaskStatistics], weight: Mapping[str, float], damping: float) -> Explained:
    """(task, task) -> C' (G + l d I)^-1 C over all targets."""
    kept = {t: s.rows[0] for t, s in stats.items() if s.rows is not None}
    if not kept:
        zz = reduce(add, [weight[t] * s.train.zz for t, s in stats.items()])
        zp = np.concatenate([weight[t] * s.train.zp for t, s in stats.items()], axis=1)
        whole = explained_by_moments(zz, zp, damping)
    else:
        root = {t: np.sqrt(weight[t] / len(z)) for t, (z, _) in kept.items()}
        unit = power_of_two(max(weight[t] for t in kept))
        z = np.concatenate([z * np.float32(root[t] / unit) for t, (z, _) in kept.items()])
        whole = explained_by_rows(z, [p.astype(np.float64) * root[t] for t, (_, p) in kept.items()], damping)
    return _blocks(list(stats), whole, [len(s.train.pp) for s in stats.values()])


def _blocks(tasks: Sequence[str], whole: np.ndarray, sizes: Sequence[int]) -> Explained:
    starts = np.cumsum([0, *sizes])
    return {
        (t, u): whole[starts[i] : starts[i + 1], starts[j] : starts[j + 1]]
        for i, t in enumerate(tasks) for j, u in enumerate(tasks)
    }
