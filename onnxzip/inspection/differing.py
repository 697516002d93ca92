"""diff: what has become of an original net in a fused one, node by node, by where each fused node comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.analysis.uniform import with_uniform_apart
from onnxzip.errors import InvalidModelError, UnsupportedError, UsageError
from onnxzip.exporting.bundling import is_bundled
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.report import original_entry, sha256_of, source_size
from onnxzip.exporting.traces import NodeTrace, Trace, read_trace
from onnxzip.inspection.weights import Change, Fused, summed_with, taken_change, weights_change
from onnxzip.loading import load_model, look_at
from onnxzip.loading.dims import bound, recorded
from onnxzip.loading.files import read_mapped, read_to_look
from onnxzip.loading.fixing import with_fixed
from onnxzip.loading.levelling import levelled
from onnxzip.loading.recurrence import with_layers_for_gates
from onnxzip.net import Axis, Net, Node, in_file, place_in_file

DIFF_VERSION = 1
Entry = dict[str, Any]


def diff(original: str | PathLike[str], fused: str | PathLike[str], task: str | None = None) -> Entry:
    """What a merge, and what came after it, has made of one of its originals.

    Args:
        original: the file that a task was made from.
        fused: a file that onnxzip has made.
        task: whose original it is; None for the task that was made from just this file.

    Returns:
        schema_version, task, original, fused, summary, nodes: per node of the original its fused nodes, channels (own, shared,
        moved), relative change of its params and what of them was dropped; None in place of numbers that NaN leaves without
        a value.

    Raises:
        InvalidModelError: a file is no ONNX net, `fused` was not made by onnxzip, or the task from a net of another size.
        UsageError: there is no such task, or none was made from the file.
        UnsupportedError: the fused file does not tell where its channels come from.
    """
    file, path = Path(original), Path(fused)
    source, read = read_mapped(file), read_to_look(path)
    model = with_layers_for_gates(look_at(path, read))
    trace = read_trace(model.metadata, str(path))
    name = _task(trace, file, path, task)
    if not trace.is_full:
        again = "Merge the nets again with this onnxzip."
        way = "Give the fused file that the bundle was made from." if is_bundled(path) else again
        raise UnsupportedError(f"{path}: does not tell where its channels come from. {way}")
    _check_params(file, path, name, trace.origins[name])
    own = trace.origins[name].inputs
    same = {Axis(own[axis.value], axis.dim): size for axis, size in recorded(read, name).items() if axis.value in own}
    same = {place_in_file(axis, trace.origins[name].axes.get(axis.value, 0)): size for axis, size in same.items()}
    source = bound(with_fixed(source, trace.origins[name].fixed), same)
    net = _as_merged(in_file(load_model(source, file, name, model.opset)), model, own)
    nodes = [_node(net, node, model, trace, name) for node in net.nodes]
    return {
        "schema_version": DIFF_VERSION,
        "task": name,
        "original": original_entry(file, trace.origins[name]),
        "fused": {"source": str(path), "sha256": sha256_of(path)},
        "summary": _summary(nodes),
        "nodes": [entry for entry, _ in nodes],
    }


def _check_params(file: Path, path: Path, task: str, origin: Origin) -> None:
    """Refuse what cannot be the net that a task was made from: it has another number of params."""
    have, had = source_size(file, 0).params, origin.params
    if had is not None and have != had:
        raise InvalidModelError(
            f"{file}: has {have:,} params, the net that task {task!r} of {path} was made from ({origin.source}) had {had:,}. "
            "Give that file."
        )


def _as_merged(net: Net, fused: Net, own: Mapping[str, str]) -> Net:
    """An original as the merge took it: with a channel of ones beside an input, where the fused net has one, and with uniform
    params for each node.

    Args:
        own: input of the fused net -> the original's.
    """
    both = net, replace(fused, name=f"{net.name}, fused")
    inputs = {both[0].name: {v: v for v in own.values()}, both[1].name: {v: k for k, v in own.items()}}
    return with_uniform_apart(levelled(both, inputs))[0]


def _task(trace: Trace, file: Path, path: Path, task: str | None) -> str:
    known = ", ".join(trace.tasks)
    if task is None:
        digest = sha256_of(file)
        found = [t for t, origin in trace.origins.items() if origin.sha256 == digest]
        if len(found) != 1:
            raise UsageError(f"{file}: {len(found)} tasks of {path} were made from this file; say which with --task ({known})")
        return found[0]
    if task not in trace.origins:
        raise UsageError(f"{path}: has no task {task!r} (tasks: {known})")
    return task


def _node(net: Net, node: Node, fused: Net, trace: Trace, task: str) -> tuple[Entry, Change | None]:
    made = _made(node, fused, trace, task)
    change, why = _change(net, node, fused, trace, task)
    entry = {
        "name": node.name,
        "op": node.op,
        "fused": [{"name": f.name, "owners": _owners(t)} for f, t in made],
        "channels": _channels(made, task),
        "change": None if change is None else change.relative,
        "dropped": None if change is None else change.of_energy(change.dropped),
        "foreign": None if change is None else change.of_energy(change.foreign),
        "why": why,
    }
    return entry, change


def _made(node: Node, fused: Net, trace: Trace, task: str) -> list[tuple[Node, NodeTrace]]:
    """What a node of the original has become."""
    traced = [(f, trace.nodes[f.name]) for f in fused.nodes if f.name in trace.nodes]
    return [(f, t) for f, t in traced if t.origins.get(task) == node.name]


def _owners(trace: NodeTrace) -> list[str]:
    return list(dict.fromkeys(t for tasks, _ in trace.rows for t in tasks)) or list(trace.origins)


def _change(net: Net, node: Node, fused: Net, trace: Trace, task: str) -> tuple[Change | None, str | None]:
    """How the params have changed; else why nobody knows, or nothing where there are none."""
    made = _made(node, fused, trace, task)
    if not made:
        return None, "no node of the fused net comes from it"
    found = [
        taken_change(net, fused.params[v], trace.params[v][task])
        for f, _ in made for v in map(str, f.inputs)
        if v in fused.params and task in (known := trace.params.get(v, {})) and known[task].param in net.params
    ]
    if any(t.turned for _, t in made):
        return None, "in the fused net along principal axes"
    if any(t.step for _, t in made):
        if not all(task in t.maps for _, t in made):
            return None, "the fused file does not tell where its channels come from"
        weights = weights_change(net, node, _weights(made, fused, task), _biases(net, node, fused, trace, task))
        if weights is None:
            return None, "its weights have another form in the fused net"
        found.append(weights)
    read = any(v in net.params for v in node.inputs)
    return (reduce(add, found), None) if found else (None, "its params have another form" if read else None)


def _weights(made: list[tuple[Node, NodeTrace]], fused: Net, task: str) -> list[Fused]:
    return [Fused(fused, f, *t.maps[task]) for f, t in made if task in t.maps]


def _biases(net: Net, node: Node, fused: Net, trace: Trace, task: str) -> list[tuple[Node, list[Fused]]]:
    """Nodes whose biases are compared with this one's: all that are added up, at the first of them."""
    together = summed_with(net, node)
    if together[0] is not node:
        return []
    return [(other, _weights(_made(other, fused, trace, task), fused, task)) for other in together]


