"""What a net is: nodes over named values, params, and the shape of everything.

All records are frozen and all arrays read-only, so a stage cannot change its input. Shapes are tuples of ints in which a
negative entry -k stands for k times the batch: -1 is the batch axis itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]
BATCH = -1


class Axis(NamedTuple):
    """One dimension of one value: the thing that couplings talk about."""

    value: str
    dim: int


class Port(NamedTuple):
    """A graph input or output.

    Attributes:
        name, dtype: numpy's type.
        shape: samples, or the one of a fixed batch, are its first axis, wherever the file has them.
        axis: along which the file has them.
    """

    name: str
    dtype: np.dtype
    shape: Shape
    axis: int = 0

    @property
    def in_file(self) -> Port:
        """The port as it stands in the file."""
        return self._replace(shape=tuple(self.shape[k] for k in order_in_file(len(self.shape), self.axis)))


def order_in_file(rank: int, axis: int) -> tuple[int, ...]:
    """Axes of a value with its samples in front, in the order of one that has them along an axis: a Transpose by it moves them
    there, one by `order_in_front` back."""
    return (*range(1, axis + 1), 0, *range(axis + 1, rank))[:rank]


def order_in_front(rank: int, axis: int) -> tuple[int, ...]:
    """The inverse of `order_in_file`."""
    return (axis, *range(axis), *range(axis + 1, rank))[:rank]


def place_in_file(axis: Axis, samples: int) -> Axis:
    """Where an axis of a value with its samples in front stands in one that has them along another axis."""
    return axis._replace(dim=samples if axis.dim == 0 else axis.dim - (axis.dim <= samples))


class Measure(NamedTuple):
    """A number that follows the size of an axis: times * size // over + plus, or of two: the size of another one more."""

    axis: Axis
    times: int = 1
    over: int = 1
    plus: int = 0
    other: Axis | None = None

    def moved(self, where: Callable[[Axis], Axis]) -> Measure:
        """The same number, of axes that are elsewhere."""
        return self._replace(axis=where(self.axis), other=None if self.other is None else where(self.other))


@dataclass(frozen=True)
class Sizes:
    """Axes behind the batch that may have any size: where they are, and what follows from them.

    Attributes:
        axes: such axes, by the name that their size has; "" where it has none.
        numbers: (node, attribute) -> the attribute for any size, in the operator's own terms (-1 of a Reshape).
    """

    axes: Mapping[Axis, str] = field(default_factory=dict)
    numbers: Mapping[tuple[str, str], tuple[int | Measure, ...]] = field(default_factory=dict)


class State(NamedTuple):
    """An input that the caller feeds with what an output said before: nobody outside asks which of its numbers is whose.

    Attributes:
        input: its name; outputs: those that say the same, all of one shape.
        orders: param that tells which of a node's own units stands where -> int [units, k], the places of the numbers of each
            among those that a sample of the input has.
    """

    input: str
    outputs: tuple[str, ...]
    orders: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Subgraph:
    """A graph inside a node of control flow: an attribute that nobody looks into.

    Attributes:
        content: the graph in protobuf.
        reads: what the graphs inside the node read from around it: under these names the node's last inputs, in this order.
    """

    content: bytes = field(repr=False)
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Tail:
    """The end of a net that nobody looks into: what has no shape that could be told, and all that is computed from it.

    Attributes:
        content: its nodes and constants as a graph in protobuf; the outputs of that graph are those that it computes.
        reads: output of the whole net, in the file's order -> the values of the net that it is computed from; an output of the
            net itself -> itself.
        begins: the nodes that it begins with, and why it does.
    """

    content: bytes = field(repr=False)
    reads: Mapping[str, tuple[str, ...]]
    begins: tuple[tuple[str, str], ...] = ()

    @property
    def made(self) -> tuple[str, ...]:
        """The outputs that the tail computes."""
        return tuple(name for name, read in self.reads.items() if read != (name,))


