"""An If whose branches both fit becomes their Where: `If(c) {a} else {b}` is `Where(c, a, b)` where a and b have one shape.

Branches compute nothing but their outputs, so computing both changes no value; what was skipped before now runs always. Only
branches without branches or loops of their own, and with static shapes, are taken; every other If stays. So does one that
shapes or constants decide: folding does away with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxzip.runtime import graphs_in, needed_values, numbers_read_by, operator_of, put_nodes

Dims = tuple[int, ...]


def without_plain_branches(model: ModelProto) -> None:
    """Replace every such If of the main graph, in place."""
    graph = model.graph
    taken = {v for n in graph.node for v in (*n.input, *n.output)} | {t.name for t in graph.initializer}
    nodes = [new for node in graph.node for new in (_replaced(node, taken) if _chooses_by_data(graph, node) else [node])]
    if len(nodes) != len(graph.node):
        put_nodes(graph, nodes)


def _chooses_by_data(graph: GraphProto, node: NodeProto) -> bool:
    """Whether a node is an If whose condition is computed from what the net reads."""
    if operator_of(node) != "If":
        return False
    read = {p.name for p in graph.input} - {t.name for t in graph.initializer}
    return not read.isdisjoint(needed_values(graph, node.input[:1], numbers_read_by))


def _replaced(node: NodeProto, taken: set[str]) -> list[NodeProto]:
    """What stands for an If; the node itself where its branches do not fit."""
    branches = {a.name: a.g for a in node.attribute}
    first, second = branches["then_branch"], branches["else_branch"]
    shapes = _shapes(first)
    if shapes is None or shapes != _shapes(second) or not (_is_plain(first) and _is_plain(second)):
        return [node]
    prefix = node.name or node.output[0]
    names = [_fresh_names(graph, f"{prefix}.{key}", taken) for key, graph in (("then", first), ("else", second))]
    nodes = [new for graph, by_name in zip((first, second), names, strict=True) for new in _lifted(graph, prefix, by_name)]
    for out, a, b, (_, dims) in zip(node.output, first.output, second.output, shapes, strict=True):
        flag, shape = f"{prefix}.{out}.flag", f"{prefix}.{out}.shape"  # the condition has one entry, in any number of axes
        taken.update((flag, shape))
        target = np.array([-1, *(1,) * len(dims)][: len(dims)], np.int64)  # -1: of several samples, each has its condition
        nodes.append(_constant(numpy_helper.from_array(target), shape))
        nodes.append(helper.make_node("Reshape", [node.input[0], shape], [flag], name=flag))
        read = [names[0].get(a.name, a.name), names[1].get(b.name, b.name)]
        nodes.append(helper.make_node("Where", [flag, *read], [out], name=f"{prefix}.{out}.chosen"))
    return nodes


def _shapes(graph: GraphProto) -> list[tuple[int, Dims]] | None:
    """Types and static shapes of a branch's outputs; None where one is not static."""
    found = []
    for port in graph.output:
        kind = port.type.tensor_type
        if not kind.HasField("shape") or any(not d.HasField("dim_value") for d in kind.shape.dim):
            return None
        found.append((int(kind.elem_type), tuple(int(d.dim_value) for d in kind.shape.dim)))
    return found


def _is_plain(graph: GraphProto) -> bool:
    return not graph.sparse_initializer and not any(True for n in graph.node for _ in graphs_in(n))


def _fresh_names(graph: GraphProto, prefix: str, taken: set[str]) -> dict[str, str]:
    """New names for all that a branch computes or holds."""
    own = dict.fromkeys([*(t.name for t in graph.initializer), *(v for n in graph.node for v in n.output if v)])
    names = {}
    for value in own:
        name, k = f"{prefix}.{value}", 1
        while name in taken:
            name, k = f"{prefix}.{value}_{k}", k + 1
        taken.add(name)
        names[value] = name
    return names


def _lifted(graph: GraphProto, prefix: str, names: Mapping[str, str]) -> list[NodeProto]:
    """A branch's nodes and constants as nodes of the graph around it."""
    nodes = [_constant(t, names[t.name]) for t in graph.initializer]
    for k, node in enumerate(graph.node):
        new = deepcopy(node)
        new.name = f"{prefix}.{node.name or k}"
        new.input[:] = [names.get(v, v) for v in node.input]
        new.output[:] = [names.get(v, v) for v in node.output]
        nodes.append(new)
    return nodes


def _constant(tensor: TensorProto, name: str) -> NodeProto:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(numpy_helper.to_array(tensor)))
