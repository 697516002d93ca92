"""Groups of channels, from how much of their targets one shared row can explain.

With Q = C' G^-1 C over the targets of all tasks, a group of channels costs  sum_i e_i - sum_ij Q_ij : the least squared error
of one row for all of them (e = energy of the targets). Nets come one after the other against the groups formed so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxzip.linalg.ridge import TINY

Assign = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
Energy = Mapping[str, np.ndarray]
Explained = Mapping[tuple[str, str], np.ndarray]


def group_channels(
    counts: Mapping[frozenset[str], int], energy: Energy, explained: Explained, assign: Assign, relative: bool
) -> list[dict[str, int]]:
    """Groups for every owner set of more than one task, widest first.

    Args:
        counts: groups wanted per owner set; the sets are nested.
        energy: task -> [channels].
        explained: (task, task) -> [channels, channels], symmetric as a whole.
        assign: (cost [groups, channels], number of pairs) -> pairs, cheapest first.
        relative: whether costs are taken relative to the energy of their targets.
    """
    left = {t: np.arange(len(e)) for t, e in energy.items()}
    found: list[dict[str, int]] = []
    for owners, count in sorted(counts.items(), key=lambda item: -len(item[0])):
        if len(owners) < 2 or count == 0:
            continue
        tasks = sorted((t for t in energy if t in owners), key=lambda t: len(left[t]))
        groups = _chain(tasks, count, left, energy, explained, assign, relative)
        found += groups
        for task in tasks:
            used = {g[task] for g in groups}
            left[task] = np.array([i for i in left[task] if i not in used], np.int64)
    return found


def _chain(
    tasks: list[str], count: int, left: Mapping[str, np.ndarray], energy: Energy, explained: Explained, assign: Assign,
    relative: bool,
) -> list[dict[str, int]]:
    """The given number of complete groups over some tasks, cheapest first."""
    groups: list[dict[str, int]] = [{tasks[0]: int(i)} for i in left[tasks[0]]]
    scores = np.zeros(len(groups))
    for task in tasks[1:]:
        cost = _costs(groups, task, left[task], energy, explained)
        size = np.array([[sum(energy[t][i] for t, i in g.items())] for g in groups]) + energy[task][left[task]][None, :]
        scaled = cost / np.maximum(size, TINY) if relative else cost
        rows, columns = assign(scaled, count)
        groups = [{**groups[r], task: int(left[task][c])} for r, c in zip(rows, columns, strict=True)]
        scores = scaled[rows, columns]
    order = np.argsort(scores, kind="stable")
    return [groups[k] for k in order]


def _costs(
    groups: list[dict[str, int]], task: str, candidates: np.ndarray, energy: Energy, explained: Explained
) -> np.ndarray:
    """[groups, candidates]: what each group would cost with each further channel."""
    inside = np.array([
        sum(energy[t][i] for t, i in g.items()) - sum(explained[t, u][i, j] for t, i in g.items() for u, j in g.items())
        for g in groups
    ])
    own = energy[task][candidates] - np.diagonal(explained[task, task])[candidates]
    cross = np.zeros((len(groups), len(candidates)))
    for t in groups[0] if groups else ():
        index = np.array([g[t] for g in groups])
        cross += explained[t, task][np.ix_(index, candidates)]
    return np.asarray(np.maximum(inside[:, None] + own[None, :] - 2 * cross, 0.0))
