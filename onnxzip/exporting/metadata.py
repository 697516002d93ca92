"""What a fused file says of itself, under `onnxzip.` in its metadata_props.

version   of onnxzip                          schema   of these entries: 4; 3 knows no features, 2 nothing of what
                                                       the tasks' files say of themselves, 1 nothing of what `traces`
                                                       tells of, too
tasks     JSON: names, in order               sources  JSON: task -> file name, sha256, inputs, outputs, size
owners    JSON: [tasks, nodes, params]        method, layout, shares (JSON), spaces (JSON: name -> strands)
trace, refusals   what `traces` reads         tails    JSON: task -> its outputs that tails compute, as its file calls them
seen     JSON: [tasks, what `calibration.seen` knows the samples of the merge by]
axes     JSON: input or output -> axis of its samples, where that is not the first (`loading.in_front`)
split_from, merged_from   JSON: what the file was cut out of, fused files that were merged again
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.calibration.seen import NOBODY, from_text, to_text
from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.returned import Returned
from onnxzip.exporting.tails import tail_needs
from onnxzip.net import Net, classes_of, reachable

PREFIX = "onnxzip."
SCHEMA = 4


def own_version() -> str:
    """Version of onnxzip."""
    try:
        return version("onnxzip")
    except PackageNotFoundError:
        return "unknown"


def origins_of(
    plan: Plan, fused: Net, files: Mapping[str, tuple[str, str, Mapping[str, int]]],
    states: Mapping[str, Mapping[str, Returned]],
) -> dict[str, Origin]:
    """Where each task of a fused net comes from.

    Args:
        files: task -> (name, sha256, params, bytes and macs) of the original file.
        states: by task, as of `Origin`.
    """
    names = iter(fused.ends)
    found = {}
    for task, net in plan.nets.items():
        own = plan.overlay.inputs[task]
        inputs = {p.name: own[p.name] for p in fused.inputs if p.name in own}
        outputs = {name: next(names) for name in net.ends}
        name, digest, size = files[task]
        sizes = size["params"], size["bytes"], size["macs"]
        pairs = zip(net.roots(net.made), fused.roots(outputs[name] for name in net.made), strict=True)
        read = {value: called for value, called in pairs if value not in own.values()}
        features = features_of(net, plan.added(task))
        found[task] = Origin(
            name, digest, inputs, outputs, *sizes, features=features, before_tail=read, axes=net.axes, states=states[task],
            fixed=dict(net.fixed),
        )
    return found


def features_of(net: Net, added: Collection[str]) -> tuple[str, ...]:
    """Outputs that tell no classes in the net as it came, and might be taken for such now.

    Args:
        added: nodes that the net was given.
    """
    own = {v for n in net.nodes if n.name in added for v in n.outputs}
    ports = {p.name: p for p in net.outputs if p.name in own}
    if not ports:
        return ()
    before = [replace(n, op="Identity", inputs=n.inputs[:1]) if n.name in added else n for n in net.nodes]
    told = classes_of({p.name: p for p in net.outputs}, before, net.inputs[0].shape[0], {})
    return tuple(name for name in ports if name not in told.scores)


def describe(
    plan: Plan,
    fused: Net,
    origins: Mapping[str, Origin],
    method: str,
    layout: str,
    shares: Iterable[tuple[str, float]],
    tasks_of: Callable[[str], Iterable[str]],
    found: Mapping[str, Any],
) -> dict[str, str]:
    """Entries of metadata_props for a fused net.

    Args:
        tasks_of: the tasks that a net of the plan stands for.
        found: what the zip has found (`provenance`).
    """
    owners = _owners(fused, {t: list(o.outputs.values()) for t, o in origins.items()})

    def every(nets: Iterable[str]) -> list[str]:
        return sorted(task for net in nets for task in tasks_of(net))

    spaces = {
        p.name: [[every(s.key), [[every(r.owners), r.count] for r in s.rows]] for s in p.strands]
        for p in plan.shared_spaces()
    }
    entries: dict[str, Any] = {
        "version": own_version(),
        "schema": str(SCHEMA),
        "tasks": list(origins),
        "sources": {t: asdict(o) for t, o in origins.items()},
        "owners": owners,
        "method": method,
        "layout": layout,
        "shares": [list(pair) for pair in shares],
        "spaces": spaces,
        **found,
    }
    if fused.tail is not None:
        made = set(fused.made)
        entries["tails"] = {t: [k for k, name in origin.outputs.items() if name in made] for t, origin in origins.items()}
    return {PREFIX + k: v if isinstance(v, str) else to_json(v) for k, v in entries.items()}


def to_json(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _owners(fused: Net, outputs: Mapping[str, list[str]]) -> list[list[list[str]]]:
    """[tasks, nodes, params] for every set of tasks that need the same."""
    groups: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for which, found in enumerate(needed_by(fused, outputs)):
        for name, tasks in found.items():
            groups.setdefault(tuple(tasks), ([], []))[which].append(name)
    return [[list(tasks), *both] for tasks, both in groups.items()]


def needed_by(fused: Net, outputs: Mapping[str, Collection[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Node -> the tasks that need it, and param -> the same, tails included; of tasks with these outputs."""
    nodes, params = dict[str, list[str]](), dict[str, list[str]]()
    for task, names in outputs.items():
        needed = reachable(fused, fused.roots(names))
        last, constants = tail_needs(fused, names)
        for name in (*(node.name for node in needed), *last):
            nodes.setdefault(name, []).append(task)
        for param in dict.fromkeys((*(v for n in needed for v in n.inputs if v in fused.params), *constants)):
            params.setdefault(str(param), []).append(task)
    return nodes, params


