"""One step of the zip: fit every strand of its output, keep what need not change.

A row of owners T is the damped least squares over the data of the tasks in T, centred at the mean of their original rows.
Rows that are akin (`fusion.siblings`) and have no leader stay at that mean unless the fit takes a twentieth off their
held-out error: fits to few samples that gain less in their own layer lose more in those behind it, which still expect what all
siblings have in common. Measured on DNSMOS, general + personal: relative errors of 3.5 / 3.4 % against 7.0 / 3.9 % without,
on 32 clips of speech; on 128 clips 3.6 / 3.4 against 3.55 / 3.35.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis.steps import channels_at
from onnxzip.analysis.strands import Owners
from onnxzip.fusion.channels import fit_channels
from onnxzip.fusion.duplicates import equal_rows, reads_exactly
from onnxzip.fusion.keeping import by_leaders, emphasis
from onnxzip.fusion.problem import Reads, member_rows, original_rows, row_positions, to_params
from onnxzip.fusion.restoring import restored, spread_of
from onnxzip.fusion.solving import Chosen, fit_linear
from onnxzip.fusion.work import Exact, Work, by_owners
from onnxzip.linalg.rectified import Sampled, refit_rectified
from onnxzip.linalg.ridge import Fit, Quality
from onnxzip.matching.match import Matches, leads_along

WORTH = 0.05  # of the held-out error at the mean: the least gain for which rows that are akin are moved


@dataclass(frozen=True)
class StepResult:
    """What one step has found.

    Attributes:
        params: fused weights by name.
        fits: key of the strand -> how well its rows fit (several where rows of one strand have different owners).
        touched: fused weights -> tasks whose rows are no longer the original ones.
    """

    params: Mapping[str, np.ndarray]
    fits: Mapping[Owners, tuple[Quality, ...]]
    touched: Mapping[str, frozenset[str]]


def fit_step(work: Work, exact: Exact, matches: Matches) -> StepResult:
    """Rows of every strand.

    Args:
        exact: value of the fused net -> tasks for which it is what their originals compute.
        matches: with those of this step.
    """
    params: dict[str, np.ndarray] = {}
    fits: dict[Owners, tuple[Quality, ...]] = {}
    touched: dict[str, frozenset[str]] = {}
    for reads in work.reads:
        if work.step.diagonal:
            by_group = [fit_channels(work, reads, exact, matches)]
        else:
            by_group = [fit_rows(work, reads, g, exact, matches) for g in range(reads.groups)]
        params |= to_params(work.plan, work.step, reads, [rows for rows, _, _ in by_group])
        fits[reads.key] = tuple(f for _, found, _ in by_group for f in found)
        changed = frozenset(t for *_, some in by_group for t in some)
        touched |= dict.fromkeys((*reads.names, reads.bias), changed)
    return StepResult(params, fits, touched)


def fit_rows(
    work: Work, reads: Reads, group: int, exact: Exact, matches: Matches
) -> tuple[np.ndarray, tuple[Quality, ...], frozenset[str]]:
    """Rows of one strand in one group, by owners, each on the data of its owners: [rows, columns], how well they fit, and
    the tasks whose rows have changed."""
    places = {t: row_positions(work.plan, work.step, reads.key, t, matches) for t in sorted(reads.owners)}
    size = len(next(iter(places.values()))[0]) // reads.groups
    mine = slice(group * size, (group + 1) * size)
    rows = np.zeros((size, reads.columns))
    fits: list[Quality] = []
    changed: set[str] = set()
    for owners, index in by_owners({t: first[mine] for t, (first, *_) in places.items()}).items():
        here, counts, mine_of = dict[str, list[np.ndarray]](), [], []
        for t in owners:
            here[t], mean, count = _means(work, reads, group, t, [at[mine][index] for at in places[t]], matches)
            rows[index] += mean * count[:, None]
            mine_of.append(mean)
            counts.append(count)
        rows[index] /= np.sum(counts, axis=0)[:, None]
        kept = _kept(work, reads, owners, mine_of, exact, matches) & (np.max(counts, axis=0) == 1)
        rows[index[kept]] = mine_of[0][kept]
        if kept.all():
            continue
        changed.update(owners)
        for leaders, some in _by_leader(work, group, {t: here[t][0] for t in owners}, matches):
            mine_left = some[~kept[some] & np.isfinite(rows[index[some], -1])]  # -inf stays, whatever is added to it
            if not len(mine_left):
                continue
            chosen = {t: here[t][0][mine_left] for t in owners}
            if leaders:
                emphasis_of = list(emphasis(owners, leaders).values())
                rows[index[mine_left]] = np.average([m[mine_left] for m in mine_of], axis=0, weights=emphasis_of)
            if len(owners) > 1 or work.method.refit:
                fit = _solve(work, reads, group, chosen, rows[index[mine_left]], leaders, matches)
                rows[index[mine_left]] = fit.rows
                fits.append(fit.quality)
            if work.method.restore and work.stats is not None:
                spreads = [spread_of(rows[index[mine_left]], work.stats.of(t, reads, group), chosen[t]) for t in owners]
                rows[index[mine_left]] = restored(rows[index[mine_left]], spreads)
    return rows, tuple(fits), frozenset(changed)


def _means(
    work: Work, reads: Reads, group: int, task: str, at: Sequence[np.ndarray], matches: Matches
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Places of original rows in their group; their means [fused rows, columns], and of how many.

    Args:
        at: the original output channels of first members, of second ones, and so on.
    """
    own = original_rows(work.plan, work.step, reads, group, task, matches)
    places = [a - group * len(own) for a in at]
    rows, count = member_rows(own, places)
    rows /= count[:, None]
    return places, rows, count


def _by_leader(
    work: Work, group: int, places: Mapping[str, np.ndarray], matches: Matches
) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Rows by the tasks that they follow: (none for the mean of all, int [rows of these leaders]).

    Args:
        places: task -> the original rows of the group that the fused ones stand for.
    """
    leads = []
    for task, at in places.items():
        expr = channels_at(work.plan.overlay, work.step.parts[0], task, work.step.parts[0].outputs[0])
        first = group * (abs(expr.size) // work.reads[0].groups)
        leads.append(leads_along(work.plan, expr, task, matches)[first + at])
    return by_leaders(list(places), leads, np.arange(len(leads[0])))


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
    leaders: tuple[str, ...], matches: Matches,
) -> Fit:
    """Fit rows on the data of the tasks in `places`: of each, its original rows; they follow the leaders before all others."""
    if work.stats is None or not work.fits:
        return Fit(centre, 0.0, float("nan"))
    known = {t: work.statistics(t, reads, group, matches) for t in places}
    weights, counts = work.weights({t: s.train.pp for t, s in known.items()}), emphasis(list(places), leaders)
    chosen = [Chosen(s, places[t], weights[t], counts[t]) for t, s in known.items()]
    akin = work.method.follow and not leaders and len(places) > 1
    fit = fit_linear(chosen, centre, work.method.grid, WORTH if akin else 0.0)
    if not (work.method.rectify and work.stats.kept) or work.step.bounds is None or fit.system is None:
        return fit
    samples, unclipped = [], np.zeros_like(fit.system.pull)
    for task, c in zip(counts, chosen, strict=True):
        if c.emphasis < 1:  # of tasks that do not lead, what the activation cuts off makes no difference: measured
            unclipped += c.weight * c.emphasis * c.stats.products_with(c.at)
        else:
            z, p = work.stats.sampled(task, reads, group)
            samples.append(Sampled(z, p[:, c.at], c.weight))
    return refit_rectified(fit, fit.system, samples, unclipped, work.step.bounds)
