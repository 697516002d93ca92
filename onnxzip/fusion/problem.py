"""The least squares of one step: columns, original rows and statistics, per task.

Columns are ordered part by part, piece by piece, tap by tap, channel by channel; the constant comes last. A grouped node has
one problem per group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Piece, Weights
from onnxzip.analysis.steps import Step, channels_at, endless_rows, linear_of
from onnxzip.analysis.strands import Owners
from onnxzip.errors import UnsupportedError
from onnxzip.matching.match import Matches, located_all


@dataclass(frozen=True)
class Block:
    """Columns that read one piece through one part."""

    part: int
    piece: Piece
    taps: int
    channels: int

    @property
    def size(self) -> int:
        return self.taps * self.channels


@dataclass(frozen=True)
class Reads:
    """What the rows of one strand read.

    Attributes:
        key: of the strand; owners: the tasks of the step among its readers.
        blocks: columns without the constant, per group.
        groups: of a grouped node.
        names: per part, the fused weights' name; bias: of the fused bias.
    """

    key: Owners
    owners: Owners
    blocks: tuple[Block, ...]
    groups: int
    names: tuple[str, ...]
    bias: str

    @property
    def columns(self) -> int:
        return sum(b.size for b in self.blocks) + 1


def reads_of(plan: Plan, step: Step) -> tuple[Reads, ...]:
    """What each strand of a step's output reads, in the layout's order."""
    mine = [w for w in plan.layout.weights if w.step == step.name]
    keys = dict.fromkeys(w.key for w in mine)
    return tuple(_reads(plan, step, key, [w for w in mine if w.key == key]) for key in keys)


def _reads(plan: Plan, step: Step, key: Owners, weights: Sequence[Weights]) -> Reads:
    blocks, names, bias, groups = [], [], "", 1
    place = {p.name: k for k, p in enumerate(step.parts)}
    for w in sorted(weights, key=lambda w: place[w.role]):
        if w.bias:
            bias = w.name
            continue
        part = place[w.role]
        names.append(w.name)
        task = w.pieces[0].task if w.pieces[0].task in step.parts[part].members else next(iter(step.parts[part].members))
        linear, view = linear_of(plan.overlay, step.parts[part], task)
        shape = linear.matrix(view, plan.nets[task].params).shape
        groups = 1 if step.diagonal else shape[0]
        for piece in w.pieces:
            channels = plan.layout.shapes[piece.name][linear.channel(view)] // groups
            blocks.append(Block(part, piece, shape[2], 1 if step.diagonal else channels))
    tasks = frozenset(step.tasks)
    return Reads(key, key & tasks if key & tasks else tasks, tuple(blocks), groups, tuple(names), bias)


def pieces_read(plan: Plan, step: Step, reads: Reads) -> list[Piece]:
    """The pieces that the rows of a strand read, and those that are added to what these make."""
    skips = [plan.layout.pieces[laid].get(reads.key) for laid in step.skips]
    return [*(b.piece for b in reads.blocks), *(piece for piece in skips if piece is not None)]


def check_finite(plan: Plan, step: Step, reads: Sequence[Reads]) -> None:
    """Refuse to fit strands some of whose rows are infinite on any samples, by a bias.

    Raises:
        UnsupportedError: naming it.
    """
    for task in sorted({t for r in reads for t in r.owners}):
        if not (endless := np.flatnonzero(endless_rows(plan.overlay, step, task))).size:
            continue
        node, (linear, _) = step.parts[0].members[task], linear_of(plan.overlay, step.parts[0], task)
        apart = " and ".join(f"--share '{plan.spaces[n].name}=0'" for n in step.spaces if n in plan.spaces)
        raise UnsupportedError(
            f"net {task!r}: node {node.name!r} ({node.op}) is infinite in channels {', '.join(map(str, endless))} on any "
            f"samples, by its bias {node.inputs[linear.bias]!r} and the constants that are added to it, and cannot be fitted. "
            f"{f'Use {apart}, or give' if apart else 'Give'} these constants large finite numbers."
        )


def row_positions(plan: Plan, step: Step, key: Owners, task: str, matches: Matches) -> list[np.ndarray]:
    """Which original output channel each fused one of a strand stands for (negative: none): first members of groups, second
    ones, and so on."""
    expr = channels_at(plan.overlay, step.parts[0], task, step.parts[0].outputs[0])
    return located_all(plan.overlay, expr, task, plan.layout.pieces[step.parts[0].outputs[0]][key].keys, matches)


def member_rows(rows: np.ndarray, places: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the original rows that fused channels stand for, and of how many.

    Args:
        places: of the first members, of the second ones, and so on.

    Returns:
        [fused rows, columns] and [fused rows].
    """
    if len(places) == 1:
        return rows[places[0]], np.ones(len(places[0]))
    total, count = np.zeros((len(places[0]), rows.shape[1])), np.zeros(len(places[0]))
    for at in places:
        total += np.where((at >= 0)[:, None], rows[np.maximum(at, 0)], 0.0)
        count += at >= 0
    return total, count


