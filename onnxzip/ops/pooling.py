"""Pooling over spatial axes: `n c *s -> n c *t`, and over all of them: `n c h w -> n c 1 1`.

Padding is explicit, so that every count is exact: a ceil-mode window may hang over the end of the padded input, where it
reads nothing and counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import first, ints, names, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _overhang(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], ceil_mode: int) -> int:
    """Positions that the last window reads beyond the padded end; no window starts there."""
    span = dilation * (kernel - 1) + 1
    free = size + sum(pads) - span
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + pads[0]:
        count -= 1
    return max(0, (count - 1) * stride + span - size - sum(pads))


@dataclass(frozen=True)
class _Windows:
    """The geometry of one pooling node on one input: per spatial axis, pairs for begin and end."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    extra: tuple[tuple[int, int], ...]


def _windows(x: Any, attrs: Mapping[str, Any]) -> _Windows:
    kernel = ints(attrs["kernel_shape"])
    rank = len(kernel)
    strides, dilations = (ints(attrs.get(name)) or (1,) * rank for name in ("strides", "dilations"))
    flat = ints(attrs.get("pads")) or (0,) * (2 * rank)
    pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
    axes = zip(x.shape[2:], kernel, strides, dilations, pads, strict=True)
    return _Windows(kernel, strides, dilations, pads, tuple((0, _overhang(*axis, attrs.get("ceil_mode", 0))) for axis in axes))


def _padded(x: Any, pairs: tuple[tuple[int, int], ...], value: float) -> Any:
    """Padding of the spatial axes, in torch's order: last axis first."""
    flat = [p for pair in reversed(pairs) for p in pair]
    return torch.nn.functional.pad(x, flat, value=value) if any(flat) else x


def _summed(x: Any, windows: _Windows) -> Any:
    """Sum of each window of an input that is padded already."""
    rank = len(windows.kernel)
    if all(d == 1 for d in windows.dilations):
        pool = getattr(torch.nn.functional, f"avg_pool{rank}d")
        return pool(x, windows.kernel, windows.strides) * math.prod(windows.kernel)
    conv = getattr(torch.nn.functional, f"conv{rank}d")
    ones = torch.ones((1, 1, *windows.kernel), dtype=x.dtype, device=x.device)
    y = conv(x.reshape(-1, 1, *x.shape[2:]), ones, stride=windows.strides, dilation=windows.dilations)
    return y.reshape(*x.shape[:2], *y.shape[2:])


def _max_pool(x: Any, *, outputs: int, **attrs: Any) -> Any:
    w = _windows(x, attrs)
    padded = _padded(_padded(x, w.pads, -math.inf), w.extra, -math.inf)
    pool = getattr(torch.nn.functional, f"max_pool{len(w.kernel)}d")
    if outputs == 1:
        return pool(padded, w.kernel, w.strides, 0, w.dilations)
    y, at = pool(padded, w.kernel, w.strides, 0, w.dilations, return_indices=True)
    return y, _flat_places(x, padded, at, w, bool(attrs.get("storage_order")))


def _flat_places(x: Any, padded: Any, at: Any, windows: _Windows, column_major: bool) -> Any:
    """Where the largest entries lie in the whole of x as one row, from where they lie in their own padded image."""
    places = []
    for size, (before, _) in zip(reversed(padded.shape[2:]), reversed(windows.pads), strict=True):
        places.append(at % size - before)
        at = at // size
    flat, sizes = torch.zeros_like(at), tuple(x.shape[2:])
    order = [*zip(places, reversed(sizes), strict=True)]
    for place, size in order if column_major else reversed(order):
        flat = flat * size + place
    image = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[0], x.shape[1], *(1 for _ in sizes))
    return image * math.prod(sizes) + flat


def _max_unpool(x: Any, indices: Any, *, output_shape: Any = None, **attrs: Any) -> Any:
    """Every entry at its place in the whole of y as one row, zeros elsewhere."""
    kernel = ints(attrs["kernel_shape"])
    rank = len(kernel)
    strides, pads = ints(attrs.get("strides")) or (1,) * rank, ints(attrs.get("pads")) or (0,) * 2 * rank
    sizes = [(x.shape[2 + k] - 1) * strides[k] - pads[k] - pads[rank + k] + kernel[k] for k in range(rank)]
    flat = x.new_zeros(math.prod(x.shape[:2]) * math.prod(sizes)).scatter(0, indices.reshape(-1), x.reshape(-1))
    y = flat.reshape(*x.shape[:2], *sizes)
    wanted = ints(output_shape)[2:]
    return _padded(y, tuple((0, w - n) for w, n in zip(wanted, sizes, strict=True)), 0.0) if wanted else y


def _unpool_line(view: View) -> Line:
    """An index counts samples and channels, too: they stay where they are."""
    return Line("n c *s, n c *s -> n c *t", pinned=frozenset({"n", "c"}))


def _average_pool(x: Any, **attrs: Any) -> Any:
    w = _windows(x, attrs)
    if not any(map(any, (*w.pads, *w.extra))) and all(d == 1 for d in w.dilations):
        return getattr(torch.nn.functional, f"avg_pool{len(w.kernel)}d")(x, w.kernel, w.strides)
    counted = _padded(torch.ones_like(x[:1, :1]), w.pads, 1.0 if attrs["count_include_pad"] else 0.0)
    y = _summed(_padded(_padded(x, w.pads, 0.0), w.extra, 0.0), w)
    return y / _summed(_padded(counted, w.extra, 0.0), w)


def _lp_pool(x: Any, **attrs: Any) -> Any:
    w, p = _windows(x, attrs), attrs["p"]
    return _summed(_padded(_padded(torch.abs(x) ** p, w.pads, 0.0), w.extra, 0.0), w) ** (1.0 / p)


def _max_pool_line(view: View) -> Line:
    """An index counts samples and channels, too: where it is read they stay where they are."""
    if len(view.outputs) == 1:
        return Line("n c *s -> n c *t")
    return Line("n c *s -> n c *t, n c *t", pinned=frozenset({"n", "c"}))


def _global_line(view: View) -> Line:
    spatial = names(len(first(view)) - 2, "s")
    return Line(text([["n", "c", *spatial]], [["n", "c", *("1" for _ in spatial)]]), whole=frozenset(spatial))


def _spatial(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


register(Operator("MaxPool", _max_pool_line, _max_pool, Symmetry.SCALING, told_outputs=True))
register(Operator("MaxUnpool", _unpool_line, _max_unpool, Symmetry.LINEAR, constants={2: "output_shape"}))
register(Operator("AveragePool", "n c *s -> n c *t", _average_pool, Symmetry.LINEAR))
register(Operator("LpPool", "n c *s -> n c *t", _lp_pool, Symmetry.SCALING))
register(Operator("GlobalAveragePool", _global_line, lambda x: x.mean(_spatial(x), keepdim=True), Symmetry.LINEAR))
register(Operator("GlobalMaxPool", _global_line, lambda x: x.amax(_spatial(x), keepdim=True), Symmetry.SCALING))
register(
    Operator(
        "GlobalLpPool", _global_line,
        lambda x, p: (torch.abs(x) ** p).sum(_spatial(x), keepdim=True) ** (1.0 / p), Symmetry.SCALING,
    )
)
