"""Operators that only read the same scalars under other axes: Reshape, Flatten, Squeeze, Unsqueeze.

In C order both shapes are sequences of factors. Where the sequences have a common refinement, its factors are the names:

    n c h w -> n (c h w)               Flatten
    n (f1 f2) h w -> n f1 f2 h w       the first half of a channel shuffle

Where a run of axes has none ([6, 4] read as [4, 6]), every axis of the run gets a name of its own, and is pinned. A size -k is
k times the batch, which is a factor like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnxzip.net import Node, Shape
from onnxzip.ops.reading import first, ints, positive_axes, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register

Factors = list[list[int]]


def _divided(size: int, by: int) -> int | None:
    """size / by, where `by` is a factor; the batch, a minus sign, divides only what contains it."""
    if (by < 0 and size > 0) or size % by:
        return None
    return size // by


def _step(a: int, b: int) -> int:
    """The factor that the next axes of both shapes begin with, if they have one; neither of them is 1."""
    return max(a, b) if (a < 0) != (b < 0) else min(a, b, key=abs)


def _factored(source: Shape, target: Shape) -> tuple[Factors, Factors] | None:
    """The common refinement of two runs of axes of equal volume, per axis; None where there is none."""
    left: Factors = [[] for _ in source]
    right: Factors = [[] for _ in target]
    a, b = list(source), list(target)
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == 1 or b[j] == 1:
            i, j = i + (a[i] == 1), j + (b[j] == 1)
            continue
        step = _step(a[i], b[j])
        p, q = _divided(a[i], step), _divided(b[j], step)
        if p is None or q is None:
            return None
        left[i].append(step)
        right[j].append(step)
        a[i], b[j] = p, q
    return left, right


def _runs(source: Shape, target: Shape) -> list[tuple[slice, slice]]:
    """Cut both shapes into the shortest runs of equal volume; trailing ones join the last run."""

    def volumes(shape: Shape) -> list[tuple[bool, int]]:
        heads = [shape[: k + 1] for k in range(len(shape))]
        return [(any(d < 0 for d in head), abs(math.prod(head))) for head in heads]

    left, right = volumes(source), volumes(target)
    runs, i, j = [], 0, 0
    for k, volume in enumerate(left):
        if volume in right[j:] and source[k] != 1:
            end = right.index(volume, j) + 1
            runs.append((slice(i, k + 1), slice(j, end)))
            i, j = k + 1, end
    return [*runs, (slice(i, len(source)), slice(j, len(target)))]


def _terms(factors: Factors, numbered: list[str]) -> list[str]:
    """One term per axis, taking names from the front for its factors."""
    rest = iter(numbered)
    named = [[next(rest) for _ in axis] for axis in factors]
    return [f"({' '.join(n)})" if len(n) > 1 else n[0] if n else "1" for n in named]


def reshape_line(view: View) -> Line:
    """The line of any operator that keeps all scalars in C order, from its shapes alone."""
    source, target = first(view), view.outputs[0]
    left, right, sizes = list[str](), list[str](), dict[str, int]()
    pinned: set[str] = set()
    for a, b in _runs(source, target):
        factors = _factored(source[a], target[b])
        if factors is None:
            apart = [f"i{k}" for k in range(len(source))[a]], [f"o{k}" for k in range(len(target))[b]]
            pinned.update(*apart)
        else:
            numbered = [f"f{len(sizes) + k}" for k in range(sum(map(len, factors[0])))]
            apart = _terms(factors[0], numbered), _terms(factors[1], numbered)
            sizes.update(zip(numbered, (f for axis in factors[0] for f in axis), strict=True))
        left += apart[0]
        right += apart[1]
    inside = {n: s for n, s in sizes.items() if n not in {*left, *right}}
    return Line(text([left], [right]), inside, pinned=frozenset(pinned))


def _adapt(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    return {"shape": tuple(max(d, -1) for d in outputs[0])}


def _reshape(x: Any, *, shape: Any, allowzero: int = 0, **_: Any) -> Any:
    target = [max(d, -1) for d in ints(shape)]
    return x.reshape([x.shape[k] if d == 0 and not allowzero else d for k, d in enumerate(target)])


def _flatten(x: Any, *, axis: int) -> Any:
    cut = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:cut]), math.prod(x.shape[cut:]))


def _squeeze(x: Any, *, axes: Any = None) -> Any:
    dropped = positive_axes(axes, x.ndim) or tuple(k for k, d in enumerate(x.shape) if d == 1)
    return x.reshape([d for k, d in enumerate(x.shape) if k not in dropped])


def _unsqueeze(x: Any, *, axes: Any) -> Any:
    for axis in sorted(positive_axes(axes, x.ndim + len(ints(axes)))):
        x = x.unsqueeze(axis)
    return x


register(
    Operator(
        "Reshape", reshape_line, _reshape, Symmetry.LINEAR, constants={1: "shape"}, adapt=_adapt, derived=frozenset({"shape"})
    )
)
register(Operator("Flatten", reshape_line, _flatten, Symmetry.LINEAR))
register(Operator("Squeeze", reshape_line, _squeeze, Symmetry.LINEAR, constants={1: "axes"}))
register(Operator("Unsqueeze", reshape_line, _unsqueeze, Symmetry.LINEAR, constants={1: "axes"}))
