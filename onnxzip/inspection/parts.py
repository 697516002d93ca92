"""What any net is made of, node by node: its operators' lines, shapes, channels, params, bytes and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, numpy_helper

from onnxzip.analysis.coupling import Coupling, view_of
from onnxzip.loading.weights import counts_as_weights, made_into_floats, nodes_of
from onnxzip.net import Axis, Net, Node, Port, Shape, macs_of, per_sample
from onnxzip.ops import find
from onnxzip.runtime import operator_of, read_by

Entry = dict[str, Any]
HALF_WIDTHS = {"FLOAT16": 2, "BFLOAT16": 2}


def node_entries(net: Net, coupling: Coupling) -> list[Entry]:
    """One entry for each node, in the net's order; a param that several nodes read counts for the first of them."""
    refused = dict(coupling.refusals)
    seen, weights = set[str](), weights_in(net)
    found = []
    for node in net.nodes:
        mine = [v for v in dict.fromkeys(node.read) if v in net.params and v not in seen]
        seen.update(mine)
        out = node.outputs[0]
        found.append({
            "name": node.name,
            "op": node.op,
            "line": None if node.name in refused else _line(net, node),
            "inputs": [v for v in dict.fromkeys(node.read) if v not in net.params],
            "outputs": list(node.outputs),
            "shape": shape_entry(net.shapes[out]),
            "channels": channels_of(net, coupling, out),
            **params_entry(net, net.params, mine, weights),
            "macs": macs_of([node], net.shapes),
            "refused": refused.get(node.name),
        })
    return found + _tail_entries(net, refused)


def _tail_entries(net: Net, refused: Mapping[str, str]) -> list[Entry]:
    """As `node_entries`, of the nodes of a net's tail, of which nobody knows shapes and multiply-accumulates."""
    graph = _tail(net)
    held, seen, weights = tail_params(net), set[str](), weights_in(net)
    found: list[Entry] = []
    for node in graph.node:
        read = list(dict.fromkeys(read_by(node)))
        mine = [v for v in read if v in held and v not in seen]
        seen.update(mine)
        found.append({
            "name": node.name,
            "op": operator_of(node),
            "line": None,
            "inputs": [v for v in read if v not in held],
            "outputs": list(node.output),
            "shape": [],
            "channels": 0,
            **params_entry(net, held, mine, weights),
            "macs": 0,
            "refused": refused.get(node.name),
        })
    return found


def tail_params(net: Net) -> dict[str, np.ndarray]:
    """The constants of a net's tail by name."""
    return {t.name: numpy_helper.to_array(t) for t in _tail(net).initializer}


def weights_in(net: Net) -> frozenset[str]:
    """The constants of a net, its tail included, that count as params: floats, and integers that floats are made of."""
    begun = made_into_floats([*net.nodes, *nodes_of(_tail(net))])
    return frozenset(n for n, a in {**net.params, **tail_params(net)}.items() if counts_as_weights(a, n in begun))


def _tail(net: Net) -> GraphProto:
    return GraphProto() if net.tail is None else GraphProto.FromString(net.tail.content)


def output_entries(net: Net, coupling: Coupling) -> list[Entry]:
    """The outputs of the whole net; of those that a tail computes nobody knows the shape."""
    ports = {p.name: port_entry(net, coupling, p) for p in net.outputs}
    return [ports.get(name, {"name": name, "shape": [], "channels": 0}) for name in net.ends]


def port_entry(net: Net, coupling: Coupling, port: Port) -> Entry:
    """An input or output of the net."""
    return {"name": port.name, "shape": shape_entry(port.shape), "channels": channels_of(net, coupling, port.name)}


def params_entry(net: Net, held: Mapping[str, np.ndarray], names: Iterable[str], weights: Container[str]) -> Entry:
    """Params among some constants of a net, and bytes of all of them as the file stores them.

    Args:
        weights: what counts as params.
    """
    arrays = {n: held[n] for n in names}
    width = HALF_WIDTHS.get(net.stored)
    sizes = [a.size * width if width is not None and a.dtype.kind == "f" else a.nbytes for a in arrays.values()]
    return {"params": sum(int(a.size) for n, a in arrays.items() if n in weights), "bytes": sum(map(int, sizes))}


def shape_entry(shape: Shape) -> list[int | str]:
    """A shape for people and JSON: the batch is "N", twice the batch "2N"."""
    return [d if d >= 0 else "N" if d == -1 else f"{-d}N" for d in shape]


def channels_of(net: Net, coupling: Coupling, value: str) -> int:
    """How many channels a value has: the length of the axis that weights produce, else of the one behind the batch."""
    shape = net.shapes[value]
    for dim, size in enumerate(shape):
        if any(a in coupling.produced for a in coupling.axes[Axis(value, dim)].atoms()):
            return abs(size)
    return abs(shape[1]) if len(shape) > 1 else per_sample(shape)


def _line(net: Net, node: Node) -> str | None:
    operator = find(node.op)
    return None if operator is None else operator.line_for(view_of(net, node)).text
