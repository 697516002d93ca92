"""Params that no fit makes: the mean of their owners' originals, channel by channel as these are matched.

Measured, two conv nets with a PRelu slope per channel, 1,000 images a task, three draws: the slopes of the original that a
channel follows, in place of the mean of both, are no better (0.40 points of error more at share 1 where the mean gives 0.30).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Taken
from onnxzip.fusion.tables import Counts
from onnxzip.matching.match import Matches, leads_along, located_all
from onnxzip.ops.recurrent import takes_gates


def take(
    plan: Plan, taken: Taken, members: Matches, counts: Counts, follow: bool
) -> tuple[np.ndarray, bool]:
    """A param without a fit: the mean of its owners' originals, channel by channel; and whether they were all the same.

    Args:
        counts: task -> how often each row of a table is looked up: the weights of the rows in the mean, where any is.
        follow: whether channels follow one of their originals at all: else params of those that lead are a mean, too.

    What units hear of those of other strands is [these, gates x units], the transpose of what R has in that place.

    Where tables alone make the channels, those that follow one of their originals are its own, in all params along them; so
    it is between hidden units.
    """
    values, present, ahead, counted = [], [], [], []
    follows = _made_by_tables(plan, taken) or _between_units(plan, taken)
    for task in sorted(taken.led if taken.led and follow else taken.owners):
        for value, here, led in _chosen(plan, taken, task, members, follows):
            values.append(value)
            present.append(here)
            ahead.append(led)
            counted.append(counts.get(task))
    if taken.heard:
        values, present, ahead = ([x[0].T for x in some] for some in (values, present, ahead))
    if len(values) == 1:
        return np.asarray(values[0], order="C"), True
    same = all(np.array_equal(np.where(p, v, 0), np.where(p, values[0], 0)) for v, p in zip(values, present, strict=True))
    if same and all(p.all() for p in present):
        return np.asarray(values[0], order="C"), True
    weights = np.stack(present) * _row_weights(counted, values[0].ndim)
    if any(led.any() for led in ahead):
        weights = np.where(np.any(ahead, axis=0), np.stack(ahead), weights)
    total = weights.sum(axis=0)
    mean = (np.stack(values) * weights).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.asarray(mean.astype(values[0].dtype), order="C"), same


def orders_of(plan: Plan, taken: Taken, members: Matches) -> dict[tuple[str, str], np.ndarray]:
    """(param, task) -> which of the task's own units stand where, of a param that says so of states; nothing of others."""
    return {(taken.name, t): next(_chosen(plan, taken, t, members, False))[0] for t in _ordered(plan, taken)}


def spaces_of_states(plan: Plan) -> frozenset[int]:
    """Spaces of units whose states come from outside: they stand there as those of the first net do."""
    known = [(taken.laid, t) for taken in plan.layout.taken for t in _ordered(plan, taken)]
    return frozenset(n for laid, t in known for e in plan.overlay.exprs(laid, t) for n in e.atoms())


def _ordered(plan: Plan, taken: Taken) -> list[str]:
    """The tasks for which a param says which unit stands where in a state."""
    names = plan.overlay.values[taken.laid]
    return [t for t in plan.tasks if t in taken.owners and any(names[t] in state.orders for state in plan.nets[t].states)]


def _made_by_tables(plan: Plan, taken: Taken) -> bool:
    """Whether no step makes the channels of a param."""
    task = next(t for t in plan.tasks if t in taken.owners)
    numbers = {a for e in plan.overlay.exprs(taken.laid, task) for a in e.atoms()}
    return all(plan.made_by_tables(n) for n in numbers)


def _between_units(plan: Plan, taken: Taken) -> bool:
    """Whether a param says what hidden units say to each other."""
    return any(takes_gates(r.op, r.inputs) and taken.laid in r.inputs[2:] for r in plan.overlay.roles)


def _chosen(
    plan: Plan, taken: Taken, task: str, members: Matches, follows: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A task's original in fused channels, where it has any, and where it leads (nowhere unless it follows at all): of first
    members of groups, of second ones, and so on."""
    array = plan.nets[task].params[plan.overlay.values[taken.laid][task]]
    exprs = plan.overlay.exprs(taken.laid, task)
    dims = [d for d, e in enumerate(exprs) if taken.keys and any(a in plan.spaces for a in e.atoms())]
    keys = {d: taken.heard if taken.heard and d == len(exprs) - 1 else taken.keys for d in dims}
    places = [located_all(plan.overlay, exprs[d], task, keys[d], members) for d in dims]
    leads = [leads_along(plan, exprs[d], task, members) if follows else np.zeros(array.shape[d], bool) for d in dims]
    layers = product(*places) if taken.heard else zip(*places, strict=True)  # groups of two strands are not of one size
    for layer in layers if places else [()]:
        value, here, ahead = array, np.ones((), bool), np.zeros((), bool)
        for dim, at, led in zip(dims, layer, leads, strict=True):
            value = np.take(value, np.maximum(at, 0), axis=dim)
            along = [-1 if d == dim else 1 for d in range(array.ndim)]
            here = here & (at >= 0).reshape(along)
            ahead = ahead | (led[np.maximum(at, 0)] & (at >= 0)).reshape(along)
        yield value, np.broadcast_to(here, value.shape), np.broadcast_to(ahead, value.shape)


def _row_weights(counts: Sequence[np.ndarray | None], rank: int) -> np.ndarray:
    """[tasks, rows, 1, ...]: the counts, or ones for rows that no task looks up; all ones without counts."""
    known = [c for c in counts if c is not None]
    if len(known) < len(counts):
        return np.ones((len(counts),) + (1,) * rank)
    stacked = np.stack(known)
    return np.where(stacked.sum(axis=0) > 0, stacked, 1.0).reshape(len(counts), -1, *(1,) * (rank - 1))
