"""Whom each shared channel follows: one of its originals before all others, and every net as often as the rest.

A channel halfway between two unrelated ones is of little use to either net: whatever reads it can scale and shift it, but
cannot unmix it. A channel that is all but exactly one net's own is worth as much as before to that net, and the other net
finds in it, and in the half that follows its own, most of what it has lost. With w_k the row for a group of channels fitted to
leader k before all others, the group loses

    sum_t v_t var(p_t) log(1 + u_kt / e),    u_kt = 1 - corr(w_k z_t, p_t)^2,    e = 1 / 1000

with v the importance of a channel: to the logarithm one channel that is nearly exact is worth much more than two that are half
so. Leaders are dealt out so that every net has as many as the others, rows with the largest difference first. Channels whose
weights are nearly the same are siblings of one training: their mean is of use to all, and nobody leads.

Measured, everything shared, 1,000 images a task, increase of error in points, mean of four pairs, rows for the mean of the
originals / with leaders: LeNet-300-100 1.35 / 0.27, LeNet-5 1.29 / 0.65, VGG-like 1.31 / 0.87. Leaders by least loss alone,
not dealt out evenly: VGG-like 2.50, since one net may lose nearly all of its channels. With u in place of log(1 + u / e): 0.91
and 0.88 for the LeNets. Leaders that count 8 times as much as the others, instead of `AHEAD` times, are hardly ever better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxzip.analysis.strands import SpacePlan
from onnxzip.fusion.problem import Reads, original_rows
from onnxzip.fusion.siblings import AKIN, distances, places_of
from onnxzip.fusion.solving import Chosen, rows_for
from onnxzip.fusion.spread import spread_of
from onnxzip.fusion.targets import rows_of
from onnxzip.fusion.work import Work
from onnxzip.linalg.ridge import TINY
from onnxzip.matching.match import Matches

AHEAD = 1000.0  # how much more than the others the leader of a row counts
EXACT = 1e-3  # e: variance that may be unexplained where a channel counts as exact
DAMPING = 1e-2  # of the rows that tell the losses, relative to the mean diagonal


def emphasis(tasks: Sequence[str], leader: str | None) -> dict[str, float]:
    """How much each owner of a row counts; all alike where nobody leads."""
    return {t: 1.0 if leader in (None, t) else 1 / AHEAD for t in tasks}


def leads_of(
    work: Work, reads: Reads, space: SpacePlan, groups: Sequence[Mapping[str, int]], matches: Matches
) -> dict[str, np.ndarray]:
    """Which channels of a space lead their groups: task -> bool [channels].

    Args:
        reads: what the rows of the groups read.
        groups: the space's shared channels, by task.
        matches: of the spaces that the step reads.
    """
    found = {t: np.zeros(n, bool) for t, n in space.sizes.items()}
    for owners in {tuple(sorted(g)): None for g in groups}:
        some = [g for g in groups if tuple(sorted(g)) == owners]
        at = {t: np.array([g[t] for g in some]) for t in owners}
        apart = distances(work, reads, space, at, matches) >= AKIN
        if not apart.any():
            continue
        at = {t: channels[apart] for t, channels in at.items()}
        losses = np.stack([_losses(work, reads, space, at, leader, matches) for leader in owners])
        for k, rows in enumerate(dealt(losses)):
            found[owners[k]][at[owners[k]][rows]] = True
    return found


def dealt(losses: np.ndarray) -> list[np.ndarray]:
    """Groups dealt out to leaders, each of whom gets as many as the others, or one more; least loss, dearest choice first.

    Args:
        losses: [leaders, groups].

    Returns:
        Per leader, int [groups of its own].
    """
    count, many = losses.shape
    room = np.full(count, -(-many // count))
    second = np.partition(losses, 1, axis=0)[1] - losses.min(axis=0)
    leader = np.empty(many, np.int64)
    for group in np.argsort(-second, kind="stable"):
        k = int(np.argmin(np.where(room > 0, losses[:, group], np.inf)))
        leader[group] = k
        room[k] -= 1
    return [np.flatnonzero(leader == k) for k in range(count)]


def _losses(
    work: Work, reads: Reads, space: SpacePlan, at: Mapping[str, np.ndarray], leader: str, matches: Matches
) -> np.ndarray:
    """What groups of channels lose with rows for one leader: [groups].

    Args:
        at: task -> int [groups], its channel in each.
    """
    group, known = rows_of(work, space, list(at))
    rows = {t: places_of(known[t])[c] for t, c in at.items()}
    stats = {t: work.statistics(t, reads, group, matches) for t in at}
    weights, counts = work.weights(stats), emphasis(list(at), leader)
    chosen = [Chosen(s, rows[t].reshape(-1), weights[t], counts[t]) for t, s in stats.items()]
    own = original_rows(work.plan, work.step, reads, group, leader, matches)[rows[leader].reshape(-1)]
    fitted = rows_for(chosen, own, DAMPING)
    total = np.zeros(len(at[leader]))
    for (task, s), c in zip(stats.items(), chosen, strict=True):
        spread = spread_of(fitted, s, c.at)
        whole = np.maximum(spread.wanted_variance, TINY)
        left = 1 - spread.covariance**2 / (np.maximum(spread.variance, TINY) * whole)
        lost = weights[task] * whole * np.log1p(np.clip(left, 0, 1) / EXACT)
        total += work.method.importance(work.plan, space, task)[at[task]] * lost.reshape(rows[task].shape).sum(axis=1)
    return total
