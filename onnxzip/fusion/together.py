"""Tied weights: one fit over the data of all nodes that read them.

    w = argmin sum_k E_k (w.z_k - p_k + d_k)^2      k: the uses of w, whose moments add up

The first use fits them for all. Uses of one task may have biases of their own, which stay as far apart as they were, by d_k.
Where the inputs of others are not known by then, since they read what the first makes (a layer applied to its own output),
shared weights are fitted to the uses that are known, for all. Measured, a residual block of two convolutions that is applied 4
times, fashion-low + fashion-high, everything shared, error increase in points: 4.8 / 0.6 in half the size; a fit for each use
1.8 / 0.0, in a file of both originals' size; the mean of matched weights (`permute`) 36 / 48.
Weights of one task stay as they are then, as they do where uses read other channels: as many fits would be as many params.
Shared ones are fitted use by use there, and where uses have biases of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TypeVar

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.steps import Step, linear_of
from onnxzip.analysis.strands import Owners
from onnxzip.fusion.fitting import StepResult, fit_step
from onnxzip.fusion.problem import Reads, original_channels, original_rows, pieces_read, reads_of, row_positions
from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.fusion.tied import origins_of
from onnxzip.fusion.work import Exact, Statistics, Work
from onnxzip.linalg.moments import ChannelMoments, Moments
from onnxzip.matching.match import Matches


@dataclass(frozen=True)
class Use:
    """One strand of a step whose weights are tied to others."""

    step: Step
    reads: Reads


Means = TypeVar("Means", Moments, ChannelMoments)
Uses = Mapping[tuple[str, Owners], tuple[Use, ...]]  # (step, strand) -> all that can be fitted together, in the zip's order


def uses_of(plan: Plan) -> Uses:
    """The strands with tied weights; those that cannot be fitted together with others stand alone."""
    origins = origins_of(plan)
    times = Counter((origins[w.name], w.key) for w in plan.layout.weights if not w.bias)
    together: dict[Hashable, list[Use]] = {}
    for step in plan.steps:
        for reads in reads_of(plan, step):
            if any(times[origins[w], reads.key] > 1 for w in reads.names):
                key: Hashable = (step.name, reads.key)
                if len(reads.names) == 1:
                    layout = tuple((b.taps, b.channels) for b in reads.blocks)
                    bias = origins[reads.bias] if step.diagonal or len(reads.owners) > 1 else None
                    key = (origins[reads.names[0]], bias, reads.key, reads.groups, layout)
                together.setdefault(key, []).append(Use(step, reads))
    return {(use.step.name, use.reads.key): tuple(uses) for uses in together.values() for use in uses}


def fit_tied(
    work: Work, reads: Reads, uses: Sequence[Use], exact: Exact, matches: Matches,
    statistics: Callable[[Step, Sequence[Reads]], Statistics | None],
) -> StepResult:
    """Rows of one strand of a step with tied weights: of all its uses, where this is the first and they go together.

    Args:
        work: of the step.
        uses: all that might be fitted together; none where nothing is to be fitted.
        statistics: what is known of the data of some strands of a step that may be to come.
    """
    alone = replace(work, reads=(reads,), stats=work.stats if len(reads.owners) > 1 else None)
    if len(uses) < 2 or uses[0].reads != reads or not _go_together(work.plan, uses, exact, matches):
        return fit_step(alone, exact, matches)
    shifts = [_shift(work.plan, use, uses[0], matches) for use in uses]
    known = [statistics(use.step, [use.reads]) if _is_known(work.plan, use, exact) else None for use in uses]
    parts = tuple(
        _Part(stats, use.reads, shift) for use, stats, shift in zip(uses, known, shifts, strict=True) if stats is not None
    )
    if np.any(shifts) or len({use.step.bounds for use in uses}) > 1:
        alone = replace(alone, step=replace(work.step, bounds=None))  # what their activations cut off is not the same
    found = fit_step(replace(alone, stats=_Together(parts)) if parts else alone, exact, matches)
    (task, *_) = reads.owners
    at = row_positions(work.plan, work.step, reads.key, task, matches)[0]
    params, touched = dict[str, np.ndarray](), dict[str, frozenset[str]]()
    for use, shift in zip(uses, shifts, strict=True):
        params[use.reads.names[0]] = found.params[reads.names[0]]
        own = shift[at].astype(np.float32) if shift.any() else np.float32(0)  # of one task, every row of which is its own
        params[use.reads.bias] = found.params[reads.bias] + own
        touched |= dict.fromkeys((*use.reads.names, use.reads.bias), found.touched[reads.names[0]])
    return replace(found, params=params, touched=touched)


def _shift(plan: Plan, use: Use, first: Use, matches: Matches) -> np.ndarray:
    """How far the original biases of a use are from those of the first one: [original outputs of a task], zeros if several
    tasks own it."""
    (task, *others) = use.reads.owners
    if others or use.step.diagonal:
        linear, view = linear_of(plan.overlay, use.step.parts[0], task)
        return np.zeros(view.outputs[0][linear.channel(view)])
    mine, firsts = (
        np.concatenate([original_rows(plan, u.step, u.reads, g, task, matches)[:, -1] for g in range(u.reads.groups)])
        for u in (use, first)
    )
    return np.asarray(mine - firsts)


def _go_together(plan: Plan, uses: Sequence[Use], exact: Exact, matches: Matches) -> bool:
    """Whether the inputs of all uses are known, or those of the first if several tasks own them, and the columns of all stand
    for the same channels of the original."""
    if len(uses[0].reads.owners) == 1 and not all(_is_known(plan, use, exact) for use in uses):
        return False
    return all(_alike(plan, uses, task, matches) for task in uses[0].reads.owners)


def _is_known(plan: Plan, use: Use, exact: Exact) -> bool:
    """Whether all that a use reads is known."""
    return all(piece.name in exact for piece in pieces_read(plan, use.step, use.reads))


def _alike(plan: Plan, uses: Sequence[Use], task: str, matches: Matches) -> bool:
    """Whether all uses have the same original rows in fused columns."""
    if uses[0].step.diagonal:
        channels = [original_channels(plan, use.step, use.reads.key, task, matches) for use in uses]
        return all(np.array_equal(channels[0], other) for other in channels[1:])
    for group in range(uses[0].reads.groups):
        weights = slice(None, -1 if len(uses[0].reads.owners) == 1 else None)
        first, *others = (original_rows(plan, u.step, u.reads, group, task, matches)[:, weights] for u in uses)
        if not all(np.array_equal(first, rows) for rows in others):
            return False
    return True


@dataclass(frozen=True)
class _Part:
    """Statistics of one use.

    Attributes:
        shift: how far its original biases are from those of the first use, [original outputs]; its targets are taken that
            much less.
    """

    stats: Statistics
    reads: Reads
    shift: np.ndarray

    def of(self, task: str, group: int) -> TaskStatistics:
        """Of one task."""
        found, by = self.stats.of(task, self.reads, group), self._by(group)
        if not by.any():
            return found
        if found.rows is None:
            return TaskStatistics(_less(found.train, by, None), _less(found.held, by, None))
        rows, held = found.rows
        less = (rows[0], rows[1] - by), (held[0], held[1] - by)
        return TaskStatistics(_less(found.train, by, rows), _less(found.held, by, held), less)

    def sampled(self, task: str, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of one task."""
        (z, p), by = self.stats.sampled(task, self.reads, group), self._by(group)
        return z, p - by if by.any() else p

    def _by(self, group: int) -> np.ndarray:
        return np.split(self.shift, self.reads.groups)[group]


