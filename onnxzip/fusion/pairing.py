"""Matching the channels of a space, decided where a step first produces it: by what one row can explain of their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np

from onnxzip.analysis.steps import linear_of
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.fusion.duplicates import same_groups
from onnxzip.fusion.problem import Reads
from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.fusion.work import Exact, Work
from onnxzip.linalg.explained import explained_by_moments, explained_by_rows
from onnxzip.matching.grouping import Explained, Terms, group_channels
from onnxzip.matching.match import Matches, Members, channel_places, members_of

Made = dict[tuple[int, Owners], Members]


def pair_channels(work: Work, space: SpacePlan, same: Sequence[dict[str, int]], matches: Matches) -> Made:
    """Members of every strand of a space that this step produces first.

    Args:
        same: groups that are decided already, as they are equal in all their nets.
        matches: of the spaces that the step reads.
    """
    counts = {o: n for o, n in space.counts.items() if len(o) > 1}
    if not counts:
        return members_of(space, [], [])
    groups = list(same)
    counts = {o: n - sum(frozenset(g) == o for g in same) for o, n in counts.items()}
    if any(counts.values()):
        tasks = [t for t in work.step.tasks if any(t in o for o in counts)]
        terms = _terms(work, shared_reads(work, space), space, tasks, matches)
        groups += group_channels(counts, terms, work.method.assign, same)
    return members_of(space, groups, [dict.fromkeys(g, 1.0) for g in groups])


def same_channels(work: Work, space: SpacePlan, exact: Exact, matches: Matches) -> list[dict[str, int]]:
    """Groups of channels of a space that are the same in several nets; none where the method looks at places alone."""
    if not work.method.needs_data or all(len(o) == 1 for o in space.counts):
        return []
    reads = shared_reads(work, space)
    rows = {t: channel_rows(work, space, t) for t in work.step.tasks if t in space.sizes and t not in space.refused}
    group = _group_of(work, next(iter(rows.values())))
    each = {t: _rows_per_group(work, t) for t in rows}
    return same_groups(work, reads, group, {t: r - group * each[t] for t, r in rows.items()}, space, exact, matches)


def shared_reads(work: Work, space: SpacePlan) -> Reads:
    """What the rows read that most tasks share."""
    widest = max((o for o in space.counts if len(o) > 1), key=len)
    key = next(s.key for s in space.strands if any(r.owners == widest for r in s.rows))
    return next(r for r in work.reads if r.key == key)


def _rows_per_group(work: Work, task: str) -> int:
    linear, view = linear_of(work.plan.overlay, work.step.parts[0], task)
    return view.outputs[0][linear.channel(view)] // work.reads[0].groups


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
    weight = {t: work.weight(s.train.pp) for t, s in stats.items()}
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
