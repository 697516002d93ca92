"""Caches: inputs to which a net appends what it computes, and which it gives back longer than they came.

    present = Concat(past, K x, axis = time)        keys and values of a decoder: [samples, heads, time, channels]

Who feeds `present` back as `past` asks for channels in one order, whoever made them: that of the net. So these are neither an
input's channels, which no layer makes, nor an output's, which no other task has: they are shared in their order, the k-th head
of each net with the k-th, all or none. Channels inside of heads keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from onnxzip.analysis.spaces import Expr
from onnxzip.net import Axis, Net, Port, consumers, producers


class Cache(NamedTuple):
    """An input that an output begins with.

    Attributes:
        input, output: their names; axis: along which the output is longer.
    """

    input: str
    output: str
    axis: int

    def has(self, axis: Axis) -> bool:
        """Whether an axis is one of its channels, or samples: one that comes back as it was."""
        return axis.value in (self.input, self.output) and axis.dim != self.axis


def caches_of(net: Net) -> tuple[Cache, ...]:
    """The caches of a net, in the order of its outputs."""
    makers, ports, found = producers(net.nodes), {p.name: p for p in net.inputs}, list[Cache]()
    readers = consumers(net.nodes)
    for output in net.outputs:
        maker = makers.get(output.name)
        first = ports.get(str(maker.inputs[0])) if maker is not None and maker.op == "Concat" else None
        if maker is None or first is None or first.dtype.kind != "f" or maker.inputs.count(first.name) > 1:
            continue
        axis = int(maker.attrs["axis"]) % len(first.shape)
        if axis != first.axis and readers[first.name] == [maker]:  # what is read otherwise, too, is no cache alone
            found.append(Cache(first.name, output.name, axis))
    return tuple(found)


def cached_atoms(
    caches: Iterable[Cache], axes: Mapping[Axis, Expr], made: Iterable[Expr]
) -> tuple[frozenset[int], frozenset[int]]:
    """Atoms of the channels of caches that weights make: those in an order that all nets share, and those that keep theirs
    inside of each channel of these.

    Args:
        axes: the space of each axis; made: those that weights make.
    """
    caches, made = tuple(caches), tuple(made)
    every = frozenset(a for expr in made for a in expr.atoms())
    cached = frozenset(a for axis, e in axes.items() if any(c.has(axis) for c in caches) for a in e.atoms()) & every
    products = [e.parts for expr in made for e in expr.walk() if e.kind == "product"]
    inner = set[int]()
    for parts in products:
        holding = [atoms for part in parts if (atoms := cached.intersection(part.atoms()))]
        inner.update(a for atoms in holding[1:] for a in atoms)
    return cached - inner, frozenset(inner)


def output_like(net: Net, name: str) -> str:
    """An output of an input's shape and type that depends on it, best one whose name has its; "" where there is none."""
    port = next(p for p in net.inputs if p.name == name)
    alike: list[Port] = [p for p in net.outputs if (p.shape, p.dtype) == (port.shape, port.dtype)]
    made = {name}
    for node in net.nodes:
        if not made.isdisjoint(node.read):
            made.update(node.outputs)
    return min((p.name for p in alike if p.name in made), key=lambda output: name not in output, default="")
