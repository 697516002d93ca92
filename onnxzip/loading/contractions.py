"""Einsums that are layers: of one value and a param, as products of matrices (EinsumDense of Keras, DenseGeneral of Flax).

    abc,cde->abde   ->   Reshape(MatMul(x, w [c, de]) + b [de])
    abde,def->abf   ->   MatMul(Reshape(x) [a, b, de], w [de, f])

Letters that the value has alone are positions, letters that the param has alone channels of the output; those that both have
are summed over. An Einsum in which both keep one (a matrix for each position) stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from onnxzip.loading.params import Params, with_params
from onnxzip.net import BATCH, Names, Net, Node, Shape, consumers, with_values


@dataclass(frozen=True)
class _Layer:
    """An Einsum of a value and a param by its letters: those of the value, the param and the output, and what they measure."""

    value: str
    param: str
    read: str
    weight: str
    made: str
    sizes: dict[str, int]

    @property
    def summed(self) -> str:
        return "".join(c for c in self.weight if c in self.read)

    @property
    def positions(self) -> str:
        return "".join(c for c in self.made if c in self.read)

    @property
    def channels(self) -> str:
        return "".join(c for c in self.made if c in self.weight)

    def shape(self, letters: str) -> Shape:
        return tuple(self.sizes[c] for c in letters)


@dataclass
class _Writer:
    """Nodes one after the other, and the shapes of what they give."""

    net: Net
    base: Node
    names: Names
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def put(self, op: str, inputs: tuple[str, ...], gives: Shape, **attrs: object) -> str:
        name = self.names.fresh(f"{self.base.name}.{op.lower()}")
        self.nodes.append(Node(name, op, inputs, (name,), attrs))
        self.shapes[name] = gives
        return name

    def end(self, value: str) -> None:
        """Let the last node give a value of the net."""
        last = self.nodes[-1]
        del self.shapes[last.outputs[0]]
        self.nodes[-1] = replace(last, name=self.base.name, outputs=(value,))

    def moved(self, value: str, before: str, after: str, shape: Shape) -> str:
        """A value with its axes in another order."""
        if before == after:
            return value
        return self.put("Transpose", (value,), shape, perm=tuple(before.index(c) for c in after))

    def formed(self, value: str, old: Shape, shape: Shape) -> str:
        return value if old == shape else self.put("Reshape", (value,), shape, allowzero=0, shape=shape)


def layers_from_einsum(net: Net) -> Net:
    """The net with such Einsums as MatMuls."""
    params, names = Params.of(net), Names.beside(net)
    readers, outputs = consumers(net.nodes), {p.name for p in net.outputs}
    nodes, shapes, gone = list[Node](), dict[str, Shape](), set[str]()
    for node in net.nodes:
        layer = _layer(net, node) if node.op == "Einsum" else None
        if layer is None:
            nodes += [node] if node.name not in gone else []
            continue
        (made,) = node.outputs
        adder = readers[made][0] if made not in outputs and len(readers.get(made, ())) == 1 else None
        bias = _bias(net, layer, made, adder) if adder is not None else None
        writer = _Writer(net, node, names)
        _write(writer, layer, bias, params)
        if adder is not None and bias is not None:
            gone.add(adder.name)
            writer.end(adder.outputs[0])
        else:
            writer.end(made)
        nodes += writer.nodes
        shapes |= writer.shapes
    return with_params(with_values(net, nodes, shapes, np.dtype(np.float32)), params)


def _layer(net: Net, node: Node) -> _Layer | None:
    """An Einsum as a layer; None where it is none."""
    if len(node.inputs) != 2 or sum(v in net.params for v in node.inputs) != 1 or net.dtypes[node.outputs[0]] != np.float32:
        return None
    first, second = map(str, node.inputs)
    left, arrow, made = str(node.attrs["equation"]).replace(" ", "").partition("->")
    terms = dict(zip((first, second), left.split(","), strict=True))
    value, param = (second, first) if first in net.params else (first, second)
    if not arrow or len(terms) != 2 or "..." in terms[param]:
        return None
    dots = "".join(chr(ord("A") + k) for k in range(len(net.shapes[value]) - len(terms[value].replace("...", ""))))
    if set(dots) & set(left):
        return None
    read, made = (t.replace("...", dots) for t in (terms[value], made))
    sizes = {c: d for term, v in ((read, value), (terms[param], param)) for c, d in zip(term, net.shapes[v], strict=True)}
    layer = _Layer(value, param, read, terms[param], made, sizes)
    once = all(len(set(t)) == len(t) for t in (read, layer.weight, made))
    parts = layer.positions + layer.summed
    fits = set(parts) == set(read) and set(layer.summed + layer.channels) == set(layer.weight) and layer.summed
    return layer if once and fits and set(layer.positions).isdisjoint(layer.channels) and _one_batch(layer) else None


def _one_batch(layer: _Layer) -> bool:
    """Whether the batch is one of the positions, and no size depends on it besides."""
    negative = [c for c, d in layer.sizes.items() if d < 0]
    return all(layer.sizes[c] == BATCH for c in negative) and len(negative) <= 1 and set(negative) <= set(layer.positions)


def _bias(net: Net, layer: _Layer, value: str, adder: Node) -> np.ndarray | None:
    """What is added to the channels behind a layer, as one vector; None where it is no such thing."""
    if adder.op != "Add" or len(layer.channels) < 2 or layer.made != layer.positions + layer.channels:
        return None
    other = next((v for v in adder.inputs if v != value), None)
    if other not in net.params or net.shapes[adder.outputs[0]] != net.shapes[value]:
        return None
    shape, array = layer.shape(layer.channels), net.params[str(other)]
    front = array.shape[: -len(shape)] if array.ndim > len(shape) else ()
    return array.reshape(-1) if array.shape[len(front):] == shape and set(front) <= {1} else None


def _write(writer: _Writer, layer: _Layer, bias: np.ndarray | None, params: Params) -> None:
    positions, summed, channels = layer.positions, layer.summed, layer.channels
    lead = layer.shape(positions)
    x = writer.moved(layer.value, layer.read, positions + summed, layer.shape(positions + summed))
    x = writer.formed(x, layer.shape(positions + summed), (*lead, prod(layer.shape(summed))))
    order = [layer.weight.index(c) for c in summed + channels]
    matrix = params.arrays[layer.param].transpose(order).reshape(prod(layer.shape(summed)), -1)
    inputs = (x, params.replaced(layer.param, f"{layer.param}.matrix", matrix))
    y = writer.put("MatMul", inputs, (*lead, matrix.shape[1]))
    if bias is not None:
        name = params.replaced(None, f"{writer.base.name}.bias", bias)
        y = writer.put("Add", (y, name), (*lead, matrix.shape[1]))
    y = writer.formed(y, (*lead, matrix.shape[1]), layer.shape(positions + channels))
    writer.moved(y, positions + channels, layer.made, layer.shape(layer.made))
