"""Inputs and outputs of half types at a graph that computes in float32, and the other way round.

    x (half) -> Cast -> x.float32 -> nodes -> y.float32 -> Cast -> y (half)
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxzip.net import Names
from onnxzip.runtime import put_nodes, read_by, rename_values


def with_half_ports(graph: GraphProto, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Let some ports of a graph of float32 be float16, in place; a port that is both is handed through.

    A Cast that stands there already does it.
    """
    for port in (*graph.input, *graph.output):
        if port.name in (*inputs, *outputs):
            port.type.tensor_type.elem_type = TensorProto.FLOAT16
    names, readers = names_in(graph), _readers(graph)
    makers = {v: n for n in graph.node for v in n.output}
    first = {v: names.fresh(f"{v}.float32") for v in inputs if not all(map(_gives_float32, readers.get(v, [])))}
    last = {}
    for value in outputs:
        if value in makers and _gives_float32(makers[value]) and value not in readers:
            next(a for a in makers[value].attribute if a.name == "to").i = TensorProto.FLOAT16
        elif value in makers:
            last[value] = names.fresh(f"{value}.float32")
    rename_values(graph.node, first | last)
    before = [_cast(old, new, TensorProto.FLOAT) for old, new in first.items()]
    behind = [_cast(new, old, TensorProto.FLOAT16) for old, new in last.items()]
    put_nodes(graph, (*before, *graph.node, *behind))


def with_float32_input(model: ModelProto, name: str) -> ModelProto:
    """A copy of a model that reads a float16 input as float32; the model itself where that input is an output, too."""
    if any(p.name == name for p in model.graph.output):
        return model
    copy = deepcopy(model)
    inner = names_in(copy.graph).fresh(f"{name}.float16")
    rename_values(copy.graph.node, {name: inner})
    for port in copy.graph.input:
        if port.name == name:
            port.type.tensor_type.elem_type = TensorProto.FLOAT
    put_nodes(copy.graph, (_cast(name, inner, TensorProto.FLOAT16), *copy.graph.node))
    return copy


def names_in(graph: GraphProto) -> Names:
    known = {v for n in graph.node for v in (*read_by(n), *n.output, n.name)}
    return Names(known | {p.name for p in (*graph.input, *graph.output, *graph.initializer)})


def _readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for value in read_by(node):
            found.setdefault(value, []).append(node)
    return found


def _gives_float32(node: NodeProto) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)


def _cast(old: str, new: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [old], [new], name=f"{old}.cast", to=to)
