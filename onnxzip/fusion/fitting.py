"""One step of the zip: match its new spaces, fit every strand of its output, keep what need not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.steps import Step, weights_of
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.fusion.problem import Reads, original_channels, original_rows, row_positions, to_params
from onnxzip.fusion.statistics import StepStatistics, TaskStatistics
from onnxzip.linalg.ridge import Fit, Normal, fit_diagonal, fit_dual, fit_primal, solve_damped
from onnxzip.matching.grouping import group_channels
from onnxzip.matching.match import Matches, Members, members_of
from onnxzip.matching.methods import Method

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class StepResult:
    """What one step has found.

    Attributes:
        params: fused weights by name.
        fits: key of the strand -> fit of its rows (several where rows of one strand have different owners).
        touched: key -> tasks whose rows are no longer the original ones.
    """

    params: Mapping[str, np.ndarray]
    fits: Mapping[Owners, tuple[Fit, ...]]
    touched: Mapping[Owners, frozenset[str]]


def weight_of(stats: TaskStatistics) -> float:
    """Weight of a task in a shared fit: its targets' mean energy becomes one."""
    return 1.0 / max(float(stats.train.pp.mean()), TINY)


def propagated(stats: TaskStatistics, rows: np.ndarray) -> TaskStatistics:
    """The same with the original rows' own products as targets: p = w z."""
    def replaced(m):  # type: ignore[no-untyped-def]
        zp = m.zz @ rows.T
        return replace(m, zp=zp, pp=np.einsum("rc,cr->r", rows, zp))

    if stats.rows is None or stats.held_rows is None:
        return TaskStatistics(replaced(stats.train), replaced(stats.held))
    new = [(z, (z @ rows.T).astype(z.dtype)) for z, _ in (stats.rows, stats.held_rows)]
    moments = [replace(m, pp=np.mean(p.astype(np.float64) ** 2, axis=0)) for m, (_, p) in zip((stats.train, stats.held), new, strict=True)]
    return TaskStatistics(moments[0], moments[1], new[0], new[1])


