"""One step of the zip: fit every strand of its output, keep what need not change.

A row of owners T is the damped least squares over the data of the tasks in T, centred at the mean of their original rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from onnxzip.analysis.strands import Owners
from onnxzip.fusion.channels import fit_channels
from onnxzip.fusion.duplicates import equal_rows, reads_exactly
from onnxzip.fusion.problem import Reads, member_rows, original_rows, row_positions, to_params
from onnxzip.fusion.restoring import restored, spread_of
from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.fusion.work import Exact, Work, by_owners
from onnxzip.linalg.moments import Moments
from onnxzip.linalg.rectified import Sampled, refit_rectified
from onnxzip.linalg.ridge import Fit, Normal, fit_dual, fit_primal
from onnxzip.matching.match import Matches


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


@dataclass(frozen=True)
class _Chosen:
    """Some rows of a strand as a task sees them: its original rows `at`; its weight in the fit."""

    stats: TaskStatistics
    at: np.ndarray
    weight: float


def fit_step(work: Work, exact: Exact, matches: Matches) -> StepResult:
    """Rows of every strand.

    Args:
        exact: value of the fused net -> tasks for which it is what their originals compute.
        matches: with those of this step.
    """
    params: dict[str, np.ndarray] = {}
    fits: dict[Owners, tuple[Fit, ...]] = {}
    touched: dict[Owners, frozenset[str]] = {}
    for reads in work.reads:
        if work.step.diagonal:
            by_group = [fit_channels(work, reads, exact, matches)]
        else:
            by_group = [fit_rows(work, reads, g, exact, matches) for g in range(reads.groups)]
        params |= to_params(work.plan, work.step, reads, [rows for rows, _, _ in by_group])
        fits[reads.key] = tuple(f for _, found, _ in by_group for f in found)
        touched[reads.key] = frozenset(t for _, _, changed in by_group for t in changed)
    return StepResult(params, fits, touched)


def fit_rows(
    work: Work, reads: Reads, group: int, exact: Exact, matches: Matches
) -> tuple[np.ndarray, tuple[Fit, ...], frozenset[str]]:
    """Rows of one strand in one group, by owners, each on the data of its owners: [rows, columns], their fits, and the tasks
    whose rows have changed."""
    places = {t: row_positions(work.plan, work.step, reads.key, t, matches) for t in sorted(reads.owners)}
    size = len(next(iter(places.values()))[0]) // reads.groups
    mine = slice(group * size, (group + 1) * size)
    rows = np.zeros((size, reads.columns))
    fits: list[Fit] = []
    changed: set[str] = set()
    for owners, index in by_owners({t: first[mine] for t, (first, *_) in places.items()}).items():
        own = {t: original_rows(work.plan, work.step, reads, group, t, matches) for t in owners}
        here = {t: [at[mine][index] - group * len(own[t]) for at in places[t]] for t in owners}
        made = {t: member_rows(own[t], here[t]) for t in owners}
        counts = [count for _, count in made.values()]
        mine_of = [total / count[:, None] for total, count in made.values()]
        rows[index] = np.sum([total for total, _ in made.values()], axis=0) / np.sum(counts, axis=0)[:, None]
        kept = _kept(work, reads, owners, mine_of, exact, matches) & (np.max(counts, axis=0) == 1)
        rows[index[kept]] = mine_of[0][kept]
        if kept.all():
            continue
        changed.update(owners)
        left = ~kept
        chosen = {t: here[t][0][left] for t in owners}
        if len(owners) > 1 or work.method.refit:
            fit = _solve(work, reads, group, chosen, rows[index[left]], matches)
            rows[index[left]] = fit.rows
            fits.append(replace(fit, system=None))
        if work.method.restore and work.stats is not None:
            spreads = [spread_of(rows[index[left]], work.stats.of(t, reads, group), chosen[t]) for t in owners]
            rows[index[left]] = restored(rows[index[left]], spreads)
    return rows, tuple(fits), frozenset(changed)


def _kept(
    work: Work, reads: Reads, owners: Sequence[str], rows: Sequence[np.ndarray], exact: Exact, matches: Matches
) -> np.ndarray:
    """Which rows of some owners stay as they are: all equal, and reading what they read in the originals: bool [rows]."""
    if len(owners) == 1:
        return np.full(len(rows[0]), work.is_exact(reads, owners[0], exact))
    same = equal_rows(rows)
    if same.any() and all(reads_exactly(work, reads, t, exact, matches) for t in owners):
        return same
    return np.zeros(len(same), bool)


def _solve(
    work: Work, reads: Reads, group: int, places: Mapping[str, np.ndarray], centre: np.ndarray,
    matches: Matches,
) -> Fit:
    """Fit rows on the data of the tasks in `places`: of each, its original rows."""
    if work.stats is None or not work.fits:
        return Fit(centre, 0.0, float("nan"))
    known = {t: work.statistics(t, reads, group, matches) for t in places}
    weights = work.weights(known)
    chosen = [_Chosen(s, places[t], weights[t]) for t, s in known.items()]
    if work.stats.dual:
        return fit_dual(*_stacked(chosen), centre, work.method.grid)
    train = _normal([(c, c.stats.train) for c in chosen])
    held = _normal([(c, c.stats.held) for c in chosen])
    fit = fit_primal(train, held, centre, work.method.grid)
    if not (work.method.rectify and work.stats.kept) or work.step.bounds is None or fit.system is None:
        return fit
    samples = []
    for task, c in zip(places, chosen, strict=True):
        z, p = work.stats.sampled(task, reads, group)
        samples.append(Sampled(z, p[:, c.at], c.weight))
    return refit_rectified(fit, fit.system, samples, work.step.bounds)


def _normal(parts: list[tuple[_Chosen, Moments]]) -> Normal:
    """Normal equations of a shared fit."""
    return Normal(
        reduce(add, [c.weight * m.zz for c, m in parts]).settled(),
        reduce(add, [c.weight * m.zp[:, c.at] for c, m in parts]),
        reduce(add, [c.weight * m.pp[c.at] for c, m in parts]),
    )


def _stacked(chosen: list[_Chosen]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of all owners, each scaled by the root of its weight: z, p, held-out z, held-out p."""
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for c in chosen:
        assert c.stats.rows is not None and c.stats.held_rows is not None
        for k, (z, p) in enumerate((c.stats.rows, c.stats.held_rows)):
            root = np.float32(np.sqrt(c.weight / max(len(z), 1)))
            parts[2 * k].append(z * root)
            parts[2 * k + 1].append(p[:, c.at] * root)
    z, p, held_z, held_p = (np.concatenate(x) for x in parts)
    return z, p, held_z, held_p
