"""What fused nets call the numbers of a state: where units are shared, each task's stand in the order of the fused net's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.states import shared_params
from onnxzip.net import State, per_sample


def states_of(plan: Plan, orders: Mapping[tuple[str, str], np.ndarray]) -> dict[str, dict[str, list[int]]]:
    """Task -> input or output of its net that is a state of units which others share -> for each number of a sample of the
    fused net's, which one of the net's own it is.

    Args:
        orders: as of `Zipped`.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for task, net in plan.nets.items():
        mine = {plan.overlay.values[t.laid][task]: orders.get((t.name, task)) for t in shared_params(plan, task)}
        shapes, found[task] = {p.name: p.shape for p in net.inputs}, {}
        for state in (s for s in net.states if not mine.keys().isdisjoint(s.orders)):
            places = _places(state, per_sample(shapes[state.input][1:]), mine)
            found[task] |= {state.input: places, state.output: places}
    return found


def _places(state: State, count: int, orders: Mapping[str, np.ndarray | None]) -> list[int]:
    places = np.arange(count)
    for name, at in state.orders.items():
        if (order := orders.get(name)) is not None:
            places[at] = at[order]
    return [int(k) for k in places]
