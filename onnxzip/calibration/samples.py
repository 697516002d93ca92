"""Calibration samples as the zip sees them: one source per set of tasks that share data, shuffled, a fifth held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

HELD_OUT = 5  # every fifth sample


@dataclass(frozen=True)
class Source:
    """Samples that some tasks are calibrated with.

    Attributes:
        tasks: who they serve.
        inputs: laid-over input -> array [samples, ...].
        labels: task -> class per sample, where they were given.
    """

    tasks: tuple[str, ...]
    inputs: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def held(self) -> np.ndarray:
        """For each sample, whether it is held out."""
        return np.asarray(np.arange(self.count) % HELD_OUT == HELD_OUT - 1)

    def shuffled(self, rng: np.random.Generator) -> Source:
        """The same samples in another order, so that what is held out is drawn from all of them."""
        order = rng.permutation(self.count)
        return Source(
            self.tasks, {k: v[order] for k, v in self.inputs.items()}, {k: v[order] for k, v in self.labels.items()}
        )
