"""The sizes of data before the nets are loaded: nets whose inputs take any size are analysed at that of their samples.

Iterables are read once: what was read stands in their place afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np

from onnxzip.calibration.fixed import Ranges, ranges_of
from onnxzip.calibration.reading import Axes, Taken, Together, is_array, is_folder, read
from onnxzip.calibration.sources import grouped
from onnxzip.errors import InvalidDataError
from onnxzip.loading import Family

Shapes = Mapping[str, tuple[int, ...]]  # name of an array -> its shape


def peeked(data: Any, axes: Mapping[str, Axes], limit: int) -> tuple[Any, dict[str, Shapes], dict[str, Ranges]]:
    """The data, to be used instead of what was given; of the arrays for each task their shapes, samples in front, and ranges.

    Args:
        data: as `collect` takes them.
        axes: task -> name of an array -> axis of its samples.
        limit: samples that are taken from iterables.

    Raises:
        InvalidDataError: they cannot be read, are for a task that does not exist, or a task has none.
    """
    if data is None:
        return None, {}, {}
    found: dict[str, Any] = {}
    shapes, ranges = dict[str, Shapes](), dict[str, Ranges]()
    for some, item in grouped(data, tuple(axes)):
        arrays, kept = _arrays(item, limit, {name: axis for task in reversed(some) for name, axis in axes[task].items()})
        for task in some:
            found[task], shapes[task] = kept, {name: array.shape for name, array in arrays.items()}
            ranges[task] = ranges_of(arrays)
    return found, shapes, ranges


def _arrays(item: Any, limit: int, axes: Axes) -> tuple[Mapping[str, np.ndarray], Any]:
    """The arrays of an item (none of a folder), and the item or what was read of it."""
    if isinstance(item, Together):
        parts = [_arrays(i, limit, axes) for i in item.items]
        known = {name: array for arrays, _ in reversed(parts) for name, array in arrays.items()}
        return known, replace(item, items=tuple(kept for _, kept in parts))
    if is_folder(item):
        return {}, item
    arrays = read(item, limit, axes=axes)
    return arrays, item if is_array(item) or isinstance(item, (str, PathLike, Mapping)) else Taken(arrays)


def wanted_sizes(nets: Family, shapes: Mapping[str, Shapes], size: int | None) -> dict[str, dict[str, int]] | None:
    """Sizes of the free axes for each task: of its data, else of its own file, else usual ones; None without data.

    Args:
        shapes: task -> shapes of its arrays; none for a folder of images.
        size: that images of a folder are resized to; None where nobody says.

    Raises:
        InvalidDataError: data have another size than the one that the task's own file takes.
        UnsupportedError: nobody tells a size, and no usual one will do.
    """
    if not shapes:
        return None
    told = {task: _told(nets, task, shapes[task], size) for task in nets.tasks}
    for task, name, own in ((t, name, n) for t in nets.tasks for name, n in nets.declared(t).items()):
        if told[task].get(name, own) != own:
            where = next(g.where for g in nets.groups if g.name == name)
            raise InvalidDataError(
                f"data for {task!r}: {where} is {told[task][name]}, the net takes {own} only. Give each task data of its "
                "own size with --data NAME=FILE."
            )
    found = {task: {**nets.declared(task), **told[task]} for task in nets.tasks}
    for group in nets.groups:
        others = [t for t in nets.tasks if nets.own(t, group) and group.name in found[t]]  # rather one that has the same data
        for task in (t for t in nets.tasks if others and not nets.own(t, group)):
            other = min(others, key=lambda t: shapes[t] != shapes[task])
            found[task].setdefault(group.name, _elsewhere(group.name, found[task], found[other]))
    if any(g.name not in sizes for g in nets.groups for sizes in found.values()):
        usual, _ = nets.usual()
        found = {task: {**usual, **sizes} for task, sizes in found.items()}
    return found


def _elsewhere(name: str, own: Mapping[str, int], other: Mapping[str, int]) -> int:
    """A size of inputs that a task has not: that of another task, or what this one has for what is as large there."""
    return next((own[n] for n, size in other.items() if n in own and size == other[name]), other[name])


def _told(nets: Family, task: str, shapes: Shapes, size: int | None) -> dict[str, int]:
    """What a task's data say of the free sizes."""
    own, found = nets.inputs[task], dict[str, int]()
    for group in nets.groups:
        for axis in (a for a in group.axes if a.value in own):
            names = (own[axis.value], axis.value, *(["x"] if len(own) == 1 else []))
            shape = next((shapes[n] for n in names if n in shapes), ())
            if len(shape) > axis.dim:
                found.setdefault(group.name, shape[axis.dim])
            elif not shapes and size is not None:
                found[group.name] = size
    return found
