"""What a step's least squares needs to know of the data: moments, or the rows themselves where columns outnumber them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Piece
from onnxzip.analysis.steps import Step, linear_of
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.gathering import pick, unfold
from onnxzip.fusion.problem import Block, Reads
from onnxzip.fusion.sharing import gathered, row_order, summed
from onnxzip.linalg.moments import Moments, diagonal_moments_of, moments_of
from onnxzip.matching.match import Matches, located
from onnxzip.ops import Linear, View
from onnxzip.peers import ALONE, Peers

BlockId = tuple[int, str]
Blocks = Mapping[BlockId, Block]
ROWS_BYTES = 64 << 20  # rows are kept for the fit through the activation up to this; larger ones cost more than the moments
Geometry = Mapping[int, tuple[Linear, View, np.ndarray]]  # part -> how it reads its input, and which taps each output does


@dataclass(frozen=True)
class TaskStatistics:
    """Statistics of one task for the columns of one strand, as means over rows.

    Attributes:
        train, held: moments of fitted and of held-out rows; zp has all original outputs of the group.
        rows, held_rows: (z, p) of the same, kept where columns outnumber rows; the moments then hold p's squares only.
    """

    train: Moments
    held: Moments
    rows: tuple[np.ndarray, np.ndarray] | None = None
    held_rows: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class _PerSource:
    columns: Mapping[BlockId, slice]
    width: int
    targets: Mapping[str, slice]
    train: tuple[Moments, ...]
    held: tuple[Moments, ...]
    rows: tuple[tuple[np.ndarray, np.ndarray], ...]
    held_rows: tuple[tuple[np.ndarray, np.ndarray], ...]


class StepStatistics:
    """Statistics of one step over all sources.

    Args:
        frontier: where the values live.
        step: which step.
        reads: the strands to be fitted.
        matches: known so far.
        repair: whether a skip's own error is part of the target: the original sum less the FUSED skip.
        peers: the processes that have the other samples.
    """

    def __init__(
        self, frontier: Frontier, step: Step, reads: Sequence[Reads], matches: Matches, repair: bool, peers: Peers = ALONE
    ) -> None:
        self.frontier, self.step, self.matches, self.repair = frontier, step, matches, repair
        self.plan: Plan = frontier.plan
        self.groups = reads[0].groups
        sources = sorted({frontier.source_of[t] for r in reads for t in r.owners})
        rows = sum(frontier.rows(step, k) for k in sources)
        self.dual = not step.diagonal and max(r.columns for r in reads) > rows
        self.kept = self.dual or (step.bounds is not None and 4 * rows * max(r.columns for r in reads) <= ROWS_BYTES)
        mine = {k: self._collect(k, [r for r in reads if r.owners & set(frontier.sources[k].tasks)]) for k in sources}
        self.sources = {k: self._of_all(peers, k, found) for k, found in mine.items()}

    def of(self, task: str, reads: Reads, group: int) -> TaskStatistics:
        """Statistics of one task over the columns that one strand reads."""
        source = self.sources[self.frontier.source_of[task]]
        at, targets = self._columns(source, reads), source.targets[task]
        train, held = (_cut(m[group], at, targets, self.dual) for m in (source.train, source.held))
        if not self.dual:
            return TaskStatistics(train, held)
        rows, held_rows = ((z[:, at], p[:, targets]) for z, p in (source.rows[group], source.held_rows[group]))
        return TaskStatistics(train, held, rows, held_rows)

    def sampled(self, task: str, reads: Reads, group: int) -> tuple[np.ndarray, np.ndarray]:
        """All rows of one task, fitted and held out: z over the columns that one strand reads, and p; only where `kept`."""
        source = self.sources[self.frontier.source_of[task]]
        at, targets = self._columns(source, reads), source.targets[task]
        both = (source.rows[group], source.held_rows[group])
        return np.concatenate([z[:, at] for z, _ in both]), np.concatenate([p[:, targets] for _, p in both])

    def _columns(self, source: _PerSource, reads: Reads) -> np.ndarray:
        places = [np.arange(source.width)[source.columns[b.part, b.piece.name]] for b in reads.blocks]
        return np.concatenate([*places, [source.width]])

    def of_channels(self, task: str, reads: Reads) -> tuple[Moments, Moments]:
        """Of a diagonal step: statistics of one task for the channels of one strand, in its order."""
        source = self.sources[self.frontier.source_of[task]]
        channels = source.columns[0, reads.blocks[0].piece.name]
        targets = source.targets[f"{task}/{reads.blocks[0].piece.name}"]
        train, held = (
            Moments(
                m.count, m.zz[channels] / m.count, m.zp[channels][:, :, targets] / m.count,
                m.pp[channels][:, targets] / m.count,
            )
            for m in (source.train[0], source.held[0])
        )
        return train, held

    # collecting -------------------------------------------------------------------------------------------------------

    def _collect(self, k: int, reads: Sequence[Reads]) -> _PerSource:
        blocks = {(b.part, b.piece.name): b for r in reads for b in r.blocks}
        tasks = [t for t in self.frontier.sources[k].tasks if t in self.step.tasks]
        geometry = self._geometry(tasks[0], {part for part, _ in blocks})
        at, held_samples = self.frontier.positions(self.step, k), self.frontier.sources[k].held()
        totals: list[dict[bool, Moments]] = [{} for _ in range(self.groups)]
        kept: list[dict[bool, list[tuple[np.ndarray, np.ndarray]]]] = [{False: [], True: []} for _ in range(self.groups)]
        columns: dict[BlockId, slice] = {}
        targets: dict[str, slice] = {}
        width = 0
        for b, part in enumerate(self.frontier.batches[k]):
            chosen = at[part]
            held = np.repeat(held_samples[part], chosen.shape[1])
            for g in range(self.groups):
                z, columns, width = self._inputs(k, b, blocks, geometry, chosen, g)
                p, targets = self._targets(k, b, tasks, chosen, g, blocks)
                for side in (False, True):
                    zs, ps = z[held == side], p[held == side]
                    if self.kept:
                        kept[g][side].append((zs, ps))
                    moments = self._moments(zs, ps)
                    totals[g][side] = totals[g][side] + moments if side in totals[g] else moments
        rows, held_rows = (tuple(_joined(kept[g][s]) for g in range(self.groups) if self.kept) for s in (False, True))
        return _PerSource(
            columns, width, targets, tuple(t[False] for t in totals), tuple(t[True] for t in totals), rows, held_rows
        )

    def _of_all(self, peers: Peers, k: int, mine: _PerSource) -> _PerSource:
        """What one process has collected of a source, with what its peers have."""
        if peers.size == 1:
            return mine
        name, times = f"{self.step.name}, source {k}", self.frontier.positions(self.step, k).shape[1]
        fitted, held = (row_order(self.frontier.sources[k].total, peers.size, times, side) for side in (False, True))
        return replace(
            mine,
            train=summed(peers, f"{name}, fitted", mine.train),
            held=summed(peers, f"{name}, held out", mine.held),
            rows=gathered(peers, f"{name}, fitted rows", mine.rows, fitted),
            held_rows=gathered(peers, f"{name}, held-out rows", mine.held_rows, held),
        )

    def _geometry(self, task: str, parts: set[int]) -> Geometry:
        found = {part: linear_of(self.plan.overlay, self.step.parts[part], task) for part in parts}
        return {part: (linear, view, linear.taps(view)) for part, (linear, view) in found.items()}

    def _moments(self, z: np.ndarray, p: np.ndarray) -> Moments:
        if self.step.diagonal:
            return diagonal_moments_of(z, p)
        if self.dual:
            return Moments(len(z), np.zeros((0, 0)), np.zeros((0, 0)), np.einsum("rt,rt->t", p, p, dtype=np.float64))
        return moments_of(z, p)

    def _inputs(
        self, k: int, b: int, blocks: Blocks, geometry: Geometry, chosen: np.ndarray, group: int
    ) -> tuple[np.ndarray, dict[BlockId, slice], int]:
        """Columns at the sampled rows, the constant last; diagonal: [rows, channels, taps + 1]."""
        found, columns, width = [], dict[BlockId, slice](), 0
        for (part, name), block in blocks.items():
            linear, view, taps = geometry[part]
            x = self.frontier.live(k, block.piece, b)
            if self.groups > 1:
                size = block.channels
                x = np.take(x, range(group * size, (group + 1) * size), axis=linear.channel(view))
            rows = unfold(x, linear, view, taps, chosen)
            if self.step.diagonal:
                rows = rows.swapaxes(1, 2)
                found.append(np.concatenate([rows, np.ones((*rows.shape[:2], 1), rows.dtype)], axis=2))
                size = rows.shape[1]
            else:
                found.append(rows.reshape(len(rows), -1))
                size = found[-1].shape[1]
            columns[part, name] = slice(width, width + size)
            width += size
        if self.step.diagonal:
            return np.concatenate(found, axis=1), columns, width
        return np.concatenate([*found, np.ones((len(found[0]), 1), np.float32)], axis=1), columns, width

    def _targets(
        self, k: int, b: int, tasks: Sequence[str], chosen: np.ndarray, group: int, blocks: Blocks
    ) -> tuple[np.ndarray, dict[str, slice]]:
        """Targets at the sampled rows, task after task, in the original order of channels; diagonal: in the pieces' order."""
        if self.step.diagonal:
            return self._diagonal_targets(k, b, tasks, blocks)
        found, where, width = [], dict[str, slice](), 0
        for task in tasks:
            p = self._residual(k, b, task, chosen)
            size = p.shape[1] // self.groups
            found.append(p[:, group * size : (group + 1) * size])
            where[task] = slice(width, width + size)
            width += size
        return np.concatenate(found, axis=1), where

    def _residual(self, k: int, b: int, task: str, chosen: np.ndarray) -> np.ndarray:
        """The original sum less its skips: the fused ones where they are repaired, else the original ones."""
        step, plan = self.step, self.plan
        p = np.array(self.frontier.target(step, step.sink, task, b))
        linear, view = self.frontier.geometry(step, k)
        axis = linear.channel(view)
        for laid in step.skips:
            if not self.repair:
                p -= self.frontier.target(step, laid, task, b)
                continue
            expr = plan.overlay.exprs(laid, task)[axis]
            for key, piece in plan.layout.pieces[laid].items():
                if task in key or task in piece.owners:
                    at, factor = located(plan.overlay, expr, task, piece.keys, self.matches)
                    rows = pick(self.frontier.live(k, piece, b), axis, chosen)
                    p[:, at[at >= 0]] -= (rows / factor)[:, at >= 0].astype(np.float32)
        return p

    def _diagonal_targets(
        self, k: int, b: int, tasks: Sequence[str], blocks: Blocks
    ) -> tuple[np.ndarray, dict[str, slice]]:
        """[rows, channels of all pieces, rows per channel of all tasks]; zero where a channel is none of the task's."""
        step, plan = self.step, self.plan
        where: dict[str, slice] = {}
        linear, view = self.frontier.geometry(step, k)
        per_piece = []
        for (_, name), block in blocks.items():
            by_task = []
            for task in tasks:
                expr = plan.overlay.exprs(step.sink, task)[linear.channel(view)]
                piece = block.piece
                p = self.frontier.target(step, step.sink, task, b)
                if not piece.keys or task in {t for key in piece.keys for t in key}:
                    at, factor = located(plan.overlay, expr, task, piece.keys, self.matches)
                    mine = np.where(at >= 0, p[:, np.maximum(at, 0)] * factor, 0.0).astype(np.float32)
                else:
                    mine = np.zeros((len(p), self._outputs_of(piece)), np.float32)
                channels = plan.layout.shapes[piece.name][linear.channel(view)]
                by_task.append(mine.reshape(len(p), channels, -1))
                many = by_task[-1].shape[2]
                start = sum(x.shape[2] for x in by_task[:-1])
                where[f"{task}/{name}"] = slice(start, start + many)
            per_piece.append(np.concatenate(by_task, axis=2))
        return np.concatenate(per_piece, axis=1), where

    def _outputs_of(self, piece: Piece) -> int:
        """Output channels that a diagonal step makes of a piece."""
        laid = self.step.parts[0].outputs[0]
        read = {p.keys: p for p in self.plan.layout.pieces[laid].values()}
        linear, view = self.frontier.geometry(self.step, next(iter({self.frontier.source_of[t] for t in self.step.tasks})))
        return self.plan.layout.shapes[read[piece.keys].name][linear.channel(view)]


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([z for z, _ in parts]), np.concatenate([p for _, p in parts])


def _cut(m: Moments, at: np.ndarray, targets: slice, dual: bool) -> Moments:
    """Means over the rows, for some columns and some targets."""
    if dual:
        return Moments(m.count, m.zz, m.zp, m.pp[targets] / m.count)
    whole = np.array_equal(at, np.arange(len(m.zz)))
    zz = m.zz if whole else m.zz[np.ix_(at, at)]
    return Moments(m.count, zz / m.count, m.zp[at][:, targets] / m.count, m.pp[targets] / m.count)
