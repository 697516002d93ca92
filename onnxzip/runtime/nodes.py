"""The nodes of a graph in protobuf: questions that are asked of them, and others in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy

from onnx import GraphProto, NodeProto


def needed_nodes(graph: GraphProto, outputs: Iterable[str]) -> list[NodeProto]:
    """Nodes that some values need, in the graph's order."""
    by_output = {v: n for n in graph.node for v in n.output if v}
    seen: set[int] = set()
    stack = list(outputs)
    while stack:
        node = by_output.get(stack.pop())
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            stack.extend(read_by(node))
    return [n for n in graph.node if id(n) in seen]


def put_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Let a graph have other nodes, some of its own among them."""
    kept = [*map(deepcopy, nodes)]
    del graph.node[:]
    graph.node.extend(kept)


def operator_of(node: NodeProto) -> str:
    """What a node's operator is called, with its domain in front where that is not the default one."""
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def read_by(node: NodeProto) -> Iterator[str]:
    """What a node reads, within its subgraphs too."""
    yield from (v for v in node.input if v)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from read_by(inner)
            yield from (v.name for v in graph.output)


def rename_values(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Other names for values of a graph, in place: in its nodes and in the graphs inside of them, which may hand them on.

    What is named so inside of these graphs alone gets the other name, too.
    """
    for node in nodes:
        node.input[:] = [names.get(v, v) for v in node.input]
        node.output[:] = [names.get(v, v) for v in node.output]
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                rename_values(graph.node, names)
                for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
                    item.name = names.get(item.name, item.name)
