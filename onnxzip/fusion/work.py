"""What is known of one step of the zip before its rows are fitted, and each task's statistics as the method wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.steps import Step
from onnxzip.analysis.strands import SpacePlan
from onnxzip.fusion.keeping import by_leaders
from onnxzip.fusion.problem import Reads, original_rows, pieces_read
from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.linalg.moments import ChannelMoments, Moments
from onnxzip.matching.match import Matches
from onnxzip.matching.methods import Method, Rows

Exact = Mapping[str, frozenset[str]]  # value of the fused net -> tasks for which it is what their originals compute


class Statistics(Protocol):
    """What is known of a step's data."""

    @property
    def dual(self) -> bool:
        """Whether columns outnumber rows."""

    @property
    def kept(self) -> bool:
        """Whether the rows themselves are kept."""

    def of(self, task: str, reads: Reads, group: int) -> TaskStatistics:
        """Of one task, over the columns that one strand reads."""

    def sampled(self, task: str, reads: Reads, group: int) -> tuple[np.ndarray, np.ndarray]:
        """All rows of one task: z over the columns that one strand reads, and p; only where `kept`."""

    def of_channels(self, task: str, reads: Reads) -> tuple[ChannelMoments, ChannelMoments]:
        """Of a diagonal step: of one task, for the channels of one strand, fitted and held out."""

    def covariance(self, number: int, task: str) -> np.ndarray:
        """Of a space's channels in one original net, behind what clips them: [channels, channels], a sum over all that makes
        them."""


@dataclass(frozen=True)
class Work:
    """One step and all that is known of it.

    Attributes:
        reads: what each strand of the output reads.
        stats: of the data; None where there are none, or nothing is to be fitted.
        method: how rows are matched and fitted.
        turned: spaces that are in axes of their own, see `turning`.
    """

    plan: Plan
    step: Step
    reads: tuple[Reads, ...]
    stats: Statistics | None
    method: Method
    turned: frozenset[int] = frozenset()

    @property
    def fits(self) -> bool:
        """Whether rows are fitted at all; else they are means."""
        return self.stats is not None and self.method.rows is not Rows.MEAN

    def statistics(self, task: str, reads: Reads, group: int, matches: Matches) -> TaskStatistics:
        """A task's statistics over what a strand reads, with the targets that the method fits."""
        assert self.stats is not None
        found = self.stats.of(task, reads, group)
        if self.method.original_targets:
            return found
        return propagated(found, original_rows(self.plan, self.step, reads, group, task, matches))

    def weights(self, energies: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Weights of all tasks in a shared fit, from the mean squares of their targets.

        Where a net has a neutral layer, what is left of its target may be next to nothing, and that of a dead net is nothing:
        it weighs as the largest.
        """
        mean = {t: float(pp.mean()) for t, pp in energies.items()}
        given = {t for t in mean if any(p.members[t].name in self.plan.added(t) for p in self.step.parts)}
        return {t: self.method.balance(max(mean.values()) if t in given or not e else e) for t, e in mean.items()}

    def is_exact(self, reads: Reads, task: str, exact: Exact) -> bool:
        """Whether a task's original rows, applied to what the strand reads, give what they gave in the original net."""
        return all(task in exact[p.name] for p in pieces_read(self.plan, self.step, reads))


def shared_reads(work: Work, space: SpacePlan) -> Reads:
    """What the rows read that most tasks share."""
    widest = max((o for o in space.counts if len(o) > 1), key=len)
    key = next(s.key for s in space.strands if any(r.owners == widest for r in s.rows))
    return next(r for r in work.reads if r.key == key)


def propagated(stats: TaskStatistics, rows: np.ndarray) -> TaskStatistics:
    """The same with the original rows' own products as targets: p = w z."""
    if stats.rows is None:
        return TaskStatistics(_products(stats.train, rows), _products(stats.held, rows))
    train, held = ((z, (z @ rows.T).astype(z.dtype)) for z, _ in stats.rows)
    return TaskStatistics(_energies(stats.train, train[1]), _energies(stats.held, held[1]), (train, held))


def _products(moments: Moments, rows: np.ndarray) -> Moments:
    zp = moments.zz @ rows.T
    return replace(moments, zp=zp, pp=np.einsum("rc,cr->r", rows, zp))


def _energies(moments: Moments, p: np.ndarray) -> Moments:
    return replace(moments, pp=np.mean(p.astype(np.float64) ** 2, axis=0))


def by_owners(at: Mapping[str, np.ndarray]) -> dict[tuple[str, ...], np.ndarray]:
    """Rows by the tasks that have a channel there (`at` is not negative): owners -> int indices."""
    rows = np.arange(len(next(iter(at.values()), ())))
    return {owners: mine for owners, mine in by_leaders(list(at), [a >= 0 for a in at.values()], rows) if owners}
