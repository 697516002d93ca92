"""Constants that differ with the size of the input, as the nodes that compute them: masks and relative positions.

    Range(0, n, 1)  ->  CumSum, exclusive, of n ones
    Range(m, n, 1)  ->  that, from m on

The file computes such a constant from shapes alone. Its own graph is cut out of the file's and folded as a whole file is, but
for what grows: nodes behind an Expand stay nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from onnxzip.errors import UnsupportedError
from onnxzip.loading.canonical import canonical_attributes
from onnxzip.loading.growing import GROWING
from onnxzip.loading.halves import widened
from onnxzip.loading.importing import to_net
from onnxzip.loading.mapped import large_params
from onnxzip.loading.preparing import prepare
from onnxzip.loading.removal import without_idle_nodes
from onnxzip.loading.shapes import BATCHES, Runs, folded_for
from onnxzip.net import Net, renamed
from onnxzip.ops import find
from onnxzip.runtime import needed_values, numbers_read_by, put_nodes

OWN = ".sized"  # behind the names of nodes that come to stand beside those of the file


def computing(path: Path, model: ModelProto, names: Mapping[str, np.dtype], opset: int, still: Collection[str]) -> Net:
    """A net that computes some constants of a file, for the sizes that the model has.

    Args:
        path: for messages, and for params beside it.
        model: of the file, with numbers for all axes behind the batch.
        names: of values, and their types.
        still: nodes that expand to one size whatever that of the input is.

    Raises:
        InvalidModelError, UnsupportedError: as of any net.
    """
    prepared = prepare(path, widened(path, model), opset)
    if not set(names) <= {v for node in prepared.graph.node for v in node.output}:
        raise UnsupportedError(f"{path}: a constant that differs with the size of the input was changed by loading.")
    _cut(prepared.graph, names)
    _count_by_sums(prepared.graph)
    kept = _growers(prepared.graph, names) - {name.removesuffix(OWN) for name in still}
    graph = folded_for(path, prepared, large_params(path, model), BATCHES[0], kept)
    net = to_net(path, "constants", prepared, Runs(graph, graph))
    return _renamed(without_idle_nodes(canonical_attributes(net)), names)


def _cut(graph: GraphProto, names: Mapping[str, np.dtype]) -> None:
    """Let a graph give other values than it does."""
    del graph.output[:]
    kinds = {name: helper.np_dtype_to_tensor_dtype(kind) for name, kind in names.items()}
    graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items())


def _count_by_sums(graph: GraphProto) -> None:
    """Range in steps of 1 as a sum of ones, cut where it does not begin at 0."""
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) < 2 and not t.external_data}
    nodes: list[NodeProto] = []
    for node in graph.node:
        start, step = (known.get(node.input[k]) for k in (0, 2)) if node.op_type == "Range" else (None, None)
        if step is None or step != 1 or (start is not None and start < 0):
            nodes.append(node)
        else:
            nodes.extend(_ones_summed(graph, node, step, start is None or bool(start.any())))
    put_nodes(graph, nodes)


def _ones_summed(graph: GraphProto, node: NodeProto, one: np.ndarray, cut: bool) -> Iterator[NodeProto]:
    """The nodes of a sum of ones.

    Args:
        cut: whether it begins elsewhere than at 0.
    """
    keys = ("one", "axis", "length", "whole", "size", "ones", "first", "start", "all")
    names = {key: f"{node.name}.{key}" for key in keys}
    graph.initializer.extend((
        numpy_helper.from_array(one.reshape(1), names["one"]),
        numpy_helper.from_array(np.array(0, np.int64), names["axis"]),
        numpy_helper.from_array(np.array([1], np.int64), names["length"]),
    ))
    yield helper.make_node("Cast", [node.input[1]], [names["whole"]], name=names["whole"], to=7)
    yield helper.make_node("Reshape", [names["whole"], names["length"]], [names["size"]], name=names["size"])
    yield helper.make_node("Expand", [names["one"], names["size"]], [names["ones"]], name=names["ones"])
    name, counted = (names["all"], [names["all"]]) if cut else (node.name, list(node.output))
    yield helper.make_node("CumSum", [names["ones"], names["axis"]], counted, name=name, exclusive=1)
    if cut:
        yield helper.make_node("Cast", [node.input[0]], [names["first"]], name=names["first"], to=7)
        yield helper.make_node("Reshape", [names["first"], names["length"]], [names["start"]], name=names["start"])
        yield helper.make_node("Slice", [names["all"], names["start"], names["size"]], list(node.output), name=node.name)


def _growers(graph: GraphProto, names: Collection[str]) -> frozenset[str]:
    """The expanding nodes above some values, but for those that only shapes and settings come from."""

    def read(node: NodeProto) -> list[str]:
        operator = find(node.op_type)
        settings = operator.constants if operator is not None else {}
        return [v for k, v in enumerate(numbers_read_by(node)) if k not in settings]

    needed = needed_values(graph, names, read)
    return frozenset(n.name for n in graph.node if n.op_type in GROWING and not needed.isdisjoint(n.output))


def _renamed(net: Net, names: Collection[str]) -> Net:
    """The net with names of its own, but for what it computes."""
    own = {value: value if value in names else value + OWN for value in net.shapes}
    nodes = tuple(replace(renamed(n, own), name=n.name + OWN) for n in net.nodes)
    return replace(
        net, inputs=(), nodes=nodes, params={own[k]: a for k, a in net.params.items()},
        shapes={own[k]: s for k, s in net.shapes.items()}, dtypes={own[k]: t for k, t in net.dtypes.items()},
    )
