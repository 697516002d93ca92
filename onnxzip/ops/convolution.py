"""Conv and ConvTranspose: dense, grouped and depthwise, any number of spatial axes.

A grouped convolution couples group by group: its channels are a concatenation of one space per group. A depthwise one keeps
the channels of its input: `n c *s, c 1 *k, c -> n c *t`, or `n c *s, (c m) 1 *k -> n (c m) *t` with a channel multiplier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxzip.net import Node, Shape
from onnxzip.ops.lazy import torch
from onnxzip.ops.records import Line, Linear, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _present(view: View) -> int:
    return sum(shape is not None for shape in view.inputs)


def _groups(view: View) -> int:
    return int(view.attrs["group"])


def _is_depthwise(view: View) -> bool:
    assert view.inputs[0] is not None
    return _groups(view) > 1 and _groups(view) == view.inputs[0][1]


def _outputs_per_group(view: View) -> int:
    return view.outputs[0][1] // _groups(view)


def _composite(prefix: str, count: int) -> str:
    return "(" + "+".join(f"{prefix}{g}" for g in range(count)) + ")"


def _line(view: View, dense_weight: str) -> Line:
    bias = _present(view) == 3
    groups, multiplier = _groups(view), _outputs_per_group(view)
    if _is_depthwise(view):
        out, sizes = ("c", {}) if multiplier == 1 else ("(c m)", {"m": multiplier})
        weight = f"{out} 1 *k" if dense_weight == "o i *k" or multiplier == 1 else "c m *k"
        text = f"n c *s, {weight}{', ' + out if bias else ''} -> n {out} *t"
        return Line(text, sizes, symmetry=Symmetry.SCALING)
    if groups == 1:
        return Line(f"n i *s, {dense_weight}{', o' if bias else ''} -> n o *t")
    assert view.inputs[0] is not None
    i, o = _composite("i", groups), _composite("o", groups)
    sizes = {f"i{g}": view.inputs[0][1] // groups for g in range(groups)} | {f"o{g}": multiplier for g in range(groups)}
    weight = f"{o} 1 *k" if dense_weight == "o i *k" else f"{i} 1 *k"
    return Line(f"n {i} *s, {weight}{', ' + o if bias else ''} -> n {o} *t", sizes)


def _per_axis(view: View, name: str) -> tuple[int, ...]:
    return tuple(int(v) for v in view.attrs[name])


def _grid(view: View, transposed: bool) -> list[np.ndarray]:
    """Per spatial axis: [output position, tap] -> input position, -1 outside."""
    assert view.inputs[0] is not None
    grid = []
    rank = len(view.inputs[0]) - 2
    pads, strides, dilations = _per_axis(view, "pads"), _per_axis(view, "strides"), _per_axis(view, "dilations")
    for a, kernel in enumerate(_per_axis(view, "kernel_shape")):
        size, out = view.inputs[0][2 + a], np.arange(view.outputs[0][2 + a])[:, None]
        offset = np.arange(kernel)[None, :] * dilations[a]
        if transposed:
            at, rest = np.divmod(out + pads[a] - offset, strides[a])
            at = np.where(rest == 0, at, -1)
        else:
            at = out * strides[a] - pads[a] + offset
        grid.append(np.where((at >= 0) & (at < size), at, -1))
    assert len(grid) == rank
    return grid


def _taps(view: View, transposed: bool) -> np.ndarray:
    """Combine the axes' grids to flat positions, row-major, [outputs, taps]."""
    assert view.inputs[0] is not None
    flat, invalid = np.zeros((1, 1), np.int64), np.zeros((1, 1), bool)
    for at, size in zip(_grid(view, transposed), view.inputs[0][2:], strict=True):
        shape = (flat.shape[0] * at.shape[0], flat.shape[1] * at.shape[1])
        flat = (flat[:, None, :, None] * size + np.maximum(at, 0)[None, :, None, :]).reshape(shape)
        invalid = (invalid[:, None, :, None] | (at < 0)[None, :, None, :]).reshape(shape)
    return np.where(invalid, -1, flat)


def _conv_matrix(view: View, weight: np.ndarray) -> np.ndarray:
    out, inner, *kernel = weight.shape
    groups = out // _outputs_per_group(view) if _is_depthwise(view) else _groups(view)
    return weight.reshape(groups, out // groups, inner, math.prod(kernel)).swapaxes(2, 3)


def _conv_weight(view: View, matrix: np.ndarray) -> np.ndarray:
    groups, out, _, inner = matrix.shape
    return matrix.swapaxes(2, 3).reshape(groups * out, inner, *_per_axis(view, "kernel_shape"))


def _transpose_matrix(view: View, weight: np.ndarray) -> np.ndarray:
    inner, out, *kernel = weight.shape
    groups = inner if _is_depthwise(view) else _groups(view)
    return weight.reshape(groups, inner // groups, out, math.prod(kernel)).transpose(0, 2, 3, 1)


def _transpose_weight(view: View, matrix: np.ndarray) -> np.ndarray:
    groups, out, _, inner = matrix.shape
    return matrix.transpose(0, 3, 1, 2).reshape(groups * inner, out, *_per_axis(view, "kernel_shape"))


def _adapt(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """A depthwise node has as many groups as channels are left; a grouped one keeps its groups."""
    return {"group": sizes["c"]} if "c" in sizes else {}


def _pad(x: Any, pads: tuple[int, ...]) -> Any:
    """Zero padding in ONNX's order (all begins, all ends) by torch's (last axis first)."""
    half = len(pads) // 2
    pairs = [p for axis in reversed(range(half)) for p in (pads[axis], pads[axis + half])]
    return torch.nn.functional.pad(x, pairs) if any(pads) else x


def _conv(x: Any, w: Any, b: Any = None, *, pads: tuple[int, ...], strides: Any, dilations: Any, group: int, **_: Any) -> Any:
    f = getattr(torch.nn.functional, f"conv{x.ndim - 2}d")
    half = len(pads) // 2
    if tuple(pads[:half]) == tuple(pads[half:]):
        return f(x, w, b, tuple(strides), tuple(pads[:half]), tuple(dilations), group)
    return f(_pad(x, tuple(pads)), w, b, tuple(strides), 0, tuple(dilations), group)


def _conv_transpose(
    x: Any, w: Any, b: Any = None, *, pads: Any, strides: Any, dilations: Any, group: int, output_padding: Any, **_: Any
) -> Any:
    f = getattr(torch.nn.functional, f"conv_transpose{x.ndim - 2}d")
    y = f(x, w, b, tuple(strides), 0, tuple(output_padding), group, tuple(dilations))
    half = len(pads) // 2
    return _pad(y, tuple(-p for p in pads[:half]) + tuple(-p for p in pads[half:]))


register(
    Operator(
        "Conv", lambda view: _line(view, "o i *k"), _conv, Symmetry.LINEAR,
        linear=Linear(lambda v: _taps(v, False), _conv_matrix, _conv_weight, lambda v: 1, _is_depthwise),
        adapt=_adapt, derived=frozenset({"group"}),
    )
)
register(
    Operator(
        "ConvTranspose", lambda view: _line(view, "i o *k"), _conv_transpose, Symmetry.LINEAR,
        linear=Linear(lambda v: _taps(v, True), _transpose_matrix, _transpose_weight, lambda v: 1, _is_depthwise),
        adapt=_adapt, derived=frozenset({"group", "output_shape"}),
    )
)
