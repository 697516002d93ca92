"""Per-channel affine maps folded into the weighted node before them: y = s (W x + b) + t = (s W) x + (s b + t).

A BatchNormalization in inference is such a map, s = g / sqrt(v + eps) and t = beta - m s, and so are Mul, Div, Add and Sub
with a param that has one entry per output channel. Conv, ConvTranspose, Gemm, MatMul and BatchNormalization absorb them where
nothing else reads their output. So `MatMul + Add` becomes one node, a MatMul with a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from onnxzip.loading.linear import CANONICAL_GEMM
from onnxzip.loading.params import Params, with_params
from onnxzip.net import Net, Node, consumers, producers, pruned

_HOSTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})
_WEIGHT_RANK = {"Gemm": 2, "MatMul": 2, "BatchNormalization": 1}


class Affine(NamedTuple):
    """y = scale * x + shift per channel, float64 [channels]; None for a scale of one, a shift of zero.

    `name` is the param that the shift comes from: a bias that is new takes it over.
    """

    scale: np.ndarray | None
    shift: np.ndarray | None
    name: str | None = None


def folded_affine(net: Net) -> Net:
    """The net with every per-channel affine map absorbed that can be, and every other BatchNormalization plain.

    A plain one has mean 0, variance 1 and epsilon 0, so that it is a scale and a bias.
    """
    params = Params.of(net)
    nodes = {node.name: _plain_normalization(net, node, params) for node in net.nodes}
    readers = {value: [node.name for node in found] for value, found in consumers(net.nodes).items()}
    outputs, before = {p.name for p in net.outputs}, {v: node.name for v, node in producers(net.nodes).items()}
    for node in list(nodes.values()):
        for value in dict.fromkeys(node.read):
            if value not in before or value in outputs or readers[value] != [node.name]:
                continue
            host = nodes[before[value]]
            able, axis = _can_absorb(net, host, params), _channel_axis(net, host)
            if able and (affine := affine_of(net, node, value, axis, params.arrays)) is not None:
                nodes[host.name] = _absorbed(net, host, affine, node.outputs[0], params)
                before[node.outputs[0]] = host.name
                del nodes[node.name]
                break
    return pruned(with_params(replace(net, nodes=tuple(nodes.values())), params))


def _channel_axis(net: Net, host: Node) -> int:
    return len(net.shapes[host.outputs[0]]) - 1 if host.op == "MatMul" else 1


def _can_absorb(net: Net, host: Node, params: Params) -> bool:
    """Whether the node's weight and bias are params in the form that `_absorbed` knows."""
    if host.op not in _HOSTS or any(v not in params.arrays for v in host.inputs[1:]):
        return False
    weight = params.arrays[host.inputs[1] or ""]
    if weight.dtype != np.float32 or weight.ndim != _WEIGHT_RANK.get(host.op, weight.ndim):
        return False
    if host.op == "Gemm":
        canonical = all(host.attrs[k] == v for k, v in CANONICAL_GEMM.items())
        return canonical and all(params.arrays[v or ""].ndim == 1 for v in host.inputs[2:])
    if host.op == "MatMul":
        return len(net.shape_of(host.inputs[0]) or ()) > 1
    return host.op != "BatchNormalization" or _is_inference(net, host)


def _is_inference(net: Net, node: Node) -> bool:
    """Whether a BatchNormalization is a map per channel."""
    return not node.attrs.get("training_mode", 0) and len(node.outputs) == 1 and net.dtypes[node.outputs[0]] == np.float32


