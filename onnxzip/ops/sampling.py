"""Operators that read between the entries of a grid, at computed points: GridSample, the region poolings, DeformConv.

    n c *s, n *t d -> n c *t           GridSample: positions and coordinates are pinned, channels are free
    n c *s, r k, r -> r c *t           RoiAlign: r regions, each of a sample by its number
"""

from __future__ import annotations

import math
from typing import Any

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import first, ints, names, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def _grid_line(view: View) -> Line:
    rank = len(first(view)) - 2
    into, out = names(rank, "s"), names(rank, "t")
    line = text([["n", "c", *into], ["n", *out, "d"]], [["n", "c", *out]])
    return Line(line, pinned=frozenset({*into, *out, "d"}))


def _grid_sample(x: Any, grid: Any, *, mode: str, padding_mode: str, align_corners: int) -> Any:
    return torch.nn.functional.grid_sample(x, grid, _MODES.get(mode, mode), padding_mode, bool(align_corners))


def _affine_line(view: View) -> Line:
    spatial = names(len(view.outputs[0]) - 2, "t")
    return Line(text([["n", "d", "e"]], [["n", *spatial, "d"]]), pinned=frozenset({"d", "e", *spatial}))


def _affine_grid(theta: Any, *, size: Any, align_corners: int) -> Any:
    return torch.nn.functional.affine_grid(theta, [theta.shape[0], *ints(size)[1:]], bool(align_corners))


def _align_points(begin: Any, length: Any, bins: int, samples: int, size: int) -> tuple[Any, Any, Any, Any]:
    """Along one axis: the two entries beside each of bins * samples points, and their weights; both 0 beyond the edge."""
    middles = torch.arange(bins * samples, dtype=begin.dtype, device=begin.device) + 0.5
    at = begin + middles * length / (bins * samples)
    inside = ((at >= -1) & (at <= size)).to(begin.dtype)
    at = at.clamp(0, size - 1)
    low = at.floor()
    high = (low + 1).clamp(max=size - 1)
    return low.to(torch.int64), high.to(torch.int64), (1 - (at - low)) * inside, (at - low) * inside


def _roi_align(
    x: Any, rois: Any, batch: Any, *, mode: str, output_height: int, output_width: int, sampling_ratio: int,
    spatial_scale: float, coordinate_transformation_mode: str = "output_half_pixel",
) -> Any:
    """Mean, or largest weighted neighbour, of a few points in each bin (He et al., Mask R-CNN, ICCV 2017)."""
    half = coordinate_transformation_mode == "half_pixel"
    found = []
    for roi, sample in zip(rois * spatial_scale - (0.5 if half else 0.0), batch, strict=True):
        lengths = roi[2:] - roi[:2] if half else (roi[2:] - roi[:2]).clamp(min=1.0)
        bins = (output_width, output_height)
        counts = [sampling_ratio or max(1, math.ceil(n / b)) for n, b in zip(lengths.tolist(), bins, strict=True)]
        axes = (
            _align_points(roi[k], lengths[k], bins[k], counts[k], x.shape[3 - k]) for k in (0, 1)
        )
        (left, right, wl, wr), (top, bottom, wt, wb) = axes
        corners = torch.stack(
            [
                x[sample][:, rows][:, :, columns] * (a[:, None] * b[None, :])
                for rows, a in ((top, wt), (bottom, wb)) for columns, b in ((left, wl), (right, wr))
            ]
        ).reshape(4, x.shape[1], output_height, counts[1], output_width, counts[0])
        found.append(corners.sum(0).mean((2, 4)) if mode == "avg" else corners.amax((0, 3, 5)))
    return torch.stack(found)


def _max_roi_pool(x: Any, rois: Any, *, pooled_shape: Any, spatial_scale: float) -> Any:
    """The largest entry of each bin of whole pixels (Girshick, Fast R-CNN, ICCV 2015); an empty bin is 0."""
    found = []
    for sample, *corners in rois.tolist():
        x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in corners)
        spans = [_bins(y1, y2, pooled_shape[0], x.shape[2]), _bins(x1, x2, pooled_shape[1], x.shape[3])]
        pooled = [
            x[int(sample), :, a:b, c:d].amax((1, 2)) if b > a and d > c else x.new_zeros(x.shape[1])
            for a, b in spans[0] for c, d in spans[1]
        ]
        found.append(torch.stack(pooled, 1).reshape(x.shape[1], *pooled_shape))
    return torch.stack(found)


