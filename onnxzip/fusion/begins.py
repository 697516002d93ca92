"""What a fused recurrent node begins with: not what the originals' units ended with before, but what its own would have.

    h(end) = M [s(end), 1] + e,    E e e' = S        least squares over M
    h(begin) = M [s(begin), 1] + noise of covariance S,   0 where s(begin) is 0

Samples bring states s of the original net: h and, of an LSTM, c. In use a fused net goes on from its own, which are off. What
these are is told by what it ends with on the same samples, as far as that follows from what the original ends with there (M is
damped towards the original's units in their places); the rest is noise, which keeps R from leaning on what will not be there.
M and S depend on R, and R on them: they are fitted in turns (`over_time`). Samples that begin with zeros do so there, too.

Measured, LSTMs of 64 units that read the rows of an image 1 or 7 at a time, everything shared, 1,000 such samples a task, each
net going through whole images on its own states; error increase in points, mean of four pairs, 1 / 7 rows: 7.5 / 4.0; M damped
towards zero 9.7 / 4.1; that without the noise, in 16 rounds at most that end as elsewhere, 32 / 5.2, with it 25 / 4.4;
beginning with what the originals' units ended with 48 / 16. All 28 rows at once lose 2.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxzip.calibration.samples import Source, block_of
from onnxzip.calibration.states import Course
from onnxzip.fusion.sharing import add_up
from onnxzip.fusion.solving import Chosen, fit_linear
from onnxzip.fusion.statistics import TaskStatistics
from onnxzip.linalg.covariance import root_of
from onnxzip.linalg.moments import DenseSums
from onnxzip.linalg.ridge import GRID, solve_damped
from onnxzip.peers import Peers

# How much larger states may be that samples begin with than those that they end with, in directions that count at all: mean
# squares as multiples of the latter's, and these as a fraction of their mean.
FOREIGN, NEGLIGIBLE = 3.0, 1e-3


@dataclass(frozen=True)
class Onward:
    """What a fused net goes on from, of what an original does.

    Attributes:
        made: M [fused numbers, original numbers + 1].
        spread: a root of S [fused numbers, fused numbers].
    """

    made: np.ndarray
    spread: np.ndarray

    def begun(self, before: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """States in front of samples [samples, fused numbers], from the original's; zeros where those are.

        Args:
            noise: standard normal [samples, fused numbers].
        """
        now = _with_one(before) @ self.made.T + noise @ self.spread.T
        return np.where(before.any(axis=1, keepdims=True), now, 0).astype(np.float32)


def fitted(
    after: Iterable[np.ndarray], targets: Iterable[np.ndarray], held: np.ndarray, centre: np.ndarray, name: str, peers: Peers
) -> Onward:
    """The least squares above, damped as held-out samples want it.

    Args:
        after, targets: per batch, what the original ends with, and the fused net [samples, numbers].
        held: for each sample, whether it is held out.
        centre: that M is damped towards.
        name: of the sums, for the exchange with peers, who have the other samples.
    """
    rows, start = np.arange(len(centre)), 0
    sums, squares = DenseSums(centre.shape[1], len(rows)), DenseSums(len(rows), 1)
    for before, target in zip(after, targets, strict=True):
        mine = held[start : start + len(target)]
        for side in (False, True):
            sums.add(side, _with_one(before[mine == side]), target[mine == side])
            squares.add(side, target[mine == side], np.zeros((int((mine == side).sum()), 1), np.float32))
        for some in (sums, squares):
            some.settle()  # batch by batch: the same float32 products whichever processes there are
        start += len(target)
    add_up(peers, name, [sums, squares])
    stats = TaskStatistics(sums.moments(False).means(), sums.moments(True).means())
    made = fit_linear([Chosen(stats, rows, 1.0)], centre, GRID).rows
    whole, own = ((some.moments(False) + some.moments(True)).means() for some in (sums, squares))
    cross = made @ whole.zp
    return Onward(made, root_of(np.asarray(own.zz) - cross - cross.T + made @ (whole.zz @ made.T)))


def come_back(before: Iterable[np.ndarray], after: Sequence[np.ndarray], name: str, peers: Peers) -> bool:
    """Whether samples begin with states such as they end with: from noise, say, nobody can tell what a fused net would have
    said in its place.

    Args:
        before, after: per batch, the original's states [samples, numbers] in front of all steps, and behind them.
        name, peers: as of `fitted`.
    """
    columns = after[0].shape[1] + 1
    ends, begun = DenseSums(columns, 1), DenseSums(columns, 1)
    for sums, every in ((ends, after), (begun, before)):
        for some in every:
            rows = _with_one(some[some.any(axis=1)])
            sums.add(False, rows, np.zeros((len(rows), 1), np.float32))
            sums.settle()
    add_up(peers, name, [ends, begun])
    known, given = ends.moments(False), begun.moments(False)
    if not (known.count and given.count):
        return False
    return bool(np.trace(solve_damped(known.means().zz, np.asarray(given.means().zz), NEGLIGIBLE)) < FOREIGN * columns)


def noise_of(numbers: np.ndarray, block: int, width: int, seed: Sequence[int]) -> np.ndarray:
    """Standard normal numbers for some samples, by their numbers: float32 [samples, width], the same whoever has them."""
    blocks = {int(n): np.random.default_rng([*seed, int(n)]) for n in np.unique(numbers // block)}
    drawn = {n: rng.standard_normal((block, width), np.float32) for n, rng in blocks.items()}
    return np.stack([drawn[int(k // block)][k % block] for k in numbers])


@dataclass
class Begins:
    """States of one node in front of the first step, on the samples of one task.

    Attributes:
        name: for the exchange with other processes.
        places: which of the original's units each fused one stands for.
        before, after: per batch, the original's states [samples, states x units] in front of all steps, and behind them; none
            where they do not come from outside.
        now: per batch, each state that the fused node begins with [samples, units].
    """

    name: str
    places: np.ndarray
    source: Source
    seed: int
    peers: Peers
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)
    now: list[list[np.ndarray]] = field(default_factory=list)

    def add(self, course: Course | None, now: list[np.ndarray]) -> None:
        """Take the next batch.

        Args:
            course: of the original net, where its states come from outside.
            now: what the fused node begins with; in that case the original's states in the order of the fused units.
        """
        self.now.append(now)
        if course is not None:
            self.before.append(np.concatenate(course.begins, axis=1))
            self.after.append(np.concatenate(course.ends, axis=1))

    def come_back(self) -> bool:
        """Whether they are such as the original ends with; they are given up where they are not."""
        if self.before and come_back(self.before, self.after, f"{self.name}, states", self.peers):
            return True
        self.before, self.after = [], []
        return False

    def learn(self, ends: list[list[np.ndarray]], k: int) -> None:
        """Begin as the fused node would.

        Args:
            ends: per batch, what each state ends as in it [samples, units].
            k: of the round.
        """
        if not self.before:
            return
        states, columns = len(ends[0]), self.after[0].shape[1]
        centre = np.zeros((states * len(self.places), columns + 1))
        own = columns // states * np.arange(states)[:, None] + self.places
        centre[np.arange(len(centre)), own.reshape(-1)] = 1
        targets = [np.concatenate(some, axis=1) for some in ends]
        onward = fitted(self.after, targets, self.source.held(), centre, f"{self.name}, begins {k}", self.peers)
        dealt, start = np.arange(self.source.count) if self.source.dealt is None else self.source.dealt, 0
        for b, before in enumerate(self.before):
            numbers, start = dealt[start : start + len(before)], start + len(before)
            noise = noise_of(numbers, block_of(self.source.total), len(centre), [self.seed])
            self.now[b] = np.split(onward.begun(before, noise), states, axis=1)


def _with_one(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)
