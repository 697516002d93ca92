"""Recurrent nodes as a layer that reads the inputs, one for each direction, and what is left: steps over the gates it makes.

    Y = LSTM(x, W, R, B, ...)    ->    u = MatMul(x, W') + b_W,    Y = LSTM(u, -, R, b_R, ...)

So hidden units are channels that weights produce, as any others. Two directions have units of their own: where a net lays
them side by side, they are so from the start. States that begin with zeros are left out. Exporting joins layer and node again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxzip.loading.params import Params, with_params
from onnxzip.net import Names, Net, Node, Shape, consumers, producers, pruned, with_values
from onnxzip.ops.recurrent import GATES, STATES

_SAME_EVERYWHERE = frozenset({"Expand", "Slice", "Identity", "Tile", "Reshape", "Unsqueeze"})


@dataclass
class _Writer:
    """The nodes of a net one after the other, and the shapes of values that it did not have."""

    net: Net
    params: Params
    names: Names
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def value(self, wish: str, shape: Shape) -> str:
        """A fresh value."""
        name = self.names.fresh(wish)
        self.shapes[name] = shape
        return name

    def put(self, op: str, inputs: tuple[str | None, ...], outputs: tuple[str, ...], name: str, **attrs: object) -> None:
        """Write a node."""
        self.nodes.append(Node(self.names.fresh(name), op, inputs, outputs, attrs))


def layer_of(name: str) -> str:
    """What the layer of a recurrent node is called."""
    return f"{name}.input"


def with_layers_for_gates(net: Net) -> Net:
    """The net with such nodes taken apart: those with weights of their own, in ONNX's usual order of axes."""
    if not any(node.op in GATES for node in net.nodes):
        return net
    writer = _Writer(net, Params.of(net), Names.beside(net))
    whole = (n for n in net.nodes if _has_weights(net, n, writer.params.readers))
    states = {n.name: s for n in whole if (s := _states(net, n)) is not None}
    rows = {name: pair for name, pair in _rows_of_both(net).items() if name in states}
    gone = {n.name for pair in rows.values() for n in pair}
    for node in (n for n in net.nodes if n.name not in gone):
        if node.name in states:
            writer.names.taken.discard(node.name)
            _take_apart(writer, node, states[node.name], rows.get(node.name))
        else:
            writer.nodes.append(node)
    return pruned(with_params(with_values(net, writer.nodes, writer.shapes, np.dtype(np.float32)), writer.params))


def _has_weights(net: Net, node: Node, readers: Mapping[str, int]) -> bool:
    """Whether a recurrent node has all of its weights, for itself, and time as its first axis."""
    if node.op not in GATES or node.attrs.get("layout", 0):
        return False
    own = [v for k in (1, 2, 3, 7) if (v := node.input(k)) is not None]
    return node.input(1) is not None and all(v in net.params and readers[v] == 1 for v in own)


def _states(net: Net, node: Node) -> list[str | None] | None:
    """What a node's states begin with, nothing for zeros; None where a node of two directions has something that would have to
    be dealt out."""
    found = [v if v is not None and not _is_zero(net, v) else None for k in STATES for v in [node.input(k)]]
    dealt = any(found) or any(node.attrs.get(k) for k in ("activation_alpha", "activation_beta"))
    return None if node.attrs["direction"] == "bidirectional" and dealt else found


def _is_zero(net: Net, value: str) -> bool:
    """Whether a value is nothing but zeros, whatever the net reads."""
    made, stack = producers(net.nodes), [value]
    while stack:
        value = stack.pop()
        node = made.get(value)
        if node is not None and node.op in _SAME_EVERYWHERE:
            stack.append(str(node.inputs[0]))
        elif node is not None and node.op == "Concat":
            stack.extend(node.read)
        elif value not in net.params or np.any(net.params[value]):
            return False
    return True


