"""Reductions over axes: `n c h w -> n c 1 1`, or `n c h w -> n c` without keepdims.

A reduced name stands in the input alone, and the operator needs all of its channels at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import first, names, positive_axes, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _reduced(axes: Any, rank: int, noop_with_empty_axes: int) -> tuple[int, ...]:
    """The reduced axes: all where none is given, unless the node says that it then does nothing."""
    given = positive_axes(axes, rank)
    return given if given or noop_with_empty_axes else tuple(range(rank))


def _line(view: View) -> Line:
    x = first(view)
    reduced = _reduced(view.attrs.get("axes"), len(x), view.attrs.get("noop_with_empty_axes", 0))
    axes = names(len(x))
    kept = [a if k not in reduced else "1" for k, a in enumerate(axes) if k not in reduced or view.attrs["keepdims"]]
    return Line(text([axes], [kept]), whole=frozenset(axes[k] for k in reduced))


def _product(x: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keepdim)
    return x


def _function(reduce: Callable[[Any, tuple[int, ...], bool], Any], alone: Callable[[Any], Any]) -> Callable[..., Any]:
    """`reduce` over the node's axes; `alone` is what it makes of single scalars, where there is nothing to reduce."""

    def function(x: Any, *, keepdims: int, noop_with_empty_axes: int = 0, axes: Any = None) -> Any:
        reduced = _reduced(axes, x.ndim, noop_with_empty_axes)
        return reduce(x, reduced, bool(keepdims)) if reduced else alone(x)

    return function


_FUNCTIONS: dict[str, tuple[Callable[[Any, tuple[int, ...], bool], Any], Callable[[Any], Any], Symmetry]] = {
    "ReduceMean": (lambda x, axes, keep: x.mean(axes, keep), lambda x: x, Symmetry.LINEAR),
    "ReduceSum": (lambda x, axes, keep: x.sum(axes, keep), lambda x: x, Symmetry.LINEAR),
    "ReduceMax": (lambda x, axes, keep: x.amax(axes, keep), lambda x: x, Symmetry.SCALING),
    "ReduceMin": (lambda x, axes, keep: x.amin(axes, keep), lambda x: x, Symmetry.SCALING),
    "ReduceL1": (lambda x, axes, keep: torch.abs(x).sum(axes, keep), lambda x: torch.abs(x), Symmetry.SCALING),
    "ReduceL2": (lambda x, axes, keep: torch.sqrt((x * x).sum(axes, keep)), lambda x: torch.abs(x), Symmetry.SCALING),
    "ReduceSumSquare": (lambda x, axes, keep: (x * x).sum(axes, keep), lambda x: x * x, Symmetry.PERMUTATION),
    "ReduceLogSum": (lambda x, axes, keep: torch.log(x.sum(axes, keep)), lambda x: torch.log(x), Symmetry.PERMUTATION),
    "ReduceLogSumExp": (lambda x, axes, keep: torch.logsumexp(x, axes, keep), lambda x: x, Symmetry.PERMUTATION),
    "ReduceProd": (_product, lambda x: x, Symmetry.PERMUTATION),
}

for _name, (_reduce, _alone, _symmetry) in _FUNCTIONS.items():
    register(Operator(_name, _line, _function(_reduce, _alone), _symmetry, constants={1: "axes"}))
