"""Groups of channels, from how much of their targets one shared row can explain.

With Q = C' G^-1 C over the targets and the data of the tasks concerned, and e the energy of the targets, one row for a group
of channels leaves  sum_i e_i - sum_ij Q_ij.  Rows of their own would leave  r_i = e_i - Q_ii,  over the data of one task. A
group costs

    mean_i v_i (sum_i e_i - sum_ij Q_ij - sum_i r_i) + sum_i v_i r_i,    v = importance of the channels

The first part tells one partner from another, the second which channels had better stay alone. Nets come one after the other
against the groups formed so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Assign = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
Explained = Mapping[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Terms:
    """What the costs of groups are made of.

    Attributes:
        energy: task -> [channels].
        explained: tasks -> their Q: (task, task) -> [channels, channels], symmetric as a whole.
        importance: task -> [channels].
    """

    energy: Mapping[str, np.ndarray]
    explained: Callable[[tuple[str, ...]], Explained]
    importance: Mapping[str, np.ndarray]

    def alone(self, task: str) -> np.ndarray:
        """What a row of its own leaves of each channel of a task."""
        return np.asarray(self.energy[task] - np.diagonal(self.explained((task,))[task, task]))

    def extra(self, group: Mapping[str, int], cost: float, alone: Mapping[str, np.ndarray]) -> float:
        """How much of what a group costs is due to one row for all, relative to what would be lost without any.

        Args:
            alone: task -> what `alone` tells of it.
        """
        own = sum(self.importance[t][c] * alone[t][c] for t, c in group.items())
        lost = sum(self.importance[t][c] * self.energy[t][c] for t, c in group.items())
        return float((cost - own) / lost) if lost > 0 else 0.0


def group_channels(
    counts: Mapping[frozenset[str], int], terms: Terms, assign: Assign, known: Iterable[Mapping[str, int]] = ()
) -> tuple[list[dict[str, int]], list[float]]:
    """Groups for every owner set of more than one task, widest first, and what each costs.

    Args:
        counts: groups wanted per owner set; the sets are nested.
        assign: (cost [groups, channels], number of pairs) -> pairs, cheapest first.
        known: groups that are decided already; none of their channels is grouped again.
    """
    gone = {t: [g[t] for g in known if t in g] for t in terms.energy}
    left = {t: np.setdiff1d(np.arange(len(e)), gone[t]) for t, e in terms.energy.items()}
    alone = {t: terms.alone(t) for t in left}
    found: list[dict[str, int]] = []
    costs: list[float] = []
    for owners, count in sorted(counts.items(), key=lambda item: -len(item[0])):
        if len(owners) < 2 or count == 0:
            continue
        tasks = sorted((t for t in left if t in owners), key=lambda t: len(left[t]))
        groups, scores = _chain(tasks, count, left, terms, alone, assign)
        found += groups
        costs += scores
        for task in tasks:
            used = {g[task] for g in groups}
            left[task] = np.array([i for i in left[task] if i not in used], np.int64)
    return found, costs


def _chain(
    tasks: list[str], count: int, left: Mapping[str, np.ndarray], terms: Terms, alone: Mapping[str, np.ndarray], assign: Assign
) -> tuple[list[dict[str, int]], list[float]]:
    """The given number of complete groups over some tasks, cheapest first, and what they cost."""
    groups: list[dict[str, int]] = [{tasks[0]: int(i)} for i in left[tasks[0]]]
    scores = np.zeros(len(groups))
    for task in tasks[1:]:
        cost = _costs(groups, task, left[task], terms, alone)
        rows, columns = assign(cost, count)
        groups = [{**groups[r], task: int(left[task][c])} for r, c in zip(rows, columns, strict=True)]
        scores = cost[rows, columns]
    order = np.argsort(scores, kind="stable")
    return [groups[k] for k in order], scores[order].tolist()


def _costs(
    groups: list[dict[str, int]], task: str, candidates: np.ndarray, terms: Terms, alone: Mapping[str, np.ndarray]
) -> np.ndarray:
    """[groups, candidates]: what each group would cost with each further channel."""
    members = {t: np.array([g[t] for g in groups], np.int64) for t in groups[0]}
    q, v, e = terms.explained((*members, task)), terms.importance, terms.energy

    def total(parts: Iterable[np.ndarray]) -> np.ndarray:
        return np.asarray(np.sum(list(parts), axis=0))

    own = total(alone[t][i] for t, i in members.items())
    inside = total(e[t][i] for t, i in members.items())
    inside = inside - total(q[t, u][i, j] for t, i in members.items() for u, j in members.items())
    joining = (e[task] - np.diagonal(q[task, task]) - alone[task])[candidates]
    cost = total(q[t, task][np.ix_(i, candidates)] for t, i in members.items())  # large: all that follows is done in place
    cost *= -2
    cost += (inside - own)[:, None]
    cost += joining
    np.maximum(cost, 0.0, out=cost)
    cost *= (total(v[t][i] for t, i in members.items())[:, None] + v[task][candidates]) / (len(members) + 1)
    cost += total(v[t][i] * alone[t][i] for t, i in members.items())[:, None]
    cost += (v[task] * alone[task])[candidates]
    return cost
