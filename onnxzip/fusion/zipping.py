"""The zip proper: through the steps in topological order, each on the inputs that the fused net computes by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Taken
from onnxzip.analysis.steps import Step
from onnxzip.analysis.strands import Owners
from onnxzip.calibration.frontier import Frontier
from onnxzip.fusion.fitting import fit_step
from onnxzip.fusion.pairing import pair_channels, pair_inside, same_channels
from onnxzip.fusion.problem import Reads, reads_of
from onnxzip.fusion.sharing import agreed
from onnxzip.fusion.statistics import StepStatistics
from onnxzip.fusion.tables import Counts, pair_waiting, waiting_params
from onnxzip.fusion.work import Work
from onnxzip.linalg.ridge import Fit
from onnxzip.matching.match import Members, given_members, in_place, located, members_of
from onnxzip.matching.methods import Method
from onnxzip.peers import ALONE, Peers
from onnxzip.runtime import give_back_freed

Tick = Callable[[int], None]
WIDE = 1500  # columns


@dataclass(frozen=True)
class Zipped:
    """What the zip has found.

    Attributes:
        params: all params of the fused net.
        members: (space, strand) -> channels of the originals.
        fits: step -> strand -> fits of its rows.
        same: space -> shared channels that are the same in all their nets, found without data.
    """

    params: Mapping[str, np.ndarray]
    members: Mapping[tuple[int, Owners], Members]
    fits: Mapping[str, Mapping[Owners, tuple[Fit, ...]]]
    same: Mapping[int, int]


class _Zip:
    def __init__(self, plan: Plan, method: Method, frontier: Frontier | None, repair: bool, peers: Peers) -> None:
        self.plan, self.method, self.frontier, self.repair = plan, method, frontier, repair
        self.peers = peers
        self.members: dict[tuple[int, Owners], Members] = {}
        self.params: dict[str, np.ndarray] = {}
        self.fits: dict[str, Mapping[Owners, tuple[Fit, ...]]] = {}
        self.same: dict[int, int] = {}
        self.exact: dict[str, frozenset[str]] = {}
        self.walked: set[str] = set()
        self.counts: dict[str, Counts] = {}
        everyone = frozenset(plan.tasks)
        for port in plan.nets[plan.tasks[0]].inputs:
            self.exact[port.name] = everyone
        for space in plan.spaces.values():
            if space.given:
                self.members |= given_members(space)
            elif all(len(o) == 1 for o in space.counts):
                self.members |= members_of(space, [], [])
                for number, size in space.inside.items():
                    self.members |= in_place(space, number, size)
        self.touched: dict[str, frozenset[str]] = {}

    def step(self, step: Step) -> None:
        """Match and fit one step."""
        self.walk()
        reads = reads_of(self.plan, step)
        self.match_tables(step, reads)
        fitted = [r for r in reads if self.needs_fit(step, r)]
        new, inside = ([n for n in some if not any(k == n for k, _ in self.members)] for some in (step.spaces, step.inside))
        work = Work(self.plan, step, reads, None, self.method)
        same = {n: same_channels(work, self.plan.spaces[n], self.exact, self.members) for n in new}
        self.same |= {n: len(groups) for n, groups in same.items()}
        if self.frontier is not None and fitted:
            work = replace(work, stats=StepStatistics(self.frontier, step, fitted, self.members, self.repair, self.peers))
        for number in new:
            self.members |= pair_channels(work, self.plan.spaces[number], same[number], self.members)
        for number in inside:
            outer = self.plan.spaces[self.plan.overlay.inside[number]]
            self.members |= pair_inside(work, outer, number, self.exact, self.members)
        result = fit_step(work, self.exact, self.members)
        made = {key: m for key, m in self.members.items() if key[0] in {*new, *inside}}
        params, made = agreed(self.peers, step.name, result.params, made)
        self.params |= params
        self.members |= made
        self.fits[step.name] = result.fits
        for r in reads:
            for name in (*r.names, r.bias):
                self.touched[name] = result.touched[r.key]

    def match_tables(self, step: Step, reads: Sequence[Reads]) -> None:
        """Match the spaces that params carry which a step's inputs wait for, and run the fused net up to these."""
        read = [b.piece.name for r in reads for b in r.blocks]
        read += [p.name for laid in step.skips for p in self.plan.layout.pieces[laid].values()]
        waiting = waiting_params(self.plan, read, {**self.exact, **self.params})
        if not waiting:
            return
        known = [number for number, _ in self.members]
        made, counts = pair_waiting(self.plan, self.method, self.frontier, waiting, known, self.peers)
        self.counts |= counts
        _, made = agreed(self.peers, f"{step.name}, tables", {}, made)
        self.members |= made
        self.walk()
        if self.frontier is not None:
            self.frontier.advance(self.params, lambda n: None)

    def needs_fit(self, step: Step, reads: Reads) -> bool:
        """Whether any row of a strand is shared, or refitted since what it reads is no longer exact."""
        space_rows = [r for n in step.spaces for s in self.plan.spaces[n].strands if s.key == reads.key for r in s.rows]
        tasks = frozenset(step.tasks)
        if any(len(r.owners & tasks) > 1 for r in space_rows) or (step.diagonal and len(reads.owners) > 1):
            return True
        if not self.method.refit:
            return False
        pieces = [b.piece for b in reads.blocks]
        pieces += [p for laid in step.skips for k, p in self.plan.layout.pieces[laid].items() if k == reads.key]
        return any(t not in self.exact[p.name] for p in pieces for t in reads.owners)

    def walk(self) -> None:
        """Take over params whose channels are matched, and follow which values are still exact."""
        for taken in self.plan.layout.taken:
            if taken.name not in self.params and self.is_matched(taken):
                self.params[taken.name], same = take(
                    self.plan, taken, self.members, self.counts.get(taken.laid, {})
                )
                self.touched[taken.name] = frozenset() if same else taken.owners
        for placed in self.plan.layout.placed:
            if placed.node.name in self.walked:
                continue
            inputs = [v for v in placed.node.inputs if v is not None]
            if not all(v in self.exact or v in self.params for v in inputs):
                continue
            exact = frozenset(placed.owners)
            for value in inputs:
                exact = exact & self.exact[value] if value in self.exact else exact - self.touched.get(value, frozenset())
            for out in placed.node.outputs:
                self.exact[out] = exact
            self.walked.add(placed.node.name)

    def is_matched(self, taken: Taken) -> bool:
        task = next(t for t in self.plan.tasks if t in taken.owners)
        known = {*self.plan.spaces, *self.plan.overlay.inside}
        numbers = {a for e in self.plan.overlay.exprs(taken.laid, task) for a in e.atoms() if a in known}
        return not taken.keys or numbers <= {n for n, _ in self.members}


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


