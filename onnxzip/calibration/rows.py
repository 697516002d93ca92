"""Samples by number: whatever holds them, any of them can be had at any time, and only those asked for become float32.

arrays   as stored: uint8 stays uint8, a .npy file stays on disk
folder   an image is read when it is asked for
spooled  what an iterable yields, once, in a scratch file
joined   of several of these, one behind the other

A pool is what some tasks share: its rows, their labels, and the order in which they are drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from onnxzip.calibration.checking import converted
from onnxzip.calibration.images import read_images
from onnxzip.calibration.samples import Source, block_of, hand
from onnxzip.config import DataOptions
from onnxzip.errors import InvalidDataError
from onnxzip.net import Port
from onnxzip.peers import ALONE, Peers

MARKED = 8  # samples by which processes tell whether they were given the same data


class Rows(Protocol):
    """Samples by number."""

    @property
    def count(self) -> int:
        """How many there are."""

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Some of them by input, in the number formats of the inputs.

        Raises:
            InvalidDataError: NaN, Inf, numbers that an input's format cannot hold, or an image that cannot be read.
        """

    def stored(self, row: int) -> bytes:
        """One of them as it is stored, whatever is made of it.

        Raises:
            InvalidDataError: an image that cannot be read.
        """


@dataclass(frozen=True)
class ArrayRows:
    """Rows of arrays by input."""

    arrays: Mapping[str, np.ndarray]
    ports: tuple[Port, ...]
    options: DataOptions
    where: str

    @property
    def count(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        return {p.name: converted(self.arrays[p.name][index], p, self.options, self.where) for p in self.ports}

    def stored(self, row: int) -> bytes:
        return b"".join(self.arrays[p.name][row].tobytes() for p in self.ports)


@dataclass(frozen=True)
class FolderRows:
    """Images of a folder."""

    files: tuple[Path, ...]
    port: Port
    options: DataOptions
    where: str

    @property
    def count(self) -> int:
        return len(self.files)

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        images = read_images([self.files[k] for k in index], self.port, self.options, self.where)
        return {self.port.name: converted(images, self.port, self.options, self.where)}

    def stored(self, row: int) -> bytes:
        try:
            return self.files[row].read_bytes()
        except OSError as error:
            raise InvalidDataError(f"{self.files[row]}: is no image that can be read. Remove or replace it.") from error


@dataclass(frozen=True)
class JoinedRows:
    """Rows of several holders, one behind the other.

    Attributes:
        parts: the holders.
        lenders: for each of them, input that it lacks -> the holder whose samples of it are taken, over again.
    """

    parts: tuple[Rows, ...]
    lenders: tuple[Mapping[str, int], ...]

    @property
    def count(self) -> int:
        return sum(p.count for p in self.parts)

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        starts = np.cumsum([0, *(p.count for p in self.parts)])
        which = np.searchsorted(starts, index, side="right") - 1
        order = np.argsort(which, kind="stable")
        taken = [self._taken(k, index[which == k] - starts[k]) for k in range(len(self.parts)) if (which == k).any()]
        back = np.argsort(order)
        return {name: np.concatenate([t[name] for t in taken])[back] for name in taken[0]}

    def _taken(self, part: int, index: np.ndarray) -> dict[str, np.ndarray]:
        found = self.parts[part].take(index)
        for name, other in self.lenders[part].items():
            found[name] = self.parts[other].take(index % self.parts[other].count)[name]
        return found

    def stored(self, row: int) -> bytes:
        for part in self.parts:
            if row < part.count:
                return part.stored(row)
            row -= part.count
        raise IndexError(row)


def joined(parts: Sequence[Rows], ports: Sequence[Port], where: str) -> JoinedRows:
    """Rows of several holders; what one lacks, another one lends.

    Raises:
        InvalidDataError: an input is in none of them.
    """
    names = [p.name for p in ports]
    known = [[p.name for p in part.ports] if isinstance(part, ArrayRows) else names for part in parts]
    for name in names:
        if not any(name in some for some in known):
            raise InvalidDataError(f"{where}: has no array for input {name!r}")
    lenders = [{n: next(k for k, own in enumerate(known) if n in own) for n in names if n not in some} for some in known]
    return JoinedRows(tuple(parts), tuple(lenders))


def in_order(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The numbers of each sample of an array [samples, ...] in another order.

    Args:
        places: for each of them, where it stands now.
    """
    return array.reshape(len(array), -1)[:, places].reshape(array.shape)


@dataclass(frozen=True)
class Pool:
    """Everything that some tasks were given.

    Attributes:
        tasks: who is served.
        rows: the samples.
        labels: task -> class of each row, where they were given.
        order: all row numbers, shuffled; whoever needs n rows takes the first n.
        judges: those among them that judge a retraining; None for the usual ones.
    """

    tasks: tuple[str, ...]
    rows: Rows
    labels: Mapping[str, np.ndarray]
    order: np.ndarray = field(repr=False)
    judges: np.ndarray | None = field(default=None, repr=False)

    def source(self, samples: int, peers: Peers = ALONE) -> Source:
        """The first rows in order, at most so many, as the zip takes them; of these, what one process is dealt.

        Raises:
            InvalidDataError: there are too few for all processes.
        """
        index = self.order[:samples]
        total, dealt, mark = len(index), None, ""
        if peers.size > 1:
            if (most := total // block_of(total)) < peers.size:
                raise InvalidDataError(
                    f"data for {', '.join(self.tasks)}: {total} samples are too few for {peers.size} processes. Start at "
                    f"most {most}, or give more samples."
                )
            dealt = hand(total, peers.place, peers.size)
            index, mark = index[dealt], self.mark()
        return Source(self.tasks, self.rows.take(index), {t: y[index] for t, y in self.labels.items()}, dealt, total, mark)

    def mark(self) -> str:
        """Hash of the first samples in order, the same in all processes that were given the same data."""
        return hashlib.sha256(b"".join(self.rows.stored(int(row)) for row in self.order[:MARKED])).hexdigest()[:16]
