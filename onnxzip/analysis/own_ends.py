"""Outputs that are streams: channels which other layers of the net read, too, given a layer of their own in front of them.

    y = x        ->        y = W x,   W = 1

An output holds its channels fast, and with them all that adds to a stream that ends there: encoders whose last value is their
output (BERT's states, Whisper's encoder) would share next to nothing. Behind such a layer, a head which each task has for
itself, the stream is free. Where what follows the stream's last sum needs nothing but one value (a norm, a mean over tokens),
the layer stands before it, so that the output still ends as it did.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis.coupling import Coupling, makes_of
from onnxzip.analysis.ends import OUTPUT
from onnxzip.analysis.neutral import Graft, grafted
from onnxzip.loading.linear import CANONICAL_GEMM
from onnxzip.net import Axis, Names, Net, Node, Port, consumers, producers, renamed, with_values
from onnxzip.ops.recurrent import takes_gates

MOST = 0.25  # of a net's params, that such layers may add


@dataclass(frozen=True)
class _End:
    """Where a stream ends.

    Attributes:
        value: its last value; axis: that of its channels.
        reader: what reads it on the way to the output; None where it is the output itself.
    """

    value: str
    axis: int
    reader: Node | None


def with_own_ends(net: Net, coupling: Coupling) -> tuple[Net, frozenset[str]]:
    """The net with layers before such outputs, and their names; as it is where there are none, or they would be too large."""
    inner = read_inside(coupling)
    ends = {p.name: end for p in net.outputs if (end := _end(net, coupling, p, inner)) is not None}
    more = sum(net.shapes[e.value][e.axis] ** 2 for e in ends.values())
    if not ends or more > MOST * net.size:
        return net, frozenset()
    names, values = Names({n.name for n in net.nodes}), Names(set(net.shapes))
    added = {output: names.fresh(f"{output}.own") for output in ends}
    for output, end in ends.items():
        net = _given(net, output, end, added[output], values)
    return net, frozenset(added.values())


def _end(net: Net, coupling: Coupling, port: Port, inner: Collection[int]) -> _End | None:
    """Where the stream ends that an output is; None for others.

    Args:
        inner: atoms that layers inside read.
    """
    held = [
        a for d in range(len(port.shape)) if (a := _channel(coupling, port.name, d)) in inner and a in coupling.produced
        and coupling.pinned.get(a) == OUTPUT
    ]
    if port.dtype.kind != "f" or len(held) != 1:
        return None
    makers, readers, reader, value = producers(net.nodes), consumers(net.nodes), None, port.name
    while (maker := makers.get(value)) is not None and (source := _only_input(net, coupling, maker)) is not None:
        if len(readers.get(value, ())) > (reader is not None):
            break
        reader, value = maker, source
    axes = [d for d in range(len(net.shapes[value])) if _channel(coupling, value, d) == held[0]]
    last = len(net.shapes[value]) - 1
    if len(axes) != 1 or axes[0] not in (1, last):
        return None
    return _End(value, axes[0], reader)


def _channel(coupling: Coupling, value: str, axis: int) -> int | None:
    """The atom that an axis is; None where it is none alone."""
    expr = coupling.axes[Axis(value, axis)]
    return expr.atom if expr.kind == "atom" else None


def read_inside(coupling: Coupling) -> set[int]:
    """Atoms that weights sum over; hidden units read each other."""
    read = (coupling.axes[axis] for axis, _ in makes_of(coupling.weighted).values())
    return {a for expr in read for a in expr.atoms()} | hidden_units(coupling)


def hidden_units(coupling: Coupling) -> set[int]:
    """Atoms of the units of recurrent nodes."""
    gates = (n for n in coupling.net.nodes if takes_gates(n.op, n.inputs))
    return {a for n in gates for a in coupling.exprs(str(n.inputs[2]))[2].atoms()}


def _only_input(net: Net, coupling: Coupling, node: Node) -> str | None:
    """The one value that a node without weights reads beside params; None for other nodes."""
    read = [v for v in node.read if v not in net.params]
    alone = len(read) == len(node.outputs) == 1 and read[0] not in {p.name for p in (*net.inputs, *net.outputs)}
    return read[0] if alone and node.name not in coupling.weighted else None


def _given(net: Net, output: str, end: _End, name: str, values: Names) -> Net:
    """The net with a layer behind the end of a stream, for the output alone."""
    at, out, readers = end.value, output, frozenset[str]()
    if end.reader is None:
        at = values.fresh(f"{output}.stream")
        nodes = (renamed(n, {output: at}) for n in net.nodes)
        net = with_values(net, nodes, {at: net.shapes[output]}, net.dtypes[output])
    else:
        out, readers = values.fresh(f"{output}.own"), frozenset([end.reader.name])
    return grafted(net, at, identity_layer(net, name, at, out, end.axis, values), readers)


def identity_layer(net: Net, name: str, at: str, out: str, axis: int, values: Names) -> Graft:
    """A product of a value's channels with the identity, and a bias of zero: on the last axis, or by a convolution with one
    tap.

    Args:
        name: of the node; out: of what it writes.
        axis: of the channels, the last one or the second.
        values: names of all values; grows.
    """
    shape, weight, bias = net.shapes[at], values.fresh(f"{name}.weight"), values.fresh(f"{name}.bias")
    size, spatial = shape[axis], len(shape) - 2
    identity, zero = np.eye(size, dtype=np.float32), np.zeros(size, np.float32)
    op, attrs = "MatMul", dict[str, object]()
    if not spatial:
        op, attrs = "Gemm", {**CANONICAL_GEMM}
    elif axis < len(shape) - 1:
        ones, none = (1,) * spatial, (0,) * (2 * spatial)
        op, identity = "Conv", identity.reshape(size, size, *ones)
        attrs = {"kernel_shape": ones, "strides": ones, "dilations": ones, "pads": none, "group": 1, "auto_pad": "NOTSET"}
    layer = Node(name, op, (at, weight, bias), (out,), attrs)
    return Graft((layer,), {weight: identity, bias: zero}, {out: shape, weight: identity.shape, bias: zero.shape}, out)