def is_fused(entries: Mapping[str, str]) -> bool:
    """Whether metadata are those of a file that onnxzip has made."""
    return PREFIX + "tasks" in entries


def read_origins(entries: Mapping[str, str], where: str) -> dict[str, Origin]:
    """Where each task of a fused file comes from.

    Raises:
        InvalidModelError: it is no file made by onnxzip, or its entries are damaged.
        UnsupportedError: a newer onnxzip has made it, whose entries may mean something else.
    """
    if not is_fused(entries):
        raise InvalidModelError(
            f"{where}: was not made by onnxzip: it has no entry {PREFIX}tasks in its metadata. Merge nets first."
        )
    try:
        schema = int(entries.get(PREFIX + "schema", "1"))
        if schema > SCHEMA:
            maker = entries.get(PREFIX + "version", "unknown")
            raise UnsupportedError(
                f"{where}: was made by onnxzip {maker}, whose metadata have schema {schema}; onnxzip {own_version()} "
                f"knows those up to {SCHEMA}. Install a newer onnxzip."
            )
        tasks, sources = json.loads(entries[PREFIX + "tasks"]), json.loads(entries[PREFIX + "sources"])
        return {t: _origin(sources[t]) for t in tasks}
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(f"{where}: its onnxzip metadata are", error) from error


def _origin(entry: Mapping[str, Any]) -> Origin:
    states = {name: Returned.read(state) for name, state in entry.get("states", {}).items()}
    return Origin(**{**entry, "states": states})


def damaged(what: str, error: Exception) -> InvalidModelError:
    """What is said of metadata that cannot be read."""
    return InvalidModelError(f"{what} damaged ({type(error).__name__}: {error}). Merge the nets again.")


def check_outputs(origins: Mapping[str, Origin], outputs: Iterable[str], where: str) -> None:
    """Refuse a fused file that has lost what its tasks give.

    Args:
        origins: by task, of those that are needed.
        outputs: names of the file's outputs.

    Raises:
        InvalidModelError: saying which output.
    """
    present = set(outputs)
    for task, origin in origins.items():
        for name in origin.outputs.values():
            if name not in present:
                raise InvalidModelError(
                    f"{where}: has lost the output {name!r}, which its metadata name for task {task!r}. Merge the nets again."
                )


def read_tails(entries: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Task of a fused file -> the outputs that a tail computes, by their original names; empty where there are none.

    Raises:
        InvalidModelError: the entry is damaged.
    """
    try:
        found = json.loads(entries.get(PREFIX + "tails", "{}"))
        return {task: tuple(outputs) for task, outputs in found.items() if outputs}
    except (ValueError, AttributeError, TypeError) as error:
        raise damaged(f"the entry {PREFIX}tails is", error) from error


def seen_entry(by_tasks: Iterable[tuple[Iterable[str], np.ndarray]]) -> dict[str, str]:
    """The entry that tells which samples a fused net was made from.

    Args:
        by_tasks: tasks, and the fingerprints of samples that they share.
    """
    return {PREFIX + "seen": to_json([[list(tasks), to_text(marks)] for tasks, marks in by_tasks])}


def read_seen(entries: Mapping[str, str], where: str) -> dict[str, np.ndarray] | None:
    """Task -> fingerprints of the samples that its part of a fused file was made from; None where the file does not tell.

    Raises:
        InvalidModelError: the entry is damaged.
    """
    if PREFIX + "seen" not in entries:
        return None
    found: dict[str, np.ndarray] = {}
    try:
        for tasks, text in json.loads(entries[PREFIX + "seen"]):
            for task in tasks:
                found[task] = np.union1d(found.get(task, NOBODY), from_text(text))
    except (ValueError, TypeError) as error:
        raise damaged(f"{where}: its entry {PREFIX}seen is", error) from error
    return found
