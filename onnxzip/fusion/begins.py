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
        """Whether the original's states in front of all steps are such as it ends with: noise, say, is none, and what the
        fused net would have said in its place cannot be told. They are given up then."""
        if not self.before:
            return False
        columns = self.after[0].shape[1] + 1
        ends, begun = DenseSums(columns, 1), DenseSums(columns, 1)
        for sums, all_of in ((ends, self.after), (begun, self.before)):
            for some in all_of:
                rows = _with_one(some[some.any(axis=1)])
                sums.add(False, rows, np.zeros((len(rows), 1), np.float32))
            sums.settle()
        add_up(self.peers, f"{self.name}, states", [ends, begun])
        found, given = ends.moments(False), begun.moments(False)
        known = found.count > 0 and given.count > 0
        if known and np.trace(solve_damped(found.means().zz, np.asarray(given.means().zz), NEGLIGIBLE)) < FOREIGN * columns:
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
        made, spread = self._fitted([np.concatenate(some, axis=1) for some in ends], k)
        start = 0
        for b, before in enumerate(self.before):
            now = _with_one(before) @ made.T + self._noise(slice(start, start + len(before)), len(made)) @ spread.T
            now = np.where(before.any(axis=1, keepdims=True), now, 0)
            self.now[b] = np.split(now.astype(np.float32), len(ends[b]), axis=1)
            start += len(before)

    def _fitted(self, targets: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
        """M, and the root of S."""
        held, start, rows = self.source.held(), 0, np.arange(targets[0].shape[1])
        sums, squares = DenseSums(self.after[0].shape[1] + 1, len(rows)), DenseSums(len(rows), 1)
        centre = np.zeros((len(rows), self.after[0].shape[1] + 1))
        states, units = len(rows) // len(self.places), self.after[0].shape[1] * len(self.places) // len(rows)
        centre[rows, (units * np.arange(states)[:, None] + self.places).reshape(-1)] = 1
        for after, target in zip(self.after, targets, strict=True):
            mine = held[start : start + len(target)]
            for side in (False, True):
                sums.add(side, _with_one(after[mine == side]), target[mine == side])
                squares.add(side, target[mine == side], np.zeros((int((mine == side).sum()), 1), np.float32))
            start += len(target)
        for some in (sums, squares):
            some.settle()
        add_up(self.peers, f"{self.name}, begins {k}", [sums, squares])
        stats = TaskStatistics(sums.moments(False).means(), sums.moments(True).means())
        made = fit_linear([Chosen(stats, rows, 1.0)], centre, GRID).rows
        whole, own = ((some.moments(False) + some.moments(True)).means() for some in (sums, squares))
        cross = made @ whole.zp
        left = np.asarray(own.zz) - cross - cross.T + made @ (whole.zz @ made.T)
        return made, root_of(left)

    def _noise(self, part: slice, width: int) -> np.ndarray:
        """Standard normal numbers for some samples, the same whichever process has them."""
        dealt = np.arange(self.source.count) if self.source.dealt is None else self.source.dealt
        block, at = block_of(self.source.total), dealt[part]
        numbers = {int(n): np.random.default_rng([self.seed, int(n)]) for n in np.unique(at // block)}
        drawn = {n: rng.standard_normal((block, width), np.float32) for n, rng in numbers.items()}
        return np.stack([drawn[int(k // block)][k % block] for k in at])


def _with_one(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)