def _bins(begin: int, end: int, count: int, size: int) -> list[tuple[int, int]]:
    step = max(end - begin + 1, 1) / count
    edges = ((math.floor(k * step) + begin, math.ceil((k + 1) * step) + begin) for k in range(count))
    return [(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]


def _deform_line(view: View) -> Line:
    """As a Conv; where channels have groups of weights or of offsets they stay where they are."""
    apart = int(view.attrs["group"]) != 1 or int(view.attrs["offset_group"]) != 1
    rank = len(first(view)) - 2
    into, out, kernel = names(rank, "s"), names(rank, "t"), names(rank, "k")
    values = [["n", "i", *into], ["o", "g" if apart else "i", *kernel], ["n", "f", *out]]
    if len(view.inputs) > 3 and view.inputs[3] is not None:
        values.append(["o"])
    if len(view.inputs) > 4 and view.inputs[4] is not None:
        values.append(["n", "m", *out])
    pinned = {*into, *out, *kernel, "f", "m", *(("i", "g", "o") if apart else ())}
    return Line(text(values, [["n", "o", *out]]), whole=frozenset({"i"}), pinned=frozenset(pinned))


def _deform_conv(
    x: Any, w: Any, offset: Any, b: Any = None, mask: Any = None, *, group: int, offset_group: int, kernel_shape: Any = None,
    strides: Any = None, dilations: Any = None, pads: Any = None,
) -> Any:
    """Each tap of a Conv reads beside its place by an offset of its own (Dai et al., ICCV 2017), weighted by the mask."""
    n, channels, *size = x.shape
    taps, out = math.prod(w.shape[2:]), offset.shape[2:]
    moves = offset.reshape(n * offset_group, taps, 2, *out)
    grid = []
    for axis in (1, 0):
        step, dilation, pad = ((ints(v) or (d,) * 2)[axis] for v, d in ((strides, 1), (dilations, 1), (pads, 0)))
        place = torch.arange(out[axis], dtype=x.dtype, device=x.device) * step - pad
        tap = torch.arange(w.shape[2 + axis], dtype=x.dtype, device=x.device) * dilation
        tap = tap.reshape((-1, 1) if axis == 0 else (1, -1)).expand(*w.shape[2:]).reshape(taps, 1, 1)
        at = moves[:, :, axis] + tap + place.reshape((1, -1, 1) if axis == 0 else (1, 1, -1))
        grid.append((2 * at + 1) / size[axis] - 1)
    points = torch.stack(grid, -1).reshape(n * offset_group, taps, -1, 2)
    read = torch.nn.functional.grid_sample(x.reshape(n * offset_group, -1, *size), points, align_corners=False)
    if mask is not None:
        read = read * mask.reshape(n * offset_group, 1, taps, -1)
    read = read.reshape(n, group, channels // group, taps, -1)
    y = torch.einsum("ngikp,goik->ngop", read, w.reshape(group, -1, channels // group, taps)).reshape(n, -1, *out)
    return y if b is None else y + b.reshape(-1, 1, 1)


def _region_line(view: View) -> Line:
    """The number of a region's sample counts samples: they stay where they are."""
    bound = Symmetry.LINEAR if view.attrs["mode"] == "avg" else Symmetry.PERMUTATION
    return Line("n c *s, r k, r -> r c *t", pinned=frozenset({"n", "k"}), symmetry=bound)


register(Operator("GridSample", _grid_line, _grid_sample, Symmetry.LINEAR))
register(Operator("AffineGrid", _affine_line, _affine_grid, Symmetry.PERMUTATION, constants={1: "size"}))
register(Operator("RoiAlign", _region_line, _roi_align, Symmetry.LINEAR))
register(
    Operator(
        "MaxRoiPool", lambda view: Line("n c *s, r k -> r c *t", pinned=frozenset({"n", "k"})), _max_roi_pool,
        Symmetry.SCALING,
    )
)
register(Operator("DeformConv", _deform_line, _deform_conv, Symmetry.PERMUTATION))
