"""Resize: along each resized axis a matrix [output, input] whose rows interpolate, `y = W x + e`.

A row has its taps around the coordinate x of its output position (Keys, IEEE ASSP 1981, for the cubic kernel):

    w_i = f((i - x) min(scale, 1)) / sum,     f linear: max(0, 1 - |t|);     f cubic: Keys' with a = cubic_coeff_a

with the scale only where antialias asks for it. Nearest is a row with one tap. An axis that keeps its size and scale couples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from onnxzip.net import Node, Shape
from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import apart_along, first, floats, ints, positive_axes, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized: lengths before and after, scale, region of interest (begin, end)."""

    size: int
    out: int
    scale: float
    region: tuple[float, float]


def _resized(shape: tuple[int, ...], attrs: Mapping[str, Any]) -> dict[int, _Axis]:
    """The axes that change, for an input of this shape; a size below 1 means as it is."""
    axes = positive_axes(attrs.get("axes"), len(shape)) or tuple(range(len(shape)))
    roi, sizes = floats(attrs.get("roi")), ints(attrs.get("sizes"))
    crop = attrs["coordinate_transformation_mode"] == "tf_crop_and_resize" and bool(roi)
    found = {}
    if sizes:
        scales = [size / shape[a] if size > 0 else 1.0 for a, size in zip(axes, sizes, strict=True)]
        policy = attrs.get("keep_aspect_ratio_policy", "stretch")
        outs = [size if size > 0 else shape[a] for a, size in zip(axes, sizes, strict=True)]
        if policy != "stretch":
            scales = [min(scales) if policy == "not_larger" else max(scales)] * len(axes)
            outs = [int(scales[0] * shape[a] + 0.5) for a in axes]
    else:
        scales = list(floats(attrs["scales"]))
        outs = [
            shape[a] if scale == 1.0 else math.floor(scale * shape[a] + 1e-9) for a, scale in zip(axes, scales, strict=True)
        ]
    for k, a in enumerate(axes):
        region = (roi[k], roi[k + len(axes)]) if crop else (0.0, 1.0)
        if outs[k] != shape[a] or not math.isclose(scales[k], 1.0) or region != (0.0, 1.0):
            found[a] = _Axis(shape[a], outs[k], scales[k], region)
    return found


def _coordinates(axis: _Axis, mode: str) -> np.ndarray:
    """Where each output position lies in the input, float64 [out]."""
    at, length = np.arange(axis.out, dtype=np.float64), axis.scale * axis.size
    begin, end = axis.region
    alone = np.zeros(axis.out)
    if mode == "align_corners":
        return alone if length == 1 else at * (axis.size - 1) / (length - 1)
    if mode == "asymmetric":
        return at / axis.scale
    if mode == "tf_half_pixel_for_nn":
        return (at + 0.5) / axis.scale
    if mode == "tf_crop_and_resize":
        step = alone + (end - begin) / 2 if axis.out == 1 else at * (end - begin) / (length - 1)
        return (step + begin) * (axis.size - 1)
    if mode == "pytorch_half_pixel" and axis.out == 1:
        return alone
    offset = axis.size / 2 * (1 - axis.out / length) if mode == "half_pixel_symmetric" else 0.0
    return offset + (at + 0.5) / axis.scale - 0.5


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _nearest(x: np.ndarray, mode: str) -> np.ndarray:
    halves = {"round_prefer_floor": np.ceil(x - 0.5), "round_prefer_ceil": np.floor(x + 0.5)}
    rounded: np.ndarray = (halves | {"floor": np.floor(x), "ceil": np.ceil(x)})[mode]
    return rounded.astype(np.int64)


