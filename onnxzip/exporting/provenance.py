"""What the zip has found, as entries of a fused file's metadata: where each channel comes from, errors, dampings, refusals.

The form of the entries is told in `traces`, which reads them back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Piece, Placed, Weights
from onnxzip.analysis.layout import Taken as Overtaken
from onnxzip.analysis.roles import Role
from onnxzip.analysis.steps import linear_of
from onnxzip.analysis.strands import Owners
from onnxzip.exporting.again import Kept
from onnxzip.exporting.traces import NodeTrace, Trace, packed, read_trace
from onnxzip.fusion.tied import tied
from onnxzip.fusion.zipped import Zipped
from onnxzip.linalg.ridge import Quality
from onnxzip.matching.match import ABSENT, Matches, Members, located
from onnxzip.peers import Peers

DIGITS = 4
Inner = Mapping[str, Mapping[str, tuple[str, Trace]]]  # net that is a fused file -> task -> (its name there, the file's trace)


@dataclass
class _Book:
    """Maps by number, each once, and what all entries are made from."""

    plan: Plan
    matches: Matches
    inner: Inner
    turned: frozenset[int]
    maps: dict[bytes, int] = field(default_factory=dict)
    arrays: list[np.ndarray] = field(default_factory=list)

    def number(self, channels: np.ndarray) -> int:
        """Of a map; channels that a task has not are -1."""
        array = np.where(channels >= 0, channels, -1).astype("<i4")
        key = array.tobytes()
        if key not in self.maps:
            self.maps[key] = len(self.arrays)
            self.arrays.append(array)
        return self.maps[key]

    def ordered(self, nets: Iterable[str]) -> list[str]:
        return sorted(nets, key=self.plan.tasks.index)

    def tasks(self, nets: Iterable[str]) -> list[str]:
        """The tasks that some nets stand for."""
        return [task for net in self.ordered(nets) for task in self.inner.get(net, [net])]


def provenance(plan: Plan, zipped: Zipped, kept: Kept, peers: Peers) -> dict[str, Any]:
    """Entries by name without prefix, as JSON values; the same in all processes.

    Args:
        kept: the tasks of nets that are fused files themselves: they are followed to the files that those were made from.
    """
    book = _Book(plan, _traceable(zipped), _inner(plan, kept), zipped.turned)
    gone = tied(plan, zipped.params)
    told: dict[str, Any] = {
        "nodes": _nodes(book),
        "params": {t.name: _taken(book, t) for t in plan.layout.taken if t.name not in gone and not t.heard},
        "match": {space.name: _strands(book, space.number) for space in plan.shared_spaces()},
        "fits": {step: _fits(book, fits) for step, fits in zipped.fits.items() if any(fits.values())},
    }
    trace = packed(told | {"maps": [m.tolist() for m in book.arrays]})
    return {"trace": _agreed(peers, trace), "refusals": [[r.where, r.why] for r in plan.refusals]}


def _traceable(zipped: Zipped) -> Matches:
    """Who stands behind each channel; nobody behind those of spaces that are in axes of their own."""
    return {
        (number, key): Members({t: np.full_like(at, ABSENT) for t, at in m.index.items()}) if number in zipped.turned else m
        for (number, key), m in zipped.members.items()
    }


def _inner(plan: Plan, kept: Kept) -> Inner:
    found = {}
    for net, tasks in kept.items():
        trace = read_trace(plan.nets[net].metadata, net)
        found[net] = {task: (there, trace) for task, there in zip(tasks, trace.tasks, strict=True)}
    return found


def _agreed(peers: Peers, text: str) -> str:
    """A text as the first process has it: another kind of processor may have rounded an error differently."""
    if peers.size == 1:
        return text
    mine = np.frombuffer(text.encode(), np.uint8)
    (length,) = peers.first("length of the trace", {"length": np.array([len(mine)])})["length"]
    return peers.first("trace", {"text": np.resize(mine, int(length))})["text"].tobytes().decode()


def rounded(value: float) -> float | None:
    """A number short enough for metadata; None for NaN and Inf, which JSON has not."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _nodes(book: _Book) -> dict[str, Any]:
    layout = book.plan.layout
    pieces = {p.name: p for by_key in layout.pieces.values() for p in by_key.values()}
    weights = {w.name: w for w in layout.weights if not w.bias}
    return {placed.node.name: _node(book, placed, pieces, weights) for placed in layout.placed}


