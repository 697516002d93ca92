"""A zip under way: matches, params and what is still exact, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Taken
from onnxzip.analysis.steps import Step
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.calibration.features import Features, gather_features
from onnxzip.calibration.frontier import Frontier
from onnxzip.fusion.fitting import fit_step
from onnxzip.fusion.frames import frames_of
from onnxzip.fusion.over_time import StepInTime
from onnxzip.fusion.pairing import pair_channels, pair_inside, same_channels
from onnxzip.fusion.problem import Reads, check_finite, pieces_read, reads_of
from onnxzip.fusion.sharing import agreed
from onnxzip.fusion.statistics import StepStatistics
from onnxzip.fusion.tables import Counts, pair_waiting, waiting_params
from onnxzip.fusion.taking import orders_of, spaces_of_states, take
from onnxzip.fusion.together import fit_tied, uses_of
from onnxzip.fusion.turning import may_turn, turned
from onnxzip.fusion.units import units_in_time
from onnxzip.fusion.work import Statistics, Work
from onnxzip.linalg.ridge import Quality
from onnxzip.matching.match import Members, given_members, in_order_of_first, in_place, members_of, ordered_groups
from onnxzip.matching.methods import Method, Rows
from onnxzip.matching.parts import in_parts
from onnxzip.matching.twins import same_of_twins
from onnxzip.peers import Peers

Keep = Callable[[np.ndarray], np.ndarray]


class Zip:
    """A merge between two of its steps: what is known of the fused net, and what each step adds to that.

    Args:
        plan, method, frontier, peers, keep: as of `zipping.zip_nets`.
    """

    def __init__(self, plan: Plan, method: Method, frontier: Frontier | None, peers: Peers, keep: Keep) -> None:
        self.plan, self.method, self.frontier, self.peers, self.keep = plan, method, frontier, peers, keep
        self.members: dict[tuple[int, Owners], Members] = {}
        self.params: dict[str, np.ndarray] = {}
        self.fits: dict[str, Mapping[Owners, tuple[Quality, ...]]] = {}
        self.same: dict[int, int] = {}
        self.exact: dict[str, frozenset[str]] = {}
        self.walked: set[str] = set()
        self.counts: dict[str, Counts] = {}
        self.turned: set[int] = set()
        self.orders: dict[tuple[str, str], np.ndarray] = {}
        self.carried = spaces_of_states(plan)
        for port in plan.inputs:
            self.exact[port.name] = frozenset(plan.overlay.values[port.name])
        for space in plan.spaces.values():
            if space.given:
                self.members |= given_members(space)
            elif all(len(o) == 1 for o in space.counts):
                self.members |= members_of(space, [])
                for number, size in space.inside.items():
                    self.members |= in_place(space, number, size)
        self.touched: dict[str, frozenset[str]] = {}
        self.uses = uses_of(plan)
        fits = method.refit and method.rows is Rows.FUSED and frontier is not None
        self.in_time = units_in_time(plan) if fits else {}
        self.frames = frames_of(plan) if fits else []
        self.unfitted: dict[str, np.ndarray] = {}  # params of these, as `take` gives them
        self.alike: set[str] = set()  # of which the same in all originals

    def match_beforehand(self) -> None:
        """Match all spaces at once, where the method does."""
        if self.method.beforehand is not None:
            self.members |= self.method.beforehand(self.plan, self.gather)
            for space in self.plan.spaces.values():
                for number, size in space.inside.items():
                    self.members |= in_place(space, number, size)

    def gather(self) -> Features:
        """What the channels of the original nets do on all samples."""
        if self.frontier is None:
            raise ValueError(f"method {self.method.name!r} matches by data and was given none")
        return gather_features(self.frontier, self.peers)

    def advance(self) -> None:
        """Run the fused net as far as its params are known."""
        self.walk()
        if self.frontier is not None and self.method.needs_targets:
            self.frontier.own = self.orders
            waiting = {name for frames in self.frames for name in frames.params}
            self.frontier.advance({k: a for k, a in self.params.items() if k not in waiting}, lambda n: None)
            fitted = [name for name in tuple(self.in_time) if self.fit_in_time(name, self.frontier)]
            ready = [frames for frames in self.frames if frames.is_ready(self.frontier, self.orders)]
            for frames in ready:
                exact = frozenset[str].intersection(*(self.exact[v] for v in frames.own))
                frames.go_on(self.frontier, self.orders, exact, self.peers)
            self.frames = [frames for frames in self.frames if frames not in ready]
            if fitted or ready:
                self.advance()

    def fit_in_time(self, name: str, frontier: Frontier) -> bool:
        """Fit what hidden units say to each other, once all that they read is known."""
        units = self.in_time[name]
        own, owners = set(units.names), units.placed.owners
        if own <= self.params.keys() or not own <= self.params.keys() | self.unfitted.keys():
            return False
        matched, params = replace(units, matches=self.members), {**self.params, **self.unfitted}
        step = StepInTime(matched, frontier, params, self.method, self.peers)
        if own <= self.alike and all(owners <= self.exact.get(v, frozenset()) for v in (units.gates, *units.others)):
            found, owners = {n: self.unfitted[n] for n in units.names}, frozenset()
        elif step.is_ready():
            found, _ = agreed(self.peers, f"{units.placed.node.name}, in time", step.fit(), {})
        else:
            return False
        self.params |= {n: self.keep(array) for n, array in found.items()}
        self.touched |= dict.fromkeys(own, owners)
        del self.in_time[name]
        return True

    def finish(self, step: Step) -> None:
        """Go on to the next step."""
        if self.frontier is not None:
            self.frontier.forget(step)
        self.advance()

    def statistics(self, step: Step, reads: Sequence[Reads]) -> Statistics | None:
        """What is known of the data of some strands of a step; None where nobody asks."""
        if self.frontier is None or not reads or not self.method.needs_targets:
            return None
        return StepStatistics(self.frontier, step, reads, self.members, self.method.repair_skips, self.peers)

    def step(self, step: Step) -> None:
        """Match and fit one step."""
        self.walk()
        reads = reads_of(self.plan, step)
        self.match_tables(step, reads)
        reads = tuple(r for r in reads if r.bias not in self.params)  # less those that were fitted with others
        tied = {r: self.uses[step.name, r.key] for r in reads if (step.name, r.key) in self.uses}
        fitted = [r for r in reads if (r not in tied or len(r.owners) > 1) and self.needs_fit(step, r)]
        if self.frontier is not None and self.method.needs_targets:
            check_finite(self.plan, step, [r for r in fitted if len(r.owners) > 1 or step.diagonal or r in tied])
        new, inside = self.undecided(step), [n for n in step.inside if not any(k == n for k, _ in self.members)]
        work = Work(self.plan, step, reads, None, self.method)
        same = {n: same_channels(work, self.plan.spaces[n], self.exact, self.members) for n in new}
        self.same |= {n: len(groups) + same_of_twins(self.plan.spaces[n]) for n, groups in same.items()}
        work = replace(work, stats=self.statistics(step, fitted))
        for number in (n for n in new if not same[n]):
            work = self.turn(work, self.plan.spaces[number], fitted)
        for number in new:
            paired = pair_channels(work, self.plan.spaces[number], same[number], self.members)
            paired = in_order_of_first(paired, self.plan.tasks) if number in self.carried else paired
            self.members |= in_parts(self.plan, paired)
        for number in inside:
            outer = self.plan.spaces[self.plan.overlay.inside[number]]
            paired = pair_inside(work, outer, number, self.exact, self.members)
            self.members |= in_order_of_first(paired, self.plan.tasks) if number in self.carried else paired
        if inside and step.diagonal:  # its targets stand in the order that was just found
            work = replace(work, stats=self.statistics(step, fitted))
        found = [fit_step(replace(work, reads=tuple(r for r in reads if r not in tied)), self.exact, self.members)]
        for r, uses in tied.items():
            beside = self.method.rows is Rows.ORIGINAL  # the merge beside this one knows nothing of steps to come
            fits, ahead = self.needs_fit(step, r), (lambda *_: None) if beside else self.statistics
            found.append(fit_tied(work, r, uses if fits else (), self.exact, self.members, ahead))
        made = {key: m for key, m in self.members.items() if key[0] in {*new, *inside}}
        params, made = agreed(self.peers, step.name, {k: a for f in found for k, a in f.params.items()}, made)
        self.params |= {name: self.keep(array) for name, array in params.items()}
        self.members |= made
        self.fits[step.name] = {key: fits for f in found for key, fits in f.fits.items()}
        self.touched |= {name: tasks for f in found for name, tasks in f.touched.items()}

    def undecided(self, step: Step) -> list[int]:
        """Spaces whose channels are to be matched at a step; those of tasks that others make later, and without them, stay."""
        found = []
        for space in (self.plan.spaces[n] for n in step.spaces):
            if all((space.number, s.key) in self.members for s in space.strands):
                continue
            shared = [o for o in space.counts if len(o) > 1]
            if shared and all(o.isdisjoint(step.tasks) for o in shared):
                own = members_of(space, ordered_groups(space))
                self.members |= in_parts(self.plan, {k: m for k, m in own.items() if k[1] <= frozenset(step.tasks)})
            else:
                found.append(space.number)
        return found

    def turn(self, work: Work, space: SpacePlan, fitted: Sequence[Reads]) -> Work:
        """Bring a space whose basis is free along its principal axes, and look at the step again."""
        if not self.method.turn or work.stats is None or not may_turn(work, space, self.members):
            return work
        assert self.frontier is not None
        self.plan = turned(self.plan, self.frontier, space, self.peers)
        self.turned.add(space.number)
        return replace(work, plan=self.plan, stats=self.statistics(work.step, fitted), turned=frozenset(self.turned))

    def match_tables(self, step: Step, reads: Sequence[Reads]) -> None:
        """Match the spaces that params carry which a step's inputs wait for, and run the fused net up to these."""
        read = [b.piece.name for r in reads for b in r.blocks]
        read += [p.name for laid in step.skips for p in self.plan.layout.pieces[laid].values()]
        waiting = waiting_params(self.plan, read, {**self.exact, **self.params})
        if not waiting:
            return
        known = [number for number, _ in self.members]
        watched = self.frontier if self.method.rows is Rows.FUSED else None
        paired = pair_waiting(self.plan, self.method, watched, waiting, known, self.peers)
        self.plan, self.counts, self.turned = paired.plan, self.counts | paired.counts, self.turned | paired.turned
        _, made = agreed(self.peers, f"{step.name}, tables", {}, in_parts(self.plan, paired.made))
        self.members |= made
        self.advance()

    def needs_fit(self, step: Step, reads: Reads) -> bool:
        """Whether any row of a strand is shared, or refitted since what it reads is no longer exact."""
        space_rows = [r for n in step.spaces for s in self.plan.spaces[n].strands if s.key == reads.key for r in s.rows]
        tasks = frozenset(step.tasks)
        if any(len(r.owners & tasks) > 1 for r in space_rows) or (step.diagonal and len(reads.owners) > 1):
            return True
        if not (self.method.refit or self.method.restore):
            return False
        return any(t not in self.exact[p.name] for p in pieces_read(self.plan, step, reads) for t in reads.owners)

    def walk(self) -> None:
        """Take over params whose channels are matched, and follow which values are still exact."""
        for taken in self.plan.layout.taken:
            if taken.name not in self.params and taken.name not in self.unfitted and self.is_matched(taken):
                array, same = take(self.plan, taken, self.members, self.counts.get(taken.laid, {}), self.method.follow)
                self.alike |= {taken.name} if same else set()
                fitted = any(taken.name in u.names and (not same or u.hearing is not None) for u in self.in_time.values())
                (self.unfitted if fitted else self.params)[taken.name] = array
                orders = orders_of(self.plan, taken, self.members)
                self.touched[taken.name] = frozenset() if orders or (same and not taken.led) else taken.owners
                self.orders |= orders
        for placed in self.plan.layout.placed:
            if placed.node.name in self.walked:
                continue
            inputs = placed.node.read
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
        strands = {(n, s.key) for n in numbers if n in self.plan.spaces for s in self.plan.spaces[n].strands}
        ahead = {key for _, key in strands - self.members.keys()}  # of tasks that are matched in a later step
        return not taken.keys or (numbers <= {n for n, _ in self.members} and ahead.isdisjoint(taken.keys))
