"""Where live values wait: in memory up to a budget, beyond it in memory-mapped scratch files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from onnxzip.errors import UsageError


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
        self._files: dict[object, Path] = {}
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
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="onnxzip-")
        path = Path(self._folder.name) / f"{self._count}.bin"
        self._count += 1
        try:
            array.tofile(path)
        except OSError as e:
            raise UsageError(
                f"no room for live values in {self._folder.name} ({e.strerror or e}); raise the memory budget, give fewer "
                "samples, or set TMPDIR to a roomier folder"
            ) from e
        self._files[key] = path
        self._arrays[key] = np.memmap(path, dtype=array.dtype, mode="r", shape=array.shape)

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def get(self, key: object) -> np.ndarray:
        """The array kept under a key."""
        return self._arrays[key]

    def drop(self, key: object) -> None:
        """Forget an array and give its room back."""
        array = self._arrays.pop(key)
        path = self._files.pop(key, None)
        if path is None:
            self.used -= array.nbytes
        else:
            del array
            path.unlink()
