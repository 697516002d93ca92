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
from onnxzip.analysis.steps import linear_of
from onnxzip.analysis.strands import Owners
from onnxzip.exporting.traces import packed
from onnxzip.fusion.zipping import Zipped
from onnxzip.linalg.ridge import Fit
from onnxzip.matching.match import Matches, located
from onnxzip.peers import Peers

DIGITS = 4


@dataclass
class _Book:
    """Maps by number, each once, and what all entries are made from."""

    plan: Plan
    matches: Matches
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

    def ordered(self, owners: Iterable[str]) -> list[str]:
        return sorted(owners, key=self.plan.tasks.index)


def provenance(plan: Plan, zipped: Zipped, peers: Peers) -> dict[str, Any]:
    """Entries by name without prefix, as JSON values; the same in all processes."""
    book = _Book(plan, zipped.members)
    told: dict[str, Any] = {
        "nodes": _nodes(book),
        "params": {taken.name: _taken(book, taken) for taken in plan.layout.taken},
        "match": {space.name: _strands(book, space.number) for space in plan.shared_spaces()},
        "fits": {step: _fits(book, fits) for step, fits in zipped.fits.items() if any(fits.values())},
    }
    trace = packed(told | {"maps": [m.tolist() for m in book.arrays]})
    return {"trace": _agreed(peers, trace), "refusals": [[r.where, r.why] for r in plan.refusals]}


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
    role = next((r for r in book.plan.overlay.roles if r.name == placed.role), None) if placed.role is not None else None
    if role is not None:
        entry["role"] = role.name
        entry["from"] = {t: role.members[t].name for t in book.ordered(placed.owners & frozenset(role.members))}
    out = pieces.get(placed.node.outputs[0])
    if out is not None and out.keys and (rows := _owned(book, out)):
        entry["rows"] = [[book.ordered(owners), n] for owners, n in rows.items()]
    fitted = next((weights[str(v)] for v in placed.node.inputs if v in weights), None)
    if fitted is not None:
        entry["step"] = fitted.step
        maps = {t: found for t in entry["from"] if (found := _maps(book, fitted, t)) is not None}
        entry |= {"maps": maps} if maps else {}
    return entry


def _owned(book: _Book, piece: Piece) -> dict[Owners, int]:
    """Channels of a piece by owners."""
    found: dict[Owners, int] = {}
    atoms = {a for e in book.plan.overlay.exprs(piece.laid, piece.task) for a in e.atoms() if a in book.plan.spaces}
    for strand in (s for a in atoms for s in book.plan.spaces[a].strands if s.key in piece.keys):
        for rows in strand.rows:
            found[rows.owners] = found.get(rows.owners, 0) + rows.count
    return found


def _maps(book: _Book, weights: Weights, task: str) -> list[int] | None:
    """Rows and columns of fused weights as a task's channels; None where channels are scaled, which maps do not tell."""
    overlay = book.plan.overlay
    role = next(r for r in overlay.roles if r.name == weights.role)
    linear, view = linear_of(overlay, role, task)
    net = book.plan.nets[task]
    matrix = linear.to_matrix(view, net.params[str(role.members[task].inputs[linear.weight])])
    groups = 1 if linear.diagonal(view) else int(matrix.shape[0])
    out, source = overlay.exprs(role.outputs[0], task), overlay.exprs(str(role.inputs[0]), task)
    keys = book.plan.layout.pieces[role.outputs[0]][weights.key].keys
    rows, factors = located(overlay, out[linear.channel(view)], task, keys, book.matches)
    read = [located(overlay, source[linear.channel(view)], task, p.keys, book.matches) for p in weights.pieces]
    if any((f != 1).any() for f in (factors, *(f for _, f in read))):
        return None
    columns = [np.split(at, groups) for at, _ in read]
    return [book.number(rows), book.number(np.concatenate([part[g] for g in range(groups) for part in columns]))]


def _taken(book: _Book, taken: Overtaken) -> dict[str, Any]:
    overlay = book.plan.overlay
    found = {}
    readers = taken.owners if taken.keys else overlay.values[taken.laid]  # a param without channels is one for all
    for task in book.ordered(readers):
        axes = []
        for expr in overlay.exprs(taken.laid, task):
            carries = taken.keys and any(a in book.plan.spaces for a in expr.atoms())
            axes.append(book.number(located(overlay, expr, task, taken.keys, book.matches)[0]) if carries else None)
        found[task] = [overlay.values[taken.laid][task], axes]
    return found


def _strands(book: _Book, number: int) -> list[Any]:
    found = []
    for strand in book.plan.spaces[number].strands:
        members = book.matches[number, strand.key]
        costs = [rounded(c) for c in members.cost.tolist()]
        index = {t: book.number(members.index[t]) for t in book.ordered(members.index)}
        found.append([book.ordered(strand.key), index, costs if any(c is not None for c in costs) else None])
    return found


def _fits(book: _Book, fits: Mapping[Owners, Sequence[Fit]]) -> list[Any]:
    return [
        [book.ordered(key), rounded(max(f.error, 0.0)), rounded(f.damping)] for key, found in fits.items() for f in found
    ]
