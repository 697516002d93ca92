"""Params of a net too large for one ONNX file, kept in a file of weights while the net is made.

    weights.data     params of SMALLEST bytes or more, one after the other, each from a page on
    merged.onnx      the rest of the net, with references to them: an ONNX file with external data

A param that was put there is read from there: it costs no memory but the pages that are in use.
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from onnxzip.errors import UsageError
from onnxzip.exporting.staging import Fill, write, written
from onnxzip.exporting.write import place_of

SMALLEST = 1 << 16  # bytes
PAGE = mmap.ALLOCATIONGRANULARITY
WEIGHTS, GRAPH = "weights.data", "merged.onnx"


class Shelf:
    """The file of weights of one net, in a folder that goes with it."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="onnxzip-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.weights, self.graph = folder / WEIGHTS, folder / GRAPH
        self._starts: dict[int, int] = {}  # address of what is mapped -> where it begins in the file
        self._mapped: list[np.ndarray] = []  # what is mapped stays so, and keeps its address
        self.weights.touch()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.weights.stat().st_size

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Put an array there and take it from there; a small one stays as it is.

        Raises:
            UsageError: the disk is full.
        """
        if array.nbytes < SMALLEST:
            return array
        start = -(-self.size // PAGE) * PAGE
        try:
            with self.weights.open("r+b") as file:
                file.seek(start)
                file.write(np.ascontiguousarray(array).data)
        except OSError as error:
            raise UsageError(f"{self.weights}: cannot be written: {error.strerror or error}. Make room there.") from error
        mapped = np.memmap(self.weights, array.dtype, "r", start, array.shape)
        self._starts[_address(mapped)] = start
        self._mapped.append(mapped)
        return mapped

    def places(self, params: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Where params begin in the file, of those that are there."""
        return {k: self._starts[_address(a)] for k, a in params.items() if _address(a) in self._starts}

    def files(self, path: Path) -> list[tuple[Path, Fill]]:
        """The two files of the net, `path` and `path`.data, where a link leads."""
        data = beside(place_of(path))
        model = onnx.load(self.graph, load_external_data=False)
        graph = bytes(_moved(model, data.name).SerializeToString(deterministic=True))
        return [(data, partial(_copied, self.weights)), (path, partial(write, graph))]


def beside(path: Path) -> Path:
    """The file of params of a net that is kept in `path`."""
    return path.with_name(f"{path.name}.data")


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _moved(model: ModelProto, location: str) -> ModelProto:
    """The model with its references pointing to another file, in place."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return model


def _copied(source: Path, place: Path) -> None:
    """A copy of a file, on the disk when it returns."""
    with source.open("rb") as reader, written(place) as writer:
        shutil.copyfileobj(reader, writer, 16 << 20)
