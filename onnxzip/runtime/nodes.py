"""The nodes of a graph in protobuf: questions that are asked of them, and others in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar

from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, helper

Part = TypeVar("Part")
_SINGLE = frozenset({"graph", "g", "t", "sparse_tensor", "values", "indices"})
_WITHIN: Mapping[type[Message], tuple[str, ...]] = {  # fields that hold parts
    ModelProto: ("graph", "functions"),
    GraphProto: ("node", "initializer", "sparse_initializer", "input", "output", "value_info"),
    FunctionProto: ("node", "value_info"),
    NodeProto: ("attribute",),
    AttributeProto: ("g", "graphs", "t", "tensors", "sparse_tensor", "sparse_tensors"),
    SparseTensorProto: ("values", "indices"),
}
SHAPES_ONLY = frozenset({"Shape", "Size"})  # operators that read nothing of a value but its shape


def parts_of(message: Message, kind: type[Part]) -> Iterator[Part]:
    """Every part of a kind at any depth of a message, itself included: graphs, nodes, tensors, ports, those of branches and of
    functions too; a node before what is inside of it."""
    if isinstance(message, kind):
        yield message
    for name in _WITHIN.get(type(message), ()):
        value = getattr(message, name)
        for part in value if name not in _SINGLE else [value] if message.HasField(name) else ():
            yield from parts_of(part, kind)


def graphs_in(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside of a node, but for those inside of their nodes."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


def operator_of(node: NodeProto) -> str:
    """What a node's operator is called, with its domain in front where that is not the default one."""
    return str(node.op_type) if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def value_of(attribute: AttributeProto) -> Any:
    """What an attribute holds: texts as such, lists as tuples."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, list):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value.decode() if isinstance(value, bytes) else value


def read_by(node: NodeProto) -> Iterator[str]:
    """What a node reads, within its subgraphs too."""
    yield from (v for v in node.input if v)
    for graph in graphs_in(node):
        for inner in graph.node:
            yield from read_by(inner)
        yield from (v.name for v in graph.output)


def numbers_read_by(node: NodeProto) -> Sequence[str]:
    """What a node reads more of than its shape."""
    return () if node.op_type in SHAPES_ONLY else node.input


def needed_values(
    graph: GraphProto, ends: Iterable[str], read: Callable[[NodeProto], Iterable[str]] = read_by
) -> set[str]:
    """Values that some others are computed from, and these.

    Args:
        read: what to go on with of all that a node reads.
    """
    makers = {v: n for n in graph.node for v in n.output if v}
    found: set[str] = set()
    stack = list(ends)
    while stack:
        value = stack.pop()
        if value and value not in found:
            found.add(value)
            stack.extend(read(makers[value]) if value in makers else ())
    return found


def needed_nodes(graph: GraphProto, ends: Iterable[str]) -> list[NodeProto]:
    """Nodes that some values need, in the graph's order."""
    needed = needed_values(graph, ends)
    return [n for n in graph.node if not needed.isdisjoint(n.output)]


def put_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Let a graph have other nodes, some of its own among them."""
    kept = [*map(deepcopy, nodes)]
    del graph.node[:]
    graph.node.extend(kept)


def rename_values(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Other names for values of a graph, in place: in its nodes and in the graphs inside of them, which may hand them on.

    What is named so inside of these graphs alone gets the other name, too.
    """
    for node in nodes:
        node.input[:] = [names.get(v, v) for v in node.input]
        node.output[:] = [names.get(v, v) for v in node.output]
        for graph in graphs_in(node):
            rename_values(graph.node, names)
            for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
                item.name = names.get(item.name, item.name)
