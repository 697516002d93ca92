"""Constants that follow the sizes of axes, as the nodes that compute them.

    Shape -> Gather -> Mul -> Div -> Add        times * size // over + plus, each only where it does something
    Add                                         of the size of another axis
    Concat                                      of several numbers, those that stay included
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxzip.net import Measure, Names


@dataclass(frozen=True)
class Lowered:
    """What one node becomes: nodes and the initializers they bring along."""

    nodes: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...] = ()


def measured(name: str, numbers: Sequence[int | Measure], names: Names) -> Lowered:
    """Numbers as a value of that name, int64 [numbers]; an initializer where none of them follows a size."""
    if all(isinstance(n, int) for n in numbers):
        return Lowered((), (_numbers(name, [n for n in numbers if isinstance(n, int)]),))
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    parts: list[str] = []
    for plain, some in itertools.groupby(numbers, lambda n: not isinstance(n, Measure)):
        if plain:
            parts.append(names.fresh(f"{name}.plain"))
            constants.append(_numbers(parts[-1], [n for n in some if isinstance(n, int)]))
            continue
        for one in some:
            if isinstance(one, Measure):
                parts.append(_measure(name, one, names, nodes, constants))
    nodes.append(helper.make_node("Concat", parts, [name], name=name, axis=0))
    return Lowered(tuple(nodes), tuple(constants))


def _measure(name: str, one: Measure, names: Names, nodes: list[NodeProto], constants: list[TensorProto]) -> str:
    """The nodes of one number; the value that it is."""

    def add(op: str, inputs: list[str], number: int | None = None) -> str:
        if number is not None:
            inputs = [*inputs, names.fresh(f"{name}.number")]
            constants.append(_numbers(inputs[-1], [number]))
        out = names.fresh(f"{name}.{op.lower()}")
        nodes.append(helper.make_node(op, inputs, [out], name=out))
        return out

    value = add("Gather", [add("Shape", [one.axis.value])], one.axis.dim)
    value = add("Mul", [value], one.times) if one.times != 1 else value
    value = add("Div", [value], one.over) if one.over != 1 else value
    if one.other is not None:
        value = add("Add", [value, add("Gather", [add("Shape", [one.other.value])], one.other.dim)])
    return add("Add", [value], one.plus) if one.plus else value


def _numbers(name: str, numbers: list[int]) -> TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)