@dataclass(frozen=True)
class _Together:
    """Statistics over all uses of tied weights, asked for as those of the first."""

    parts: tuple[_Part, ...]

    @property
    def dual(self) -> bool:
        """Whether columns outnumber the rows of every use."""
        return all(part.stats.dual for part in self.parts)

    @property
    def kept(self) -> bool:
        """Whether the rows of all uses are kept."""
        return all(part.stats.kept for part in self.parts)

    def of(self, task: str, _: Reads, group: int) -> TaskStatistics:
        """Of one task: means over the rows of all uses; of those alone that have moments, where not all have kept rows."""
        found = [part.of(task, group) for part in self.parts]
        rows = [f.rows for f in found if f.rows is not None]
        if len(rows) < len(found):
            found = [f for f in found if f.rows is None]
            return TaskStatistics(_mean([f.train for f in found]), _mean([f.held for f in found]))
        train, held = (tuple(np.concatenate(x) for x in zip(*side, strict=True)) for side in zip(*rows, strict=True))
        means = _mean([f.train for f in found]), _mean([f.held for f in found])
        return TaskStatistics(*means, ((train[0], train[1]), (held[0], held[1])))

    def sampled(self, task: str, _: Reads, group: int) -> tuple[np.ndarray, np.ndarray]:
        """All rows of one task, use by use."""
        z, p = zip(*(part.sampled(task, group) for part in self.parts), strict=True)
        return np.concatenate(z), np.concatenate(p)

    def of_channels(self, task: str, _: Reads) -> tuple[ChannelMoments, ChannelMoments]:
        """Of a diagonal step: means over the rows of all uses."""
        train, held = zip(*(part.stats.of_channels(task, part.reads) for part in self.parts), strict=True)
        return _mean(train), _mean(held)

    def covariance(self, number: int, task: str) -> np.ndarray:
        """Of a space's channels in one original net."""
        return self.parts[0].stats.covariance(number, task)


def _less(means: Moments, by: np.ndarray, rows: tuple[np.ndarray, np.ndarray] | None) -> Moments:
    """Means with targets that are so much less, of which the rows may be kept; the last column of z is 1."""
    if rows is not None:
        return replace(means, pp=means.pp - 2 * by * rows[1].mean(axis=0) + by**2)
    one = np.eye(len(means.zz))[:, -1:]
    return replace(means, zp=means.zp - means.zz @ one * by, pp=means.pp - 2 * by * means.zp[-1] + by**2)


def _mean(means: Sequence[Means]) -> Means:
    """Means over the rows of several, from those of each."""
    count = sum(m.count for m in means)
    parts = [(m.count / count, m) for m in means]
    return reduce(add, [replace(m, zz=w * m.zz, zp=w * m.zp, pp=w * m.pp) for w, m in parts])
