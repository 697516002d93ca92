"""Axes of inputs that may have any size: where they are, and a net with numbers in their place.

A net is analysed and run at numbers; those that nobody gives are the ones that a fused file was calibrated at, else the first
of a few usual ones at which the net's shapes agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.net import Axis, common_name
from onnxzip.runtime import entries_of

RECORDED, TASKS = "onnxzip.sizes", "onnxzip.tasks"  # in the metadata of a fused file: task -> [input, axis, size] of free axes
USUAL_IMAGES, USUAL_OTHERS = (224, 256, 128, 64, 32), (128, 64, 32, 16, 8)
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT8})
T = TypeVar("T")


def ports_of_graph(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that are no params."""
    params = {t.name for t in model.graph.initializer}
    return [p for p in model.graph.input if p.name not in params]


def free_axes(model: ModelProto) -> dict[Axis, str]:
    """Axes behind the batch without a number, by the name of their size; "" where it has none."""
    found = {}
    for port in ports_of_graph(model):
        for k, dim in enumerate(port.type.tensor_type.shape.dim):
            if k > 0 and dim.dim_value <= 0:
                found[Axis(port.name, k)] = dim.dim_param
    return found


def batch_name(model: ModelProto) -> str:
    """The name of the first axes of inputs; "" where they have none, or several."""
    dims = (p.type.tensor_type.shape.dim for p in ports_of_graph(model))
    return common_name(d[0].dim_param for d in dims if d)


def bound(model: ModelProto, numbers: Mapping[Axis, int]) -> ModelProto:
    """A copy of the model with numbers on some axes of its inputs; what it says of other shapes is forgotten."""
    copy = deepcopy(model)
    for port in copy.graph.input:
        for k, dim in enumerate(port.type.tensor_type.shape.dim):
            if Axis(port.name, k) in numbers:
                dim.dim_value = numbers[Axis(port.name, k)]
    for dim in (d for p in copy.graph.output for d in p.type.tensor_type.shape.dim):
        dim.Clear()
    del copy.graph.value_info[:]
    return copy


def recorded(model: ModelProto, task: str | None = None) -> dict[Axis, int]:
    """The sizes at which a task of a fused file was calibrated; those of its first task where None is asked for."""
    entries = entries_of(model)
    if not entries.keys() >= {RECORDED, TASKS}:
        return {}
    by_task, tasks = json.loads(entries[RECORDED]), json.loads(entries[TASKS])
    return {Axis(name, int(axis)): int(size) for name, axis, size in by_task.get(tasks[0] if task is None else task, [])}


def usual_sizes(model: ModelProto) -> Iterator[dict[Axis, int]]:
    """Sizes for all free axes, the likeliest first: those recorded; 224 for images, 128 for anything else; then others."""
    free, known = free_axes(model), recorded(model)
    if set(free) <= set(known):
        yield {axis: known[axis] for axis in free}
    images = {p.name for p in ports_of_graph(model) if _is_image(p)}
    for image, other in zip(USUAL_IMAGES, USUAL_OTHERS, strict=True):
        numbers = {axis: image if axis.value in images else other for axis in free}
        called = summed({name: numbers[axis] for axis, name in free.items() if name})
        yield {axis: called.get(free[axis], number) for axis, number in numbers.items()}


def summed(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes by name, where those that are called as the sum of others (`past + tokens`) are that."""
    parts = {name: [part.strip() for part in name.split("+")] for name in sizes}
    sums = {name: some for name, some in parts.items() if len(some) > 1 and sizes.keys() >= set(some)}
    return {name: sum(sizes[part] for part in sums.get(name, [name])) for name in sizes}


def _is_image(port: ValueInfoProto) -> bool:
    kind = port.type.tensor_type
    return len(kind.shape.dim) == 4 and kind.elem_type in _FLOATS


def at_usual_sizes(path: Path, model: ModelProto, load: Callable[[ModelProto, Mapping[Axis, int]], T]) -> T:
    """What `load` makes of a model that has numbers for all axes behind the batch, and of the numbers it was given.

    Raises:
        UnsupportedError: its shapes agree at none of the usual sizes; with the reason at the first ones.
        InvalidModelError: of a model without free axes, as `load`.
    """
    if not free_axes(model):
        return load(model, {})
    why: Exception | None = None
    for numbers in usual_sizes(model):
        try:
            return load(bound(model, numbers), numbers)
        except (InvalidModelError, UnsupportedError) as error:
            why = why or error
    raise no_usual_size(path, model, why) from why


def no_usual_size(path: Path, model: ModelProto, why: Exception | None) -> UnsupportedError:
    """The error of a net that cannot be looked at without knowing its sizes."""
    axes = ", ".join(f"axis {a.dim} of input {a.value!r}" for a in free_axes(model))
    tried = ", ".join("/".join(str(n) for n in dict.fromkeys(s.values())) for s in usual_sizes(model))
    return UnsupportedError(
        f"{path}: has no number for {axes}, and does not work at any of the sizes {tried}: {why} Give --data, whose sizes are "
        "then used, or fix the axes with `python -m onnxruntime.tools.make_dynamic_shape_fixed`."
    )
