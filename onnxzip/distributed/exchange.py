"""Shards of a job that meet in a shared folder, without a network between them and without torch.

Each shard writes what it has to tell as NUMBER-K-of-N.npz, waits for the others' files of that number, and goes on; the
numbers count what all shards do in the same order. A file that is there already is taken as it is: others may have read it.
So a shard that died is started again with the same folder, and catches up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.distributed.sheets import Sheet, read_sheet
from onnxzip.errors import InvalidDataError, PeerError, UsageError
from onnxzip.peers import Arrays, Peers, differing

PAUSE = 0.05  # seconds between two looks into the folder
OWN = "samples"  # the part of a header that differs from shard to shard


class Exchange(Peers):
    """One shard among those of a folder.

    Args:
        folder: shared by all shards; made where it is missing.
        place, size: which shard, from 0, of how many.
        timeout: seconds to wait for another shard.
    """

    neighbours = 1

    def __init__(self, folder: Path, place: int, size: int, timeout: float) -> None:
        self.folder, self.place, self.size, self.timeout = folder, place, size, timeout
        self._job: Mapping[str, Any] = {}
        self._samples: Mapping[str, Any] = {}
        self._number = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--exchange {folder}: cannot be made: {error.strerror or error}") from error

    def begin(self, job: Callable[[], Mapping[str, object]], samples: Callable[[], str]) -> None:
        """See `Peers`; the samples must be the same whenever one shard is started."""
        self._job = dict(job()) | {"shards": self.size}
        self._samples = {OWN: samples()}
        others = sorted(p for p in self.folder.glob("*-of-*.npz") if not p.stem.endswith(f"-of-{self.size}"))
        if others:
            raise UsageError(
                f"{others[0]}: is of a merge in another number of shards than {self.size}. Give all shards the same number, "
                "and a folder of their own."
            )
        self._meet("begin", {}, range(self.size))

    def any(self, mine: bool) -> bool:
        """See `Peers`."""
        return bool(self.sum("any", {"": np.array([mine], np.int64)})[""].any())

    def sum(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """See `Peers`."""
        sheets = self._meet(name, arrays, range(self.size))
        return {key: np.asarray(reduce(np.add, [s[key] for s in sheets])) for key in arrays}

    def gather(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """See `Peers`."""
        sheets = self._meet(name, arrays, range(self.size))
        return {key: np.concatenate([s[key] for s in sheets]) for key in arrays}

    def first(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """See `Peers`."""
        (sheet,) = self._meet(name, arrays, range(1))
        return {key: sheet[key] for key in arrays}

    def _meet(self, name: str, arrays: Arrays, places: range) -> list[Arrays]:
        """Tell what this shard has, where it is among those heard, and hear the shards at some places."""
        self._number += 1
        if self.place in places and not self._path(self.place).exists():
            header = {"job": self._job, "step": name, "shard": self.place + 1, **self._samples}
            Sheet(header, arrays).save(self._path(self.place))
        return [self._heard(name, arrays, place) for place in places]

    def _heard(self, name: str, arrays: Arrays, place: int) -> Arrays:
        path = self._path(place)
        start = time.monotonic()
        while not path.exists():
            if time.monotonic() - start > self.timeout:
                raise PeerError(
                    f"shard {place + 1}/{self.size} has not written {path} ({name}) within {self.timeout:g} s. Start it "
                    "(again), then this one, with the same --exchange: what is there is used. --exchange-timeout waits longer."
                )
            time.sleep(PAUSE)
        sheet = read_sheet(path)
        self._check(path, sheet, name, place)
        if set(sheet.arrays) != set(arrays):
            raise InvalidDataError(f"{path}: holds other arrays than shard {self.place + 1} has. Empty {self.folder}.")
        return sheet.arrays

    def _check(self, path: Path, sheet: Sheet, name: str, place: int) -> None:
        there = sheet.header
        found = differing({**self._job, "step": name}, {**there.get("job", {}), "step": there.get("step")})
        if not found and place == self.place:
            found = differing(self._samples, {OWN: there.get(OWN)})
        if found:
            raise UsageError(
                f"{path}: is of another merge ({found}). Start all shards with the same nets, data and options, in a folder "
                "of their own."
            )

    def _path(self, place: int) -> Path:
        return self.folder / f"{self._number:05}-{place + 1}-of-{self.size}.npz"