def _node(book: _Book, placed: Placed, pieces: Mapping[str, Piece], weights: Mapping[str, Weights]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    role = next((r for r in book.plan.overlay.roles if placed.role is not None and r.name == placed.role), None)
    members = {n: role.members[n].name for n in book.ordered(placed.owners & frozenset(role.members))} if role else {}
    if role is not None:
        entry |= {"role": role.name, "from": _origins(book, members)}
    out = pieces.get(placed.node.outputs[0])
    if out is not None and out.keys and (rows := _owned(book, out)):
        entry["rows"] = [[book.tasks(owners), n] for owners, n in rows.items()]
    elif (part := book.plan.layout.parts.get(placed.node.outputs[0])) is not None:
        entry["rows"] = [[book.tasks(part.owners), part.size]]
    fitted = next((weights[str(v)] for v in placed.node.inputs if v in weights), None)
    if fitted is not None and role is not None and _is_turned(book, role, members):
        entry |= {"step": fitted.step, "turned": True}
    elif fitted is not None:
        maps = {t: found for n, name in members.items() for t, found in _maps(book, fitted, n, name).items()}
        entry |= {"step": fitted.step} | ({"maps": maps} if maps else {})
    return entry


def _is_turned(book: _Book, role: Role, members: Mapping[str, str]) -> bool:
    """Whether channels that a node reads or makes are in axes of their own, here or in the fused file that a net is."""
    exprs = (e for n in members for v in (role.inputs[0], role.outputs[0]) for e in book.plan.overlay.exprs(str(v), n))
    if any(atom in book.turned for expr in exprs for atom in expr.atoms()):
        return True
    traces = ((trace, name) for n, name in members.items() for _, trace in book.inner.get(n, {}).values())
    return any(trace.nodes.get(name, NodeTrace()).turned for trace, name in traces)


def _origins(book: _Book, members: Mapping[str, str]) -> dict[str, str]:
    """Task -> its node, given net -> its node."""
    found = {}
    for net, name in members.items():
        if net not in book.inner:
            found[net] = name
        for task, (there, trace) in book.inner.get(net, {}).items():
            if there in trace.nodes.get(name, NodeTrace()).origins:
                found[task] = trace.nodes[name].origins[there]
    return found


def _through(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """A map to a map's channels as one to what those stand for."""
    return np.where(outer >= 0, inner[np.maximum(outer, 0)], -1)


def _owned(book: _Book, piece: Piece) -> dict[Owners, int]:
    """Channels of a piece by owners."""
    found: dict[Owners, int] = {}
    atoms = {a for e in book.plan.overlay.exprs(piece.laid, piece.task) for a in e.atoms() if a in book.plan.spaces}
    for strand in (s for a in atoms for s in book.plan.spaces[a].strands if s.key in piece.keys):
        for rows in strand.rows:
            found[rows.owners] = found.get(rows.owners, 0) + rows.count
    return found


def _maps(book: _Book, weights: Weights, net: str, node: str) -> dict[str, list[int]]:
    """Rows and columns of fused weights as channels of the tasks that a net stands for."""
    found = _located(book, weights, net)
    if net not in book.inner:
        return {net: [book.number(m) for m in found]}
    known = {t: (there, trace.nodes.get(node, NodeTrace()).maps) for t, (there, trace) in book.inner[net].items()}
    return {
        t: [book.number(_through(m, own)) for m, own in zip(found, maps[there], strict=True)]
        for t, (there, maps) in known.items() if there in maps
    }


def _located(book: _Book, weights: Weights, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of fused weights as a net's channels."""
    overlay = book.plan.overlay
    role = next(r for r in overlay.roles if r.name == weights.role)
    linear, view = linear_of(overlay, role, task)
    net = book.plan.nets[task]
    matrix = linear.to_matrix(view, net.params[str(role.members[task].inputs[linear.weight])])
    groups = 1 if linear.diagonal(view) else int(matrix.shape[0])
    out, source = overlay.exprs(role.outputs[0], task), overlay.exprs(str(role.inputs[0]), task)
    keys = book.plan.layout.pieces[role.outputs[0]][weights.key].keys
    rows = located(overlay, out[linear.channel(view)], task, keys, book.matches)
    read = [located(overlay, source[linear.channel(view)], task, p.keys, book.matches) for p in weights.pieces]
    columns = [np.split(at, groups) for at in read]
    return rows, np.concatenate([part[g] for g in range(groups) for part in columns])


def _taken(book: _Book, taken: Overtaken) -> dict[str, Any]:
    overlay = book.plan.overlay
    found = {}
    for net in book.ordered(taken.owners):
        axes: list[np.ndarray | None] = []
        for expr in overlay.exprs(taken.laid, net):
            carries = taken.keys and any(a in book.plan.spaces for a in expr.atoms())
            axes.append(located(overlay, expr, net, taken.keys, book.matches) if carries else None)
        name = overlay.values[taken.laid][net]
        if net not in book.inner:
            found[net] = [name, [None if m is None else book.number(m) for m in axes]]
        for task, (there, trace) in book.inner.get(net, {}).items():
            if there in (by_task := trace.params.get(name, {})):
                own = by_task[there]
                both = [_composed(m, o) for m, o in zip(axes, own.axes, strict=True)]
                found[task] = [own.param, [None if m is None else book.number(m) for m in both]]
    return found


def _composed(outer: np.ndarray | None, inner: np.ndarray | None) -> np.ndarray | None:
    return inner if outer is None else outer if inner is None else _through(outer, inner)


def _strands(book: _Book, number: int) -> list[Any]:
    found = []
    for strand in book.plan.spaces[number].strands:
        members = book.matches[number, strand.key]
        costs = [rounded(c) for c in members.cost.tolist()]
        index = {n: book.number(members.index[n]) for n in book.ordered(members.index)}  # by nets: pairs are of theirs
        found.append([book.tasks(strand.key), index, costs if any(c is not None for c in costs) else None])
    return found


def _fits(book: _Book, fits: Mapping[Owners, Sequence[Quality]]) -> list[Any]:
    return [
        [book.tasks(key), rounded(max(f.error, 0.0)), rounded(f.damping)] for key, found in fits.items() for f in found
    ]
