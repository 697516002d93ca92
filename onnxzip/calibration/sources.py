"""Data as given to pools and sources of samples: who is served by what, checked, shuffled, cut down to what is needed.

Tasks that are given the same data share one pool. Without data there is one pool of seeded normal noise for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.calibration.checking import Feed, axes_of_all, check_counts, check_shape, checked_labels, named, ports_of_all
from onnxzip.calibration.fixed import without_fixed
from onnxzip.calibration.images import image_files
from onnxzip.calibration.noise import noise_for
from onnxzip.calibration.reading import Together, is_array, is_folder, read, where_of, without_data
from onnxzip.calibration.rows import ArrayRows, FolderRows, JoinedRows, Pool, Rows, in_order, joined
from onnxzip.calibration.samples import Source
from onnxzip.config import LEAST_SAMPLES, DataOptions
from onnxzip.errors import InvalidDataError, UsageError
from onnxzip.peers import ALONE, Peers
from onnxzip.values import nearest

Note = Callable[[str], None]
Parting = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Given:
    """All data of a piece of work.

    Attributes:
        pools: every task stands in exactly one.
        noise: whether they are noise because no data were given.
        scaled: what held uint8 images, which were scaled to 0..1.
    """

    pools: tuple[Pool, ...]
    noise: bool
    scaled: tuple[str, ...]

    def drawn(self, samples: int, peers: Peers = ALONE) -> Samples:
        """So many samples of each pool at most, dealt to the processes that work together.

        Raises:
            InvalidDataError: numbers that the nets cannot be fed with, or fewer samples than processes.
        """
        return Samples(tuple(p.source(samples, peers) for p in self.pools), self.noise, self.scaled)

    def parted(self, part: Parting) -> tuple[Given, Given]:
        """Every pool's rows in two."""
        orders = [part(pool.order) for pool in self.pools]
        first, second = (
            replace(self, pools=tuple(replace(p, order=o[k]) for p, o in zip(self.pools, orders, strict=True))) for k in (0, 1)
        )
        return first, second


@dataclass(frozen=True)
class Samples:
    """Samples drawn from all data.

    Attributes:
        sources: every task stands in exactly one.
        noise, scaled: as of `Given`.
    """

    sources: tuple[Source, ...]
    noise: bool
    scaled: tuple[str, ...]

    def of(self, task: str) -> Source:
        """The source that serves a task."""
        return next(s for s in self.sources if task in s.tasks)


def gather(
    data: Any,
    feeds: Mapping[str, Feed],
    options: DataOptions,
    rng: np.random.Generator,
    note: Note,
    least: int = LEAST_SAMPLES,
) -> Samples:
    """Data as sources: `collect`, and `options.samples` of each drawn.

    Raises:
        InvalidDataError: the data do not fit, are for a task that does not exist, or a task has none.
    """
    return collect(data, feeds, options, rng, note, least).drawn(options.samples)


def collect(
    data: Any,
    feeds: Mapping[str, Feed],
    options: DataOptions,
    rng: np.random.Generator,
    note: Note,
    least: int = LEAST_SAMPLES,
    limit: int | None = None,
) -> Given:
    """Data as pools.

    Args:
        data: None for noise; one item for all tasks; or a mapping task -> item (None or missing: the item under "").
        feeds: by task.
        options: cap, and how images are read.
        rng: draws the order and noise.
        note: is told what the user should know.
        least: samples that are needed.
        limit: samples that are taken from iterables; None for `options.samples`.

    Raises:
        InvalidDataError: the data do not fit, are for a task that does not exist, or a task has none.
    """
    if data is None:
        _check_used(options, (), note)
        noise = noise_for(feeds, options, rng)
        return Given(tuple(p for pool in noise for p in parted(pool, feeds)), True, ())
    _refuse_clash(data, feeds)
    pools, places = [], list[tuple[str, Rows]]()
    for tasks, item in grouped(data, tuple(feeds)):
        mine = {t: feeds[t] for t in tasks}
        rows, labels = _rows(item, mine, options, options.samples if limit is None else limit, note)
        if rows.count < least:
            raise InvalidDataError(f"{where_of(item)}: holds {rows.count} samples; at least {least} are needed")
        pools += parted(Pool(tuple(tasks), rows, labels, rng.permutation(rows.count)), feeds)
        places.append((where_of(item), rows))
    _check_used(options, places, note)
    scaled = [where for where, rows in places if _holds_images(rows)]
    if scaled:
        hint = "" if options.std else " (a net that takes 0 to 255 needs --std 0.00392157 too, or floats)"
        note(f"uint8 images scaled to 0..1: {', '.join(scaled)}{hint}")
    return Given(tuple(pools), False, tuple(scaled))


