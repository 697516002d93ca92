"""How much a net makes of each channel of a space: the weight of that channel's error in the cost of a pair.

    v_c = sum over the nodes with weights that read the space of |W[:, c]|^2 / mean over c of |W[:, c]|^2

An error e on channel c reaches the next pre-activations as |W[:, c]|^2 e^2: a channel that nobody listens to may be met
badly. Hidden units of recurrent nodes listen to each other, too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.roles import Role
from onnxzip.analysis.steps import weights_of
from onnxzip.analysis.strands import SpacePlan
from onnxzip.matching.match import channel_places
from onnxzip.ops.recurrent import takes_gates

Importance = Callable[[Plan, SpacePlan, str], np.ndarray]


def equal(plan: Plan, space: SpacePlan, task: str) -> np.ndarray:
    """One for every channel."""
    return np.ones(space.sizes[task])


def outgoing(plan: Plan, space: SpacePlan, task: str) -> np.ndarray:
    """Squared weights that read each channel of a task: float64 [channels], mean 1; equal where none does."""
    per_reader = [found for role in plan.overlay.roles if (found := _read_by(plan, space, task, role)) is not None]
    total = np.sum([r / r.mean() for r in per_reader if r.any()], axis=0) if per_reader else np.zeros(0)
    return total / total.mean() if total.any() else equal(plan, space, task)


def _read_by(plan: Plan, space: SpacePlan, task: str, role: Role) -> np.ndarray | None:
    """Squared weights by which one node reads each channel; None where it reads none, or each for itself."""
    if task in role.members and takes_gates(role.op, role.inputs):
        return _between_steps(plan, space, task, role)
    found = weights_of(plan.overlay, role, task) if task in role.members else None
    if found is None or found[0].diagonal(found[1]):
        return None
    linear, view = found
    expr = plan.overlay.exprs(str(role.inputs[0]), task)[linear.channel(view)]
    if space.number not in expr.atoms():
        return None
    columns: np.ndarray = (linear.matrix(view, plan.nets[task].params).astype(np.float64) ** 2).sum(axis=(1, 2)).reshape(-1)
    return np.asarray(columns[channel_places(plan, expr, space, task)].sum(axis=1))


def _between_steps(plan: Plan, space: SpacePlan, task: str, role: Role) -> np.ndarray | None:
    """Squared weights by which hidden units read each other from one step in time to the next."""
    expr = plan.overlay.exprs(str(role.inputs[2]), task)[2]
    if space.number not in expr.atoms():
        return None
    recurrence = plan.nets[task].params[str(role.members[task].inputs[2])]
    columns = (recurrence.astype(np.float64) ** 2).sum(axis=(0, 1))
    return np.asarray(columns[channel_places(plan, expr, space, task)].sum(axis=1))