def affine_of(net: Net, node: Node, value: str, axis: int, arrays: Mapping[str, np.ndarray]) -> Affine | None:
    """What a node does to each channel of a value, by params; None where it is no such map."""
    channels = net.shapes[value][axis]
    if node.op == "BatchNormalization":
        known = axis == 1 and node.inputs[0] == value and _is_inference(net, node)
        if not known or any(v not in arrays for v in node.inputs[1:]):
            return None
        return Affine(*_scale_and_shift(node, arrays), node.inputs[2])
    if node.op not in ("Mul", "Div", "Add", "Sub") or net.shapes[node.outputs[0]] != net.shapes[value]:
        return None
    other = node.inputs[1] if node.inputs[0] == value else node.inputs[0]
    number = None if other is None else per_channel(arrays.get(other), len(net.shapes[value]), axis, channels)
    if number is None:
        return None
    if node.op == "Mul":
        return Affine(number, None)
    if node.op == "Add":
        return Affine(None, number, other)
    first = node.inputs[0] == value
    if node.op == "Div":
        return Affine(1.0 / number, None) if first and np.all(number) else None
    return Affine(None, -number, other) if first else Affine(-np.ones(channels), number, other)


def per_channel(param: np.ndarray | None, rank: int, axis: int, channels: int) -> np.ndarray | None:
    """A param that broadcasts along one axis only, as float64 [channels]."""
    if param is None or param.dtype != np.float32 or param.ndim > rank:
        return None
    shape = (1,) * (rank - param.ndim) + param.shape
    if any(d != 1 for k, d in enumerate(shape) if k != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(param.reshape(-1), (channels,)).astype(np.float64)


def _absorbed(net: Net, host: Node, affine: Affine, output: str, params: Params) -> Node:
    """The host with its weight scaled and its bias scaled and shifted, writing what the absorbed node wrote."""
    x, w, *rest = host.inputs
    bias = rest[0] if rest else None
    if affine.scale is not None and w is not None:
        scaled = _scaled(host, params.arrays[w].astype(np.float64), affine.scale)
        w = params.replaced(w, f"{host.name}.weight", scaled)
    channels = net.shapes[output][_channel_axis(net, host)]
    old = np.zeros(channels) if bias is None else params.arrays[bias].astype(np.float64)
    new = (old if affine.scale is None else old * affine.scale) + (0.0 if affine.shift is None else affine.shift)
    if bias is not None or affine.shift is not None:
        bias = params.replaced(bias or affine.name, f"{host.name}.bias", np.broadcast_to(new, (channels,)))
    inputs = (x, w) if bias is None else (x, w, bias, *rest[1:])
    return replace(host, inputs=inputs, outputs=(output,))


def _scaled(host: Node, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The weight with its output channels multiplied; in ConvTranspose they are (group of axis 0, axis 1)."""
    if host.op == "MatMul":
        factors = scale
    elif host.op != "ConvTranspose":
        factors = scale.reshape(-1, *(1,) * (weight.ndim - 1))
    else:
        per_group = scale.reshape(int(host.attrs["group"]), weight.shape[1])
        rows = per_group.repeat(weight.shape[0] // len(per_group), axis=0)
        factors = rows.reshape(weight.shape[:2] + (1,) * (weight.ndim - 2))
    scaled: np.ndarray = weight * factors
    return scaled


def _plain_normalization(net: Net, node: Node, params: Params) -> Node:
    """BatchNormalization with mean 0, variance 1, epsilon 0."""
    if node.op != "BatchNormalization" or not _is_inference(net, node) or any(v not in params.arrays for v in node.inputs[1:]):
        return node
    names = [v or "" for v in node.inputs[1:]]
    scale, shift = _scale_and_shift(node, params.arrays)
    arrays = (scale, shift, np.zeros_like(shift), np.ones_like(scale))
    kinds = ("scale", "bias", "mean", "variance")
    new = [params.replaced(old, f"{node.name}.{kind}", a) for old, kind, a in zip(names, kinds, arrays, strict=True)]
    return replace(node, inputs=(node.inputs[0], *new), attrs={**node.attrs, "epsilon": 0.0})


def _scale_and_shift(node: Node, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What a BatchNormalization in inference is per channel, float64."""
    gain, bias, mean, variance = (arrays[v or ""].astype(np.float64) for v in node.inputs[1:])
    scale = gain / np.sqrt(variance + float(node.attrs["epsilon"]))
    return scale, bias - mean * scale
