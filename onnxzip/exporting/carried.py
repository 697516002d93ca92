"""What fused nets call the numbers of a state: where units are shared, each task's stand in the order of the fused net's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.states import shared_params
from onnxzip.exporting.returned import Returned, Units
from onnxzip.net import per_sample


def states_of(plan: Plan, orders: Mapping[tuple[str, str], np.ndarray]) -> dict[str, dict[str, Returned]]:
    """Task -> input of its net that is a state of units which others share -> how these stand.

    Args:
        orders: as of `Zipped`.
    """
    found: dict[str, dict[str, Returned]] = {}
    for task, net in plan.nets.items():
        taken = {plan.overlay.values[t.laid][task]: t for t in shared_params(plan, task)}
        shapes, found[task] = {p.name: p.shape for p in net.inputs}, {}
        for state in net.states:
            mine = {name: taken[name] for name in state.orders if name in taken}
            units = tuple(Units.of(state.orders[name], orders[t.name, task]) for name, t in mine.items())
            if units:
                found[task][state.input] = Returned(state.outputs, per_sample(shapes[state.input][1:]), units)
    return found
