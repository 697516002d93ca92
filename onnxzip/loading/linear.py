"""Gemm and MatMul in the forms that `ops/linear.py` describes.

    Gemm, B a param, transA = 0     ->  x W' + b with transB = 1, alpha = beta = 1, b of one axis
    MatMul of a rank-2 x, W a param ->  the same Gemm
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxzip.loading.mapped import is_mapped
from onnxzip.loading.params import Params, with_params
from onnxzip.net import Net, Node

CANONICAL_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}


def canonical_linear(net: Net) -> Net:
    """The net with its Gemm and MatMul nodes in canonical form."""
    params = Params.of(net)
    transposed: dict[tuple[str, float], str] = {}
    nodes = []
    for node in net.nodes:
        if node.op == "MatMul":
            node = _as_gemm(net, node)
        nodes.append(_plain_gemm(net, node, params, transposed) if node.op == "Gemm" else node)
    return with_params(replace(net, nodes=tuple(nodes)), params)


def _as_gemm(net: Net, node: Node) -> Node:
    x, w = node.inputs[:2]
    if x is None or w is None or w not in net.params or x in net.params or net.dtypes[x] != np.float32:
        return node
    if len(net.shapes[x]) != 2 or len(net.shapes[w]) != 2 or is_mapped(net.params[w]):
        return node  # mapped weights stay as they lie in their file
    return replace(node, op="Gemm", attrs={**CANONICAL_GEMM, "transB": 0})


def _plain_gemm(net: Net, node: Node, params: Params, transposed: dict[tuple[str, float], str]) -> Node:
    x, w, *rest = node.inputs
    bias = rest[0] if rest else None
    if node.attrs["transA"] or any(v is not None and v not in net.params for v in node.inputs[1:]):
        return node
    if w is None or net.dtypes[w] != np.float32:
        return node
    alpha, beta = float(node.attrs["alpha"]), float(node.attrs["beta"])
    kept = is_mapped(net.params[w]) and alpha == 1.0
    if (not node.attrs["transB"] and not kept) or alpha != 1.0:
        w = _weight(node, w, alpha, params, transposed)
    if bias is not None:
        row = _row(net.params[bias], net.shapes[node.outputs[0]][1])
        if row is None:
            return node if w == node.inputs[1] and beta == 1.0 else _scaled_matrix(node, w, bias, beta, params)
        if row.shape != net.params[bias].shape or beta != 1.0:
            bias = params.replaced(bias, f"{node.name}.bias", row.astype(np.float64) * beta)
    attrs = {**CANONICAL_GEMM, "transB": node.attrs["transB"]} if kept else CANONICAL_GEMM
    return replace(node, inputs=(x, w) if bias is None else (x, w, bias), attrs=attrs)


def _weight(node: Node, name: str, alpha: float, params: Params, transposed: dict[tuple[str, float], str]) -> str:
    """alpha W', once for all nodes that read W so."""
    key = (name, alpha if node.attrs["transB"] else -alpha)
    if key not in transposed:
        array = params.arrays[name].astype(np.float64) * alpha
        transposed[key] = params.replaced(name, f"{name}.transposed", array if node.attrs["transB"] else array.T)
    return transposed[key]


def _row(bias: np.ndarray, width: int) -> np.ndarray | None:
    """The bias as [width]; None where it differs from row to row."""
    if bias.ndim == 2 and bias.shape[0] != 1:
        return None
    return np.broadcast_to(bias.reshape(-1), (width,))


def _scaled_matrix(node: Node, w: str, bias: str, beta: float, params: Params) -> Node:
    bias = params.replaced(bias, f"{node.name}.bias", params.arrays[bias].astype(np.float64) * beta)
    return replace(node, inputs=(node.inputs[0], w, bias), attrs=CANONICAL_GEMM)
