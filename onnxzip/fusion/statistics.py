"""What a step's least squares needs to know of the data: moments, or the rows themselves where columns outnumber them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.steps import Step, channels_at
from onnxzip.calibration.activations import activation_of
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.recipe import Recipe
from onnxzip.calibration.states import states_covariance
from onnxzip.errors import InvalidDataError
from onnxzip.fusion.problem import Reads
from onnxzip.fusion.rows import BlockId, RowPlan
from onnxzip.fusion.sharing import Equations, add_up, gathered, row_order
from onnxzip.linalg.moments import ChannelMoments, DenseSums, DiagonalSums, EnergySums, Moments, Sums
from onnxzip.linalg.ridge import HELD_SHARE
from onnxzip.matching.match import Matches, channel_places
from onnxzip.ops.recurrent import takes_gates
from onnxzip.peers import ALONE, Peers

ROWS_BYTES = 64 << 20  # rows are kept for the fit through the activation up to this; larger ones cost more than the moments


@dataclass(frozen=True)
class TaskStatistics:
    """Statistics of one task for the columns of one strand, as means over rows.

    Attributes:
        train, held: moments of fitted and of held-out rows; zp has all original outputs of the group.
        rows: (z, p) of both, kept where columns outnumber rows; the moments then hold p's squares only.
    """

    train: Moments
    held: Moments
    rows: tuple[Equations, Equations] | None = None

    def products_with(self, at: np.ndarray) -> np.ndarray:
        """Mean of z p' over all rows, for some of the original outputs: [columns, len(at)]."""
        return (1 - HELD_SHARE) * self.train.zp[:, at] + HELD_SHARE * self.held.zp[:, at]


class _Kept:
    """Rows (z, p) in one array each, the fitted ones before the held-out ones, filled batch by batch."""

    def __init__(self, fitted: int, held: int, columns: int, targets: int) -> None:
        self.z = np.empty((fitted + held, columns), np.float32)
        self.p = np.empty((fitted + held, targets), np.float32)
        self.fitted = fitted
        self._next = [0, fitted]

    def add(self, held: bool, z: np.ndarray, p: np.ndarray) -> None:
        part = slice(self._next[held], self._next[held] + len(z))
        self.z[part], self.p[part] = z, p
        self._next[held] = part.stop

    def side(self, held: bool) -> Equations:
        """(z, p) of the fitted or of the held-out rows."""
        part = slice(self.fitted, None) if held else slice(self.fitted)
        return self.z[part], self.p[part]

    @classmethod
    def of(cls, fitted: Equations, held: Equations) -> _Kept:
        """Rows that are known already."""
        kept = cls(len(fitted[0]), len(held[0]), fitted[0].shape[1], fitted[1].shape[1])
        kept.add(False, *fitted)
        kept.add(True, *held)
        return kept


