"""Where live values wait and where rows are gathered and multiplied: on the host, or on the device that runs the nets.

Measured choice, made in `place_for` alone. On a CPU numpy gathers the rows and its BLAS multiplies them: at the sizes met
here (500 to 4,608 columns) that is 97 to 184 GFLOP/s on two cores counted as full products, only half of z'z being computed,
against 48 to 79 GFLOP/s of a MatMul inside ONNX Runtime. On CUDA the values are on the device already: they stay there, and
an ONNX graph sends back the moments alone (`device.DevicePlace`).

A host runs nets on pieces of a batch that its caches hold, in memory that need not be asked for anew: CPU time of a merge of
sample nets, pieces of 1 MB against whole batches of 125 images, VGG-like -20 %, LeNet-5 -15 %, ResNet-like -10 %.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxzip.calibration.device import DevicePlace
from onnxzip.calibration.gathering import pick, rows_of
from onnxzip.calibration.recipe import Adder, Recipe, RowKeeper
from onnxzip.calibration.store import Store
from onnxzip.linalg.moments import Sums
from onnxzip.net import BATCH, Port
from onnxzip.runtime import CUDA, Session, Value, provider_for

PIECE_BYTES = 1 << 20


class Place(Protocol):
    """Where live values wait and rows are summed up.

    Attributes:
        most: samples of which all values of a net should be there at a time.
    """

    most: int

    def run(self, session: Session, feeds: Mapping[str, Value], piece: int | None = None) -> dict[str, Value]:
        """All outputs of a session.

        Args:
            piece: how many samples a host should run at a time; None for all, or where not all values have the batch in front.
        """

    def pick(self, x: Value, channel: int, at: np.ndarray, before: int = 1) -> tuple[Value, bool]:
        """Channels of a value at sampled positions [n, wanted]: [n * wanted, channels]; and whether all are finite.

        Args:
            before: positions in front of the batch; 0 for a value that all samples share.
        """

    def joined(self, parts: Sequence[Value]) -> Value:
        """Values, one behind the other along the first axis."""

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value."""

    def get(self, key: Hashable) -> Value:
        """A value that is kept."""

    def drop(self, key: Hashable) -> None:
        """Forget a value."""

    def __contains__(self, key: object) -> bool: ...

    def adder(self, recipe: Recipe, sums: Sums, rows: RowKeeper | None) -> Adder:
        """What adds the rows of a recipe to sums, and keeps them where asked to."""


def piece_for(ports: Iterable[Port], widest: int) -> int | None:
    """Samples that a host should run at a time; None for all, where not every value has the batch in front.

    Args:
        ports: what goes in and what comes out.
        widest: bytes of a sample of the largest value on the way.
    """
    if any(p.shape[:1] != (BATCH,) for p in ports):
        return None
    return max(1, PIECE_BYTES // widest)


def place_for(device: str, store: Store, threads: int) -> Place:
    """The place for a device: see the module."""
    return DevicePlace(store, device, threads) if provider_for(device) == CUDA else HostPlace(store)


class HostPlace:
    """Values as arrays in a store, products by numpy."""

    most = 32

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, session: Session, feeds: Mapping[str, Value], piece: int | None = None) -> dict[str, Value]:
        """All outputs of a session, computed piece by piece."""
        arrays = {k: np.asarray(v) for k, v in feeds.items()}
        count = len(next(iter(arrays.values())))
        if piece is None or count <= piece:
            return dict(session.run(arrays))
        found: dict[str, Value] = {}
        for start in range(0, count, piece):
            part = slice(start, start + piece)
            for name, made in session.run({k: a[part] for k, a in arrays.items()}).items():
                if name not in found:
                    found[name] = np.empty((count, *made.shape[1:]), made.dtype)
                np.asarray(found[name])[part] = made
        return found

    def pick(self, x: Value, channel: int, at: np.ndarray, before: int = 1) -> tuple[Value, bool]:
        """Channels of a value at sampled positions, and whether all are finite."""
        picked = pick(np.asarray(x), channel, np.arange(len(at)), at, before, len(at))
        return picked, bool(np.isfinite(picked).all())

    def joined(self, parts: Sequence[Value]) -> Value:
        """Values, one behind the other."""
        return parts[0] if len(parts) == 1 else np.concatenate([np.asarray(p) for p in parts])

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value."""
        self._store.put(key, np.asarray(value))

    def get(self, key: Hashable) -> Value:
        """A value that is kept."""
        return self._store.get(key)

    def drop(self, key: Hashable) -> None:
        """Forget a value."""
        self._store.drop(key)

    def __contains__(self, key: object) -> bool:
        return key in self._store

    def adder(self, recipe: Recipe, sums: Sums, rows: RowKeeper | None) -> Adder:
        """What adds the rows of a recipe to sums, and keeps them where asked to."""
        return _HostAdder(recipe, sums, rows)


class _HostAdder:
    def __init__(self, recipe: Recipe, sums: Sums, rows: RowKeeper | None) -> None:
        self._recipe, self._sums, self._rows = recipe, sums, rows

    def add(self, values: Mapping[Hashable, Value], at: np.ndarray, held: np.ndarray) -> None:
        """Add the rows of a batch."""
        arrays = {k: np.asarray(v) for k, v in values.items()}
        for side in np.unique(held).tolist():  # a small batch may hold one side alone
            z, p = rows_of(self._recipe, arrays, np.flatnonzero(held == side), at)
            self._sums.add(side, z, p)
            if self._rows is not None:
                self._rows.add(side, z, p)
