"""Nodes of control flow with the graphs inside of them: If, Loop, Scan, kept as they are, but for Ifs that are decided.

What a graph inside reads from around it becomes an input of its node, behind the node's own, so that everybody sees it;
constants stay inside.
"""

from __future__ import annotations

from pathlib import Path

import onnx_graphsurgeon as gs
from onnx import GraphProto, NodeProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxzip.errors import UnsupportedError
from onnxzip.net import Subgraph
from onnxzip.runtime import graphs_in, parts_of


def subgraphs_of(path: Path, node: gs.Node, other: gs.Node) -> dict[str, Subgraph]:
    """The graphs inside a node, by attribute; none for most nodes.

    Args:
        other: the same node for another batch.

    Raises:
        UnsupportedError: a graph inside depends on the batch.
    """
    inner = {k: _exported(v) for k, v in node.attrs.items() if isinstance(v, gs.Graph)}
    if inner != {k: _exported(v) for k, v in other.attrs.items() if isinstance(v, gs.Graph)}:
        raise UnsupportedError(
            f"{path}: the graph inside node {node.name!r} ({node.op}) depends on the batch size. Export the net with a fixed "
            "batch of 1."
        )
    reads = tuple(dict.fromkeys(v for content in inner.values() for v in read_from_around(GraphProto.FromString(content))))
    return {key: Subgraph(content, reads) for key, content in inner.items()}


def with_taken_branches(graph: gs.Graph) -> None:
    """Put the nodes of branches in the place of Ifs whose conditions have become constants; an Identity gives each output its
    name.

    graphsurgeon does the same, but loses every second output of an If, and gives other names to the model's own tensors.
    """
    ifs = [n for n in graph.nodes if n.op == "If" and n.outputs and not n.domain]  # one without outputs has been folded whole
    for node in [n for n in ifs if isinstance(n.inputs[0], gs.Constant)]:
        branch = node.attrs["then_branch" if node.inputs[0].values.all() else "else_branch"]
        _call_apart(graph, node, branch)
        outputs = list(node.outputs)
        node.outputs.clear()
        node.inputs.clear()
        graph.nodes.remove(node)
        graph.nodes.extend(branch.nodes)
        for k, (inner, output) in enumerate(zip(branch.outputs, outputs, strict=True)):
            graph.nodes.append(gs.Node("Identity", f"{node.name}.{k}", {}, [inner], [output]))


def _call_apart(graph: gs.Graph, node: gs.Node, branch: gs.Graph) -> None:
    """Let the values of a branch, and constants of its own that are called as others, be called after the If, too."""
    around = graph.tensors()
    for inner in branch.nodes:
        for value in (v for v in inner.outputs if v.name):
            value.name = f"{node.name}.{value.name}"
        for value in (v for v in inner.inputs if isinstance(v, gs.Constant) and around.get(v.name, v) is not v):
            value.values = value.values  # numbers of its own, no longer the model's tensor
            value.name = f"{node.name}.{value.name}"


def with_state_shapes(graph: gs.Graph) -> None:
    """What a Loop hands from step to step keeps its shape where its body says so: onnx infers none, as it may change."""
    for node in graph.nodes:
        if node.op != "Loop" or node.domain:
            continue
        body = node.attrs["body"]
        for k, before in enumerate(node.inputs[2:]):
            given, made, after = body.inputs[2 + k].shape, body.outputs[1 + k].shape, node.outputs[k]
            if after.shape is None and before.shape is not None and given is not None and given == made:
                after.shape = list(before.shape)


def _exported(graph: gs.Graph) -> bytes:
    """In protobuf, without names of axes and without the shapes that one batch has inside."""
    proto = OnnxExporter.export_graph(graph)
    for inner in parts_of(proto, GraphProto):
        del inner.value_info[:]
        for dim in (d for port in (*inner.input, *inner.output) for d in port.type.tensor_type.shape.dim):
            dim.ClearField("dim_param")
    return bytes(proto.SerializeToString(deterministic=True))


def read_from_around(graph: GraphProto) -> list[str]:
    """What a graph reads that it neither computes nor holds nor is given."""
    known = {p.name for p in graph.input} | {t.name for t in graph.initializer}
    found: list[str] = []
    for node in graph.node:
        found += [v for v in read_around(node) if v and v not in known]
        known |= set(node.output)
    return [*found, *(p.name for p in graph.output if p.name not in known)]


def read_around(node: NodeProto) -> list[str]:
    """What a node reads of the graph that it stands in, the graphs inside of it too."""
    return [*node.input, *(v for graph in graphs_in(node) for v in read_from_around(graph))]
