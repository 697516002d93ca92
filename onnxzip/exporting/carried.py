"""What fused nets call the numbers of a state: where units are shared, each task's stand in the order of the fused net's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.net import State, per_sample


def states_of(plan: Plan, orders: Mapping[tuple[str, str], np.ndarray]) -> dict[str, dict[str, list[int]]]:
    """Task -> input or output of its net that is a state -> for each number of a sample of the fused net's, which one of the
    net's own it is; without those that are the same.

    Args:
        orders: as of `Zipped`.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for task, net in plan.nets.items():
        mine = {plan.overlay.values[t.laid].get(task): orders.get((t.name, task)) for t in plan.layout.taken}
        shapes = {p.name: p.shape for p in net.inputs}
        found[task] = {}
        for state in net.states:
            places = _places(state, per_sample(shapes[state.input][1:]), mine)
            if places != list(range(len(places))):
                found[task] |= {state.input: places, state.output: places}
    return found


def _places(state: State, count: int, orders: Mapping[str | None, np.ndarray | None]) -> list[int]:
    places = np.arange(count)
    for name, at in state.orders.items():
        if (order := orders.get(name)) is not None:
            places[at] = at[order]
    return [int(k) for k in places]


def share_states(plan: Plan) -> frozenset[str]:
    """Tasks with states whose units others share: their samples stand in an order that is theirs alone."""
    shared = {(plan.overlay.values[t.laid].get(task), task) for t in plan.layout.taken if len(t.owners) > 1 for task in t.owners}
    return frozenset(t for t, net in plan.nets.items() if any((o, t) in shared for s in net.states for o in s.orders))