@dataclass(frozen=True)
class _PerSource:
    columns: Mapping[BlockId, slice]
    width: int
    targets: Mapping[str, slice]
    train: tuple[Moments | ChannelMoments, ...]
    held: tuple[Moments | ChannelMoments, ...]
    kept: tuple[_Kept, ...]


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
        self.frontier, self.step, self.matches, self.repair, self.peers = frontier, step, matches, repair, peers
        self.plan: Plan = frontier.plan
        self.groups = reads[0].groups
        sources = sorted({frontier.source_of[t] for r in reads for t in r.owners})
        rows = sum(frontier.rows(step, k) for k in sources)
        widest = max(r.columns for r in reads)
        self.dual = not step.diagonal and widest > rows
        through = step.bounds is not None and not step.diagonal and 4 * rows * widest <= ROWS_BYTES
        self.kept = self.dual or through
        self.sources = {k: self._collect(k, [r for r in reads if r.owners & set(frontier.sources[k].tasks)]) for k in sources}

    def of(self, task: str, reads: Reads, group: int) -> TaskStatistics:
        """Statistics of one task over the columns that one strand reads."""
        source = self.sources[self.frontier.source_of[task]]
        at, targets = self._columns(source, reads), source.targets[task]
        train, held = (_cut(m[group], at, targets, self.dual) for m in (source.train, source.held))
        if not self.dual:
            return TaskStatistics(train, held)
        kept = source.kept[group]
        z, p = _some_columns(kept.z, at), kept.p[:, targets]
        return TaskStatistics(train, held, ((z[: kept.fitted], p[: kept.fitted]), (z[kept.fitted :], p[kept.fitted :])))

    def sampled(self, task: str, reads: Reads, group: int) -> tuple[np.ndarray, np.ndarray]:
        """All rows of one task, fitted and held out: z over the columns that one strand reads, and p; only where `kept`."""
        source = self.sources[self.frontier.source_of[task]]
        at, targets = self._columns(source, reads), source.targets[task]
        return _some_columns(source.kept[group].z, at), source.kept[group].p[:, targets]

    def _columns(self, source: _PerSource, reads: Reads) -> np.ndarray:
        places = [np.arange(source.width)[source.columns[b.part, b.piece.name]] for b in reads.blocks]
        return np.concatenate([*places, [source.width]])

    def of_channels(self, task: str, reads: Reads) -> tuple[ChannelMoments, ChannelMoments]:
        """Of a diagonal step: statistics of one task for the channels of one strand, in its order."""
        source = self.sources[self.frontier.source_of[task]]
        channels = source.columns[0, reads.blocks[0].piece.name]
        targets = source.targets[f"{task}/{reads.blocks[0].piece.name}"]
        train, held = (_cut_channels(m, channels, targets) for m in (source.train[0], source.held[0]))
        return train, held

    def covariance(self, number: int, task: str) -> np.ndarray:
        """Of a space's channels in one original net, a sum over all that makes them and over a channel's places there.

        What leaves the activation counts: two text readers with HardSwish and Swish, merged on 200 lines, are off by 0.43 and
        0.45 of their outputs, by what enters it 0.51 and 0.50. So hidden units count by their states, which others read, not
        by their gates: LSTMs of the sample nets, with the weights between units in their importance, 2.8 points of error
        instead of 3.4.
        """
        total, overlay = np.zeros(()), self.plan.overlay
        for step in (s for s in self.plan.steps if number in s.spaces and task in s.tasks and not s.diagonal):
            expr = channels_at(overlay, step.parts[0], task, step.sink)
            reader = next((r for r in overlay.roles if r.inputs[:1] == (step.sink,) and takes_gates(r.op, r.inputs)), None)
            if reader is not None and task in reader.members:
                expr = overlay.exprs(str(reader.inputs[2]), task)[2]
                found = states_covariance(self.frontier, task, reader.members[task], self.peers)
            else:
                found = self.frontier.covariance(step, task, self.peers, activation_of(self.frontier, step, task))
            for at in channel_places(self.plan, expr, self.plan.spaces[number], task).T:
                total = total + found[np.ix_(at, at)]
        return total

    # collecting -------------------------------------------------------------------------------------------------------

    def _collect(self, k: int, reads: Sequence[Reads]) -> _PerSource:
        frontier = self.frontier
        rows = RowPlan(frontier, self.step, k, reads, self.matches, self.repair)
        at, held = frontier.positions(self.step, k), frontier.sources[k].held()
        groups = [self._group(recipe, at, held) for recipe in rows.recipes]
        adders = [frontier.place.adder(r, s, kept) for r, (s, kept) in zip(rows.recipes, groups, strict=True)]
        with np.errstate(over="ignore", invalid="ignore"):  # `_check` refuses what that leaves
            for b, part in enumerate(frontier.batches[k]):
                for recipe, adder in zip(rows.recipes, adders, strict=True):
                    adder.add({v: frontier.value(k, v, b, self.step.name) for v in recipe.values}, at[part], held[part])
                if frontier.closes_block(k, b):  # products over a block are the same bits in whichever process it is
                    for sums, _ in groups:
                        sums.settle()
            name = f"{self.step.name}, source {k}"
            add_up(self.peers, name, [sums for sums, _ in groups])
            self._check(k, rows, groups)
        train, held_out = (tuple(s.moments(side) for s, _ in groups) for side in (False, True))
        kept = self._of_all(name, k, [kept for _, kept in groups if kept is not None])
        return _PerSource(rows.columns, rows.width, rows.targets, train, held_out, kept)

    def _check(self, k: int, rows: RowPlan, groups: Sequence[tuple[Sums, _Kept | None]]) -> None:
        """Refuse what float32 products cannot hold.

        Raises:
            InvalidDataError: with the largest of the values that were read.
        """
        sums = [a for one, _ in groups for a in one.arrays().values()]
        squares = [np.einsum("rc,rc->r", kept.z, kept.z) for _, kept in groups if kept is not None and self.dual]
        if all(np.isfinite(a).all() for a in (*sums, *squares)):
            return
        batches = range(len(self.frontier.batches[k]))
        largest = {
            v: max(float(np.abs(np.asarray(self.frontier.value(k, v, b, self.step.name))).max()) for b in batches)
            for v in dict.fromkeys(v for recipe in rows.recipes for v in recipe.values)
        }
        name = max(largest, key=lambda v: largest[v] if np.isfinite(largest[v]) else np.inf)
        where = f"value {name[0]!r} of {name[1]!r}" if isinstance(name, tuple) else f"value {name!r} of the fused net"
        raise InvalidDataError(
            f"{self.step.name}: {where} reaches {largest[name]:.2g} on these samples, and squares of such numbers are beyond "
            "float32. Are the samples scaled as the nets want them?"
        )

    def _of_all(self, name: str, k: int, mine: Sequence[_Kept]) -> tuple[_Kept, ...]:
        """The rows that one process has kept of a source, with those of its peers."""
        if self.peers.size == 1 or not mine:
            return tuple(mine)
        total, times = self.frontier.sources[k].total, self.frontier.positions(self.step, k).shape[1]
        sides = []
        for held, what in ((False, "fitted"), (True, "held-out")):
            order = row_order(total, self.peers.size, times, held)
            sides.append(gathered(self.peers, f"{name}, {what} rows", [kept.side(held) for kept in mine], order))
        return tuple(_Kept.of(fitted, held_out) for fitted, held_out in zip(*sides, strict=True))

    def _group(self, recipe: Recipe, at: np.ndarray, held: np.ndarray) -> tuple[Sums, _Kept | None]:
        """What sums up the rows of one group, and what keeps them."""
        if recipe.channels:
            return DiagonalSums(recipe.channels, recipe.columns, recipe.targets // recipe.channels), None
        count = int(held.sum()) * at.shape[1]
        kept = _Kept(at.size - count, count, recipe.columns, recipe.targets) if self.kept else None
        return (EnergySums(recipe.targets) if self.dual else DenseSums(recipe.columns, recipe.targets)), kept


def _some_columns(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Columns of rows; the rows themselves where those are all of them."""
    return rows if np.array_equal(at, np.arange(rows.shape[1])) else rows[:, at]


def _cut(m: Moments | ChannelMoments, at: np.ndarray, targets: slice, dual: bool) -> Moments:
    """Means over the rows, for some columns and some targets."""
    assert isinstance(m, Moments)
    if dual:
        return Moments(m.count, m.zz, m.zp, m.pp[targets]).means()
    zp = m.zp[:, targets] if len(at) == len(m.zz) and (np.diff(at) == 1).all() else m.zp[at, targets]
    return Moments(m.count, m.zz.cut(at), zp, m.pp[targets]).means()


def _cut_channels(m: Moments | ChannelMoments, channels: slice, targets: slice) -> ChannelMoments:
    """Means over the rows, for some channels and some of their targets."""
    assert isinstance(m, ChannelMoments)
    zz, zp, pp = m.zz[channels], m.zp[channels][:, :, targets], m.pp[channels][:, targets]
    return ChannelMoments(m.count, zz / m.count, zp / m.count, pp / m.count)
