"""Inputs that look like states of recurrent nets: who feeds the last one's output back needs one for each task.

A state, or a cache, is an input behind the first one of whose shape and type an output of the same net is that depends on it.
Where the fused net has one such input for several tasks, no task can be fed with what it has said itself, unless they share
all units that it is of.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxzip.analysis.caches import output_like
from onnxzip.analysis.layout import Taken
from onnxzip.analysis.plan import Plan
from onnxzip.analysis.strands import Owners


def notes_on_states(plan: Plan) -> tuple[str, ...]:
    """What is to be said of inputs that look like states and feed several tasks at once."""
    return tuple(_notes(plan))


def _notes(plan: Plan) -> Iterator[str]:
    for port in plan.inputs[1:]:
        tasks = plan.overlay.values[port.name]
        found = {task: output for task, own in tasks.items() if (output := output_like(plan.nets[task], own))}
        if len(tasks) < 2 or not found:
            continue
        whom, own = "all tasks" if len(tasks) == len(plan.tasks) else " and ".join(tasks), next(iter(tasks.values()))
        if all(_is_shared_by(plan, task, own, frozenset(tasks)) for task, own in tasks.items()):
            first = next(iter(tasks))
            yield (
                f"input {own!r} is a state of units that {whom} share: begin with zeros, and feed back what output "
                f"{found[first]!r} of any of them says. Its numbers stand as in {first!r}"
            )
        else:
            yield (
                f"input {own!r} looks like a state (output {next(iter(found.values()))!r} has its shape), and feeds {whom} at "
                f"once: --apart {own} gives each task its own"
            )


def shares_states(plan: Plan, task: str) -> bool:
    """Whether an input of a task's net is a state of units which it shares with others."""
    params = {plan.overlay.values[taken.laid][task] for taken in shared_params(plan, task)}
    return any(not params.isdisjoint(state.orders) for state in plan.nets[task].states)


def _is_shared_by(plan: Plan, task: str, name: str, tasks: Owners) -> bool:
    """Whether an input of a task's net is a state, all units of which some tasks share."""
    owned = {plan.overlay.values[t.laid][task]: t.owners for t in shared_params(plan, task)}
    orders = [order for state in plan.nets[task].states if state.input == name for order in state.orders]
    return bool(orders) and all(tasks <= owned.get(order, frozenset()) for order in orders)


def shared_params(plan: Plan, task: str) -> list[Taken]:
    """Params that a task takes over together with others."""
    return [t for t in plan.layout.taken if task in t.owners and len(t.owners) > 1 and task in plan.overlay.values[t.laid]]
