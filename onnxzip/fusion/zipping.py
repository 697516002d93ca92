"""The zip proper: through the steps in topological order, each on the inputs that the fused net computes by then."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from onnxzip.analysis import Plan, analyse
from onnxzip.analysis.steps import Step
from onnxzip.calibration.frontier import Frontier, Tick
from onnxzip.fusion.originals import OriginalStatistics
from onnxzip.fusion.problem import Reads, reads_of
from onnxzip.fusion.statistics import StepStatistics
from onnxzip.fusion.underway import Keep, Zip
from onnxzip.fusion.work import Statistics
from onnxzip.fusion.zipped import Zipped
from onnxzip.matching.methods import AVERAGE, Method, Rows
from onnxzip.peers import ALONE, Peers
from onnxzip.runtime import give_back_freed, let_go

WIDE = 1500  # columns


def as_it_is(array: np.ndarray) -> np.ndarray:
    """An array in memory."""
    return array


class _ZipBeside(Zip):
    """A zip that fits its rows to what the original nets compute: a merge that shares nothing goes on beside it."""

    def __init__(self, plan: Plan, method: Method, frontier: Frontier, peers: Peers, keep: Keep) -> None:
        super().__init__(plan, method, frontier, peers, keep)
        self.apart = Zip(frontier.plan, AVERAGE, None, ALONE, keep)
        self.apart_steps = {s.name: s for s in frontier.plan.steps}

    def advance(self) -> None:
        """Run the original nets as far as a merge that shares nothing has gone."""
        self.walk()
        self.apart.walk()
        assert self.frontier is not None
        self.frontier.advance(self.apart.params, lambda n: None)

    def finish(self, step: Step) -> None:
        """Go on to the next step, beside it too."""
        self.apart.step(self.apart_steps[step.name])
        super().finish(self.apart_steps[step.name])

    def statistics(self, step: Step, reads: Sequence[Reads]) -> Statistics | None:
        """What is known of the original nets' data."""
        if self.frontier is None or not reads:
            return None
        plan, same = self.frontier.plan, self.apart_steps[step.name]
        apart = reads_of(plan, same)
        inner = StepStatistics(self.frontier, same, apart, self.apart.members, self.method.repair_skips, self.peers)
        by_task = {t: next(r for r in apart if r.key == frozenset([t])) for t in step.tasks}
        return OriginalStatistics(
            self.plan, self.members, step, plan, self.apart.members, by_task, inner, self.method.shrink
        )


def live_plan(plan: Plan, method: Method) -> Plan:
    """The plan whose values a method looks at: the merge's own, or the one that shares nothing, the original nets."""
    if method.rows is not Rows.ORIGINAL:
        return plan
    apart = analyse([plan.nets[t] for t in plan.tasks], (("*", 0.0),), inputs=plan.overlay.inputs)
    return replace(apart, elsewhere={t: live_plan(other, method) for t, other in plan.elsewhere.items()})


def _blas_threads(plan: Plan) -> AbstractContextManager[object]:
    """One BLAS thread meanwhile, unless a step is wide.

    Measured: OpenBLAS factorises 800 x 800 (Cholesky) in 7.4 ms with one thread, in 12.8 ms at best with two, and in many
    times that when another process keeps a core busy; its threads pay off from about 1,500 columns on.
    """
    widest = max((r.columns for step in plan.steps for r in reads_of(plan, step)), default=0)
    return nullcontext() if widest >= WIDE else threadpool_limits(1, user_api="blas")


def zip_nets(
    plan: Plan, method: Method, frontier: Frontier | None, *, tick: Tick, peers: Peers = ALONE, keep: Keep = as_it_is
) -> Zipped:
    """Match and fit every step of a plan.

    Args:
        method: how.
        frontier: live values and targets; None where the method looks at no data, or nothing is shared. Of the plan that
            shares nothing where the method's rows are fitted to the original nets.
        tick: called with 1 after each step.
        peers: the processes that have the other samples; all find the same.
        keep: where params wait that are found.

    Returns:
        All params of the fused net, who stands behind each channel, and how well each step fits.
    """
    if method.rows is Rows.ORIGINAL and frontier is not None:
        work: Zip = _ZipBeside(plan, method, frontier, peers, keep)
    else:
        work = Zip(plan, method, frontier, peers, keep)
    with _blas_threads(plan):
        work.match_beforehand()
        work.advance()
        for step in plan.steps:
            work.step(step)
            work.finish(step)
            give_back_freed()
            let_go(array for net in plan.nets.values() for array in net.params.values())
            let_go(work.params.values())
            tick(1)
        work.walk()
    return Zipped(work.params, work.members, work.fits, work.same, frozenset(work.turned), work.orders)
