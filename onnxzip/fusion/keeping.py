"""Which of its channels each net keeps where it shares them, and whom it gives up for those of the others.

A channel halfway between two unrelated ones is of little use to either net: whatever reads it can scale and shift it, but
cannot unmix it. A channel that is all but exactly one net's own is worth as much as before to that net, and the other net
finds in it, and in those that it keeps itself, most of what it has lost. So each shared channel follows one of its originals,
its leader, before all others, and each net leads as many as the rest.

What counts is not what one channel is worth but what all that a net keeps tell of the others: the channels are ranked by
pivoted Cholesky of the covariance of v^1/2 a, with a what leaves the activation, and v the importance of a channel
(`linalg.subset`). The first stay the net's own, the next lead, and the last follow those of the others; where few are a
net's own, these come second: shared rows, then nearly all, do not read them, and would miss what tells most. Channels that
are akin (`siblings`) are paired before all that and have no leader, since their mean is of use to all.

Measured, 1,000 images a task, mean of four pairs and two seeds on the whole test splits, increase of error in points and
relative error of the outputs, leaders by what each pair loses with either, dealt out evenly / by pivots, everything shared:
LeNet-300-100 0.32 and 0.060 / 0.16 and 0.047, LeNet-5 0.56 and 0.074 / 0.50 and 0.062, VGG-like 0.77 and 0.120 / 0.65 and
0.106. Half of it shared, one seed: LeNet-300-100 0.18 and 0.037 / 0.13 and 0.030, LeNet-5 0.36 and 0.051 / 0.17 and 0.042;
with the first channels leading and the next ones own, LeNet-5 0.30 and 0.051. Own channels first / leading ones first, two
pairs, one seed: at share 0.8 LeNet-5 0.75 / 0.57, VGG-like 1.07 / 1.07, MobileNetV2-like 5.1 / 3.3; at 0.65 LeNet-5 0.52 /
0.52, MobileNetV2-like 3.7 / 4.5. No gain over pivots beyond noise: greedy choice by what is left of all channels, also
weighted by all that reads them (W' W in place of v); channels given up one after the other. Leaders that count 8 times as
much as the others, instead of `AHEAD` times, are hardly ever better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.linalg.subset import pivots, unexplained
from onnxzip.matching.match import Members, charged, led, members_of
from onnxzip.matching.twins import led_by_twins, with_twins, without_twins

FEW_OWN = 0.25  # of a space's channels: fewer own ones come after those that lead
AHEAD = 1000.0  # how much more than the others the leader of a row counts


def emphasis(tasks: Sequence[str], leaders: Sequence[str]) -> dict[str, float]:
    """How much each owner of a row counts; all alike where nobody leads. Only twins lead together."""
    return {t: 1.0 if not leaders or t in leaders else 1 / AHEAD for t in tasks}


def by_leaders(
    tasks: Sequence[str], leads: Sequence[np.ndarray], index: np.ndarray
) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Rows by the tasks that they follow, none for the mean of all.

    Args:
        leads: of each task, bool [rows], which follow it; index: int [rows], what is returned of them.
    """
    bits = np.sum([led << k for k, led in enumerate(np.asarray(leads, np.int64))], axis=0)
    return [(tuple(t for k, t in enumerate(tasks) if b >> k & 1), index[bits == b]) for b in np.unique(bits).tolist()]


@dataclass(frozen=True)
class Ranking:
    """Channels of one net.

    Attributes:
        order: int, those that can be shared, the first to be kept first.
        lost: float [channels], what the net loses where one follows another net's.
    """

    order: np.ndarray
    lost: np.ndarray


Rank = Callable[[str, np.ndarray, int], Ranking]


@dataclass(frozen=True)
class Dealt:
    """Groups of channels with their leaders, those first that cost least.

    Attributes:
        groups: task -> channel, each.
        costs: what the nets lose whose channels follow.
        leads: task -> bool [channels], whether it leads its group.
    """

    groups: list[dict[str, int]]
    costs: list[float]
    leads: dict[str, np.ndarray]