def original_rows(plan: Plan, step: Step, reads: Reads, group: int, task: str, matches: Matches) -> np.ndarray:
    """All original rows of a task in fused columns: float64 [outputs of the group, columns].

    A column that stands for no channel of the task is zero.
    """
    found, start = np.zeros((0, 0)), 0
    for k, part in enumerate(step.parts):
        linear, view = linear_of(plan.overlay, part, task)
        node, params = part.members[task], plan.nets[task].params
        matrix = linear.matrix(view, params)[group]
        rows, taps = matrix.shape[:2]
        if not k:
            found = np.zeros((rows, reads.columns))
        if (bias := node.input(linear.bias)) is not None:
            found[:, -1] += params[bias][group * rows : (group + 1) * rows]
        expr = channels_at(plan.overlay, part, task, str(part.inputs[0]))
        for block in (b for b in reads.blocks if b.part == k):
            mine = slice(group * block.channels, (group + 1) * block.channels)
            columns = found[:, start : start + block.size].reshape(rows, taps, block.channels)  # a view
            for at in located_all(plan.overlay, expr, task, block.piece.keys, matches):  # of several the sum is read
                there = np.flatnonzero(at[mine] >= 0)
                columns[:, :, there] += matrix[:, :, at[mine][there] - group * matrix.shape[2]]
            start += block.size
    return found


def original_channels(plan: Plan, step: Step, key: Owners, task: str, matches: Matches) -> np.ndarray:
    """Of a diagonal step: original rows per fused channel of a strand, float64 [channels, rows per channel, taps + 1]."""
    part = step.parts[0]
    linear, view = linear_of(plan.overlay, part, task)
    node, params = part.members[task], plan.nets[task].params
    matrix = linear.matrix(view, params)[:, :, :, 0].astype(np.float64)
    bias = np.zeros(matrix.shape[:2])
    if (name := node.input(linear.bias)) is not None:
        bias = params[name].astype(np.float64).reshape(matrix.shape[:2])
    whole = np.concatenate([matrix, bias[:, :, None]], axis=2)
    expr = channels_at(plan.overlay, part, task, part.outputs[0])
    keys = plan.layout.pieces[part.outputs[0]][key].keys
    total, members = np.zeros(()), np.zeros(())
    for at in located_all(plan.overlay, expr, task, keys, matches):
        at = at.reshape(-1, matrix.shape[1])  # of a channel, rows may stand in an order of their own
        rows = whole.reshape(-1, whole.shape[2])[np.maximum(at, 0)]
        total = total + np.where((at >= 0)[:, :, None], rows, 0.0)
        members = members + (at[:, 0] >= 0)
    return np.asarray(total / np.maximum(members, 1)[:, None, None])


def to_params(plan: Plan, step: Step, reads: Reads, rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Fitted rows as the fused net's weights and bias.

    Args:
        rows: per group [outputs of the group, columns]; of a diagonal step one array [channels, rows per channel, taps + 1].
    """
    task = next(t for t in plan.tasks if t in reads.owners)
    params: dict[str, np.ndarray] = {}
    for k, (part, name) in enumerate(zip(step.parts, reads.names, strict=True)):
        linear, view = linear_of(plan.overlay, part, task)
        matrix = rows[0][:, :, :-1, None] if step.diagonal else np.stack([_matrix(reads, r, k) for r in rows])
        params[name] = np.ascontiguousarray(linear.from_matrix(view, matrix), dtype=np.float32)
    params[reads.bias] = np.concatenate([r[..., -1].reshape(-1) for r in rows]).astype(np.float32)
    return params


def _matrix(reads: Reads, rows: np.ndarray, part: int) -> np.ndarray:
    """The columns of one part, as [outputs, taps, channels]."""
    start, found = 0, []
    for block in reads.blocks:
        if block.part == part:
            found.append(rows[:, start : start + block.size].reshape(len(rows), block.taps, block.channels))
        start += block.size
    return np.concatenate(found, axis=2)
