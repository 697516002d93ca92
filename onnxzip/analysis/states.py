"""Inputs that look like states of recurrent nets: who feeds the last one's output back needs one for each task.

A state, or a cache, is an input behind the first one of whose shape and type an output of the same net is that depends on it.
Where the fused net has one such input for several tasks, no task can be fed with what it has said itself, unless they share
all units that it is of, or it holds what an input of theirs has brought.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxzip.analysis.caches import output_like
from onnxzip.analysis.layout import Taken
from onnxzip.analysis.plan import Plan


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
        states = {task: state for task, name in tasks.items() for state in plan.nets[task].states if state.input == name}
        found |= {task: state.outputs[0] for task, state in states.items()}
        output, alike = next(iter(found.values())), all(_is_of_all(plan, task, name, tasks) for task, name in found.items())
        if alike and len(states) == len(tasks):
            yield (
                f"input {own!r} is a state of units that {whom} share: begin with zeros, and feed back what output {output!r} "
                f"of any of them says. Its numbers stand as in {next(iter(tasks))!r}"
            )
        elif alike:
            yield (
                f"input {own!r} looks like a state (output {output!r} has its shape), and {whom} make the same of it: feed "
                "back what any of them says"
            )
        else:
            yield (
                f"input {own!r} looks like a state (output {output!r} has its shape), and feeds {whom} at once: --apart {own} "
                "gives each task its own"
            )


def _is_of_all(plan: Plan, task: str, output: str, tasks: Iterable[str]) -> bool:
    """Whether the fused net has an output of one task's net but once for some tasks."""
    owners = next((piece.owners for name, piece in plan.layout.outputs[task] if name == output), frozenset[str]())
    return owners.issuperset(tasks)


def shares_states(plan: Plan, task: str) -> bool:
    """Whether an input of a task's net is a state of units which it shares with others."""
    params = {plan.overlay.values[taken.laid][task] for taken in shared_params(plan, task)}
    return any(not params.isdisjoint(state.orders) for state in plan.nets[task].states)


def shared_params(plan: Plan, task: str) -> list[Taken]:
    """Params with channels that a task takes over together with others."""
    known = plan.overlay.values
    return [t for t in plan.layout.taken if t.keys and task in t.owners and len(t.owners) > 1 and task in known[t.laid]]