@dataclass(frozen=True)
class Node:
    """One use of an operator, in canonical form: every attribute present, omitted inputs None.

    Attributes:
        name: unique within its net.
        op: operator name, with its domain in front where that is not the default one (`com.microsoft.Gelu`).
        inputs: names of values or params; None where an optional input is omitted. Behind them stands what subgraphs read.
        outputs: names of values.
        attrs: attributes; inputs that the operator's record calls constant (axes, target shapes) are found here, too.
    """

    name: str
    op: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def input(self, at: int) -> str | None:
        """What it reads at a position; None where it is omitted there."""
        return self.inputs[at] if at < len(self.inputs) else None

    @property
    def read(self) -> tuple[str, ...]:
        """What it reads, without the inputs that are omitted."""
        return tuple(v for v in self.inputs if v is not None)


@dataclass(frozen=True)
class Net:
    """One model.

    Attributes:
        name: the task or file it stands for.
        inputs, outputs: ports, in the file's order; behind the outputs stands what a tail reads.
        nodes: in topological order.
        params: constant values by name, read-only arrays.
        shapes: the shape of every value and param by name.
        dtypes: the numpy dtype of every value and param by name.
        opset: version of the default ONNX domain that the nodes follow.
        opsets: versions of every other domain in use.
        ir_version: of the file it came from.
        metadata: the file's metadata_props.
        fields: what else the file says of itself (doc_string, domain, model_version, doc_string of its graph), as text.
        docs: what it says of its inputs and outputs, by their names.
        batch: name of the batch axis in the file; "" where it has none, or several.
        stored: type in which the file holds its weights, as ONNX calls it; they are float32 here.
        computed: type in which the file computes, at least in parts; it is computed in float32 here.
        sizes: axes that may have other sizes than `shapes` says, which is what the net was analysed for.
        tail: what stands behind the nodes; None for most nets.
        more_macs: multiply-accumulates per sample that loading has added to those of the file.
        states: inputs that begin recurrent nodes, or are frames of calls before, and come back from these.
        fixed: input of its file that is a constant of the net -> its number.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    params: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, np.dtype]
    opset: int
    opsets: Mapping[str, int] = field(default_factory=dict)
    ir_version: int = 8
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    docs: Mapping[str, str] = field(default_factory=dict)
    batch: str = ""
    stored: str = "FLOAT"
    computed: str = "FLOAT"
    sizes: Sizes = field(default_factory=Sizes)
    tail: Tail | None = None
    more_macs: int = 0
    states: tuple[State, ...] = ()
    fixed: Mapping[str, int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for array in self.params.values():
            array.setflags(write=False)
        for name in ("params", "shapes", "dtypes", "opsets", "metadata", "fields", "docs", "fixed"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def size(self) -> int:
        """Number of scalars in all params."""
        return sum(int(p.size) for p in self.params.values())

    @property
    def ends(self) -> tuple[str, ...]:
        """Names of the outputs of the whole net, its tail included."""
        return tuple(p.name for p in self.outputs) if self.tail is None else tuple(self.tail.reads)

    @property
    def made(self) -> tuple[str, ...]:
        """The outputs that a tail computes."""
        return () if self.tail is None else self.tail.made

    @property
    def axes(self) -> dict[str, int]:
        """Input or output -> axis along which its file has the samples, where that is not the first."""
        return {p.name: p.axis for p in (*self.inputs, *self.outputs) if p.axis}

    def roots(self, ends: Iterable[str]) -> list[str]:
        """The values of the net that some outputs of the whole net are computed from."""
        reads = {} if self.tail is None else self.tail.reads
        return [value for end in ends for value in reads.get(end, (end,))]

    def shape_of(self, value: str | None) -> Shape | None:
        """Shape of a value or param; None for an omitted input."""
        return None if value is None else self.shapes[value]


def common_name(names: Iterable[str]) -> str:
    """The name that all have who have one; "" where they differ."""
    known = set(names) - {""}
    return known.pop() if len(known) == 1 else ""


def bind_batch(shape: Shape, batch: int) -> Shape:
    """Put a number in the batch's place: (-1, 3) with batch 8 is (8, 3)."""
    return tuple(d if d >= 0 else -d * batch for d in shape)


def per_sample(shape: Shape) -> int:
    """Number of scalars that one sample has in a value of this shape."""
    return math.prod(abs(d) for d in shape)
