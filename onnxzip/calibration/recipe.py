"""What the rows of a least squares are made of, for one source: a recipe that the host and a device follow alike.

z: what each sampled output position reads, piece by piece, tap by tap, channel by channel; the constant 1 comes last.
p: columns of values: the original ones, less skips. Of a diagonal step every channel has columns and targets of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxzip.runtime import Value


@dataclass(frozen=True)
class Read:
    """Columns of z.

    Attributes:
        value: a live value; channel: its channel axis; rank: how many axes it has.
        taps: int [positions, K], input positions of each output position, -1 outside.
        first, size: of the channels that are read.
        before: positions in front of the batch; 0 for a value that all samples share.
    """

    value: Hashable
    channel: int
    rank: int
    taps: np.ndarray
    first: int
    size: int
    before: int = 1


@dataclass(frozen=True)
class Term:
    """Something added to columns of p: p[:, to] += factor * value[:, at].

    Attributes:
        value: what is read; channel, rank, before: as in `Read`; without a channel axis it holds sampled rows already.
        at: int [n], its columns; to: int [n], columns of p; factor: float32 [n].
    """

    value: Hashable
    channel: int | None
    rank: int
    at: np.ndarray
    to: np.ndarray
    factor: np.ndarray
    before: int = 1


@dataclass(frozen=True)
class Recipe:
    """The rows of one group of a step.

    Attributes:
        reads: pieces of z, side by side.
        terms: of p.
        targets: columns of p.
        channels: of a diagonal step, how many the columns of p are shared out to, channel by channel; 0 else.
    """

    reads: tuple[Read, ...]
    terms: tuple[Term, ...]
    targets: int
    channels: int = 0

    @property
    def columns(self) -> int:
        """Columns of z; of a diagonal step, those of each channel."""
        if self.channels:
            return 1 + int(self.reads[0].taps.shape[1])
        return 1 + sum(int(r.taps.shape[1]) * r.size for r in self.reads)

    @property
    def values(self) -> tuple[Hashable, ...]:
        """All that is read, each once."""
        return tuple(dict.fromkeys([*(r.value for r in self.reads), *(t.value for t in self.terms)]))


class RowKeeper(Protocol):
    """Where rows are kept."""

    def add(self, held: bool, z: np.ndarray, p: np.ndarray) -> None:
        """Keep some of the fitted or of the held-out rows."""


class Adder(Protocol):
    """Sums up the rows of one recipe."""

    def add(self, values: Mapping[Hashable, Value], at: np.ndarray, held: np.ndarray) -> None:
        """Add the rows of a batch.

        Args:
            values: all that the recipe reads; at: int [n, wanted], sampled positions; held: bool [n], held-out samples.
        """
