"""Rows of a diagonal step (depthwise): each channel is fitted from itself alone, all with one damping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np

from onnxzip.analysis.steps import channels_at
from onnxzip.fusion.duplicates import equal_rows
from onnxzip.fusion.keeping import by_leaders, emphasis
from onnxzip.fusion.problem import Reads, original_channels
from onnxzip.fusion.restoring import restored, spread_of_channels
from onnxzip.fusion.work import Exact, Work, by_owners
from onnxzip.linalg.moments import ChannelMoments
from onnxzip.linalg.ridge import Fit, Quality, fit_diagonal
from onnxzip.matching.match import Matches, leads_along, located


def fit_channels(
    work: Work, reads: Reads, exact: Exact, matches: Matches
) -> tuple[np.ndarray, tuple[Quality, ...], frozenset[str]]:
    """Rows of one strand: [channels, rows per channel, taps + 1], how well they fit, and the tasks whose rows have changed."""
    owners = sorted(reads.owners)
    own = {t: original_channels(work.plan, work.step, reads.key, t, matches) for t in owners}
    present, leads = _membership(work, reads, owners, matches)
    rows = np.zeros_like(own[owners[0]])
    fits: list[Quality] = []
    changed: set[str] = set()
    for group, leaders, index in _parts(present, leads):
        mine = [own[t][index] for t in group]
        if all(work.is_exact(reads, t, exact) for t in group) and equal_rows(mine).all():
            rows[index] = mine[0]
            continue
        changed.update(group)
        rows[index] = np.average(mine, axis=0, weights=list(emphasis(group, leaders).values()))
        if work.fits and (work.method.refit or len(group) > 1):
            fit = _solve(work, reads, index, rows[index], {t: own[t] for t in group}, leaders)
            rows[index] = fit.rows
            fits.append(fit.quality)
        if work.method.restore and work.stats is not None:
            known = [[_chosen(m, index) for m in work.stats.of_channels(t, reads)] for t in group]
            rows[index] = restored(rows[index], [spread_of_channels(rows[index], *both) for both in known])
    return rows, tuple(fits), frozenset(changed)


def _membership(
    work: Work, reads: Reads, owners: Sequence[str], matches: Matches
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """For each channel of the strand, whether it stands for one of a task (0, else -1), and whether it follows it."""
    part, present, leads = work.step.parts[0], dict[str, np.ndarray](), dict[str, np.ndarray]()
    for task in owners:
        expr = channels_at(work.plan.overlay, part, task, str(part.inputs[0]))
        at = located(work.plan.overlay, expr, task, reads.blocks[0].piece.keys, matches)
        present[task] = np.where(at >= 0, 0, -1)
        leads[task] = (at >= 0) & leads_along(work.plan, expr, task, matches)[np.maximum(at, 0)]
    return present, leads


def _parts(
    present: Mapping[str, np.ndarray], leads: Mapping[str, np.ndarray]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], np.ndarray]]:
    """Channels by owners and by whom they follow."""
    for owners, index in by_owners(present).items():
        for leaders, some in by_leaders(owners, [leads[t][index] for t in owners], index):
            yield owners, leaders, some


def _solve(
    work: Work, reads: Reads, index: np.ndarray, centre: np.ndarray, own: Mapping[str, np.ndarray],
    leaders: tuple[str, ...],
) -> Fit:
    """Fit the channels `index` on the data of the tasks in `own`; they follow the leaders before all others."""
    assert work.stats is not None
    train, held, counts = [], [], emphasis(list(own), leaders)
    known = {task: [_chosen(m, index) for m in work.stats.of_channels(task, reads)] for task in own}
    weights = work.weights({task: both[0].pp for task, both in known.items()})
    for task, rows in own.items():
        both, weight = known[task], counts[task] * weights[task]
        if not work.method.original_targets:
            both = [_propagated(m, rows[index]) for m in both]
        train.append(_weighted(both[0], weight))
        held.append(_weighted(both[1], weight))
    fitted, rest = reduce(add, train), reduce(add, held)
    return fit_diagonal(fitted.zz, fitted.zp, (rest.zz, rest.zp, rest.pp), centre, work.method.grid)


def _chosen(m: ChannelMoments, index: np.ndarray) -> ChannelMoments:
    return ChannelMoments(m.count, m.zz[index], m.zp[index], m.pp[index])


def _propagated(m: ChannelMoments, rows: np.ndarray) -> ChannelMoments:
    """The original rows' own products as targets: p = w z."""
    zp = m.zz @ rows.swapaxes(1, 2)
    return ChannelMoments(m.count, m.zz, zp, np.einsum("cmk,ckm->cm", rows, zp))


def _weighted(m: ChannelMoments, weight: float) -> ChannelMoments:
    return ChannelMoments(m.count, weight * m.zz, weight * m.zp, weight * m.pp)
