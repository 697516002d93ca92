"""Matching the channels of a space, decided where a step first produces it: by what one row can explain of their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np

from onnxzip.analysis.steps import linear_of
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.fusion.problem import Reads
from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.fusion.work import Work, weight_of
from onnxzip.linalg.explained import explained_by_moments, explained_by_rows
from onnxzip.matching.grouping import Explained, Terms, group_channels
from onnxzip.matching.match import Matches, Members, channel_places, members_of


def pair_channels(work: Work, space: SpacePlan, matches: Matches) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of a space that this step produces first.

    Args:
        matches: of the spaces that the step reads.
    """
    counts = {o: n for o, n in space.counts.items() if len(o) > 1}
    if not counts:
        return members_of(space, [], [])
    tasks = [t for t in work.step.tasks if any(t in o for o in counts)]
    widest = max(counts, key=len)
    key = next(s.key for s in space.strands if any(r.owners == widest for r in s.rows))
    reads = next(r for r in work.reads if r.key == key)
    groups, costs = group_channels(counts, _terms(work, reads, space, tasks, matches), work.method.assign)
    return members_of(space, groups, [dict.fromkeys(g, 1.0) for g in groups], costs if work.stats is not None else ())


def channel_rows(work: Work, space: SpacePlan, task: str) -> np.ndarray:
    """Output rows of every channel of a space: int [channels, rows per channel], flat over all groups of the node."""
    part = work.step.parts[0]
    linear, view = linear_of(work.plan.overlay, part, task)
    expr = work.plan.overlay.exprs(part.outputs[0], task)[linear.channel(view)]
    return channel_places(work.plan, expr, space, task)


def _terms(work: Work, reads: Reads, space: SpacePlan, tasks: Sequence[str], matches: Matches) -> Terms:
    """What the costs of groups are made of, for the space's group of the node; all alike where there are no statistics."""
    importance = {t: work.method.importance(work.plan, space, t) for t in tasks}
    if work.stats is None:
        nothing = {(t, u): np.zeros((space.sizes[t], space.sizes[u])) for t in tasks for u in tasks}
        return Terms({t: np.zeros(space.sizes[t]) for t in tasks}, lambda _: nothing, importance)
    rows = {t: channel_rows(work, space, t) for t in tasks}
    group = _group_of(work, next(iter(rows.values())))
    stats = {t: work.statistics(t, reads, group, matches) for t in tasks}
    weight = {t: weight_of(s) for t, s in stats.items()}
    mine = {t: rows[t] - group * len(s.train.pp) for t, s in stats.items()}
    energy = {t: weight[t] * s.train.pp[mine[t]].sum(axis=1) for t, s in stats.items()}

    def explained(some: tuple[str, ...]) -> Explained:
        whole = _explained({t: stats[t] for t in some}, weight, work.method.match_damping)
        return {
            (t, u): reduce(np.add, [q[np.ix_(i, j)] for i, j in zip(mine[t].T, mine[u].T, strict=True)])
            for (t, u), q in whole.items()
        }

    return Terms(energy, explained, importance)


def _group_of(work: Work, rows: np.ndarray) -> int:
    """Which group of a grouped node makes a space's rows."""
    groups = work.reads[0].groups
    if groups == 1:
        return 0
    linear, view = linear_of(work.plan.overlay, work.step.parts[0], work.step.tasks[0])
    return int(rows.min() // (view.outputs[0][linear.channel(view)] // groups))


def _explained(stats: Mapping[str, TaskStatistics], weight: Mapping[str, float], damping: float) -> Explained:
    """(task, task) -> C' (G + l d I)^-1 C over all targets."""
    kept = {t: s.rows for t, s in stats.items() if s.rows is not None}
    if not kept:
        zz = reduce(add, [weight[t] * s.train.zz for t, s in stats.items()])
        zp = np.concatenate([weight[t] * s.train.zp for t, s in stats.items()], axis=1)
        whole = explained_by_moments(zz, zp, damping)
    else:
        root = {t: np.sqrt(weight[t] / len(z)) for t, (z, _) in kept.items()}
        z = np.concatenate([z * np.float32(root[t]) for t, (z, _) in kept.items()])
        whole = explained_by_rows(z, [p.astype(np.float64) * root[t] for t, (_, p) in kept.items()], damping)
    return _blocks(list(stats), whole, [len(s.train.pp) for s in stats.values()])


def _blocks(tasks: Sequence[str], whole: np.ndarray, sizes: Sequence[int]) -> Explained:
    starts = np.cumsum([0, *sizes])
    return {
        (t, u): whole[starts[i] : starts[i + 1], starts[j] : starts[j + 1]]
        for i, t in enumerate(tasks) for j, u in enumerate(tasks)
    }
