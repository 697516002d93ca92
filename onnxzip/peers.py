"""The processes that do one job together, each on its part of the data: what they add up, put together and agree on.

Work is told a `Peers` and never asks how many there are: alone, ranks of torch.distributed or a shared folder (see
`onnxzip.distributed`) all answer alike. Every process calls the same methods in the same order with the same names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Peers(ABC):
    """All processes of a job, as one of them sees them.

    Attributes:
        place: of this process, from 0.
        size: how many there are.
        neighbours: how many of them share this machine.
    """

    place: int
    size: int
    neighbours: int

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.place == 0

    @abstractmethod
    def begin(self, job: Callable[[], Mapping[str, object]], samples: Callable[[], str]) -> None:
        """Make sure that all processes do the same job.

        Args:
            job: tells all that the result depends on but the samples: JSON values by what they are.
            samples: tells the hash of those that this process has.

        Raises:
            UsageError: another process does another job; says what differs.
        """

    @abstractmethod
    def any(self, mine: bool) -> bool:
        """Whether it is so in any of the processes; also the place to wait for each other before work that all do at once."""

    @abstractmethod
    def sum(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """Sums over all processes, the same bits in each of them; of equal shapes and types everywhere.

        Args:
            name: what is summed, for messages.
        """

    @abstractmethod
    def gather(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """The rows of all processes one after the other, by place; shapes may differ along the first axis."""

    @abstractmethod
    def first(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """What the first process has, for all; of equal shapes and types everywhere."""


class Alone(Peers):
    """One process has all the data."""

    place, size, neighbours = 0, 1, 1

    def begin(self, job: Callable[[], Mapping[str, object]], samples: Callable[[], str]) -> None:
        """Nobody else could do another."""

    def any(self, mine: bool) -> bool:
        """Whether it is so here."""
        return mine

    def sum(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays themselves."""
        return dict(arrays)

    def gather(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays themselves."""
        return dict(arrays)

    def first(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays themselves."""
        return dict(arrays)


ALONE = Alone()


def differing(mine: Mapping[str, object], other: Mapping[str, object]) -> str:
    """What differs between two jobs, for people; empty where nothing does."""
    return "; ".join(
        f"{key}: {_told(mine, key)} here, {_told(other, key)} there"
        for key in {**mine, **other}
        if mine.get(key) != other.get(key)
    )


def _told(job: Mapping[str, object], key: str) -> object:
    return "nothing" if job.get(key) is None else job[key]