def kept_channels(
    space: SpacePlan, same: Sequence[dict[str, int]], akin: Sequence[dict[str, int]], rank: Rank | None
) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of a space whose channels follow one net each, but for those that are the same or akin.

    Args:
        same, akin: groups that are decided already, and whom nobody leads, without twins.
        rank: task, channels that are decided, how many of the others its net keeps -> their ranking; None: the first are kept.
    """
    decided, alone = [*same, *akin], without_twins(space)
    room = room_of(alone.counts, decided)
    if rank is None:
        rankings = as_they_stand(space, decided)
    else:
        known = {t: np.array([g[t] for g in decided if t in g], np.int64) for t in sorted({t for o in room for t in o})}
        rankings = {t: rank(t, k, space.sizes[t] - len(k) - followers_of(room, t)) for t, k in known.items()}
    dealt = deal(room, rankings)
    costs = [0.0] * len(same) + [float("nan")] * len(akin) + dealt.costs
    groups, costs = with_twins(space, [*decided, *dealt.groups], costs)
    return led(charged(members_of(space, groups), groups, costs), led_by_twins(space, dealt.leads))


def room_of(counts: Mapping[Owners, int], groups: Sequence[Mapping[str, int]]) -> dict[Owners, int]:
    """How many groups of each owner set of several tasks are left beside some groups."""
    known = [frozenset(g) for g in groups]
    return {o: left for o, n in counts.items() if len(o) > 1 and (left := n - known.count(o)) > 0}


def ranked(covariance: np.ndarray, importance: np.ndarray, known: np.ndarray, kept: int) -> Ranking:
    """Channels of one net by what they tell of all.

    Args:
        covariance: float64 [channels, channels]; importance: float [channels].
        known: int, channels that the net keeps in any case; they are not ranked.
        kept: how many of the others the net keeps.
    """
    weight = np.sqrt(importance)
    left = unexplained(covariance * np.outer(weight, weight), known)
    free = np.setdiff1d(np.arange(len(left)), known)
    found = pivots(left[np.ix_(free, free)])
    lost = np.zeros(len(left))
    lost[free] = found.left(kept)
    return Ranking(free[found.order], lost)


def as_they_stand(space: SpacePlan, decided: Sequence[Mapping[str, int]]) -> dict[str, Ranking]:
    """Rankings of channels that come first as they stand; nobody knows what is lost.

    Args:
        decided: groups whose channels are not ranked.
    """
    found = {}
    for task, size in space.sizes.items():
        known = np.array([g[task] for g in decided if task in g], np.int64)
        found[task] = Ranking(np.setdiff1d(np.arange(size), known), np.full(size, np.nan))
    return found


def deal(room: Mapping[Owners, int], rankings: Mapping[str, Ranking]) -> Dealt:
    """Groups in which every net leads with its best channels and gives up its last.

    Args:
        room: groups of each owner set of several tasks.
        rankings: by task. Channels that stand in no group stay the task's own: its very first.
    """
    dealt = [(sorted(owners), k) for owners, count in room.items() for k in range(count)]
    heads = [owners[k % len(owners)] for owners, k in dealt]
    first = {t: iter(r.order[_before_leaders(len(r.order) - grouped_of(room, t), len(r.lost)) :]) for t, r in rankings.items()}
    last = {t: iter(r.order[::-1]) for t, r in rankings.items()}
    groups = [
        {t: int(next(first[t] if t == head else last[t])) for t in owners}
        for (owners, _), head in zip(dealt, heads, strict=True)
    ]
    leads = {t: np.zeros(len(r.lost), bool) for t, r in rankings.items()}
    for group, head in zip(groups, heads, strict=True):
        leads[head][group[head]] = True
    costs = [sum(rankings[t].lost[c] for t, c in g.items() if t != head) for g, head in zip(groups, heads, strict=True)]
    order = np.argsort(costs, kind="stable")
    return Dealt([groups[k] for k in order], [float(costs[k]) for k in order], leads)


def _before_leaders(own: int, size: int) -> int:
    """How many of its channels a net keeps for itself before those that lead.

    Args:
        own: channels that are not shared, of `size` in all.
    """
    return 0 if own < FEW_OWN * size else own


def grouped_of(room: Mapping[Owners, int], task: str) -> int:
    """How many channels of a task stand in groups."""
    return sum(count for owners, count in room.items() if task in owners)


def followers_of(room: Mapping[Owners, int], task: str) -> int:
    """How many of these follow others."""
    return sum(sum(sorted(o)[k % len(o)] != task for k in range(count)) for o, count in room.items() if task in o)
