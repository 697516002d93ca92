"""Batches: which rows a step sees is a pure function of the seed and the step, so that any step can be made again.

Every fifth row of each pool, up to `HELD` of them, is never trained on: these rows judge. The others come in epochs: the first
in the pool's own order, each later one in an order drawn from (seed, pool, epoch); what is left over at the end of an epoch
waits for the next. Rows that come again may be varied (see varying.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from onnxzip.calibration.rows import Pool
from onnxzip.calibration.samples import HELD_OUT
from onnxzip.calibration.sources import Note
from onnxzip.errors import InvalidDataError
from onnxzip.peers import ALONE, Peers
from onnxzip.retraining.carried import Feedback
from onnxzip.retraining.module import TorchNet
from onnxzip.retraining.teachers import Answers, Teacher
from onnxzip.retraining.varying import Draw, drawn, varied

HELD = 512


@dataclass(frozen=True)
class Portion:
    """What one pool gives to a batch.

    Attributes:
        tasks: who it serves.
        feeds: inputs of the fused net.
        targets: the teachers' outputs by the fused net's names.
        labels: task -> classes, where they were given.
        weight: of its mean losses, so that their mean over all processes is the mean over the whole batch.
    """

    tasks: tuple[str, ...]
    feeds: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    weight: float = 1.0


Batch = tuple[Portion, ...]


@dataclass(frozen=True)
class Drawing:
    """The order in which one pool's rows are drawn.

    Attributes:
        rows: those to train on.
        batch: how many at a time.
        key: seed and number of the pool.
    """

    rows: np.ndarray
    batch: int
    key: tuple[int, int]

    @property
    def size(self) -> int:
        """Rows of a batch."""
        return min(self.batch, len(self.rows))

    def epoch(self, step: int) -> int:
        """How often the rows of a step have been seen before."""
        return step // (len(self.rows) // self.size)

    def places(self, step: int) -> np.ndarray:
        """Positions in `rows` that a step sees."""
        start = step % (len(self.rows) // self.size) * self.size
        if (epoch := self.epoch(step)) == 0:
            return np.arange(start, start + self.size)
        order = np.random.default_rng((*self.key, epoch)).permutation(len(self.rows))
        return order[start : start + self.size]

    def variation(self, step: int) -> Draw:
        """How the rows of a step are varied."""
        return drawn(self.rows, self.size, (*self.key, self.epoch(step), step))


class Stream:
    """Batches of one pool.

    Args:
        pool: its samples.
        teachers: of its tasks.
        batch: samples a step.
        key: seed and number of the pool.
        room: bytes for the teachers' answers.
        device: where tensors go.
        varies: whether rows that come again are varied.
        peers: the processes that a batch is split between.

    Raises:
        InvalidDataError: there are more processes than samples in a batch.
    """

    def __init__(
        self,
        pool: Pool,
        teachers: tuple[Teacher, ...],
        batch: int,
        key: tuple[int, int],
        room: int,
        device: torch.device,
        varies: bool,
        peers: Peers = ALONE,
    ) -> None:
        self.pool, self.device, self.varies, self.peers = pool, device, varies, peers
        train, held = parts_of(pool)
        self.drawing = Drawing(train, batch, key)
        if (size := self.drawing.size) < peers.size:
            raise InvalidDataError(f"a batch of {size} samples cannot be split between {peers.size} processes. Start fewer.")
        self.answers = Answers(pool, train, teachers, -(-size // peers.size), room)
        self.held = held
        first = teachers[0]  # the only one, where there are states of shared units
        self.asked = first.origin.asked
        self.feedback = Feedback(pool, self.held, first, batch, key) if first.origin.states else None
        left = room - self.answers.bytes if self.answers.keeps else room
        self.held_answers = Answers(pool, self.held, teachers, batch, left)
        self.block, self.teaches = batch, True

    def at(self, step: int) -> Portion:
        """What a step sees: this process's part of it."""
        whole = self.drawing.places(step)
        mine = np.array_split(np.arange(len(whole)), self.peers.size)[self.peers.place]
        if self.varies and self.drawing.epoch(step) > 0:
            portion = self._varied(self.drawing.rows[whole[mine]], self.drawing.variation(step).some(mine))
        else:
            portion = self._portion(self.drawing.rows[whole[mine]], self.answers, whole[mine])
        return replace(portion, weight=len(mine) * self.peers.size / len(whole))

    def begin_states(self, net: TorchNet, note: Note) -> None:
        """As `learn_states`, for the first time; tells of states that are taken as they are, or teach nothing."""
        self.learn_states(net)
        states = " and ".join(map(repr, self.feedback.inputs)) if self.feedback is not None else ""
        if self.feedback is not None and self.feedback.is_foreign:
            note(f"{self.pool.tasks[0]}: its net ends with no such {states} as samples begin with: they are taken as they are")
        if self.feedback is not None and self.feedback.is_too_short(net):
            self.teaches = False
            note(
                f"{self.pool.tasks[0]}: samples begin in the midst of streams, and have too few steps to learn how the fused "
                f"net goes on from {states} of its own: nothing is retrained. Nets that take more steps a call can be"
            )

    def learn_states(self, net: TorchNet) -> None:
        """Go on from the states where the net comes to as it is now."""
        if self.feedback is not None:
            self.feedback.learn(net)

    def judging(self) -> Iterator[Portion]:
        """The rows that judge, in portions."""
        return self._judging(range(0, len(self.held), self.block))

    def judging_here(self) -> Iterator[Portion]:
        """Of these portions those that this process looks at."""
        return self._judging(range(0, len(self.held), self.block)[self.peers.place :: self.peers.size])

    def _judging(self, starts: range) -> Iterator[Portion]:
        for start in starts:
            places = np.arange(start, min(start + self.block, len(self.held)))
            yield self._portion(self.held[places], self.held_answers, places)

    def _varied(self, rows: np.ndarray, draw: Draw) -> Portion:
        feeds = varied(self.pool.rows.take(rows), self.pool.rows.take(draw.partners), draw)
        return self._told(rows, feeds, self.answers.anew(feeds))

    def _portion(self, rows: np.ndarray, answers: Answers, places: np.ndarray) -> Portion:
        feeds = self.pool.rows.take(rows)
        return self._told(rows, feeds, answers.take(places, feeds))

    def _told(self, rows: np.ndarray, feeds: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> Portion:
        labels = {task: y[rows] for task, y in self.pool.labels.items()}
        feeds = self.asked(feeds)
        if self.feedback is not None:
            feeds = self.feedback.begun(feeds, rows)
        return Portion(self.pool.tasks, self._tensors(feeds), self._tensors(targets), self._tensors(labels))

    def _tensors(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Copies in memory of torch's own: products may depend, in their last bits, on how memory is aligned."""
        return {name: torch.tensor(a, device=self.device) for name, a in arrays.items()}


def parts_of(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a pool to train on, and those that judge."""
    if pool.judges is None:
        return parted(pool.order)
    return pool.order[~np.isin(pool.order, pool.judges)], pool.judges


def parted(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and rows that are held out: every fifth among the first ones, `HELD` of them at most."""
    places = np.arange(len(order))
    held = (places % HELD_OUT == HELD_OUT - 1) & (places < HELD * HELD_OUT)
    return order[~held], order[held]


def batch_at(streams: Sequence[Stream], step: int) -> Batch:
    """What a step sees: a portion of every pool."""
    return tuple(stream.at(step) for stream in streams)
