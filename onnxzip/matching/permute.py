"""Channels matched by what they do: the assignment of highest total correlation between the original nets' activations.

    P = argmax over assignments of the sum of r_iP(i),   r_ij = cov(x_i, y_j) / (std x_i std y_j)

Activation matching of Git Re-Basin (Ainsworth, Hayase, Srinivasa, ICLR 2023), after Li, Yosinski, Clune, Lipson, Hopcroft
(Convergent Learning, 2015) and Tatro et al. (NeurIPS 2020). The correlation of a space is the mean over the steps that write
it (a residual stream, the two halves of a depthwise block). Channels that never change correlate with none: with whom they
are paired is decided by the rounding of all others. A third net is matched with the groups of the first two by the sum of its
correlations with the members.
"""

from __future__ import annotations

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.steps import channels_at
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.calibration.features import Covariance, Features
from onnxzip.linalg.assignment import hungarian
from onnxzip.matching.beforehand import Gather, Likeness, matched_spaces, members_alike, sharing
from onnxzip.matching.match import Members, channel_places

CONSTANT = 1e-12  # product of deviations over the largest one, below which a correlation means nothing


def permute(plan: Plan, gather: Gather) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of every space."""
    features = gather()
    found: dict[tuple[int, Owners], Members] = {}
    for space in matched_spaces(plan):
        found |= members_alike(space, correlations(plan, space, features), hungarian)
    return found


def correlations(plan: Plan, space: SpacePlan, features: Features) -> Likeness:
    """Mean correlation of each two channels, of one net or of two: (task, task) -> [channels, channels]."""
    tasks, total, times = sharing(space), dict[tuple[str, str], np.ndarray](), dict[tuple[str, str], int]()
    for step in (s for s in plan.steps if space.number in s.spaces):
        axes = {t: channels_at(plan.overlay, step.parts[0], t, step.sink) for t in tasks if t in step.tasks}
        places = {t: channel_places(plan, axis, space, t) for t, axis in axes.items()}
        for t, at in places.items():
            for u, other in places.items():
                found = _correlation(features[step.name], (t, at), (u, other))
                total[t, u] = total.get((t, u), np.zeros_like(found)) + found
                times[t, u] = times.get((t, u), 0) + 1
    return {pair: found / times[pair] for pair, found in total.items()}


def _correlation(found: Covariance, one: tuple[str, np.ndarray], two: tuple[str, np.ndarray]) -> np.ndarray:
    """Of channels that may take up several places each: their covariances are summed over these."""
    (t, at), (u, other) = one, two
    cov = np.sum([found.of(t, u)[np.ix_(i, j)] for i, j in zip(at.T, other.T, strict=True)], axis=0)
    deviations = [np.sqrt(np.maximum(np.diagonal(found.of(s, s))[p].sum(axis=1), 0.0)) for s, p in (one, two)]
    scale = np.outer(*deviations)
    varies = scale > CONSTANT * float(scale.max())
    return np.asarray(np.where(varies, cov / np.where(varies, scale, 1.0), 0.0))
