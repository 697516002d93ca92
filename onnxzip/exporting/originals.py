"""The original nets of a fused file: found by its metadata, checked against it, and what they are fed with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from onnxzip.calibration.checking import Feed, feed_of
from onnxzip.calibration.peeking import Shapes, peeked
from onnxzip.errors import InvalidModelError, UnsupportedError, UsageError
from onnxzip.exporting.metadata import check_outputs, read_origins, read_tails
from onnxzip.exporting.naming import path_of
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.report import sha256_of
from onnxzip.loading.dims import free_axes, recorded, usual_sizes
from onnxzip.loading.files import read_mapped
from onnxzip.loading.in_front import axes_of, with_samples_in_front
from onnxzip.loading.weights import nodes_of
from onnxzip.net import BATCH, Axis, Classes, Port, classes_of, order_in_front
from onnxzip.ops import find, listed
from onnxzip.ops.listed import REWRITTEN
from onnxzip.runtime import entries_of, needed_nodes, operator_of

NO_SHAPES: dict[str, Shapes] = {}
NO_SIZES: Mapping[Axis, int] = {}
NOTHING: Mapping[str, str] = {}
Originals = Mapping[str, tuple[Path, Origin]]


def originals_of(
    path: Path, model: ModelProto, given: Mapping[str, str | PathLike[str]], flag: str, differs: Callable[[str], None]
) -> dict[str, tuple[Path, Origin]]:
    """Files of original nets with what the fused net says of them.

    Args:
        path, model: the fused file, and what is in it.
        given: files by task; not all tasks need be there.
        flag: how such files are given, for messages.
        differs: is told of a file that is not the one that a task was made from.

    Raises:
        UsageError: none is given, or one for a task that does not exist.
        InvalidModelError: a file lacks inputs or outputs of its task, or the fused one does.
    """
    origins = read_origins(entries_of(model), str(path))
    if not given:
        raise UsageError(f"give the original nets with {flag} NAME=FILE.onnx (tasks of {path}: {', '.join(origins)})")
    found = {}
    for task, original in given.items():
        if task not in origins:
            raise UsageError(f"{path}: has no task {task!r} (tasks: {', '.join(origins)})")
        file = path_of(original, f"original net {task!r}")
        _check_ports(task, file, origins[task])
        if sha256_of(file) != origins[task].sha256:
            differs(f"{file}: is not byte for byte the file that task {task!r} was made from ({origins[task].source})")
        found[task] = (file, origins[task])
    check_outputs({task: origin for task, (_, origin) in found.items()}, [p.name for p in model.graph.output], str(path))
    return found


def _check_ports(task: str, file: Path, origin: Origin) -> None:
    graph = read_mapped(file).graph
    for kind, names, have in (
        ("input", (*origin.inputs.values(), *origin.fixed), graph.input),
        ("output", origin.outputs, graph.output),
    ):
        lost = [n for n in names if n not in {p.name for p in have}]
        if lost:
            raise InvalidModelError(
                f"{file}: has no {kind} {lost[0]!r}; it is not the net that task {task!r} was made from"
            )


def feeds_for(
    model: ModelProto, originals: Originals, shapes: Mapping[str, Shapes] = NO_SHAPES, of: str | None = None,
    given: Mapping[str, str] = NOTHING,
) -> dict[str, Feed]:
    """What each task of a fused file is fed with.

    Args:
        shapes: task -> shapes of its arrays, which tell the sizes of free axes; of tasks without any those are recorded.
        of: a task whose recorded sizes are those of all; None for each task's own.
        given: what the user says of outputs, as of `classes_in`.
    """
    classes = classes_in(model, originals, given)
    return {
        task: feed_of(
            _sized(model, origin, of or task, shapes.get(task, {})),
            {own: fused for fused, own in origin.inputs.items()},
            classes[task],
            bool(origin.states),
            origin.fixed,
        )
        for task, (_, origin) in originals.items()
    }


def classes_in(model: ModelProto, originals: Originals, given: Mapping[str, str] = NOTHING) -> dict[str, Classes]:
    """What the outputs of each task of a fused file say of classes, by their names in the original.

    Args:
        given: what the user says of outputs of the fused file: logits, probabilities or values.
    """
    ports, batch = ports_in(model)
    tails = read_tails(entries_of(model))
    nodes = nodes_of(model.graph)
    found = {}
    for task, (_, origin) in originals.items():
        loose = tails.get(task, ())
        mine = {name: ports[new] for name, new in origin.outputs.items() if name not in loose}
        found[task] = replace(classes_of(mine, nodes, batch, origin.kinds(given)), loose=loose)
    return found


def check_no_tail(model: ModelProto, where: Path, why: str) -> None:
    """Refuse a fused file that has nodes which are kept as they are.

    Args:
        why: it cannot be.

    Raises:
        UnsupportedError: it does; all their operators are named.
    """
    origins, tails = read_origins(entries_of(model), str(where)), read_tails(entries_of(model))
    last = needed_nodes(model.graph, [origins[task].outputs[name] for task, names in tails.items() for name in names])
    found: dict[str, list[str]] = {}
    for node in last:
        if find(op := operator_of(node)) is None and listed().get(op) != REWRITTEN:
            found.setdefault(op, []).append(repr(node.name))
    if tails:
        ops = "; ".join(f"{op} (node {', '.join(names)})" for op, names in found.items())
        raise UnsupportedError(f"{where}: {why}: {ops}.")


def ports_in(model: ModelProto) -> tuple[dict[str, Port], int]:
    """Outputs of a fused file by name, their samples in front, and its batch: -1, or so many samples. Axes of other names
    without a number are 0."""
    graph, axes = model.graph, axes_of(model)
    dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)}
    dims = {name: [some[k] for k in order_in_front(len(some), axes.get(name, 0))] for name, some in dims.items()}
    first = dims[graph.input[0].name][0]
    batch = first if isinstance(first, int) and first > 0 else BATCH
    shapes = {v: tuple(BATCH if d == first != batch else d if isinstance(d, int) else 0 for d in dims[v]) for v in dims}
    return {p.name: p._replace(shape=shapes[p.name]) for p in ports_of(graph.output)}, batch


def fed_by(
    model: ModelProto, originals: Originals, data: Any, limit: int, given: Mapping[str, str] = NOTHING
) -> tuple[Any, dict[str, Feed]]:
    """The data, and what each task is fed with at their sizes.

    Args:
        data: of a file with free axes iterables are read: what is returned stands in their place.
        limit: samples that are taken from iterables.
        given: what the user says of outputs, as of `classes_in`.

    Raises:
        InvalidDataError: as `peeked`.
    """
    feeds = feeds_for(model, originals, given=given)
    if not free_axes(with_samples_in_front(model, axes_of(model))):
        return data, feeds
    data, shapes, _ = peeked(data, {task: feed.axes for task, feed in feeds.items()}, limit)
    return data, feeds_for(model, originals, shapes, given=given)


def _sized(model: ModelProto, origin: Origin, of: str, shapes: Shapes) -> tuple[Port, ...]:
    """The inputs of a task at the sizes of its data, else at those that are recorded for the task `of`."""
    told = {**recorded(model, of), **_told(model, origin, shapes)}
    return tuple(p for p in sized_ports(model, told) if p.name in origin.inputs)


def _told(model: ModelProto, origin: Origin, shapes: Shapes) -> dict[Axis, int]:
    """The sizes of free axes, as far as a task's arrays tell."""
    found = {}
    for axis in free_axes(with_samples_in_front(model, axes_of(model))):
        names = (axis.value, origin.inputs.get(axis.value, ""), *(["x"] if len(origin.inputs) == 1 else []))
        shape = next((shapes[n] for n in names if n in shapes), ())
        if len(shape) > axis.dim:
            found[axis] = shape[axis.dim]
    return found


def sized_ports(model: ModelProto, told: Mapping[Axis, int] = NO_SIZES) -> tuple[Port, ...]:
    """Inputs of a fused file, with numbers on its free axes: those that are told, else those that it was made at."""
    turned = with_samples_in_front(model, axes := axes_of(model))
    usual = {**next(usual_sizes(turned), {}), **told}
    return tuple(
        p._replace(shape=tuple(usual.get(Axis(p.name, k), d) for k, d in enumerate(p.shape)), axis=axes.get(p.name, 0))
        for p in ports_of(turned.graph.input)
    )


def ports_of(values: Iterable[ValueInfoProto]) -> tuple[Port, ...]:
    """Inputs or outputs of a model; an axis without a number is -1, as the batch is. What is no tensor holds objects."""
    return tuple(_port(v) for v in values)


def _port(value: ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else BATCH for d in kind.shape.dim)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else np.dtype(object)
    return Port(value.name, dtype, shape)
