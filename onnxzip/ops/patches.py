"""Operators on patches and frames: Col2Im, which adds patches up to an image, and CenterCropPad.

    n (c k) l -> n c *t                Col2Im: k taps of l patches; CenterCropPad keeps the order of the axes that it changes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnxzip.net import Node, Shape
from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import first, ints, names, positive_axes, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _patches_line(view: View) -> Line:
    taps = math.prod(ints(view.attrs["block_shape"]))
    return Line("n (c k) l -> n c *t", {"k": taps}, pinned=frozenset({"k", "l"}))


def _col2im(
    x: Any, *, image_shape: Any, block_shape: Any, strides: Any = None, dilations: Any = None, pads: Any = None
) -> Any:
    """The sum of all patches, each at its place; the inverse direction of im2col."""
    image, block = ints(image_shape), ints(block_shape)
    rank = len(image)
    strides, dilations = (ints(v) or (1,) * rank for v in (strides, dilations))
    pads = ints(pads) or (0,) * 2 * rank
    padded = [image[k] + pads[k] + pads[rank + k] for k in range(rank)]
    flat = torch.zeros((1, 1), dtype=torch.int64, device=x.device)
    for k in range(rank):
        tap = torch.arange(block[k], device=x.device) * dilations[k]
        patch = torch.arange((padded[k] - dilations[k] * (block[k] - 1) - 1) // strides[k] + 1, device=x.device) * strides[k]
        at = tap[:, None] + patch[None, :]
        flat = (flat[:, None, :, None] * padded[k] + at[None, :, None, :]).reshape(flat.shape[0] * len(tap), -1)
    patches = x.reshape(x.shape[0], -1, flat.numel())
    y = x.new_zeros(*patches.shape[:2], math.prod(padded)).index_add(2, flat.reshape(-1), patches)
    y = y.reshape(*patches.shape[:2], *padded)
    for k in range(rank):
        y = y.narrow(2 + k, pads[k], image[k])
    return y


def _changed(shape: Shape, attrs: Mapping[str, Any]) -> dict[int, int]:
    """The axes that get another size."""
    wanted = ints(attrs["shape"])
    axes = positive_axes(attrs.get("axes"), len(shape)) or tuple(range(len(shape)))
    return {a: size for a, size in zip(axes, wanted, strict=True) if size >= 0 and size != shape[a]}


def _centred_line(view: View) -> Line:
    left, right = names(len(first(view))), names(len(first(view)))
    for k in _changed(first(view), view.attrs):
        left[k], right[k] = f"i{k}", f"o{k}"
    return Line(text([left], [right]), pinned=frozenset({*left, *right} - {*names(len(left))}))


def _centred(x: Any, *, shape: Any, axes: Any = None) -> Any:
    """Cut or padded with zeros by the same amount at both ends, an odd one at the end."""
    for axis, size in _changed(tuple(x.shape), {"shape": shape, "axes": axes}).items():
        less = abs(x.shape[axis] - size) // 2
        if size < x.shape[axis]:
            x = x.narrow(axis, less, size)
        else:
            pads = [0, 0] * (x.ndim - 1 - axis) + [less, size - x.shape[axis] - less]
            x = torch.nn.functional.pad(x, pads)
    return x


def _adapt(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    axes = positive_axes(node.attrs.get("axes"), len(outputs[0])) or tuple(range(len(outputs[0])))
    return {"shape": tuple(outputs[0][a] for a in axes)}


register(
    Operator("Col2Im", _patches_line, _col2im, Symmetry.LINEAR, constants={1: "image_shape", 2: "block_shape"})
)
register(
    Operator(
        "CenterCropPad", _centred_line, _centred, Symmetry.LINEAR, constants={1: "shape"}, adapt=_adapt,
        derived=frozenset({"shape"}),
    )
)
