"""ZipIt!: channels of all nets side by side are merged greedily, those of one net with each other, too.

    M = merge, U = unmerge:   f* = M (f_1, f_2, ..),   (f_1, f_2, ..) ~ U f*,   W* = sum_t M_t W_t U_t

Groups start with one channel each; the two groups of highest likeness become one until as many are left as the fused net has
room for. Likeness starts as the correlation of activations; that of a merged group with another is the lower one of its two
parts', times `REPEAT`. No more than `WITHIN` of a net's share of the merges join groups of that same net. M takes the mean of
a group, U copies it to each member. Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman: ZipIt!, ICLR 2024, arXiv 2305.03053,
section 4, with the default constants of its code. Its partial zip ends at a layer: a share of 0 from there on.

Where a space is shared in part, the channels that are to be shared are those that `permute` would share. With --repair a
group that holds several channels of one net gets the mean and the variance of the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.linalg.assignment import hungarian
from onnxzip.matching.beforehand import Gather, Groups, Likeness, group_alike, matched_spaces, sharing
from onnxzip.matching.match import Group, Members, laid_groups, singles
from onnxzip.matching.permute import correlations

REPEAT = 0.3  # alpha of the paper
WITHIN = 0.125  # beta of the paper
IN_PLACE = 1e-5  # added to the likeness of channels in the same place of two nets: they come first where rounding decides


def zipit(plan: Plan, gather: Gather) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of every space."""
    features = gather()
    found: dict[tuple[int, Owners], Members] = {}
    for space in matched_spaces(plan):
        likeness = correlations(plan, space, features)
        found |= laid_groups(space, _groups(space, likeness))
    return found


def _groups(space: SpacePlan, likeness: Likeness) -> dict[Owners, list[Group]]:
    """Groups for the rows of every owner set."""
    chosen: Groups = group_alike(space, likeness, hungarian)
    found = singles(space, chosen)
    for owners in dict.fromkeys(frozenset(g) for g in chosen):
        mine = [g for g in chosen if frozenset(g) == owners]
        tasks = [t for t in sharing(space) if t in owners]
        channels = {t: np.array(sorted(g[t] for g in mine), np.int64) for t in tasks}
        side_by_side = np.block([[likeness[t, u][np.ix_(channels[t], channels[u])] for u in tasks] for t in tasks])
        net = np.repeat(np.arange(len(tasks)), len(mine))
        flat = np.concatenate(list(channels.values()))
        in_place = IN_PLACE * np.tile(np.eye(len(mine)), (len(tasks), len(tasks)))
        found[owners] = [_named(group, tasks, net, flat) for group in merged(side_by_side + in_place, net, len(mine))]
    return found


def _named(group: Sequence[int], tasks: Sequence[str], net: np.ndarray, channels: np.ndarray) -> Group:
    by_task: dict[str, tuple[int, ...]] = {}
    for k in group:
        task = tasks[int(net[k])]
        by_task[task] = (*by_task.get(task, ()), int(channels[k]))
    return by_task


def merged(likeness: np.ndarray, net: np.ndarray, count: int) -> list[list[int]]:
    """Groups of channels, merged greedily.

    Args:
        likeness: [channels, channels] of all nets side by side.
        net: which net each channel is of.
        count: of groups to be left.
    """
    alike = likeness.astype(np.float64).copy()
    np.fill_diagonal(alike, -np.inf)
    nets = len(np.unique(net))
    groups: dict[int, list[int]] = {k: [k] for k in range(len(net))}
    origin, budget = net.copy(), np.full(nets, int((len(net) - count) // nets * WITHIN + 1e-4))
    for one in np.flatnonzero(budget == 0):
        _forbid(alike, origin == one)
    while len(groups) > count:
        i, j = sorted(divmod(int(alike.argmax()), len(net)))
        if alike[i, j] == -np.inf:  # all that is left is of one net whose budget is spent
            i, j = list(groups)[:2]
        within = origin[i] == origin[j]
        groups[i] += groups.pop(j)
        alike[i] = REPEAT * np.minimum(alike[i], alike[j])
        alike[:, i] = alike[i]
        alike[i, i] = -np.inf
        alike[j] = alike[:, j] = -np.inf
        if within:
            budget[origin[i]] -= 1
            if budget[origin[i]] <= 0:
                _forbid(alike, origin == origin[i])
    return list(groups.values())


def _forbid(alike: np.ndarray, some: np.ndarray) -> None:
    """No more merges among some groups."""
    alike[np.ix_(some, some)] = -np.inf
