"""Trunk and heads as one net: the layout's nodes with the params that the zip has found, tied ones once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.roles import unique
from onnxzip.errors import UnsupportedError, UsageError
from onnxzip.fusion.rejoining import joined_recurrence
from onnxzip.fusion.tied import tied
from onnxzip.loading.carried import without_orders
from onnxzip.net import BATCH, Axis, Net, Node, Port, Sizes, common_name, output_name, renamed


def assemble(
    plan: Plan, params: Mapping[str, np.ndarray], named: Callable[[str, str], str] = output_name
) -> Net:
    """The fused net, which says nothing of itself yet, without tails: outputs in task order.

    Args:
        params: of every node of the layout.
        named: (task, output of its net) -> what the fused net calls it.
    """
    first = plan.nets[plan.tasks[0]]
    layout = plan.layout
    renames, extra, outputs = _name_outputs(plan, named)
    shapes = {renames.get(v, v): s for v, s in layout.shapes.items()}
    names = renames | tied(plan, params)
    nodes = tuple(renamed(p.node, names) for p in layout.placed) + tuple(extra)
    for node in extra:
        shapes[node.outputs[0]] = shapes[str(node.inputs[0])]
    dtypes = {renames.get(v, v): t for v, t in plan.dtypes.items()}
    dtypes |= {v: a.dtype for v, a in params.items()}
    dtypes |= {node.outputs[0]: dtypes[str(node.inputs[0])] for node in extra}
    axes = (p.axis for n in plan.nets.values() for p in n.outputs)
    ports = tuple(Port(n, dtypes[n], shapes[n], axis) for n, axis in zip(outputs, axes, strict=True))
    used = {v for n in nodes for v in n.read}
    whole = replace(
        first, name="_".join(plan.tasks), inputs=plan.inputs, outputs=ports, nodes=nodes,
        params={k: np.asarray(v, order="C") for k, v in params.items() if k in used},
        shapes=shapes, dtypes=dtypes, ir_version=max(n.ir_version for n in plan.nets.values()),
        opsets={k: v for n in plan.nets.values() for k, v in n.opsets.items()},
        stored=plan.stored,
        sizes=_renamed_sizes(plan.sizes, renames, extra),
        metadata={}, fields={}, docs={}, tail=None, batch=common_name(n.batch for n in plan.nets.values()),
    )
    return without_orders(joined_recurrence(whole))


def check_ports(plan: Plan, named: Callable[[str, str], str] = output_name) -> None:
    """Refuse nets that do not take samples one at a time, or whose outputs could not be told apart.

    Raises:
        UnsupportedError: an input has its samples along no axis, or takes several at once.
        UsageError: an output would have the name of another one, or of an input.
    """
    inputs = plan.inputs
    free = next((p for p in inputs if p.shape[:1] == (BATCH,)), None)
    for port in inputs:
        if port.shape[0] > 1:
            raise UnsupportedError(
                f"input {port.name!r} takes samples in the shape {list(port.in_file.shape)} only. Export the nets with an "
                "axis for the batch, dynamic or 1: the first one, or any that is called the same in all inputs."
            )
        if free is not None and port.shape[0] != BATCH:
            raise UnsupportedError(
                f"input {port.name!r} has the shape {list(port.in_file.shape)} for any number of samples of input "
                f"{free.name!r}: none of its axes is the batch. Export the nets with a dynamic axis of one name in both, for "
                f"one sample at a time, or with {port.name!r} as a constant."
            )
    known = {p.name: f"input {p.name!r}" for p in inputs}
    for task in plan.tasks:
        for original in dict.fromkeys((*(name for name, _ in plan.layout.outputs[task]), *plan.nets[task].made)):
            name, what = named(task, original), f"output {original!r} of {task!r}"
            if name in known:
                raise UsageError(
                    f"{what} would be called {name!r}, as {known[name]} is. Name a task differently, as NAME=FILE.onnx."
                )
            known[name] = what


def _renamed_sizes(sizes: Sizes, names: Mapping[str, str], copies: Sequence[Node]) -> Sizes:
    """Free axes by the fused net's names of values; those of copies are those of what they copy."""

    def renamed(axis: Axis) -> Axis:
        return Axis(names.get(axis.value, axis.value), axis.dim)

    axes = {renamed(axis): name for axis, name in sizes.axes.items()}
    for node in copies:
        axes |= {Axis(node.outputs[0], a.dim): name for a, name in axes.items() if a.value == node.inputs[0]}
    numbers = {
        key: tuple(n if isinstance(n, int) else n.moved(renamed) for n in entries)
        for key, entries in sizes.numbers.items()
    }
    return Sizes(axes, numbers)


def _name_outputs(plan: Plan, named: Callable[[str, str], str]) -> tuple[dict[str, str], list[Node], list[str]]:
    """New names for values that are outputs, or have an output's name; Identity nodes for those that are needed under two
    names, or are inputs."""
    inputs = {p.name for p in plan.inputs}
    wanted = [(named(t, name), piece.name) for t in plan.tasks for name, piece in plan.layout.outputs[t]]
    inner = {v for p in plan.layout.placed for v in p.node.outputs} - {piece for _, piece in wanted}
    taken = set(plan.layout.shapes) | {name for name, _ in wanted}
    renames = {name: unique(f"{name}_inner", "fused", taken) for name, _ in wanted if name in inner}
    taken = (set(plan.layout.shapes) | set(renames.values())) - ({piece for _, piece in wanted} - inputs) - set(renames)
    extra: list[Node] = []
    names = []
    for name, value in wanted:
        final = unique(name, "out", taken)
        names.append(final)
        if value in renames or value in inputs:
            extra.append(Node(f"{final}_identity", "Identity", (renames.get(value, value),), (final,)))
        else:
            renames[value] = final
    return renames, extra, names