class StepFitter:
    """Statistics and original rows of one step, and what can be asked of them."""

    def __init__(self, plan: Plan, step: Step, reads: Sequence[Reads], matches: Matches, stats: StepStatistics | None, method: Method):
        self.plan, self.step, self.reads, self.matches = plan, step, {r.key: r for r in reads}, matches
        self.stats, self.method = stats, method

    def task_statistics(self, task: str, reads: Reads, group: int) -> TaskStatistics:
        assert self.stats is not None
        found = self.stats.of(task, reads, group)
        if self.method.original_targets:
            return found
        return propagated(found, original_rows(self.plan, self.step, reads, group, task, self.matches))

    # matching ---------------------------------------------------------------------------------------------------------

    def match(self, space: SpacePlan) -> dict[tuple[int, Owners], Members]:
        """Members of every strand of a space that this step produces first."""
        counts = {o: n for o, n in space.counts.items() if len(o) > 1}
        if not counts:
            return members_of(space, [], [])
        tasks = [t for t in self.step.tasks if any(t in o for o in counts)]
        widest = max(counts, key=len)
        key = next(s.key for s in space.strands if any(r.owners == widest for r in s.rows))
        reads = self.reads[key]
        rows = {t: self.channel_rows(space, t) for t in tasks}
        if self.stats is None:
            energy = {t: np.zeros(space.sizes[t]) for t in tasks}
            explained = {(t, u): np.zeros((space.sizes[t], space.sizes[u])) for t in tasks for u in tasks}
        else:
            energy, explained = self.pair_terms(reads, tasks, rows)
        groups = group_channels(counts, energy, explained, self.method.assign, self.method.relative)
        return members_of(space, groups, [{t: 1.0 for t in g} for g in groups])

    def channel_rows(self, space: SpacePlan, task: str) -> np.ndarray:
        """Output rows of every channel of a space: int [channels, rows per channel], flat over all groups."""
        found = weights_of(self.plan.overlay, self.step.parts[0], task)
        assert found is not None
        linear, view = found
        expr = self.plan.overlay.exprs(self.step.parts[0].outputs[0], task)[linear.channel(view)]
        from onnxzip.analysis.spaces import positions

        nothing = np.zeros(0, np.int64)
        others = {a: nothing for a in expr.atoms() if a != space.number and expr.kind == "sum" and a in self.plan.spaces}
        return np.stack([positions(expr, {**others, space.number: np.array([c])}) for c in range(space.sizes[task])])

    def pair_terms(
        self, reads: Reads, tasks: Sequence[str], rows: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[tuple[str, str], np.ndarray]]:
        """Energies of all channels and how much one row explains of each pair, for the space's group."""
        group = self.group_of(rows[tasks[0]])
        stats = {t: self.task_statistics(t, reads, group) for t in tasks}
        offset = {t: group * len(stats[t].train.pp) for t in tasks}
        weight = {t: weight_of(stats[t]) for t in tasks}
        energy = {t: weight[t] * stats[t].train.pp[rows[t] - offset[t]].sum(axis=1) for t in tasks}
        whole = _explained(stats, weight, self.method.match_damping)
        return energy, {
            (t, u): sum(whole[t, u][np.ix_(rows[t][:, m] - offset[t], rows[u][:, m] - offset[u])] for m in range(rows[t].shape[1]))
            for t in tasks for u in tasks
        }

    def group_of(self, rows: np.ndarray) -> int:
        reads = next(iter(self.reads.values()))
        if reads.groups == 1:
            return 0
        task = self.step.tasks[0]
        found = weights_of(self.plan.overlay, self.step.parts[0], task)
        assert found is not None
        total = found[1].outputs[0][found[0].channel(found[1])]
        return int(rows.min() // (total // reads.groups))

    # fitting ----------------------------------------------------------------------------------------------------------

    def fit(self, exact: Mapping[str, frozenset[str]], matches: Matches) -> StepResult:
        """Rows of every strand.

        Args:
            exact: value of the fused net -> tasks for which it is what their originals compute.
            matches: with those of this step.
        """
        self.matches = matches
        params: dict[str, np.ndarray] = {}
        fits: dict[Owners, tuple[Fit, ...]] = {}
        touched: dict[Owners, frozenset[str]] = {}
        for key, reads in self.reads.items():
            if self.step.diagonal:
                rows, found, changed = self.fit_channels(reads, exact)
                params |= to_params(self.plan, self.step, reads, [rows])
            else:
                by_group = [self.fit_rows(reads, g, exact) for g in range(reads.groups)]
                params |= to_params(self.plan, self.step, reads, [r for r, _, _ in by_group])
                found = tuple(f for _, fs, _ in by_group for f in fs)
                changed = frozenset(t for _, _, c in by_group for t in c)
            fits[key], touched[key] = found, changed
        return StepResult(params, fits, touched)

    def is_exact(self, reads: Reads, task: str, exact: Mapping[str, frozenset[str]]) -> bool:
        """Whether a task's original rows, applied to what the strand reads, give what they gave in the original net."""
        if not all(task in exact[b.piece.name] for b in reads.blocks):
            return False
        skips = [p for laid in self.step.skips for k, p in self.plan.layout.pieces[laid].items() if k == reads.key]
        return all(task in exact[p.name] for p in skips)

    def fit_rows(self, reads: Reads, group: int, exact: Mapping[str, frozenset[str]]) -> tuple[np.ndarray, tuple[Fit, ...], frozenset[str]]:
        """Rows of one strand in one group: by owners, each on the data of its owners."""
        places = {t: row_positions(self.plan, self.step, reads.key, t, self.matches) for t in sorted(reads.owners)}
        size = len(next(iter(places.values()))[0]) // reads.groups
        mine = slice(group * size, (group + 1) * size)
        rows = np.zeros((size, reads.columns))
        fits, changed = [], set()
        for owners, index in _by_owners({t: at[mine] for t, (at, _) in places.items()}).items():
            own = {t: original_rows(self.plan, self.step, reads, group, t, self.matches) for t in owners}
            at = {t: places[t][0][mine][index] - group * len(own[t]) for t in owners}
            factor = {t: places[t][1][mine][index] for t in owners}
            centre = np.mean([own[t][at[t]] * factor[t][:, None] for t in owners], axis=0)
            single = len(owners) == 1
            if single and (not self.method.refit or all(self.is_exact(reads, t, exact) for t in owners)):
                rows[index] = centre
                if not all(self.is_exact(reads, t, exact) for t in owners):
                    changed.update(owners)
                continue
            changed.update(owners)
            fit = self.solve(reads, group, owners, at, factor, centre)
            rows[index] = fit.rows
            fits.append(fit)
        return rows, tuple(fits), frozenset(changed)

    def solve(self, reads: Reads, group: int, owners: Sequence[str], at: Mapping[str, np.ndarray], factor: Mapping[str, np.ndarray], centre: np.ndarray) -> Fit:
        if self.stats is None:
            return Fit(centre, 0.0, float("nan"))
        stats = {t: self.task_statistics(t, reads, group) for t in owners}
        weight = {t: weight_of(stats[t]) for t in owners}
        if self.stats.dual:
            return fit_dual(*_stacked(stats, weight, at, factor), centre, self.method.grid)
        train, held = (_summed({t: m for t, m in zip(owners, ms, strict=True)}, weight, at, factor)
                       for ms in ([s.train for s in stats.values()], [s.held for s in stats.values()]))
        return fit_primal(train, held, centre, self.method.grid)

    def fit_channels(self, reads: Reads, exact: Mapping[str, frozenset[str]]) -> tuple[np.ndarray, tuple[Fit, ...], frozenset[str]]:
        """Rows of a diagonal strand: [channels, rows per channel, taps + 1]."""
        owners = sorted(reads.owners)
        own = {t: original_channels(self.plan, self.step, reads.key, t, self.matches) for t in owners}
        present = {t: self.channel_presence(reads, t) for t in owners}
        rows = np.zeros_like(own[owners[0]])
        fits, changed = [], set()
        for group, index in _by_owners({t: np.where(present[t], 0, -1) for t in owners}).items():
            centre = np.mean([own[t][index] for t in group], axis=0)
            keep = len(group) == 1 and (not self.method.refit or self.is_exact(reads, group[0], exact))
            if keep or self.stats is None:
                rows[index] = centre
                if len(group) > 1 or not self.is_exact(reads, group[0], exact):
                    changed.update(group)
                continue
            changed.update(group)
            fit = self.solve_channels(reads, group, index, centre, own)
            rows[index] = fit.rows
            fits.append(fit)
        return rows, tuple(fits), frozenset(changed)

    def channel_presence(self, reads: Reads, task: str) -> np.ndarray:
        from onnxzip.matching.match import located

        found = weights_of(self.plan.overlay, self.step.parts[0], task)
        assert found is not None
        expr = self.plan.overlay.exprs(str(self.step.parts[0].inputs[0]), task)[found[0].channel(found[1])]
        at, _ = located(self.plan.overlay, expr, task, reads.blocks[0].piece.keys, self.matches)
        return at >= 0

    def solve_channels(self, reads: Reads, owners: Sequence[str], index: np.ndarray, centre: np.ndarray, own: Mapping[str, np.ndarray]) -> Fit:
        assert self.stats is not None
        sums: list[list[np.ndarray]] = []
        for side in (0, 1):
            zz: np.ndarray | float = 0.0
            zp: np.ndarray | float = 0.0
            pp: np.ndarray | float = 0.0
            for task in owners:
                both = self.stats.of_channels(task, reads)
                m = both[side]
                rows = own[task][index]
                zp_t, pp_t = m.zp[index], m.pp[index]
                if not self.method.original_targets:
                    zp_t = m.zz[index] @ rows.swapaxes(1, 2)
                    pp_t = np.einsum("cmk,ckm->cm", rows, zp_t)
                weight = 1.0 / max(float(both[0].pp[index].mean()), TINY)
                zz, zp, pp = zz + weight * m.zz[index], zp + weight * zp_t, pp + weight * pp_t
            sums.append([np.asarray(zz), np.asarray(zp), np.asarray(pp)])
        return fit_diagonal(sums[0][0], sums[0][1], (sums[1][0], sums[1][1], sums[1][2]), centre, self.method.grid)


def _by_owners(at: Mapping[str, np.ndarray]) -> dict[tuple[str, ...], np.ndarray]:
    """Rows by the tasks that have a channel there: owners -> int indices."""
    tasks = list(at)
    codes = sum((at[t] >= 0).astype(np.int64) << k for k, t in enumerate(tasks))
    return {
        tuple(t for k, t in enumerate(tasks) if code >> k & 1): np.flatnonzero(codes == code)
        for code in np.unique(np.asarray(codes)) if code
    }


def _summed(moments: Mapping[str, object], weight: Mapping[str, float], at: Mapping[str, np.ndarray], factor: Mapping[str, np.ndarray]) -> Normal:
    """Normal equations of a shared fit."""
    zz = sum(weight[t] * m.zz for t, m in moments.items())  # type: ignore[attr-defined]
    zp = sum(weight[t] * m.zp[:, at[t]] * factor[t] for t, m in moments.items())  # type: ignore[attr-defined]
    pp = sum(weight[t] * m.pp[at[t]] * factor[t] ** 2 for t, m in moments.items())  # type: ignore[attr-defined]
    return Normal(np.asarray(zz), np.asarray(zp), np.asarray(pp))


def _stacked(
    stats: Mapping[str, TaskStatistics], weight: Mapping[str, float], at: Mapping[str, np.ndarray], factor: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of all owners, each scaled by the root of its weight."""
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for task, s in stats.items():
        assert s.rows is not None and s.held_rows is not None
        for k, (z, p) in enumerate((s.rows, s.held_rows)):
            root = np.float32(np.sqrt(weight[task] / max(len(z), 1)))
            parts[2 * k].append(z * root)
            parts[2 * k + 1].append((p[:, at[task]] * factor[task]).astype(np.float32) * root)
    z, p, held_z, held_p = (np.concatenate(x) for x in parts)
    return z, p, held_z, held_p


def _explained(stats: Mapping[str, TaskStatistics], weight: Mapping[str, float], damping: float) -> dict[tuple[str, str], np.ndarray]:
    """(task, task) -> C' (G + l d I)^-1 C over all targets."""
    tasks = list(stats)
    first = stats[tasks[0]]
    if first.rows is None:
        zz = np.asarray(sum(weight[t] * stats[t].train.zz for t in tasks))
        right = [weight[t] * stats[t].train.zp for t in tasks]
        solved = solve_damped(zz, np.concatenate(right, axis=1), damping)
        whole = np.concatenate(right, axis=1).T @ solved
    else:
        z = np.concatenate([s.rows[0] * np.float32(np.sqrt(weight[t] / len(s.rows[0]))) for t, s in stats.items() if s.rows])
        kernel = (z @ z.T).astype(np.float64)
        shift = damping * float(np.trace(kernel)) / z.shape[1]
        blocks = [s.rows[1].astype(np.float64) * np.sqrt(weight[t] / len(s.rows[0])) for t, s in stats.items() if s.rows]
        import scipy.linalg

        p = scipy.linalg.block_diag(*blocks)
        whole = p.T @ (p - shift * solve_damped(kernel, p, shift * len(kernel) / float(np.trace(kernel))))
    sizes = [stats[t].train.pp.shape[0] for t in tasks]
    starts = np.cumsum([0, *sizes])
    return {
        (t, u): whole[starts[i] : starts[i + 1], starts[j] : starts[j + 1]]
        for i, t in enumerate(tasks) for j, u in enumerate(tasks)
    }
