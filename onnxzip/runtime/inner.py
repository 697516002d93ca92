"""The graphs inside nodes of control flow, written again: with the names that their surroundings have now, and inner ones of
their own."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, NodeProto

from onnxzip.net import Node, Subgraph
from onnxzip.runtime.nodes import graphs_in

NOTHING: Mapping[str, str] = {}


def own_inputs(node: Node) -> int:
    """How many of a node's inputs are its own: behind them stands what the graphs inside read."""
    reads = next((len(v.reads) for v in node.attrs.values() if isinstance(v, Subgraph)), 0)
    return len(node.inputs) - reads


def inner_graph(node: Node, subgraph: Subgraph, key: str) -> GraphProto:
    """A graph inside of a node, reading what the node reads."""
    around = dict(zip(subgraph.reads, (v or "" for v in node.inputs[own_inputs(node) :]), strict=True))
    return renamed_graph(GraphProto.FromString(subgraph.content), f"{node.name}.{key}.", around)


def renamed_graph(
    graph: GraphProto, prefix: str, around: Mapping[str, str], called: Mapping[str, str] = NOTHING
) -> GraphProto:
    """A graph with other names, in place.

    Args:
        prefix: of its own names.
        around: names that it reads -> what they are called now.
        called: names of its own that get another one.
    """
    own = [p.name for p in graph.input] + [t.name for t in graph.initializer] + [v for n in graph.node for v in n.output if v]
    names = {**around, **{name: prefix + name for name in own}, **called}
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.name = names.get(item.name, item.name)
    for node in graph.node:
        _rename(node, prefix, names)
    return graph


def _rename(node: NodeProto, prefix: str, names: Mapping[str, str]) -> None:
    node.name = prefix + node.name
    node.input[:] = [names.get(v, v) for v in node.input]
    node.output[:] = [names.get(v, v) for v in node.output]
    for graph in graphs_in(node):
        renamed_graph(graph, f"{node.name}.", names)
