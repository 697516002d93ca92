"""Normalisations, and the softmaxes: operators whose statistics or sums run over channels.

BatchNormalization in canonical form (mean 0, variance 1, epsilon 0) is a diagonal linear node, `y = weight x + bias` per
channel. The others need all channels of the normalised axes at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import aligned, first, ints, names, present, text
from onnxzip.ops.records import Line, Linear, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _along(x: Any, values: Any) -> Any:
    """A vector over channels, shaped to meet the second axis of x."""
    return values.reshape(-1, *(1 for _ in range(x.ndim - 2)))


def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, variance: Any, *, epsilon: float, **_: Any) -> Any:
    """torch's own function has no gradient for the statistics, and knows no types but one, or halves with float32 params."""
    one = x.dtype == weight.dtype or (x.dtype in (torch.float16, torch.bfloat16) and weight.dtype == torch.float32)
    if one and weight.dtype == mean.dtype and not (mean.requires_grad or variance.requires_grad):
        return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, epsilon)
    factor = weight / torch.sqrt(variance + epsilon)
    return x * _along(x, factor) + _along(x, bias - mean * factor)


def _positions(view: View) -> np.ndarray:
    return np.arange(math.prod(abs(d) for d in first(view)[2:]))[:, None]


def _channel_line(view: View) -> Line:
    """Statistics of each channel over all of its spatial axes."""
    spatial = names(len(first(view)) - 2, "s")
    x = ["n", "c", *spatial]
    return Line(text([x, ["c"], ["c"]], [x]), whole=frozenset(spatial))


def _instance_norm(x: Any, scale: Any, bias: Any, *, epsilon: float) -> Any:
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    variance = (centred * centred).mean(axes, keepdim=True)
    return centred / torch.sqrt(variance + epsilon) * _along(x, scale) + _along(x, bias)


def _group_line(view: View) -> Line:
    """Channels are a concatenation of one space per group, each needed whole; before opset 21 a group has one scale."""
    shape, groups = first(view), int(view.attrs["num_groups"])
    channels, spatial = names(groups, "c"), names(len(shape) - 2, "s")
    term = f"({'+'.join(channels)})" if groups > 1 else channels[0]
    x = ["n", term, *spatial]
    scale = [term] if view.inputs[1] == (shape[1],) else ["g"]
    sizes = dict.fromkeys(channels, shape[1] // groups)
    return Line(text([x, scale, scale], [x]), sizes, whole=frozenset({*channels, *spatial}), pinned=frozenset({"g"}))


def _group_norm(x: Any, scale: Any, bias: Any, *, num_groups: int, epsilon: float, **_: Any) -> Any:
    channels = x.shape[1] // scale.numel()
    return torch.nn.functional.group_norm(
        x, num_groups, scale.repeat_interleave(channels), bias.repeat_interleave(channels), epsilon
    )


def _trailing_line(view: View) -> Line:
    """Normalised over the node's axis and all behind it; scale and bias are broadcast to x."""
    shape = first(view)
    axes = names(len(shape))
    axis = int(view.attrs["axis"]) % len(axes)
    terms = [aligned(operand, axes, shape) for operand in present(view)]
    statistics = [[*axes[:axis], *("1" for _ in axes[axis:])] for _ in view.outputs[1:]]
    return Line(text(terms, [axes, *statistics]), whole=frozenset(axes[axis:]))


def _layer_norm(x: Any, scale: Any, bias: Any = None, *, axis: int, epsilon: float, **_: Any) -> Any:
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias), mean, inverse


def _rms_norm(x: Any, scale: Any, *, axis: int, epsilon: float, **_: Any) -> Any:
    axes = tuple(range(axis % x.ndim, x.ndim))
    return x / torch.sqrt((x * x).mean(axes, keepdim=True) + epsilon) * scale


def _over_line(view: View) -> Line:
    """Normalised over the node's axis, or axes."""
    axes = names(len(first(view)))
    over = ints(view.attrs["axes"] if "axes" in view.attrs else view.attrs["axis"])
    return Line(text([axes], [axes]), whole=frozenset(axes[k % len(axes)] for k in over))


def _mean_variance(x: Any, *, axes: Any) -> Any:
    centred = x - x.mean(ints(axes), keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(ints(axes), keepdim=True)) + 1e-9)


def _lp_norm(x: Any, *, axis: int, p: int) -> Any:
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


def _local_line(view: View) -> Line:
    """A sum over neighbours: no channel can go without the others, or elsewhere."""
    return Line("n c *s -> n c *s", ordered=frozenset({"c"}))


def _local_response(x: Any, *, size: int, alpha: float, beta: float, bias: float) -> Any:
    """x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels) ^ beta."""
    squares = torch.nn.functional.pad((x * x).movedim(1, -1), ((size - 1) // 2, size // 2))
    return x / (bias + alpha / size * squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)) ** beta


def _hardmax(x: Any, *, axis: int) -> Any:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


register(
    Operator(
        "BatchNormalization", "n c *s, c, c, c, c -> n c *s", _batch_norm, Symmetry.SCALING,
        linear=Linear(
            _positions,
            lambda v, w: w[:, None, None, None],
            lambda v, m: m[:, 0, 0, 0],
            lambda v: 1,
            lambda v: True,
        ),
    )
)
register(Operator("InstanceNormalization", _channel_line, _instance_norm, Symmetry.PERMUTATION))
register(Operator("GroupNormalization", _group_line, _group_norm, Symmetry.PERMUTATION))
register(Operator("LayerNormalization", _trailing_line, _layer_norm, Symmetry.PERMUTATION))
register(Operator("RMSNormalization", _trailing_line, _rms_norm, Symmetry.PERMUTATION))
register(Operator("MeanVarianceNormalization", _over_line, _mean_variance, Symmetry.PERMUTATION))
register(Operator("LpNormalization", _over_line, _lp_norm, Symmetry.PERMUTATION))
register(Operator("LRN", _local_line, _local_response, Symmetry.PERMUTATION))
register(Operator("Softmax", _over_line, lambda x, *, axis: torch.softmax(x, axis), Symmetry.PERMUTATION))
register(Operator("LogSoftmax", _over_line, lambda x, *, axis: torch.log_softmax(x, axis), Symmetry.PERMUTATION))
register(Operator("Hardmax", _over_line, _hardmax, Symmetry.PERMUTATION))
