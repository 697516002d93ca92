"""Live values and moments on the device that runs the nets: one ONNX graph gathers the rows of a recipe and multiplies them.

    value -> [samples * positions, channels] -> Gather -> z, p -> z'z, z'p, sums of p^2

Indices are computed on the host, products are in float32, and what comes back is summed up in float64 there: moments, and rows
where a fit asks for the rows themselves. The graph is the same on every provider.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import prod

import numpy as np

from onnxzip.calibration.gathering import flat_rows
from onnxzip.calibration.recipe import Adder, Read, Recipe, RowKeeper, Term
from onnxzip.calibration.store import Store
from onnxzip.linalg.moments import Sums
from onnxzip.runtime import Graph, Session, Value

DEVICE_BYTES = 4 << 30  # live values and targets that stay on the device; the others wait on the host
ROWS_BYTES = 256 << 20  # rows z that are gathered at a time


class DevicePlace:
    """Values on the device up to a budget, products by ONNX Runtime.

    Args:
        store: of what the device has no room for.
        device, threads: of ONNX Runtime.
        budget: bytes on the device.

    Attributes:
        returned: bytes that came back to the host.
        most: samples of which all values of a net should be there at a time.
    """

    most = 256

    def __init__(self, store: Store, device: str, threads: int, budget: int = DEVICE_BYTES) -> None:
        self._store, self._device, self._threads, self._budget = store, device, threads, budget
        self._values: dict[Hashable, tuple[Value, int]] = {}
        self._pickers: dict[tuple[int, int], Session] = {}
        self._joiners: dict[tuple[int, int], Session] = {}
        self.used = 0
        self.returned = 0

    def run(self, session: Session, feeds: Mapping[str, Value], piece: int | None = None) -> dict[str, Value]:
        """All outputs of a session, which stay on the device, for all samples at once."""
        return session.run_bound(feeds, session.outputs)

    def pick(self, x: Value, channel: int, at: np.ndarray, before: int = 1) -> tuple[Value, bool]:
        """Channels of a value at sampled positions, and whether all are finite."""
        shape = shape_of(x)
        key = channel, len(shape)
        if key not in self._pickers:
            graph = Graph("picked positions")
            flat = _flat(graph, graph.input("x", len(shape)), channel, len(shape))
            picked = graph.add("Gather", flat, graph.input("index", 1, np.int64), axis=0)
            nothing = graph.add("ReduceSum", graph.add("Mul", picked, graph.constant(np.zeros((), np.float32))), keepdims=0)
            self._pickers[key] = graph.open({"picked": picked, "nothing": nothing}, self._device, self._threads)
        rows = flat_rows(prod(shape) // shape[channel], len(at), before, np.arange(len(at))[:, None], at)
        index = rows.reshape(-1).astype(np.int64)
        found = self._pickers[key].run_bound({"x": x, "index": index}, ["picked"])
        return found["picked"], bool(np.isfinite(np.asarray(found["nothing"])))  # 0 times NaN or Inf is NaN

    def joined(self, parts: Sequence[Value]) -> Value:
        """Values, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        key = len(parts), len(shape_of(parts[0]))
        if key not in self._joiners:
            graph = Graph("joined values")
            whole = graph.add("Concat", *(graph.input(f"x{k}", key[1]) for k in range(key[0])), axis=0)
            self._joiners[key] = graph.open({"whole": whole}, self._device, self._threads)
        return self._joiners[key].run_bound({f"x{k}": x for k, x in enumerate(parts)}, ["whole"])["whole"]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value: on the device while there is room and it is there, else in the store; an earlier one is dropped."""
        if key in self._values:
            self.drop(key)
        size = 4 * prod(shape_of(value))
        if isinstance(value, np.ndarray) or self.used + size > self._budget:
            self.returned += 0 if isinstance(value, np.ndarray) else size
            self._store.put(key, value if isinstance(value, np.ndarray) else value.numpy())
            return
        self._values[key] = value, size
        self.used += size

    def get(self, key: Hashable) -> Value:
        """A value that is kept."""
        return self._values[key][0] if key in self._values else self._store.get(key)

    def drop(self, key: Hashable) -> None:
        """Forget a value."""
        if key in self._values:
            self.used -= self._values.pop(key)[1]
        else:
            self._store.drop(key)

    def __contains__(self, key: object) -> bool:
        return key in self._values or key in self._store

    def adder(self, recipe: Recipe, sums: Sums, rows: RowKeeper | None) -> Adder:
        """What adds the rows of a recipe to sums, and keeps them where asked to."""
        wanted = (*sums.products, *(("z", "p") if rows is not None else ()))
        return _DeviceAdder(self, recipe, sums, rows, _open(recipe, wanted, self._device, self._threads))


class _DeviceAdder:
    def __init__(self, place: DevicePlace, recipe: Recipe, sums: Sums, rows: RowKeeper | None, session: Session) -> None:
        self._place, self._recipe, self._sums, self._rows, self._session = place, recipe, sums, rows, session

    def add(self, values: Mapping[Hashable, Value], at: np.ndarray, held: np.ndarray) -> None:
        """Add the rows of a batch."""
        feeds = {_name(k): values[v] for k, v in enumerate(self._recipe.values)}
        for side in (False, True):
            for samples in self._portions(np.flatnonzero(held == side), at.shape[1]):
                found = self._session.run_bound(feeds | _indices(self._recipe, values, samples, at))
                arrays = {name: np.asarray(value) for name, value in found.items()}
                self._place.returned += sum(a.nbytes for a in arrays.values())
                self._sums.add_products(side, len(samples) * at.shape[1], arrays)
                if self._rows is not None:
                    self._rows.add(side, arrays["z"], arrays["p"])

    def _portions(self, samples: np.ndarray, wanted: int) -> Iterator[np.ndarray]:
        columns = self._recipe.columns * max(1, self._recipe.channels)
        size = max(1, ROWS_BYTES // (4 * wanted * columns))
        return (samples[start : start + size] for start in range(0, len(samples), size))


def shape_of(value: Value) -> tuple[int, ...]:
    """The shape of an array or of a value on the device."""
    return value.shape if isinstance(value, np.ndarray) else tuple(value.shape())


# the graph ----------------------------------------------------------------------------------------------------------------


def _name(k: int) -> str:
    return f"input {k}"


def _open(recipe: Recipe, wanted: Sequence[str], device: str, threads: int) -> Session:
    """A session that computes what is wanted of z, p, zz, zp and pp."""
    graph = Graph("moments")
    names = {value: _name(k) for k, value in enumerate(recipe.values)}
    pieces = [_read(graph, r, names[r.value], k) for k, r in enumerate(recipe.reads)]
    p = _targets(graph, recipe, names)
    found = _diagonal(graph, recipe, pieces, p) if recipe.channels else _dense(graph, recipe, pieces, p)
    return graph.open({name: found[name] for name in wanted}, device, threads)


def _dense(graph: Graph, recipe: Recipe, pieces: Sequence[str], p: str) -> dict[str, str]:
    sizes = [int(r.taps.shape[1]) * r.size for r in recipe.reads]
    flat = [graph.add("Reshape", x, graph.numbers(-1, n)) for x, n in zip(pieces, sizes, strict=True)]
    count = graph.add("Shape", flat[0], start=0, end=1)
    sizes_of_ones = graph.add("Concat", count, graph.numbers(1), axis=0)
    ones = graph.add("Expand", graph.constant(np.ones((1, 1), np.float32)), sizes_of_ones)
    z = graph.add("Concat", *flat, ones, axis=1)
    squares = graph.add("ReduceSum", graph.add("Mul", p, p), graph.numbers(0), keepdims=0)
    return {"z": z, "p": p, "zz": graph.add("Gemm", z, z, transA=1), "zp": graph.add("Gemm", z, p, transA=1), "pp": squares}


def _diagonal(graph: Graph, recipe: Recipe, pieces: Sequence[str], p: str) -> dict[str, str]:
    """With z as [channels, columns, rows] and p as [channels, rows, targets]."""
    parts = []
    for x, read in zip(pieces, recipe.reads, strict=True):
        count = graph.add("Shape", x, start=0, end=1)
        sizes = graph.add("Concat", graph.numbers(read.size, 1), count, axis=0)
        ones = graph.add("Expand", graph.constant(np.ones((1, 1, 1), np.float32)), sizes)
        parts.append(graph.add("Concat", graph.add("Transpose", x, perm=[2, 1, 0]), ones, axis=1))
    z = graph.add("Concat", *parts, axis=0)
    shared_out = graph.add("Reshape", p, graph.numbers(-1, recipe.channels, recipe.targets // recipe.channels))
    targets = graph.add("Transpose", shared_out, perm=[1, 0, 2])
    return {
        "zz": graph.add("MatMul", z, graph.add("Transpose", z, perm=[0, 2, 1])),
        "zp": graph.add("MatMul", z, targets),
        "pp": graph.add("ReduceSum", graph.add("Mul", targets, targets), graph.numbers(1), keepdims=0),
    }


def _flat(graph: Graph, x: str, channel: int, rank: int) -> str:
    """[samples * positions, channels]."""
    last = graph.add("Transpose", x, perm=[*(d for d in range(rank) if d != channel), channel]) if channel != rank - 1 else x
    channels = graph.add("Shape", last, start=rank - 1, end=rank)
    return graph.add("Reshape", last, graph.add("Concat", graph.numbers(-1), channels, axis=0))


def _read(graph: Graph, read: Read, name: str, k: int) -> str:
    """[rows, taps, channels]; a row of zeros behind the last one is what taps outside read."""
    flat = _flat(graph, graph.input(name, read.rank), read.channel, read.rank)
    some = graph.add("Slice", flat, graph.numbers(read.first), graph.numbers(read.first + read.size), graph.numbers(1))
    if (read.taps < 0).any():
        nothing = graph.constant(np.zeros((1, read.size), np.float32))
        some = graph.add("Concat", some, nothing, axis=0)
    return graph.add("Gather", some, graph.input(f"read {k}", 2, np.int64), axis=0)


def _targets(graph: Graph, recipe: Recipe, names: Mapping[Hashable, str]) -> str:
    total = None
    for k, term in enumerate(recipe.terms):
        name = graph.input(names[term.value], term.rank)
        flat = name if term.channel is None else _flat(graph, name, term.channel, term.rank)
        rows = graph.add("Gather", flat, graph.input(f"term {k}", 1, np.int64), axis=0)
        at, factor = np.zeros(recipe.targets, np.int64), np.zeros(recipe.targets, np.float32)
        at[term.to], factor[term.to] = term.at, term.factor
        found = graph.add("Mul", graph.add("Gather", rows, graph.constant(at), axis=1), graph.constant(factor))
        total = found if total is None else graph.add("Add", total, found)
    assert total is not None
    return total


# its indices --------------------------------------------------------------------------------------------------------------


def _indices(
    recipe: Recipe, values: Mapping[Hashable, Value], samples: np.ndarray, at: np.ndarray
) -> dict[str, np.ndarray]:
    """Which flat rows of every value the graph gathers for some samples."""
    found = {}
    for k, read in enumerate(recipe.reads):
        shape = shape_of(values[read.value])
        rows = prod(shape) // shape[read.channel]
        taps = read.taps[at[samples]]
        inside = flat_rows(rows, len(at), read.before, samples[:, None, None], taps)
        flat = np.where(taps < 0, rows, inside)
        found[f"read {k}"] = flat.reshape(-1, taps.shape[2]).astype(np.int64)
    for k, term in enumerate(recipe.terms):
        found[f"term {k}"] = _term_index(term, shape_of(values[term.value]), samples, at)
    return found


def _term_index(term: Term, shape: tuple[int, ...], samples: np.ndarray, at: np.ndarray) -> np.ndarray:
    if term.channel is None:
        index: np.ndarray = samples[:, None] * at.shape[1] + np.arange(at.shape[1])
        return index.reshape(-1).astype(np.int64)
    rows = prod(shape) // shape[term.channel]
    return flat_rows(rows, len(at), term.before, samples[:, None], at[samples]).reshape(-1).astype(np.int64)