def parted(pool: Pool, feeds: Mapping[str, Feed]) -> list[Pool]:
    """A pool as several: tasks that have their samples alone, though they are the same, and the others together."""
    alone = [(t,) for t in pool.tasks if feeds[t].alone]
    together = tuple(t for t in pool.tasks if not feeds[t].alone)
    groups = [together, *alone] if together else alone
    return [replace(pool, tasks=g, labels={t: y for t, y in pool.labels.items() if t in g}) for g in groups]


def grouped(data: Any, tasks: tuple[str, ...]) -> list[tuple[list[str], Any]]:
    """(tasks, item) for every different item."""
    if _is_by_task(data, tasks):
        unknown = [t for t in data if t not in (*tasks, "")]
        if unknown:
            near = nearest(str(unknown[0]), tasks)
            hint = f" Did you mean {near!r}?" if near else " Leave them out, or let that task take part."
            raise InvalidDataError(
                f"data for {unknown[0]!r}, which is none of the tasks that take part here ({', '.join(tasks)}).{hint}"
            )
        given = {t: data.get(t, data.get("")) for t in tasks}
        missing = [t for t, item in given.items() if item is None]
        if missing:
            raise without_data(missing[0])
    else:
        given = dict.fromkeys(tasks, data)
    groups: dict[object, tuple[list[str], Any]] = {}
    for task, item in given.items():
        key = os.path.realpath(item) if isinstance(item, (str, PathLike)) else id(item)
        groups.setdefault(key, ([], item))[0].append(task)
    return list(groups.values())


def _is_by_task(data: Any, tasks: tuple[str, ...]) -> bool:
    """Whether data are items by task; a mapping of arrays under other names is one item, by input."""
    if not isinstance(data, Mapping) or not data:
        return False
    arrays = all(map(is_array, data.values()))
    return not arrays or set(data) <= {*tasks, ""}


def _refuse_clash(data: Any, feeds: Mapping[str, Feed]) -> None:
    """Arrays under names that tasks and inputs have in common are read by task, where they are not enough for the nets."""
    if not _is_by_task(data, tuple(feeds)) or any(isinstance(item, Mapping) for item in data.values()):
        return
    arrays = {k for k, item in data.items() if is_array(item)}
    inputs = {name for f in feeds.values() for name in (*(p.name for p in f.ports), *f.aliases)}
    short = any(len(f.ports) > 1 and k in arrays for k, f in feeds.items()) or not set(feeds) <= set(data)
    if arrays == set(data) <= inputs and short:
        listed = ", ".join(f"{name!r}: ..." for name in data)
        raise InvalidDataError(
            f"data for {', '.join(map(repr, data))}: tasks and inputs have these names, and a mapping like this one is read "
            f"by task. Give {{'': {{{listed}}}}} for all tasks, {{TASK: {{{listed}}}}} for each its own, or a .npz file; or "
            "give the tasks other names."
        )


def _rows(
    item: Any, feeds: Mapping[str, Feed], options: DataOptions, limit: int, note: Note
) -> tuple[Rows, dict[str, np.ndarray]]:
    """The samples of an item, and their labels by task; those of several items are of the tasks inside a net, and not used."""
    if isinstance(item, Together):
        lent = {name for feed in feeds.values() for name in feed.lent}
        parts = [_read_rows(i, feeds, options, limit, note, lent) for i in item.items]
        parts = [(_in_order(rows, order, feeds.values()), y) for (rows, y), order in zip(parts, item.orders, strict=True)]
        if any(labels is not None for _, labels in parts):
            note(f"{where_of(item)}: labels 'y' not used for {', '.join(map(repr, feeds))}, which has several tasks")
        return joined([rows for rows, _ in parts], ports_of_all(feeds.values()), where_of(item)), {}
    rows, labels = _read_rows(item, feeds, options, limit, note)
    return rows, {} if labels is None else _labels(labels, feeds, where_of(item), note)


