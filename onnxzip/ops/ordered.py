"""Operators for which the order along an axis has a meaning: running sums, the largest entries, triangles, reversals.

    n c *s -> n c *s                   CumSum along axis 1: all of its channels, each in its place; of the others any, anywhere
    n c i2 -> n c o2, n c o2           TopK along axis 2: its channels stay those of each net
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import first, ints, names, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _kept(view: View, axes: tuple[int, ...]) -> Line:
    """All axes stay, some of them in their order."""
    found = names(len(first(view)))
    return Line(text([found], [found]), ordered=frozenset(found[k % len(found)] for k in axes))


def _running_line(view: View) -> Line:
    return _kept(view, (int(view.attrs["axis"]),))


def _running(accumulate: Callable[[Any, int], Any], neutral: float) -> Callable[..., Any]:
    """Over all entries up to each; without its own where exclusive, from the end where reverse."""

    def function(x: Any, *, axis: int, exclusive: int, reverse: int) -> Any:
        axis = int(axis) % x.ndim
        y = accumulate(x.flip(axis) if reverse else x, axis)
        if exclusive:
            y = torch.cat([torch.full_like(y.narrow(axis, 0, 1), neutral), y.narrow(axis, 0, y.shape[axis] - 1)], axis)
        return y.flip(axis) if reverse else y

    return function


def _extreme_line(view: View) -> Line:
    axes = names(len(first(view)))
    axis = int(view.attrs["axis"]) % len(axes)
    axes[axis] = f"i{axis}"
    kept = ["1" if k == axis else a for k, a in enumerate(axes) if k != axis or view.attrs["keepdims"]]
    return Line(text([axes], [kept]), pinned=frozenset({axes[axis]}))


def _extreme(find: Callable[..., Any]) -> Callable[..., Any]:
    """Where the extreme is; of several equal ones the first or the last."""

    def function(x: Any, *, axis: int, keepdims: int, select_last_index: int) -> Any:
        axis %= x.ndim
        at = find(x.flip(axis) if select_last_index else x, axis, keepdim=bool(keepdims))
        return x.shape[axis] - 1 - at if select_last_index else at

    return function


def _top_line(view: View) -> Line:
    before, after = names(len(first(view))), names(len(first(view)))
    axis = int(view.attrs["axis"]) % len(before)
    before[axis], after[axis] = f"i{axis}", f"o{axis}"
    return Line(text([before], [after] * len(view.outputs)), pinned=frozenset({before[axis], after[axis]}))


def _top(x: Any, *, count: Any, axis: int, largest: int, sorted: int) -> Any:
    """Sorted in any case: the order of unsorted results is free. Of equal entries the first comes first."""
    values, at = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, ints(count)[0]), at.narrow(axis, 0, ints(count)[0])


def _triangle(x: Any, *, upper: int, k: Any = None) -> Any:
    diagonal = int(k or 0)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


def _reversed_line(view: View) -> Line:
    """The lengths stand beside the batch axis."""
    axes = names(len(first(view)))
    time, batch = (int(view.attrs[k]) % len(axes) for k in ("time_axis", "batch_axis"))
    return Line(text([axes, [axes[batch]]], [axes]), ordered=frozenset({axes[time]}))


def _reversed(x: Any, lengths: Any, *, batch_axis: int, time_axis: int) -> Any:
    """y[t] = x[length - 1 - t] before the length of each sample, x[t] behind it."""
    y = x.movedim((batch_axis, time_axis), (0, 1))
    at = torch.arange(y.shape[1], device=x.device)[None, :]
    ends = lengths.to(torch.int64)[:, None]
    source = torch.where(at < ends, ends - 1 - at, at).reshape(*y.shape[:2], *(1,) * (y.ndim - 2))
    return torch.gather(y, 1, source.expand_as(y)).movedim((0, 1), (batch_axis, time_axis))


_sum = _running(lambda x, axis: torch.cumsum(x, axis, dtype=x.dtype), 0.0)
_product = _running(lambda x, axis: torch.cumprod(x, axis, dtype=x.dtype), 1.0)
_largest, _smallest = _extreme(lambda *a, **k: torch.argmax(*a, **k)), _extreme(lambda *a, **k: torch.argmin(*a, **k))

register(Operator("CumSum", _running_line, _sum, Symmetry.LINEAR, constants={1: "axis"}))
register(Operator("CumProd", _running_line, _product, Symmetry.PERMUTATION, constants={1: "axis"}))
register(Operator("ArgMax", _extreme_line, _largest, Symmetry.PERMUTATION))
register(Operator("ArgMin", _extreme_line, _smallest, Symmetry.PERMUTATION))
register(Operator("TopK", _top_line, _top, Symmetry.PERMUTATION, constants={1: "count"}))
register(Operator("Trilu", lambda view: _kept(view, (-2, -1)), _triangle, Symmetry.LINEAR, constants={1: "k"}))
register(Operator("ReverseSequence", _reversed_line, _reversed, Symmetry.LINEAR))
