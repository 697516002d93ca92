"""How records read what a node gives them: axis names, and attributes that may be lists, scalars or arrays.

Axis k of a value is called `a{k}` in the lines that the records write; numpy broadcasting aligns axes from the right.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from onnxzip.net import Shape
from onnxzip.ops.records import View


def names(rank: int, prefix: str = "a") -> list[str]:
    """One name per axis."""
    return [f"{prefix}{k}" for k in range(rank)]


def apart_along(axes: Collection[int], rank: int) -> tuple[list[str], list[str], frozenset[str]]:
    """One name per axis before a node and behind it, the same but along some axes; and the names along these."""
    left, right = ([f"{side}{k}" if k in axes else name for k, name in enumerate(names(rank))] for side in "io")
    return left, right, frozenset(f"{side}{k}" for k in axes for side in "io")


def text(inputs: Iterable[Sequence[str]], outputs: Iterable[Sequence[str]]) -> str:
    """A line from the terms of every input and output."""
    left, right = (", ".join(" ".join(terms) for terms in side) for side in (inputs, outputs))
    return f"{left} -> {right}"


def aligned(shape: Shape, terms: Sequence[str], full: Shape) -> list[str]:
    """Terms of an operand that is broadcast to `full`: 1 where its axis is stretched."""
    skipped = len(full) - len(shape)
    return ["1" if d == 1 and full[skipped + k] != 1 else terms[skipped + k] for k, d in enumerate(shape)]


def present(view: View) -> list[Shape]:
    """Shapes of the inputs that are not omitted."""
    return [shape for shape in view.inputs if shape is not None]


def first(view: View) -> Shape:
    """Shape of the first input."""
    assert view.inputs[0] is not None
    return view.inputs[0]


def parameter(view: View, position: int) -> bool:
    """Whether an input is there and is a param."""
    return position < len(view.inputs) and view.inputs[position] is not None and view.constant[position]


def ints(value: Any) -> tuple[int, ...]:
    """An attribute that lists ints; empty where it is omitted."""
    if type(value) is tuple and all(type(v) is int for v in value):
        return value
    return () if value is None else tuple(int(v) for v in np.asarray(value).reshape(-1))


def floats(value: Any) -> tuple[float, ...]:
    """An attribute that lists floats; empty where it is omitted."""
    if type(value) is float:
        return (value,)
    return () if value is None else tuple(float(v) for v in np.asarray(value).reshape(-1))


def positive_axes(value: Any, rank: int) -> tuple[int, ...]:
    """Axes counted from the front."""
    return tuple(axis % rank for axis in ints(value))