def _in_order(rows: Rows, orders: Mapping[str, np.ndarray], feeds: Iterable[Feed]) -> Rows:
    """Rows with the numbers of some inputs as the net wants them, which one of its tasks has in an order of its own."""
    found = {port: order for name, order in orders.items() for feed in feeds for port in feed.meant(name)}
    if not found or not isinstance(rows, ArrayRows):
        return rows
    arrays = {n: in_order(a, found[n]) if n in found else a for n, a in rows.arrays.items()}
    return replace(rows, arrays=arrays)


def _read_rows(
    item: Any, feeds: Mapping[str, Feed], options: DataOptions, limit: int, note: Note, lent: Collection[str] = ()
) -> tuple[Rows, np.ndarray | None]:
    """The samples of one item, and its labels as they are given; inputs that others lend may be missing."""
    where, ports = where_of(item), ports_of_all(feeds.values())
    if is_folder(item):
        if len(ports) != 1:
            raise InvalidDataError(f"{item}: a folder of images feeds one input, the nets have {len(ports)}")
        return FolderRows(image_files(Path(item), ports[0]), ports[0], options, where), None
    arrays = without_fixed(read(item, limit, axes=axes_of_all(feeds.values())), feeds, where)
    inputs, labels = named(arrays, feeds.values(), where, lent)
    unused = [n for n in arrays if arrays[n] is not labels and not any(arrays[n] is a for a in inputs.values())]
    if unused:
        note(f"{where}: {', '.join(map(repr, unused))} not used")
    check_counts(inputs, labels, where)
    for port in (ports := tuple(p for p in ports if p.name in inputs)):
        check_shape(inputs[port.name], port, where)
    return ArrayRows(inputs, ports, options, where), labels


def _labels(labels: np.ndarray, feeds: Mapping[str, Feed], where: str, note: Note) -> dict[str, np.ndarray]:
    """Checked labels for the tasks that have classes."""
    by_task = {}
    for task, one in feeds.items():
        if one.classes is not None:
            by_task[task] = checked_labels(labels, one.classes, task, where)
            if one.doubtful:
                note(f"{where}: labels 'y' of {task!r} are taken for those of its output {one.doubtful[-1]!r}, the last of "
                     f"{', '.join(map(repr, one.doubtful))}. When merging or retraining, --head OUTPUT=logits says otherwise.")
        else:
            note(f"{where}: labels 'y' not used for {task!r}, which has no output of classes")
    return by_task


def _holds_images(rows: Rows) -> bool:
    """Whether a pool's numbers are scaled from 0..255."""
    if isinstance(rows, JoinedRows):
        return any(_holds_images(part) for part in rows.parts)
    if isinstance(rows, FolderRows):
        return rows.port.dtype.kind == "f"
    assert isinstance(rows, ArrayRows)
    return any(rows.arrays[p.name].dtype == np.uint8 and p.dtype.kind == "f" for p in rows.ports)


def _holds_folder(rows: Rows) -> bool:
    """Whether images of a folder are among a pool's samples."""
    return isinstance(rows, FolderRows) or (isinstance(rows, JoinedRows) and any(map(_holds_folder, rows.parts)))


def _check_used(options: DataOptions, places: Sequence[tuple[str, Rows]], note: Note) -> None:
    """Refuse options for images that no data are for, and tell which data they are not for.

    Raises:
        UsageError: saying what to do instead.
    """
    normalising = [f"--{name}" for name in ("mean", "std") if getattr(options, name)]
    asked: list[tuple[str, Callable[[Rows], bool], str, str]] = []
    if normalising:
        asked.append((
            " and ".join(normalising), _holds_images, "folders of images and uint8 arrays, for inputs of floats",
            "Give such data, or normalise them yourself",
        ))
    if options.size is not None:
        asked.append(("--size", _holds_folder, "folders of images", "Give a folder, or resize them yourself"))
    for flags, uses, kinds, way in asked:
        unused = ", ".join(dict.fromkeys(where for where, rows in places if not uses(rows)))
        if not any(uses(rows) for _, rows in places):
            raise UsageError(
                f"{flags}: for {kinds} only; {unused or 'noise'} would be taken as it is. {way}, and leave {flags} out."
            )
        if unused:
            note(f"{unused}: taken as it is; {flags} for {kinds} only")