def _channels(made: list[tuple[Node, NodeTrace]], task: str) -> Entry | None:
    """Output channels that the task has alone and with others; of weights also those that stand at another place."""
    rows = [(tasks, n) for _, trace in made for tasks, n in trace.rows if task in tasks]
    if not rows:
        return None
    own = sum(n for tasks, n in rows if len(tasks) == 1)
    maps: list[np.ndarray] = [trace.maps[task][0] for _, trace in made if task in trace.maps]
    order = np.concatenate([m[m >= 0] for m in maps]) if maps else None
    moved = None if order is None else int((order != np.arange(len(order))).sum())
    return {"own": own, "shared": sum(n for _, n in rows) - own, "moved": moved}


def _summary(nodes: list[tuple[Entry, Change | None]]) -> Entry:
    changes = [c for _, c in nodes if c is not None]
    whole = reduce(add, changes, Change())
    every: list[Mapping[str, Any]] = [e["channels"] for e, _ in nodes if e["channels"]]
    channels = [c for c in every if c["moved"] is not None]
    return {
        "nodes": len(nodes),
        "shared": sum(any(len(f["owners"]) > 1 for f in e["fused"]) for e, _ in nodes),
        "missing": sum(not e["fused"] for e, _ in nodes),
        "channels": {key: sum(c[key] for c in channels) for key in ("own", "shared", "moved")},
        "change": whole.relative,
        "dropped": whole.of_energy(whole.dropped),
    }