def blas_threads(plan: Plan) -> AbstractContextManager[object]:
    """One BLAS thread meanwhile, unless a step is wide.

    Measured: OpenBLAS factorises 800 x 800 (Cholesky) in 7.4 ms with one thread, in 12.8 ms at best with two, and in many
    times that when another process keeps a core busy; its threads pay off from about 1,500 columns on.
    """
    widest = max((r.columns for step in plan.steps for r in reads_of(plan, step)), default=0)
    return nullcontext() if widest >= WIDE else threadpool_limits(1, user_api="blas")


def zip_nets(
    plan: Plan, method: Method, frontier: Frontier | None, *, repair: bool, tick: Tick, peers: Peers = ALONE
) -> Zipped:
    """Match and fit every step of a plan.

    Args:
        method: how.
        frontier: live values and targets; None where the method looks at no data, or nothing is shared.
        repair: whether a branch's target is the original sum less the fused skip.
        tick: called with 1 after each step.
        peers: the processes that have the other samples; all find the same.

    Returns:
        All params of the fused net, who stands behind each channel, and how well each step fits.
    """
    work = _Zip(plan, method, frontier, repair, peers)
    with blas_threads(plan):
        work.walk()
        if frontier is not None:
            frontier.advance(work.params, lambda n: None)
        for step in plan.steps:
            work.step(step)
            if frontier is not None:
                work.walk()
                frontier.forget(step)
                frontier.advance(work.params, lambda n: None)
            give_back_freed()
            tick(1)
        work.walk()
    return Zipped(work.params, work.members, work.fits, work.same)
