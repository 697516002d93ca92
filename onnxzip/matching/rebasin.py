"""Channels matched by weights: coordinate descent over the spaces until none changes.

    P_s = argmax over assignments of the sum of L_iP(i),   L over rows and columns with all other spaces as they are matched

Weight matching of Git Re-Basin (Ainsworth, Hayase, Srinivasa, ICLR 2023, algorithm 1): all spaces start as they stand and are
visited in an order drawn anew for each round. The sum over all params grows with every change, so the rounds end; a change
that gains less than a millionth of it is none. Further nets are matched with the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.linalg.assignment import hungarian
from onnxzip.matching.alignment import Aligned
from onnxzip.matching.beforehand import Gather, Likeness, matched_spaces, members_alike, sharing
from onnxzip.matching.match import Members

GAIN = 1e-6
ROUNDS = 100
SEED = 0
Assigned = Mapping[int, tuple[np.ndarray, np.ndarray]]  # space -> assignment as a matrix of zeros and ones, and L


def rebasin(plan: Plan, gather: Gather) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of every space."""
    spaces = matched_spaces(plan)
    return members_by(plan, spaces, {other: _descend(plan, spaces, (plan.tasks[0], other)) for other in plan.tasks[1:]})


def members_by(
    plan: Plan, spaces: Sequence[SpacePlan], found: Mapping[str, Assigned]
) -> dict[tuple[int, Owners], Members]:
    """Members by assignments between the first net and each of the others.

    Args:
        found: by the other task.
    """
    members: dict[tuple[int, Owners], Members] = {}
    for space in spaces:
        by_task = {task: assigned[space.number] for task, assigned in found.items() if space.number in assigned}
        members |= members_alike(space, _likeness(plan, space, by_task), hungarian)
    return members


def _likeness(plan: Plan, space: SpacePlan, by_task: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Likeness:
    """Likeness that leads to given assignments with the first task's channels, the best of them first."""
    first, tasks = plan.tasks[0], sharing(space)
    found: dict[tuple[str, str], np.ndarray] = {}
    for t in tasks:
        for u in tasks:
            found[t, u] = np.zeros((space.sizes[t], space.sizes[u]))
    for task, (chosen, products) in by_task.items():
        largest = max(float(np.abs(products).max()), np.finfo(float).tiny)
        found[first, task] = chosen * (2 + products / largest) / 3
        found[task, first] = found[first, task].T
    return found


def _descend(plan: Plan, spaces: tuple[SpacePlan, ...], tasks: tuple[str, str]) -> Assigned:
    """Assignments between two nets, and the products that they were found by."""
    aligned, rng = Aligned(plan, tasks), np.random.default_rng(SEED)
    mine = [s for s in spaces if set(tasks) <= set(sharing(s))]
    pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {s.number: _in_place(s, tasks) for s in mine}
    for _ in range(ROUNDS):
        changed = False
        for k in rng.permutation(len(mine)):
            products = aligned.all(mine[k], pairs)
            rows, columns = hungarian(-products)
            before = products[pairs[mine[k].number]].sum()
            if products[rows, columns].sum() > before + GAIN * max(abs(before), np.finfo(float).tiny):
                pairs[mine[k].number] = (rows, columns)
                changed = True
        if not changed:
            break
    return {s.number: as_matrices(aligned.all(s, pairs), pairs[s.number]) for s in mine}


def _in_place(space: SpacePlan, tasks: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    every = np.arange(min(space.sizes[t] for t in tasks))
    return every, every


def as_matrices(products: np.ndarray, pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """An assignment as a matrix of zeros and ones [channels, channels], and the products L."""
    chosen = np.zeros_like(products)
    chosen[pair] = 1
    return chosen, products
