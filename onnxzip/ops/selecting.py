"""Operators that take some channels: Slice, Gather, and Pad, which may also take some away.

    n (p1+q1+r1) *s -> n q1 *s         Slice of a run of channels; empty parts are left out
    n (m1 k1) *s -> n m1 *s            every k-th of channels in groups of k
    n i1 *s -> n o1 *s                 any other stride, a choice by index, a padded axis: order and meaning are fixed, but for
                                       channels that constants are added to
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxzip.net import Node, Shape
from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import apart_along, first, floats, ints, names, positive_axes, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register

ORDER = "order"  # attribute of a Gather whose indices say which unit stands where, and may say so otherwise
_END = 2**31 - 1  # the least that exporters write for "to the end"


def _slices(attrs: Mapping[str, Any], rank: int) -> dict[int, slice]:
    """The slice of each axis that the node names."""
    starts, ends = ints(attrs["starts"]), ints(attrs["ends"])
    axes = positive_axes(attrs.get("axes"), rank) or tuple(range(len(starts)))
    steps = ints(attrs.get("steps")) or (1,) * len(starts)
    return {a: slice(s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)}


def _slice_line(view: View) -> Line:
    shape, out = first(view), view.outputs[0]
    left, right, sizes, pinned = names(len(shape)), names(len(shape)), dict[str, int](), set[str]()
    for axis, cut in _slices(view.attrs, len(shape)).items():
        start, stop, step = cut.indices(abs(shape[axis]))
        if shape[axis] < 0 and shape[axis] == out[axis] and step == 1:
            continue
        if shape[axis] == out[axis] * step and 0 <= start < step > 1:
            left[axis], right[axis], sizes[f"k{axis}"] = f"(m{axis} k{axis})", f"m{axis}", step
            pinned.add(f"k{axis}")
            continue
        if shape[axis] < 0 or step != 1 or stop <= start:
            left[axis], right[axis] = f"i{axis}", f"o{axis}"
            pinned |= {f"i{axis}", f"o{axis}"}
            continue
        lengths = {f"p{axis}": start, f"q{axis}": stop - start, f"r{axis}": shape[axis] - stop}
        kept = {name: length for name, length in lengths.items() if length}
        left[axis] = f"({'+'.join(kept)})" if len(kept) > 1 else f"q{axis}"
        right[axis] = f"q{axis}"
        sizes |= kept
    return Line(text([left], [right]), sizes, pinned=frozenset(pinned))


def _slice(x: Any, *, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    for axis, cut in _slices({"starts": starts, "ends": ends, "axes": axes, "steps": steps}, x.ndim).items():
        if cut.start == 0 and cut.stop >= _END and cut.step == 1:
            continue
        at = range(*cut.indices(x.shape[axis]))
        if at.step > 0:
            x = x.narrow(axis, at.start, max(0, at.stop - at.start))
            x = x[(slice(None),) * axis + (slice(None, None, at.step),)]
        else:
            x = torch.index_select(x, axis, torch.tensor(list(at), dtype=torch.int64, device=x.device))
    return x


def _adapt_slice(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Begin behind the channels left of what stands before; end behind those left of what is taken, or of the last group."""
    assert inputs[0] is not None
    cuts = _slices(node.attrs, len(inputs[0]))
    starts = {a: sizes.get(f"p{a}", 0) if f"q{a}" in sizes else cut.start for a, cut in cuts.items()}
    ends = {a: starts[a] + sizes[f"q{a}"] if f"q{a}" in sizes else cut.stop for a, cut in cuts.items()}
    ends |= {a: sizes[f"m{a}"] * cut.step for a, cut in cuts.items() if f"m{a}" in sizes}
    steps = tuple(cut.step for cut in cuts.values())
    return {"starts": tuple(starts.values()), "ends": tuple(ends.values()), "axes": tuple(cuts), "steps": steps}


def _gather_line(view: View) -> Line:
    """The axes of the indices stand in the gathered axis' place; constant ones choose channels by their number, but for those
    that are an order of units, which is free."""
    shape, indices = first(view), view.inputs[1]
    assert indices is not None
    axis = int(view.attrs["axis"]) % len(shape)
    axes, chosen = names(len(shape)), names(len(indices), "o")
    line = text([axes, chosen], [[*axes[:axis], *chosen, *axes[axis + 1 :]]])
    bound = Symmetry.PERMUTATION if view.constant[0] else Symmetry.LINEAR
    if view.attrs.get(ORDER):
        return Line(line, whole=frozenset({axes[axis], *chosen}), symmetry=Symmetry.PERMUTATION)
    pinned = {axes[axis], *chosen} if view.constant[1] else {axes[axis]}
    return Line(line, pinned=frozenset(pinned), symmetry=bound)


def _gather(x: Any, indices: Any, *, axis: int) -> Any:
    axis %= x.ndim
    at = torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64)
    y = torch.index_select(x, axis, at.reshape(-1))
    return y.reshape((*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]))


def _pads(pads: Any, axes: Any, rank: int) -> dict[int, tuple[int, int]]:
    """Begin and end of each padded axis."""
    flat = ints(pads)
    chosen = positive_axes(axes, rank) or tuple(range(rank))
    half = len(flat) // 2
    return {a: (flat[k], flat[k + half]) for k, a in enumerate(chosen) if flat[k] or flat[k + half]}


def _pad_line(view: View) -> Line:
    rank = len(first(view))
    padded = _pads(view.attrs["pads"], view.attrs.get("axes"), rank)
    left, right, pinned = apart_along(padded, rank)
    constant = view.attrs["mode"] == "constant"
    added = {f"i{k}": (f"o{k}", *counts) for k, counts in padded.items() if constant and min(counts) >= 0}
    filled = constant and any(floats(view.attrs.get("constant_value")))
    bound = Symmetry.PERMUTATION if filled else Symmetry.LINEAR
    whole = frozenset(o for o, *_ in added.values())
    return Line(text([left], [right]), whole=whole, pinned=pinned, padded=added, symmetry=bound)


def _source(at: Any, size: int, mode: str) -> Any:
    """The position inside an axis that a position outside of it repeats."""
    if mode == "edge":
        return at.clamp(0, size - 1)
    if mode == "wrap":
        return at % size
    period = max(1, 2 * (size - 1))
    at = at % period
    return torch.where(at < size, at, period - at)


def _pad(x: Any, *, pads: Any, mode: str, constant_value: Any = None, axes: Any = None) -> Any:
    padded = _pads(pads, axes, x.ndim)
    if mode == "constant":
        value = (floats(constant_value) or (0.0,))[0]
        pairs = [p for axis in reversed(range(x.ndim)) for p in padded.get(axis, (0, 0))]
        return torch.nn.functional.pad(x, pairs, value=value)
    for axis, (before, after) in padded.items():
        at = torch.arange(-before, x.shape[axis] + after, device=x.device)
        x = torch.index_select(x, axis, _source(at, x.shape[axis], mode))
    return x


register(
    Operator(
        "Slice", _slice_line, _slice, Symmetry.LINEAR, constants={1: "starts", 2: "ends", 3: "axes", 4: "steps"},
        adapt=_adapt_slice, derived=frozenset({"starts", "ends"}),
    )
)
register(Operator("Gather", _gather_line, _gather, Symmetry.LINEAR))
register(
    Operator("Pad", _pad_line, _pad, Symmetry.LINEAR, constants={1: "pads", 2: "constant_value", 3: "axes"})
)
