"""What is counted of one output of two files that are run on the same samples.

Infinite numbers (logits that a net masks) are equal where both files have the same one. A place where just one of them is
infinite counts as wholly wrong: its error is as large as the mean of all finite places, and so is its energy.

What a tail computes is compared sample by sample: one whose floats come in another number counts as wholly wrong; agreement is
there the fraction of samples with as many floats, or with the same whole numbers or texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TINY = float(np.finfo(np.float32).tiny)


@dataclass
class Tally:
    """Sums over samples of one output; of `compared` classes `agree` are the same; how often it was `floats`.

    Of its floats `finite` are so in both files, `infinite` are not in the original, and `parted` in just one of the files.
    """

    wrong: float = 0.0
    energy: float = 0.0
    agree: int = 0
    compared: int = 0
    floats: int = 0
    finite: int = 0
    infinite: int = 0
    parted: int = 0

    def add(self, fused: np.ndarray, original: np.ndarray) -> None:
        a, b = fused.astype(np.float64), original.astype(np.float64)
        endless = np.isinf(a) | np.isinf(b)
        if endless.any():
            self.infinite += int(np.isinf(b).sum())
            self.parted += int((endless & (a != b)).sum())
            a, b = (np.where(endless, 0.0, x) for x in (a, b))
        self.finite += int(endless.size - endless.sum())
        self.wrong += float(np.square(a - b).sum())
        self.energy += float(np.square(b).sum())

    def add_classes(self, fused: np.ndarray, original: np.ndarray) -> None:
        self.agree += int((fused == original).sum())
        self.compared += fused.size

    def add_loose(self, fused: np.ndarray, original: np.ndarray) -> None:
        """One sample of what a tail computes."""
        same, floats = fused.shape == original.shape, original.dtype.kind == "f"
        self.compared += 1
        self.floats += floats
        self.agree += same and (floats or np.array_equal(fused, original))
        if floats and same:
            self.add(fused, original)
        elif floats:
            finite = (a[np.isfinite(a)].astype(np.float64) for a in (fused, original))
            energy = max(float(np.square(a).sum()) for a in finite)
            self.wrong, self.energy = self.wrong + energy, self.energy + energy

    @property
    def relative_error(self) -> float:
        return self.deviation(0.0)

    def deviation(self, least: float) -> float:
        """The relative error; the root mean square of the original counts as `least` at least."""
        usual = self.energy / max(self.finite, 1) if self.energy > 0 else 1.0
        wrong, energy = (x + self.parted * usual for x in (self.wrong, self.energy))
        return 0.0 if wrong == 0 else float(np.sqrt(wrong / max(energy, least**2 * self.finite, TINY)))

    @property
    def agreement(self) -> float | None:
        return self.agree / self.compared if self.compared else None
