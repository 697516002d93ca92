"""Where live values wait: in memory up to a budget, beyond it in scratch files.

A file is mapped anew for each use: pages of a mapping that stays count as memory in use as soon as they have been read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from onnxzip.errors import UsageError


class _File(NamedTuple):
    """Where an array waits on disk."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]


class Store:
    """Arrays by key; the scratch folder goes with the store.

    Args:
        budget: bytes kept in memory.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._arrays: dict[object, np.ndarray] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[object, _File] = {}
        self._count = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._arrays.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, key: object, array: np.ndarray) -> None:
        """Keep an array.

        Raises:
            UsageError: there is no room for the scratch file.
        """
        if self.used + array.nbytes <= self.budget or array.nbytes == 0:
            self._arrays[key] = array
            self.used += array.nbytes
            return
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="onnxzip-")
            path = Path(self._folder.name) / f"{self._count}.bin"
            self._count += 1
            array.tofile(path)
        except OSError as e:
            where = "a folder for scratch files" if self._folder is None else self._folder.name
            raise UsageError(
                f"no room for live values in {where} ({e.strerror or e}); raise the memory budget, give fewer samples, or set "
                "TMPDIR to a roomier folder"
            ) from e
        self._files[key] = _File(path, array.dtype, array.shape)

    def __contains__(self, key: object) -> bool:
        return key in self._arrays or key in self._files

    def get(self, key: object) -> np.ndarray:
        """The array kept under a key."""
        if key in self._files:
            path, dtype, shape = self._files[key]
            return np.memmap(path, dtype=dtype, mode="r", shape=shape)
        return self._arrays[key]

    def drop(self, key: object) -> None:
        """Forget an array and give its room back."""
        if key in self._files:
            self._files.pop(key).path.unlink()
        else:
            self.used -= self._arrays.pop(key).nbytes
