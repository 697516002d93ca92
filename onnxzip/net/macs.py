"""Multiply-accumulates of a net for one sample, from shapes alone.

    Conv            outputs * W[0].size        ConvTranspose  inputs * W[0].size
    Gemm, MatMul    outputs * inner dimension

Everything else is cheap beside these and counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxzip.net.records import Net, Node, Shape, per_sample


def macs(net: Net) -> int:
    """Multiply-accumulates per sample of a whole net."""
    return macs_of(net.nodes, net.shapes)


def macs_of(nodes: Iterable[Node], shapes: Mapping[str, Shape]) -> int:
    """Multiply-accumulates per sample of some nodes, given the shapes of their values and params."""
    return sum(_node_macs(node, shapes) for node in nodes)


def _node_macs(node: Node, shapes: Mapping[str, Shape]) -> int:
    if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    x, w = shapes[str(node.inputs[0])], shapes[str(node.inputs[1])]
    out = per_sample(shapes[node.outputs[0]])
    if node.op == "Conv":
        return out * per_sample(w[1:])
    if node.op == "ConvTranspose":
        return per_sample(x) * per_sample(w[1:])
    return out * abs(x[0] if node.op == "Gemm" and node.attrs.get("transA") else x[-1])
