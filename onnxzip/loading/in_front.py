"""Nets with their samples in front, wherever their files have them, and which axis of a file's inputs and outputs that is.

    states of recurrent nodes [layers, N, H], what these read [T, N, F]    ->    [N, layers, H], [N, T, F], and Transposes

The axis is what the file says, where onnxzip has made it; else the one that becomes the second axis of recurrent nodes that
begin with an input, or that is called as the batch; of an input whose first axis has a number, while others' have none, the
only one without number and name; else the first. A file for one sample has axes of 1 instead, the first ones of some inputs:
where that of another is longer, the only one of 1. What axes become tells ONNX's shape inference, given a name for each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

from onnx import ModelProto, NodeProto, ValueInfoProto, helper, shape_inference

from onnxzip.errors import InvalidModelError
from onnxzip.loading.dims import TASKS, batch_name, ports_of_graph
from onnxzip.loading.half_ports import names_in
from onnxzip.net import BATCH, Axis, Names, Net, Node, Port, common_name, order_in_file, order_in_front, renamed
from onnxzip.ops.recurrent import GATES, STATES
from onnxzip.runtime import entries_of, operator_of, put_nodes, rename_values

AXES = "onnxzip.axes"  # in the metadata of a fused file: input or output -> axis of its samples, where it is not the first
SAMPLES, FRONT, STATE = "samples", "front", "state"
_SHAPE_LIKE = 1024
Dims = tuple[int | str | None, ...]  # None: nobody knows


def axes_of(model: ModelProto) -> dict[str, int]:
    """Input of a model -> the axis along which its samples lie, for those that have them behind the first one; of a fused file
    outputs, too.

    Raises:
        InvalidModelError: the entry that tells so is damaged.
    """
    entries = entries_of(model)
    if entries.keys().isdisjoint((AXES, TASKS)):
        return _axes_of_inputs(model)
    ranks = {p.name: len(p.type.tensor_type.shape.dim) for p in (*model.graph.input, *model.graph.output)}
    try:
        found = {str(name): int(axis) for name, axis in json.loads(entries.get(AXES, "{}")).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidModelError(f"the entry {AXES} is damaged ({type(error).__name__}: {error})") from error
    if any(not 0 < axis < ranks.get(name, axis + 1) for name, axis in found.items()):
        raise InvalidModelError(f"the entry {AXES} is damaged: it names axes that are not there")
    return found


def with_samples_in_front(model: ModelProto, axes: Mapping[str, int]) -> ModelProto:
    """A copy of a model whose inputs have their samples in front; the model itself where all have.

    Args:
        axes: as of `axes_of`; outputs are left to `placed`.
    """
    ports = [p.name for p in ports_of_graph(model) if p.name in axes]
    if not ports:
        return model
    new = deepcopy(model)
    names, turns, own = names_in(new.graph), list[NodeProto](), dict[str, str]()
    for port in (p for p in new.graph.input if p.name in ports):
        dims, axis = list(port.type.tensor_type.shape.dim), axes[port.name]
        del port.type.tensor_type.shape.dim[:]
        port.type.tensor_type.shape.dim.extend(dims[k] for k in order_in_front(len(dims), axis))
        own[port.name] = names.fresh(f"{port.name}.in_file")
        perm = order_in_file(len(dims), axis)
        turns.append(helper.make_node("Transpose", [port.name], [own[port.name]], name=own[port.name], perm=perm))
    rename_values(new.graph.node, own)
    put_nodes(new.graph, (*turns, *new.graph.node))
    return new


def placed(net: Net, axes: Mapping[str, int]) -> Net:
    """The net of such a model: its outputs, too, have their samples in front, and its ports know where the file has them.

    What a tail computes, or reads of the outputs, stays as it is.
    """
    if not axes:
        return net
    inputs, read = {p.name for p in net.inputs}, {v for end in net.made for v in net.roots([end])}
    axes = axes if TASKS in net.metadata else {**axes, **_axes_of_outputs(net, axes)}
    turned = {p.name: p for p in net.outputs if p.name in axes.keys() - inputs - read and p.name in net.ends}
    names = Names.beside(net)
    own = {name: names.fresh(f"{name}.in_file") for name in turned}
    shapes, dtypes, nodes = dict(net.shapes), dict(net.dtypes), [renamed(n, own) for n in net.nodes]
    for name, port in turned.items():
        shapes[own[name]], dtypes[own[name]] = port.shape, port.dtype
        perm = order_in_front(len(port.shape), axes[name])
        shapes[name] = tuple(port.shape[k] for k in perm)
        nodes.append(Node(own[name], "Transpose", (own[name],), (name,), {"perm": perm}))

    def known(port: Port) -> Port:
        axis = axes.get(port.name, 0) if port.name in {*turned, *inputs} else 0
        return port._replace(shape=shapes[port.name], axis=axis)

    return replace(
        net, inputs=tuple(known(p) for p in net.inputs), outputs=tuple(known(p) for p in net.outputs), nodes=tuple(nodes),
        shapes=shapes, dtypes=dtypes,
    )


def _axes_of_outputs(net: Net, axes: Mapping[str, int]) -> dict[str, int]:
    """Outputs with samples behind the first axis: along the only one that can be theirs, else as an input of that shape."""
    free = any(p.shape[:1] == (BATCH,) for p in net.inputs)
    alike = {p._replace(axis=axes.get(p.name, 0)).in_file.shape: axes.get(p.name, 0) for p in net.inputs}
    places = {p: [k for k, d in enumerate(p.shape) if d == (BATCH if free else 1)] for p in net.outputs}
    return {p.name: axis for p, some in places.items() if (axis := some[0] if len(some) == 1 else alike.get(p.shape, 0))}


def _axes_of_inputs(model: ModelProto) -> dict[str, int]:
    ports = ports_of_graph(model)
    dims = {p.name: p.type.tensor_type.shape.dim for p in ports}
    free = [Axis(name, k) for name, some in dims.items() for k, d in enumerate(some) if d.dim_value <= 0]
    single = [Axis(name, k) for name, some in dims.items() for k, d in enumerate(some) if d.dim_value == 1]
    roles = _roles(model, free, single)
    found = {name: k for name, some in dims.items() if (k := _traced(name, len(some), roles)) is not None}
    batch = common_name(dims[name][k].dim_param for name, k in found.items()) or batch_name(model)
    one = not free and any(some and some[0].dim_value == 1 for some in dims.values())  # a file for one sample
    for name, some in dims.items():
        called = [k for k, d in enumerate(some) if batch and d.dim_param == batch]
        left = [k for k, d in enumerate(some) if d.dim_value <= 0 and not d.dim_param]
        alone = left if some and some[0].dim_value > 0 and any(a.dim == 0 for a in free) else []
        if one and some and some[0].dim_value > 1:
            alone = [k for k, d in enumerate(some) if d.dim_value == 1]
        alone = alone if len(some) > 2 else []
        if name not in found and len(places := called or alone) == 1:
            found[name] = places[0]
    return {name: k for name, k in found.items() if k}


def _traced(name: str, rank: int, roles: Mapping[Axis, set[str]]) -> int | None:
    """The axis of an input that recurrent nodes take for the samples; None where they do not tell.

    An axis of 1 in front of it may be that of the samples all the same, which a Squeeze takes away for one: not so in a state,
    or where it is the steps.
    """
    told = [k for k in range(rank) if SAMPLES in roles.get(Axis(name, k), ())]
    first = roles.get(Axis(name, 0))
    if not told or 0 in told or first is None or FRONT in first or STATE in roles[Axis(name, told[0])]:
        return told[0] if told else None
    return None


def _roles(model: ModelProto, free: Sequence[Axis], single: Sequence[Axis]) -> dict[Axis, set[str]]:
    """What axes of inputs are to recurrent nodes; nothing where none begins with a state that is an input.

    Args:
        free: axes without a number; single: axes of 1, which shape inference loses more easily when they are given a name.
    """
    nodes = [n for n in model.graph.node if operator_of(n) in GATES]
    found: dict[Axis, set[str]] = {axis: set() for axis in (*free, *single)}
    for axes in (free, (*free, *single)) if nodes else ():
        called = {f"{a.value}:{a.dim}": a for a in axes}
        shapes = _inferred(model, {a: name for name, a in called.items()})
        for node in nodes:
            front = next((a.i for a in node.attribute if a.name == "layout"), 0)
            for at in (0, *STATES):
                shape = shapes.get(node.input[at], ()) if at < len(node.input) else ()
                for place, role in ((1 - front, SAMPLES), (front, FRONT)):
                    axis = called.get(str(shape[place])) if len(shape) == 3 else None
                    if axis is not None:
                        found[axis] |= {role, STATE} if at in STATES else {role}
    return found if any(STATE in some for some in found.values()) else {}


def _inferred(model: ModelProto, names: Mapping[Axis, str]) -> dict[str, Dims]:
    """Shapes of values by ONNX's inference, with names for some axes of the inputs; large params take part by their shapes."""
    skeleton = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, whole = skeleton.graph, model.graph
    graph.node.extend(whole.node)
    for tensor in whole.initializer:
        if math.prod(tensor.dims) > _SHAPE_LIKE:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    for port in ports_of_graph(model):
        kind = port.type.tensor_type
        dims = [names.get(Axis(port.name, k), d.dim_value or d.dim_param or None) for k, d in enumerate(kind.shape.dim)]
        graph.input.append(helper.make_tensor_value_info(port.name, kind.elem_type, dims))
    graph.output.extend(helper.make_tensor_value_info(p.name, p.type.tensor_type.elem_type, None) for p in whole.output)
    found = shape_inference.infer_shapes(skeleton, data_prop=True).graph
    return {v.name: _dims(v) for v in (*found.input, *found.output, *found.value_info)}


def _dims(value: ValueInfoProto) -> Dims:
    return tuple(d.dim_param or d.dim_value or None for d in value.type.tensor_type.shape.dim)
