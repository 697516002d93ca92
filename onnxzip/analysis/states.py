"""Inputs that look like states of recurrent nets: who feeds the last one's output back needs one for each task.

A state, or a cache, is an input behind the first one of whose shape and type an output of the same net is that depends on it.
Where the fused net has one such input for several tasks, no task can be fed with what it has said itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxzip.analysis.plan import Plan
from onnxzip.net import Net, Port


def notes_on_states(plan: Plan) -> tuple[str, ...]:
    """What is to be said of inputs that look like states and feed several tasks at once."""
    return tuple(_notes(plan))


def _notes(plan: Plan) -> Iterator[str]:
    for port in plan.inputs[1:]:
        tasks = plan.overlay.values[port.name]
        found = ((own, _output_like(plan.nets[task], own)) for task, own in tasks.items())
        own, output = next(((own, output) for own, output in found if output), ("", ""))
        if len(tasks) > 1 and output:
            whom = "all tasks" if len(tasks) == len(plan.tasks) else " and ".join(tasks)
            yield (
                f"input {own!r} looks like a state (output {output!r} has its shape), and feeds {whom} at once: --apart {own} "
                "gives each task its own"
            )


def _output_like(net: Net, name: str) -> str:
    """An output of an input's shape and type that depends on it, best one whose name has its; "" where there is none."""
    port = next(p for p in net.inputs if p.name == name)
    alike: list[Port] = [p for p in net.outputs if (p.shape, p.dtype) == (port.shape, port.dtype)]
    made = {name}
    for node in net.nodes:
        if not made.isdisjoint(node.read):
            made.update(node.outputs)
    return min((p.name for p in alike if p.name in made), key=lambda output: name not in output, default="")
