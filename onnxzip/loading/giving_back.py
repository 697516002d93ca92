"""Whether an output gives back what an input has brought, unit for unit: told by numbers that a net moves about.

A sample of the input is fed as 0, 1, 2, ..: what nodes read of it says where each number goes. What they go on to is fed in
the same way: the output says where each of its numbers comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.net import Net, Node, Port, bind_batch, pruned
from onnxzip.runtime import open_session

MOVING = frozenset({"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
FLOAT, MOST = np.dtype(np.float32), 1 << 24  # a type, and how many numbers it counts


@dataclass(frozen=True)
class Place:
    """Where a node goes on from numbers of an input.

    Attributes:
        node: recurrent, or a Concat.
        ks: which of its inputs hold such numbers.
        after: the value that it goes on to: a state behind all steps, or all frames.
        axes: of `after`, along which units stand that have no order but the net's.
    """

    node: Node
    ks: tuple[int, ...]
    after: str
    axes: tuple[int, ...]

    def goes_on_as(self, other: Place) -> bool:
        """Whether its units are those of another place: it is the same value, or the same is put beside it."""
        beside = [{v for k, v in enumerate(p.node.inputs) if k not in p.ks} for p in (self, other)]
        return self.after == other.after or (self.node.op == other.node.op == "Concat" and not beside[0].isdisjoint(beside[1]))


@dataclass(frozen=True)
class Order:
    """Units along one axis of what a node goes on to.

    Attributes:
        after, axis: which.
        at: the numbers of a sample of the input that each of its units has: int [units, k]; those of the next unit lie as far
            behind those of one as anywhere.
    """

    after: str
    axis: int
    at: np.ndarray


def moved(net: Net, values: set[str]) -> set[str]:
    """Values that hold nothing but numbers of some others, in whatever type of floats, these included."""
    found = set(values)
    for node in net.nodes:
        own = [v for v in node.read if v not in net.params]
        if node.op in MOVING and own and found.issuperset(own) and net.dtypes[node.outputs[0]].kind == "f":
            found.update(node.outputs)
    return found


def orders_back(net: Net, port: Port, output: Port, places: Sequence[Place]) -> list[tuple[Order, ...]] | None:
    """For each place the orders along its axes; None unless each number of an output belongs to the unit that the same number
    of an input belongs to, wherever this is read."""
    alike = (output.shape, output.dtype, output.axis) == (port.shape, port.dtype, port.axis)
    ends = list({p.after: p for p in places}.values())
    if not alike or output.name not in moved(net, {p.after for p in ends}):
        return None
    whose, index = _sources(net, output, [p.after for p in ends])
    orders = [_orders(net, place, np.flatnonzero(whose == n), index) for n, place in enumerate(ends)]
    numbers, found = _numbers(net, port, [str(p.node.inputs[k]) for p in places for k in p.ks]), list[tuple[Order, ...]]()
    for place in places:
        at = np.concatenate([numbers[str(place.node.inputs[k])] for k in place.ks], axis=-1)
        first = whose[at[0, 0]]
        own = orders[first] if place.goes_on_as(ends[first]) else None
        if own is None or (whose[at[0]] != first).any() or len(own) != len(place.axes):
            return None
        if any((index[order.axis, at[0]] != at[1 + axis]).any() for order, axis in zip(own, place.axes, strict=True)):
            return None
        found.append(own)
    return found


def _sources(net: Net, output: Port, values: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """For each number of a sample of an output, of which of some values it is one [numbers], and where it stands there
    [axes, numbers]."""
    shapes = [bind_batch(net.shapes[v], 1) for v in values]
    starts = np.cumsum([0, *map(math.prod, shapes)])[:-1]
    feeds = {
        Port(v, FLOAT, net.shapes[v]): np.arange(n, n + math.prod(s), dtype=FLOAT).reshape(s)
        for v, s, n in zip(values, shapes, starts, strict=True)
    }
    cone = replace(net, nodes=tuple(n for n in net.nodes if set(values).isdisjoint(n.outputs)))
    said = _computed(cone, feeds, [output.name])[output.name].reshape(-1).astype(np.int64)
    whose = np.searchsorted(starts, said, side="right") - 1
    index = np.full((max(map(len, shapes)), len(said)), -1)
    for k, (shape, start) in enumerate(zip(shapes, starts, strict=True)):
        index[: len(shape), whose == k] = np.unravel_index(said[whose == k] - start, shape)
    return whose, index


def _orders(net: Net, place: Place, at: np.ndarray, index: np.ndarray) -> tuple[Order, ...] | None:
    """Those of what a place goes on to, of which an output holds some numbers; None where it lacks some of any unit.

    Args:
        at: these numbers; index: where each number of the output stands there.
    """
    found, rank = list[Order](), len(net.shapes[place.after])
    for axis in place.axes:
        rest = [d for d in range(rank) if d != axis]
        by = at[np.lexsort([*(index[d, at] for d in reversed(rest)), index[axis, at]])]
        size = net.shapes[place.after][axis]
        if not len(by) or len(by) % size:
            return None
        by = by.reshape(size, -1)
        if (index[axis, by] != np.arange(size)[:, None]).any() or (index[rest][:, by] != index[rest][:, by[:1]]).any():
            return None
        if (np.diff(by, axis=0) != by[1, 0] - by[0, 0]).any():
            return None
        found.append(Order(place.after, axis, by))
    return tuple(found)


def _numbers(net: Net, port: Port, values: Sequence[str]) -> dict[str, np.ndarray]:
    """Which number of a sample of an input stands where in values: int [1 + axes, numbers], first the number, then where."""
    ids = {port._replace(dtype=FLOAT): np.arange(math.prod(port.shape[1:]), dtype=FLOAT).reshape(1, *port.shape[1:])}
    found = {v: a.astype(np.int64) for v, a in _computed(net, ids, list(dict.fromkeys(values))).items()}
    return {v: np.stack([a.reshape(-1), *(g.reshape(-1) for g in np.indices(a.shape))]) for v, a in found.items()}


def _computed(net: Net, feeds: Mapping[Port, np.ndarray], values: Sequence[str]) -> dict[str, np.ndarray]:
    """Some values of a net, all in one type, from others that they hold the numbers of."""
    ends = tuple(Port(v, FLOAT, net.shapes[v]) for v in values)
    known = {p.name: a for p, a in feeds.items()}
    nodes = tuple(replace(n, op="Identity", attrs={}) if n.op == "Cast" else n for n in net.nodes)
    cone = replace(net, inputs=tuple(feeds), outputs=tuple(p for p in ends if p.name not in known), nodes=nodes, tail=None)
    inner = pruned(replace(cone, dtypes={v: FLOAT if kind.kind == "f" else kind for v, kind in net.dtypes.items()}))
    found = open_session(inner, "cpu", 1).run(known) if inner.outputs else {}
    return {v: known[v] if v in known else found[v] for v in values}