def _matrix(axis: _Axis, x: np.ndarray, attrs: Mapping[str, Any]) -> np.ndarray:
    """Interpolation weights, [out, size]; a tap outside repeats the edge, or is left out."""
    rows = np.arange(axis.out)[:, None]
    matrix = np.zeros((axis.out, axis.size))
    if attrs["mode"] == "nearest":
        matrix[rows[:, 0], _nearest(x, attrs["nearest_mode"]).clip(0, axis.size - 1)] = 1.0
        return matrix
    reach = 1 if attrs["mode"] == "linear" else 2
    shrink = min(axis.scale, 1.0) if attrs.get("antialias") else 1.0
    begin = math.floor(-reach / shrink) + 1
    taps = np.floor(x).astype(np.int64)[:, None] + np.arange(begin, 2 - begin)
    t = (taps - x[:, None]) * shrink
    weights = np.maximum(0.0, 1 - np.abs(t)) if reach == 1 else _cubic(t, attrs["cubic_coeff_a"])
    if attrs["exclude_outside"]:
        weights = np.where((taps >= 0) & (taps < axis.size), weights, 0.0)
    weights /= weights.sum(1, keepdims=True)
    np.add.at(matrix, (np.broadcast_to(rows, taps.shape), taps.clip(0, axis.size - 1)), weights)
    return matrix


_SHAPING = (
    "coordinate_transformation_mode", "mode", "nearest_mode", "antialias", "exclude_outside", "cubic_coeff_a",
    "extrapolation_value",
)


@lru_cache(maxsize=256)
def _interpolation(axis: _Axis, *shaping: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights [out, size] and what is added [out], for the attributes in `_SHAPING`."""
    attrs = dict(zip(_SHAPING, shaping, strict=True))
    at = _coordinates(axis, attrs["coordinate_transformation_mode"])
    matrix, extra = _matrix(axis, at, attrs), np.zeros(axis.out)
    if attrs["coordinate_transformation_mode"] == "tf_crop_and_resize":
        outside = (at < 0) | (at > axis.size - 1)
        matrix[outside], extra[outside] = 0.0, attrs["extrapolation_value"]
    return matrix, extra


def _resize(x: Any, **attrs: Any) -> Any:
    for position, axis in _resized(tuple(x.shape), attrs).items():
        matrix, extra = _interpolation(axis, *(attrs.get(name) for name in _SHAPING))
        w = torch.as_tensor(matrix, dtype=x.dtype, device=x.device)
        y = torch.matmul(x.movedim(position, -1), w.T)
        if extra.any():
            y = y + torch.as_tensor(extra, dtype=x.dtype, device=x.device)
        x = y.movedim(-1, position)
    return x


def _line(view: View) -> Line:
    shape, out = first(view), view.outputs[0]
    changed = set(_resized(shape, view.attrs)) | {k for k in range(len(shape)) if shape[k] != out[k]}
    changed -= {k for k, d in enumerate(shape) if d < 0 and d == out[k]}
    left, right, pinned = apart_along(changed, len(shape))
    filled = bool(changed) and view.attrs["coordinate_transformation_mode"] == "tf_crop_and_resize"
    bound = Symmetry.PERMUTATION if filled and view.attrs["extrapolation_value"] else Symmetry.LINEAR
    return Line(text([left], [right]), pinned=pinned, symmetry=bound)


def _adapt(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Sizes given in place of scales speak of axes that are not resized, too; -k is k times the batch."""
    sizes_given = ints(node.attrs.get("sizes"))
    if not sizes_given:
        return {}
    assert inputs[0] is not None
    axes = positive_axes(node.attrs.get("axes"), len(outputs[0])) or tuple(range(len(outputs[0])))
    kept = {a for a in axes if inputs[0][a] == outputs[0][a]}
    return {"sizes": tuple(outputs[0][a] if a in kept else size for a, size in zip(axes, sizes_given, strict=True))}


register(
    Operator(
        "Resize", _line, _resize, Symmetry.LINEAR, constants={1: "roi", 2: "scales", 3: "sizes"}, adapt=_adapt,
        derived=frozenset({"sizes"}),
    )
)
