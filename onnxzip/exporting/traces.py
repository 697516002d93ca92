"""What a fused file tells of where its channels come from: the entry `trace` of its metadata, base64 of deflated JSON.

nodes   fused node -> {role, from: {task: node}, rows: [[tasks, channels]], step, maps: {task: [rows, columns]}}; in place of
        maps {turned: true} where rows or columns stand for principal axes of the originals' channels
params  fused param that was taken over -> {task: [param, [map or null per axis]]}
match   space -> [[tasks that read the strand, {task: map}, [cost of each channel] or null]]
fits    step -> [[tasks, held-out error, damping]]
maps    lists of channels: the original one of each fused one (the first, where a method has merged several of one net with
        each other), -1 where the task has none; elsewhere maps go by number

Beside it stands `refusals`, JSON: [[where, why]]. Files of schema 1 have neither: what is read of them is empty.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxzip.exporting.metadata import PREFIX, damaged, read_origins, to_json
from onnxzip.exporting.origin import Origin

Tasks = tuple[str, ...]


@dataclass(frozen=True)
class NodeTrace:
    """Where a fused node comes from.

    Attributes:
        role: what the originals' nodes play together; empty for nodes that only join or part channels.
        origins: task -> its node.
        rows: output channels by owners; empty where the node carries none.
        step: the fit of its weights, empty without any.
        maps: task -> original channel of each fused output and input channel of its weights.
        turned: whether some of these stand for principal axes of the originals' channels: there are no maps then.
    """

    role: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[tuple[Tasks, int], ...] = ()
    step: str = ""
    maps: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    turned: bool = False

    def among(self, tasks: Tasks) -> NodeTrace:
        """What it is to some of the tasks alone."""
        rows = [(tuple(t for t in owners if t in tasks), n) for owners, n in self.rows]
        return replace(
            self,
            origins={t: n for t, n in self.origins.items() if t in tasks},
            rows=tuple((owners, n) for owners, n in rows if owners),
            maps={t: m for t, m in self.maps.items() if t in tasks},
        )

    def share(self, owners: Sequence[str]) -> float:
        """The fraction of its channels that several tasks own; 0 or 1 for a node without channels, by who needs it."""
        total = sum(n for _, n in self.rows)
        return sum(n for tasks, n in self.rows if len(tasks) > 1) / total if total else float(len(owners) > 1)


@dataclass(frozen=True)
class StrandTrace:
    """Channels of a space that travel together: original channel of each by task, and what sharing it costs (or nothing)."""

    key: Tasks
    index: Mapping[str, np.ndarray]
    costs: tuple[float | None, ...]


@dataclass(frozen=True)
class FitTrace:
    """How well the rows of some tasks are fitted: error over energy on held-out samples, and the damping; None if unknown."""

    tasks: Tasks
    error: float | None
    damping: float | None


@dataclass(frozen=True)
class Taken:
    """A param that was taken over: the original one, and per axis the original channels (None for all)."""

    param: str
    axes: tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class Trace:
    """All of it, with what files of every version tell.

    Attributes:
        counts: space -> channels by owners.
    """

    origins: Mapping[str, Origin]
    version: str
    method: str
    layout: str
    shares: tuple[tuple[str, float], ...]
    counts: Mapping[str, tuple[tuple[Tasks, int], ...]]
    nodes: Mapping[str, NodeTrace]
    params: Mapping[str, Mapping[str, Taken]]
    match: Mapping[str, tuple[StrandTrace, ...]]
    fits: Mapping[str, tuple[FitTrace, ...]]
    refusals: tuple[tuple[str, str], ...]

    @property
    def tasks(self) -> Tasks:
        return tuple(self.origins)

    @property
    def is_full(self) -> bool:
        """Whether the file tells where its channels come from."""
        return bool(self.nodes)


def packed(entries: Mapping[str, Any]) -> str:
    """JSON values as the text of one entry."""
    return base64.b64encode(zlib.compress(to_json(entries).encode(), 9)).decode()


def unpacked(text: str) -> dict[str, Any]:
    """The inverse of `packed`."""
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return found


def read_trace(entries: Mapping[str, str], where: str) -> Trace:
    """The traces in a file's metadata.

    Raises:
        InvalidModelError: it is no file made by onnxzip, or its entries are damaged.
    """
    origins = read_origins(entries, where)
    try:
        return _trace(origins, {k.removeprefix(PREFIX): v for k, v in entries.items() if k.startswith(PREFIX)})
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, zlib.error) as error:
        raise damaged(f"{where}: its onnxzip metadata are", error) from error


def _trace(origins: Mapping[str, Origin], entries: Mapping[str, str]) -> Trace:
    def held(key: str, default: Any) -> Any:
        return json.loads(entries[key]) if key in entries else default

    told = unpacked(entries["trace"]) if "trace" in entries else {}
    maps = [np.array(m, np.int64) for m in told.get("maps", [])]
    return Trace(
        origins=origins,
        version=entries.get("version", ""),
        method=entries.get("method", ""),
        layout=entries.get("layout", ""),
        shares=tuple((str(g), float(f)) for g, f in held("shares", [])),
        counts={s: tuple((tuple(o), n) for _, rows in strands for o, n in rows) for s, strands in held("spaces", {}).items()},
        nodes={name: _node(value, maps) for name, value in told.get("nodes", {}).items()},
        params={
            name: {t: Taken(p, tuple(None if a is None else maps[a] for a in axes)) for t, (p, axes) in by_task.items()}
            for name, by_task in told.get("params", {}).items()
        },
        match={s: tuple(_strand(v, maps) for v in strands) for s, strands in told.get("match", {}).items()},
        fits={s: tuple(FitTrace(tuple(t), e, d) for t, e, d in fits) for s, fits in told.get("fits", {}).items()},
        refusals=tuple((str(where), str(why)) for where, why in held("refusals", [])),
    )


def _node(value: Mapping[str, Any], maps: list[np.ndarray]) -> NodeTrace:
    return NodeTrace(
        value.get("role", ""),
        dict(value.get("from", {})),
        tuple((tuple(tasks), n) for tasks, n in value.get("rows", [])),
        value.get("step", ""),
        {t: (maps[rows], maps[columns]) for t, (rows, columns) in value.get("maps", {}).items()},
        bool(value.get("turned", False)),
    )


def _strand(value: list[Any], maps: list[np.ndarray]) -> StrandTrace:
    key, index, costs = value
    return StrandTrace(tuple(key), {t: maps[k] for t, k in index.items()}, tuple(costs or ()))
