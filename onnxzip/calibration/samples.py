"""Calibration samples as the zip sees them: one source per set of tasks that share data, shuffled, a fifth held out.

Those held out choose dampings and are fitted then, too, so they look better than they are (LeNet-5 on 1,000 samples: 0.054 off
instead of 0.074 on others). What tells how good the result is, is set apart before: samples that nothing was made from.

Samples are worked on in blocks. Several processes are dealt whole blocks, so that each has its part of those held out, and
float32 products over a block are the same bits whoever has it: sums over blocks differ by float64 rounding alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

HELD_OUT = 5  # every fifth sample
JUDGING_SHARE, MOST_JUDGING = 0.1, 500  # of all samples at least so many are set apart; so many at most
BLOCKS, LARGEST_BLOCK = 8, 250  # so many blocks or more where there are enough samples; samples in one


def set_apart(order: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all samples, as drawn, those that may be worked with, and those that judge: what is left over, or else a tenth."""
    judging = max(len(order) - samples, math.ceil(JUDGING_SHARE * len(order)))
    at = len(order) - min(judging, MOST_JUDGING)
    return order[:at], order[at:]


def wanted(samples: int) -> int:
    """How many there must be for so many to be left to work with."""
    return samples + min(math.ceil(samples * JUDGING_SHARE / (1 - JUDGING_SHARE)), MOST_JUDGING)


def block_of(count: int) -> int:
    """Samples in a block; some times HELD_OUT, so that every HELD_OUT-th sample of a process is held out, too."""
    return HELD_OUT * math.ceil(min(count / BLOCKS, LARGEST_BLOCK) / HELD_OUT)


def hand(count: int, place: int, size: int) -> np.ndarray:
    """Which of some samples one process of several gets: ascending int indices."""
    return np.flatnonzero(np.arange(count) // block_of(count) % size == place)


@dataclass(frozen=True)
class Source:
    """Samples that some tasks are calibrated with.

    Attributes:
        tasks: who they serve.
        inputs: laid-over input -> array [samples, ...].
        labels: task -> class per sample, where they were given.
        dealt: of the whole source's samples those that are here; None for all.
        whole: how many the whole source has; 0 where all are here.
        mark: of the whole source, by which processes tell that they were given the same data; empty for one alone.
    """

    tasks: tuple[str, ...]
    inputs: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    dealt: np.ndarray | None = None
    whole: int = 0
    mark: str = ""

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def total(self) -> int:
        """Samples of all processes together."""
        return self.whole or self.count

    def held(self) -> np.ndarray:
        """For each sample, whether it is held out."""
        return np.asarray(np.arange(self.count) % HELD_OUT == HELD_OUT - 1)

    def digest(self) -> str:
        """Hash of the samples that are here."""
        found = hashlib.sha256()
        for name, array in self.inputs.items():
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()
