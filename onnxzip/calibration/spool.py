"""Batches of an iterable in scratch files: read once, in their own number format, and then at hand in any order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import IO

import numpy as np

from onnxzip.errors import InvalidDataError, UsageError


class Spool:
    """Batches written one after the other into scratch files, one an array, and read back as mapped arrays.

    The files have no names: they go with the last array that is mapped from them.

    Args:
        where: what messages call the batches.

    Attributes:
        counts: samples so far, by array.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.counts: dict[str, int] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """One batch.

        Raises:
            InvalidDataError: its arrays are not those of the first batch.
            UsageError: there is no room for the scratch file.
        """
        for name, array in arrays.items():
            dtype, shape = self._kinds.setdefault(name, (array.dtype, array.shape[1:]))
            if (array.dtype, array.shape[1:]) != (dtype, shape):
                raise InvalidDataError(
                    f"{self.where}: its batches do not fit together: {name!r} is {array.dtype} {list(array.shape[1:])}, "
                    f"in the first batch {dtype} {list(shape)}"
                )
            self._write(name, array)
            self.counts[name] = self.counts.get(name, 0) + len(array)

    def _write(self, name: str, array: np.ndarray) -> None:
        try:
            if name not in self._files:  # without a buffer: what does not fit is told by `write`, not when the file is closed
                self._files[name] = tempfile.TemporaryFile(prefix="onnxzip-", buffering=0)  # noqa: SIM115 - see close
            left = memoryview(array.tobytes())
            while left:
                left = left[self._files[name].write(left) :]
        except OSError as error:
            raise UsageError(
                f"{self.where}: no room for its samples in a folder for scratch files ({error.strerror or error}). "
                "Set TMPDIR to a roomier folder, or use fewer with --samples."
            ) from error

    def arrays(self) -> dict[str, np.ndarray]:
        """All batches, one after the other."""
        found = {}
        for name, file in self._files.items():
            dtype, shape = self._kinds[name]
            full = (self.counts[name], *shape)
            empty = 0 in full or dtype.itemsize == 0
            found[name] = np.zeros(full, dtype) if empty else np.memmap(file, dtype, "r", shape=full)
        return found

    def close(self) -> None:
        """Nothing more is added; arrays that were mapped stay."""
        for file in self._files.values():
            file.close()


def spooled(batches: Iterable[Mapping[str, np.ndarray]], limit: int, where: str) -> dict[str, np.ndarray]:
    """Arrays by name, mapped from scratch files; batches are taken until so many samples are there.

    Raises:
        InvalidDataError, UsageError: as `Spool.add`.
    """
    with closing(Spool(where)) as spool:
        for arrays in batches:
            spool.add(arrays)
            if min(spool.counts.values(), default=0) >= limit:
                break
        return spool.arrays()
