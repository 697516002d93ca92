"""States of shared units in retraining: a student goes on from what it would have said itself, not from its teacher's.

Samples in the midst of streams bring the states of the original net. What the student's are instead is told by what both end
with on the rows that judge (`fusion.begins`), and learned anew whenever these judge. Measured, LSTMs of `tools/streams.py`,
300 steps on 1,000 calls a task, 7 / 4 / 2 / 1 rows each: 2.8 / 3.5 / 5.6 / 9.0 points of error, of 3.8 / 4.5 / 5.4 / 7.5
before; with two rounds instead of 24 at each look 12 with single rows; going on from the teacher's states 6.1 with 7 rows. So
few steps say too little of where a stream goes: calls of less than four teach only nets that are nearly their teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from onnxzip.calibration.rows import Pool
from onnxzip.calibration.samples import HELD_OUT
from onnxzip.exporting.returned import Returned
from onnxzip.exporting.trial import error_of
from onnxzip.fusion.begins import Onward, come_back, fitted, noise_of
from onnxzip.ops.recurrent import GATES
from onnxzip.peers import ALONE
from onnxzip.retraining.module import TorchNet
from onnxzip.retraining.teachers import Teacher

ROUNDS = 24  # of going on from what the round before has ended with
LEAST_STEPS, ALIKE = 4, 0.1  # of a call; how far off, of the largest, states may be that are nearly the teacher's
NOISE_BLOCK = 256
Arrays = dict[str, np.ndarray]


class Feedback:
    """States of one task with samples of its own.

    Attributes:
        inputs, outputs: of the fused net, one for each state.
        groups: numbers of all states, one behind the other, that go on together: int [k, units] each, k times all units.
        comes_back: whether samples begin with what its net may end with; is_foreign: whether with something else.
        onward: what each group is gone on from; None before anything is known, and where samples are taken as they are.
        off: how far, of the largest, the net's states are from its teacher's at the last look.

    Args:
        pool, rows: its samples, and the numbers of those that tell.
        teacher: of the task.
        block: rows at a time.
        key: of what is drawn at random.
    """

    def __init__(self, pool: Pool, rows: np.ndarray, teacher: Teacher, block: int, key: Sequence[int]) -> None:
        origin, called = teacher.origin, {own: fused for fused, own in teacher.origin.inputs.items()}
        self.inputs = [called[name] for name in origin.states]
        self.outputs = [origin.outputs[state.outputs[0]] for state in origin.states.values()]
        self.groups = groups_of(list(origin.states.values()))
        self.pool, self.asked, self.key = pool, origin.asked, tuple(key)
        self.blocks = [rows[k : k + block] for k in range(0, len(rows), block)]
        self.held = np.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
        speaking = replace(teacher, silent=frozenset[str]())
        before, self.after = [], []
        for some in self.blocks:
            feeds = pool.rows.take(some)
            answers = speaking.answers(feeds)
            before.append(self._flat(self.asked(feeds), self.inputs))
            self.after.append(self._flat(answers, self.outputs))
        begun = any(states.any() for states in before)
        self.comes_back = begun and all(
            come_back((_of(some, at) for some in before), [_of(some, at) for some in self.after], "states", ALONE)
            for at in self.groups if any(some[:, at].any() for some in before)
        )
        self.is_foreign = begun and not self.comes_back
        self.onward: list[Onward] | None = None
        self.off = 0.0

    def _flat(self, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
        return np.concatenate([arrays[name].reshape(len(arrays[name]), -1) for name in names], axis=1)

    def begun(self, feeds: Mapping[str, np.ndarray], rows: np.ndarray) -> Arrays:
        """Samples as the fused net is fed with them, with the states that it would go on from.

        Args:
            feeds: samples in the order of the fused net's numbers.
            rows: their numbers.
        """
        found = dict(feeds)
        if self.onward is not None:
            now = self._flat(feeds, self.inputs)
            for g, (onward, at) in enumerate(zip(self.onward, self.groups, strict=True)):
                noise = noise_of(rows, NOISE_BLOCK, at.size, (*self.key, g)).reshape(-1, at.shape[1])
                now[:, at] = onward.begun(_of(now, at), noise).reshape(len(now), *at.shape)
            ends = np.cumsum([feeds[name][0].size for name in self.inputs])
            for name, part in zip(self.inputs, np.split(now, ends[:-1], axis=1), strict=True):
                found[name] = part.reshape(feeds[name].shape)
        return found

    @torch.no_grad()
    def learn(self, net: TorchNet) -> None:
        """Go on from where the net comes to as it is now."""
        device = next(iter(net.parameters())).device
        for _ in range(ROUNDS if self.comes_back else 0):
            ends = []
            for rows in self.blocks:
                feeds = self.begun(self.asked(self.pool.rows.take(rows)), rows)
                said = net.compute_all({n: torch.tensor(a, device=device) for n, a in feeds.items()}, self.outputs)
                ends.append(self._flat({n: x.cpu().numpy() for n, x in said.items()}, self.outputs))
            if not all(np.isfinite(some).all() for some in ends):
                return  # what a rate that is too high has done to the net is told by its losses
            self.off = max(error_of(some, wanted) for some, wanted in zip(ends, self.after, strict=True))
            self.onward = [self._onward(ends, at) for at in self.groups]

    def _onward(self, ends: Sequence[np.ndarray], at: np.ndarray) -> Onward:
        """What a group goes on from, by what it ends as in the net."""
        k, units = at.shape
        after, targets = ([_of(some, at) for some in every] for every in (self.after, ends))
        return fitted(after, targets, np.repeat(self.held, k), np.eye(units, units + 1), "onward", ALONE)

    def is_too_short(self, net: TorchNet) -> bool:
        """Whether a call of the net has too few steps to learn from."""
        inner = net.reading.net
        steps = (inner.shapes[str(n.inputs[0])][n.attrs.get("layout", 0)] for n in inner.nodes if n.op in GATES)
        return self.comes_back and self.off > ALIKE and min(steps, default=LEAST_STEPS) < LEAST_STEPS


def groups_of(states: Sequence[Returned]) -> list[np.ndarray]:
    """Groups of the numbers of some states, one behind the other; those of units that have one number each are one."""
    starts = np.cumsum([0, *(state.count for state in states)])
    every = [start + at for start, state in zip(starts, states, strict=False) for at in state.groups]
    single = [at for at in every if len(at) == 1]
    return ([np.concatenate(single, axis=1)] if single else []) + [at for at in every if len(at) > 1]


def _of(states: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Numbers of a group [samples, numbers of all states] -> [samples x k, units]."""
    return np.asarray(states[:, at].reshape(-1, at.shape[1]))
