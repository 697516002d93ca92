"""Multiply-accumulates of a net for one sample, from shapes alone.

    Conv, DeformConv   outputs * W[0].size         ConvTranspose  inputs * W[0].size
    Gemm, MatMul       outputs * inner dimension   Einsum         all indices, of two values and more
    LSTM, GRU, RNN     steps * (W.size + R.size)   Attention      (queries + outputs) * keys

Everything else is cheap beside these and counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from onnxzip.net.records import Net, Node, Shape, per_sample

Shapes = Mapping[str, Shape]


def macs(net: Net) -> int:
    """Multiply-accumulates per sample of a whole net."""
    return macs_of(net.nodes, net.shapes)


def macs_of(nodes: Iterable[Node], shapes: Shapes) -> int:
    """Multiply-accumulates per sample of some nodes, given the shapes of their values and params."""
    counted = (n for n in nodes if n.op in _COUNTS)
    return sum(_COUNTS[n.op](n, [shapes[v] for v in n.inputs if v], next(shapes[v] for v in n.outputs if v)) for n in counted)


def _conv(node: Node, inputs: Sequence[Shape], output: Shape) -> int:
    return per_sample(output) * per_sample(inputs[1][1:])


def _conv_transpose(node: Node, inputs: Sequence[Shape], output: Shape) -> int:
    return per_sample(inputs[0]) * per_sample(inputs[1][1:])


def _product(node: Node, inputs: Sequence[Shape], output: Shape) -> int:
    transposed = node.op == "Gemm" and node.attrs.get("transA")
    return per_sample(output) * abs(inputs[0][0 if transposed else -1])


def _einsum(node: Node, inputs: Sequence[Shape], output: Shape) -> int:
    terms = str(node.attrs["equation"]).replace(" ", "").partition("->")[0].split(",")
    if len(terms) < 2:
        return 0
    sizes, others = dict[str, int](), 1
    for term, shape in zip(terms, inputs, strict=True):
        before, _, after = term.partition("...")
        for letter, size in [*zip(before, shape, strict=False), *zip(after[::-1], shape[::-1], strict=False)]:
            sizes[letter] = max(sizes.get(letter, 1), abs(size))
        others = max(others, per_sample(shape[len(before) : len(shape) - len(after)]))
    return others * math.prod(sizes.values())


def _recurrent(node: Node, inputs: Sequence[Shape], output: Shape) -> int:
    steps = abs(inputs[0][1 if node.attrs.get("layout") else 0])
    return steps * sum(per_sample(shape) for shape in inputs[1:3] if len(shape) == 3)  # without W, a bias stands there


def _attention(node: Node, inputs: Sequence[Shape], output: Shape) -> int:
    return (per_sample(inputs[0]) + per_sample(output)) * abs(inputs[1][-2])


_COUNTS: Mapping[str, Callable[[Node, Sequence[Shape], Shape], int]] = {
    "Conv": _conv, "DeformConv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _product, "MatMul": _product,
    "Einsum": _einsum, "LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent, "Attention": _attention,
}