def _rows_of_both(net: Net) -> dict[str, tuple[Node, Node]]:
    """Nodes of two directions whose outputs are read by nothing but a Transpose and a Reshape that lay them side by side."""
    readers, ends = consumers(net.nodes), {p.name for p in net.outputs}
    found = {}
    for node in net.nodes:
        if node.op not in GATES or node.attrs["direction"] != "bidirectional" or not node.outputs[0]:
            continue
        turn = readers.get(node.outputs[0], [])
        if len(turn) != 1 or turn[0].op != "Transpose" or turn[0].attrs["perm"] != (0, 2, 1, 3):
            continue
        shape, flat = net.shapes[turn[0].outputs[0]], readers.get(turn[0].outputs[0], [])
        if len(flat) != 1 or flat[0].op != "Reshape" or {node.outputs[0], turn[0].outputs[0]} & ends:
            continue
        if net.shapes[flat[0].outputs[0]] == (*shape[:2], shape[2] * shape[3]):
            found[node.name] = turn[0], flat[0]
    return found


def _take_apart(writer: _Writer, node: Node, states: list[str | None], rows: tuple[Node, Node] | None) -> None:
    """Write a node as layers and what they leave; the outputs of two directions one behind the other."""
    net = writer.net
    if node.attrs["direction"] != "bidirectional":
        _write_direction(writer, node, 0, states, node.outputs, node.name)
        return
    parts = []
    for d, name in enumerate((node.name, f"{node.name}.reverse")):
        halves = tuple(
            writer.value(f"{v}.{d}", _of_one(net.shapes[v], k == 0)) if v else "" for k, v in enumerate(node.outputs)
        )
        _write_direction(writer, node, d, states, halves, name)
        parts.append(halves)
    for k, (value, *both) in enumerate(zip(node.outputs, *parts, strict=True)):
        if not value:
            continue
        if k or rows is None:
            writer.put("Concat", tuple(both), (value,), f"{node.name}.both", axis=0 if k else 1)
            continue
        flat = []
        for half in both:
            t, _, n, h = writer.shapes[half]
            flat.append(writer.value(f"{half}.flat", (t, n, h)))
            writer.put("Squeeze", (half,), (flat[-1],), f"{half}.row", axes=(1,))
        writer.put("Concat", tuple(flat), rows[1].outputs, f"{node.name}.both", axis=2)


def _of_one(shape: Shape, over_time: bool) -> Shape:
    """The shape of one direction's part of an output."""
    return (shape[0], 1, *shape[2:]) if over_time else (1, *shape[1:])


def _write_direction(
    writer: _Writer, node: Node, d: int, states: list[str | None], outputs: tuple[str, ...], name: str
) -> None:
    """Write one direction of a node as a layer and what it leaves."""
    net, params = writer.net, writer.params
    both = node.attrs["direction"] == "bidirectional"

    def put(old: str | None, wish: str, array: np.ndarray) -> str:
        """A param of this direction, under the old name where there is no other direction."""
        return params.added(f"{wish}.{d}", array) if both else params.replaced(old, wish, array)

    x, w, r, b, lengths, *_ = (node.input(k) for k in range(8))
    weights, recurrence = (net.params[str(v)][d] for v in (w, r))
    bias = np.zeros(2 * len(weights), np.float32) if b is None else net.params[b][d]
    inner, own = np.split(bias, 2)
    gates = writer.value(f"{name}.gates", (*net.shapes[str(x)][:2], len(weights)))
    bias_name = put(b, b or f"{node.name}.bias", inner)
    layer = (x, put(w, str(w), weights.T), bias_name)
    writer.put("MatMul", layer, (gates,), layer_of(name))
    peepholes = node.input(7)
    read = [gates, None, put(r, str(r), recurrence[None]), params.added(f"{bias_name}.own", own[None]), lengths, *states]
    read.append(None if peepholes is None else put(peepholes, peepholes, net.params[peepholes][d][None]))
    while read[-1] is None:
        read.pop()
    writer.put(node.op, tuple(read), outputs, name, **{**node.attrs, **_attributes(node, d)})


def _attributes(node: Node, d: int) -> dict[str, object]:
    """Those of one direction that both have together."""
    if node.attrs["direction"] != "bidirectional":
        return {}
    functions = node.attrs.get("activations")
    half = len(functions) // 2 if functions else 0
    mine = {"activations": functions[d * half : (d + 1) * half]} if functions else {}
    return {"direction": ("forward", "reverse")[d], **mine}
