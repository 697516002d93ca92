"""Data as given to sources of samples: who is served by what, checked, cut down to what is needed, shuffled.

Tasks that are given the same data share one source. Without data there is one source of seeded normal noise for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.calibration.checking import Feed, check_counts, check_shape, checked_labels, converted, named
from onnxzip.calibration.images import read_folder
from onnxzip.calibration.reading import is_folder, read, where_of
from onnxzip.calibration.samples import Source, block_of, hand
from onnxzip.config import LEAST_SAMPLES, DataOptions
from onnxzip.errors import InvalidDataError
from onnxzip.net import Port, per_sample
from onnxzip.peers import ALONE, Peers

NOISE_SAMPLES = 1000
NOISE_BYTES = 512 << 20
Note = Callable[[str], None]


@dataclass(frozen=True)
class Samples:
    """All sources of a piece of work.

    Attributes:
        sources: every task stands in exactly one.
        noise: whether they are noise because no data were given.
        scaled: what held uint8 images, which were scaled to 0..1.
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
    peers: Peers = ALONE,
) -> Samples:
    """Data as sources.

    Args:
        data: None for noise; one item for all tasks; or a mapping task -> item (None or missing: the item under "").
        feeds: by task.
        options: cap, and how images are read.
        rng: draws samples and noise.
        note: is told what the user should know.
        least: samples that are needed.
        peers: the processes that the samples are dealt to; each is given the same data.

    Raises:
        InvalidDataError: the data do not fit, are for a task that does not exist, or a task has none.
    """
    if data is None:
        return Samples((_noise(feeds, options, rng, peers),), True, ())
    groups = _grouped(data, tuple(feeds))
    sources, scaled = [], []
    for tasks, item in groups:
        source, was_scaled = _source(item, {t: feeds[t] for t in tasks}, options, rng, least, note, peers)
        sources.append(source)
        if was_scaled:
            scaled.append(where_of(item))
    if scaled:
        note(f"uint8 images scaled to 0..1: {', '.join(scaled)}")
    elif options.mean or options.std:
        note("--mean and --std are for image folders and uint8 images; these data are taken as they are")
    return Samples(tuple(sources), False, tuple(scaled))


def _grouped(data: Any, tasks: tuple[str, ...]) -> list[tuple[list[str], Any]]:
    """(tasks, item) for every different item."""
    if _is_by_task(data, tasks):
        unknown = [t for t in data if t not in (*tasks, "")]
        if unknown:
            raise InvalidDataError(f"data for {unknown[0]!r}: there is no such task (tasks: {', '.join(tasks)})")
        given = {t: data.get(t, data.get("")) for t in tasks}
        missing = [t for t, item in given.items() if item is None]
        if missing:
            raise InvalidDataError(f"no data for {missing[0]!r}. Give --data {missing[0]}=FILE, or one --data FILE for all.")
    else:
        given = dict.fromkeys(tasks, data)
    groups: dict[object, tuple[list[str], Any]] = {}
    for task, item in given.items():
        key = str(Path(item).resolve()) if isinstance(item, (str, PathLike)) else id(item)
        groups.setdefault(key, ([], item))[0].append(task)
    return list(groups.values())


def _is_by_task(data: Any, tasks: tuple[str, ...]) -> bool:
    """Whether data are items by task; a mapping of arrays under other names is one item, by input."""
    if not isinstance(data, Mapping) or not data:
        return False
    arrays = all(isinstance(v, np.ndarray) or hasattr(v, "detach") for v in data.values())
    return not arrays or set(data) <= {*tasks, ""}


def _source(
    item: Any, feeds: Mapping[str, Feed], options: DataOptions, rng: np.random.Generator, least: int, note: Note, peers: Peers
) -> tuple[Source, bool]:
    where, feed = where_of(item), next(iter(feeds.values()))
    aliases = {k: v for f in feeds.values() for k, v in f.aliases.items()}
    arrays = _read(item, feed, options, rng)
    inputs, labels = named(arrays, replace(feed, aliases=aliases), where)
    unused = [n for n in arrays if arrays[n] is not labels and not any(arrays[n] is a for a in inputs.values())]
    if unused:
        note(f"{where}: {', '.join(map(repr, unused))} not used")
    count = check_counts(inputs, labels, where)
    if count < least:
        raise InvalidDataError(f"{where}: holds {count} samples; at least {least} are needed")
    for port in feed.ports:
        check_shape(inputs[port.name], port, where)
    by_task = {}
    for task, one in feeds.items():
        if labels is not None and one.classes is not None:
            by_task[task] = checked_labels(labels, one.classes, task, where)
        elif labels is not None:
            note(f"{where}: labels 'y' not used for {task!r}, which has no output of classes")
    order = rng.permutation(count)[: options.samples]
    dealt, whole = _dealt(len(order), where, peers), len(order)
    order = order if dealt is None else order[dealt]
    ready = {p.name: converted(inputs[p.name][order], p, options, where) for p in feed.ports}
    images = any(inputs[p.name].dtype == np.uint8 and p.dtype.kind == "f" for p in feed.ports)
    return Source(tuple(feeds), ready, {t: y[order] for t, y in by_task.items()}, dealt, whole), images


def _dealt(count: int, where: str, peers: Peers) -> np.ndarray | None:
    """Which of the samples are this process's; None for all."""
    if peers.size == 1:
        return None
    if count // block_of(count) < peers.size:
        raise InvalidDataError(
            f"{where}: {count} samples are too few for {peers.size} processes. Start at most {count // block_of(count)}, or "
            "give more samples."
        )
    return hand(count, peers.place, peers.size)


def _read(item: Any, feed: Feed, options: DataOptions, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if not is_folder(item):
        return read(item, options.samples)
    if len(feed.ports) != 1:
        raise InvalidDataError(f"{item}: a folder of images feeds one input, the nets have {len(feed.ports)}")
    return {feed.ports[0].name: read_folder(Path(item), feed.ports[0], options, rng)}


def _noise(feeds: Mapping[str, Feed], options: DataOptions, rng: np.random.Generator, peers: Peers) -> Source:
    ports = next(iter(feeds.values())).ports
    per = 4 * sum(per_sample(p.shape[1:]) for p in ports)
    count = min(options.samples, max(LEAST_SAMPLES, min(NOISE_SAMPLES, NOISE_BYTES // max(per, 1))))
    dealt = _dealt(count, "noise", peers)
    mine = slice(None) if dealt is None else dealt
    return Source(tuple(feeds), {p.name: _noise_for(p, count, rng)[mine] for p in ports}, {}, dealt, count)


def _noise_for(port: Port, count: int, rng: np.random.Generator) -> np.ndarray:
    if port.dtype.kind != "f":
        raise InvalidDataError(f"input {port.name!r} is {port.dtype}: noise cannot stand in for it. Give --data.")
    return rng.standard_normal((count, *port.shape[1:]), np.float32)
