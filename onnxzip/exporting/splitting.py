"""One task of a fused file alone: the nodes that its outputs need, its outputs under their original names."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import asdict, replace

from onnx import ModelProto, NodeProto, helper

from onnxzip.errors import UsageError
from onnxzip.exporting.annotating import annotate
from onnxzip.exporting.metadata import PREFIX, check_outputs, read_origins, read_tails, to_json
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.sayings import Said, said_by_task
from onnxzip.loading.dims import RECORDED
from onnxzip.loading.in_front import AXES
from onnxzip.loading.inputs import partly_had
from onnxzip.runtime import entries_of, fields_of, needed_nodes, put_fields, read_by, rename_values


def split_model(model: ModelProto, task: str, where: str) -> ModelProto:
    """One task of a fused model.

    It says of itself what the original has said. Inputs that all tasks have keep their names; one that not all have, and an
    output, gets the name it had in the original net, unless an input has that name.

    Args:
        model: fused; it is not changed.
        task: which.
        where: for messages.

    Raises:
        InvalidModelError: the model was not made by onnxzip, or has lost an output of the task.
        UsageError: it has no such task.
    """
    origins = read_origins(entries_of(model), where)
    if task not in origins:
        raise UsageError(f"{where}: has no task {task!r} (tasks: {', '.join(origins)})")
    origin = origins[task]
    check_outputs({task: origin}, [p.name for p in model.graph.output], where)
    nodes = needed_nodes(model.graph, list(origin.outputs.values()))
    ports = _input_names(origin, partly_had(entries_of(model)))
    names = _renames(ports, nodes, origin)
    alone = deepcopy(model)
    graph = alone.graph
    used = {v for n in nodes for v in read_by(n)} | {v for n in nodes for v in n.output}
    for part in ("node", "initializer", "sparse_initializer", "value_info", "input", "output"):
        graph.ClearField(part)
    for port in (p for p in model.graph.input if p.name in ports or p.name not in _all_inputs(origins)):
        graph.input.add().CopyFrom(port)
        graph.input[-1].name = ports.get(port.name, port.name)
    graph.node.extend(nodes)
    rename_values(graph.node, names)
    for tensor in (t for t in model.graph.initializer if t.name in used):
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = names.get(tensor.name, tensor.name)
    by_name = {v.name: v for v in model.graph.output}
    for fused in origin.outputs.values():
        port = graph.output.add()
        port.CopyFrom(by_name[fused])
        port.name = names[fused]
    graph.value_info.extend(v for v in model.graph.value_info if v.name in used and v.name not in names)
    graph.name = task
    said = said_by_task(entries_of(model), fields_of(model), origins, where)[task]
    outputs = {original: names[fused] for original, fused in origin.outputs.items()}
    inputs = {ports[fused]: own for fused, own in origin.inputs.items()}
    read = {original: names.get(fused, fused) for original, fused in origin.before_tail.items()}
    moved = replace(origin, inputs=inputs, outputs=outputs, before_tail=read, entries={}, fields={})
    _describe(alone, task, moved, said, {**ports, **{fused: names[fused] for fused in origin.outputs.values()}})
    return alone


def _input_names(origin: Origin, partly: Collection[str]) -> dict[str, str]:
    """Input of a fused model that a task has -> what it is called where that task stands alone."""
    kept = {name for name in origin.inputs if name not in partly}
    return {name: name if name in kept or own in kept else own for name, own in origin.inputs.items()}


def _all_inputs(origins: Mapping[str, Origin]) -> set[str]:
    return {name for origin in origins.values() for name in origin.inputs}


def _renames(ports: Mapping[str, str], nodes: list[NodeProto], origin: Origin) -> dict[str, str]:
    """New names: inputs and outputs get those of the task alone, a value or param that stands in the way another."""
    inputs = set(ports.values())
    names = {fused: original for original, fused in origin.outputs.items() if original not in inputs}
    names |= {fused: fused for fused in origin.outputs.values() if fused not in names}
    values = {v for n in nodes for v in (*read_by(n), *n.output)}
    taken = values | inputs | set(names.values())
    names |= {fused: own for fused, own in ports.items() if fused != own}
    inner = values - ports.keys()
    for value in sorted(inner & set(names.values()) - names.keys()):
        new = next(c for c in (f"{value}_inner{k}" for k in range(len(taken) + 1)) if c not in taken)
        names[value] = new
        taken.add(new)
    return names


def _describe(model: ModelProto, task: str, origin: Origin, said: Said, called: Mapping[str, str]) -> None:
    """Metadata for one task, whose inputs and outputs are called otherwise, and what its original says of itself."""
    entries = {k: v for k, v in entries_of(model).items() if k.startswith(PREFIX)} | dict(said.entries)
    nodes, params = [n.name for n in model.graph.node], [t.name for t in model.graph.initializer]
    entries[PREFIX + "tasks"] = to_json([task])
    entries[PREFIX + "sources"] = to_json({task: asdict(origin)})
    entries[PREFIX + "owners"] = to_json([[[task], nodes, params]])
    if (last := read_tails(entries).get(task)) is not None:
        entries[PREFIX + "tails"] = to_json({task: last})
    else:
        entries.pop(PREFIX + "tails", None)
    if RECORDED in entries:
        sizes = json.loads(entries[RECORDED]).get(task, [])
        entries[RECORDED] = to_json({task: [[called[name], axis, size] for name, axis, size in sizes if name in called]})
    if AXES in entries:
        axes = json.loads(entries[AXES])
        entries[AXES] = to_json({called[name]: axis for name, axis in axes.items() if name in called})
    entries[PREFIX + "split_from"] = to_json(json.loads(entries_of(model)[PREFIX + "tasks"]))
    helper.set_model_props(model, dict(sorted(entries.items())))
    put_fields(model, said.fields)
    annotate(model, entries)
