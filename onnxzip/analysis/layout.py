"""What the fused net is before its weights are known: its nodes, the pieces of values they compute, the params to be found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from onnxzip.analysis.spaces import Expr
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.net import Node, Shape


@dataclass(frozen=True)
class Piece:
    """A part of a laid-over value that the fused net computes.

    Attributes:
        name: of the fused net's value.
        laid: the laid-over value.
        task: one of the tasks whose expressions describe it.
        keys: the strands that it is made of, in order; empty where the value carries no channels.
        owners: the tasks that need it.
    """

    name: str
    laid: str
    task: str
    keys: tuple[Owners, ...]
    owners: Owners


@dataclass(frozen=True)
class Weights:
    """A param of the fused net that a step fits.

    Attributes:
        name: of the fused param.
        step, role: which fit, which part of it.
        key: strand of its rows; pieces: what its columns read.
        bias: whether it is the bias.
    """

    name: str
    step: str
    role: str
    key: Owners
    pieces: tuple[Piece, ...]
    bias: bool


@dataclass(frozen=True)
class Taken:
    """A param of the fused net that is taken over from the originals, averaged over its owners.

    Attributes:
        name: of the fused param; laid: the laid-over param.
        keys: the strands of its channels; owners: who it is averaged over.
        heard: of the weights between hidden units, the strands of other units that those of `keys` read: the param is
            [these units, gates x units]; empty for all else.
        led: whose it is alone, as what it is for follows these; empty where it is for all owners.
    """

    name: str
    laid: str
    keys: tuple[Owners, ...]
    owners: Owners
    heard: tuple[Owners, ...] = ()
    led: Owners = frozenset()


class Part(NamedTuple):
    """Channels of a strand, one behind the other, with the same owners, that follow the same one of these, or twins."""

    space: int
    owners: Owners
    led: Owners
    size: int


@dataclass(frozen=True)
class Hearing:
    """What hidden units of one strand hear of those of others.

    Attributes:
        gates: what their own layer makes.
        states: of the others, over time.
        weights: the param by which they come into the gates.
    """

    gates: str
    states: tuple[str, ...]
    weights: Taken


@dataclass(frozen=True)
class Placed:
    """A node of the fused net: the tasks that need it and the role it was made from (None for Concat and Split)."""

    node: Node
    owners: Owners
    role: str | None


@dataclass(frozen=True)
class Layout:
    """The fused net without its weights.

    Attributes:
        placed: nodes in topological order.
        pieces: laid-over value -> pieces by the key of the strand (or the readers) they stand for.
        weights: params to be fitted; taken: params that are taken over.
        hearings: value that a recurrent node reads -> what its units hear, where they hear any.
        shapes: of every value and param of the fused net.
        outputs: task -> (name, piece) per output of its net.
        starved: (space, key) of strands whose rows have nothing to read -> the node that keeps it apart, or nothing.
        torn: spaces that a node needs whole in an order which pieces cannot give.
        parts: values that are a part of a piece, as their node has other params for those that follow others.
    """

    placed: tuple[Placed, ...]
    pieces: Mapping[str, Mapping[Owners, Piece]]
    weights: tuple[Weights, ...]
    taken: tuple[Taken, ...]
    hearings: Mapping[str, Hearing]
    shapes: Mapping[str, Shape]
    outputs: Mapping[str, tuple[tuple[str, Piece], ...]]
    starved: Mapping[tuple[int, Owners], str]
    torn: Mapping[int, str]
    parts: Mapping[str, Part] = field(default_factory=dict)

    @cached_property
    def joins(self) -> frozenset[str]:
        """Nodes that make no piece, but cut up pieces or put them together."""
        pieces = {piece.name for by_key in self.pieces.values() for piece in by_key.values()}
        return frozenset(p.node.name for p in self.placed if p.role is None and pieces.isdisjoint(p.node.outputs))


class Sizes:
    """Sizes of expressions restricted to some strands."""

    def __init__(self, spaces: Mapping[int, SpacePlan]) -> None:
        self.spaces = spaces
        self.strand = {(n, s.key): s.size for n, p in spaces.items() for s in p.strands}

    def carried(self, expr: Expr) -> tuple[int, ...]:
        """The channel spaces in an expression."""
        return tuple(a for a in expr.atoms() if a in self.spaces)

    def any_in(self, numbers: Iterable[int], key: Owners) -> bool:
        """Whether any of some spaces has channels in a strand."""
        return any((n, key) in self.strand for n in numbers)

    def restrict(self, expr: Expr, keys: tuple[Owners, ...]) -> Expr:
        """The expression over the channels of some strands."""
        return expr.mapped(
            lambda a: replace(a, size=sum(self.strand.get((a.atom, k), 0) for k in keys)) if a.atom in self.spaces else a
        )

    def leading(self, exprs: Iterable[Expr]) -> tuple[Expr, ...]:
        """The axes of a value that carry channels; one channel beside those of another axis is in every piece of these."""
        carrying = tuple(e for e in exprs if self.carried(e))
        return tuple(e for e in carrying if e.size != 1) or carrying

    def shape(self, exprs: tuple[Expr, ...], keys: tuple[Owners, ...]) -> Shape:
        leading = self.leading(exprs)
        return tuple(self.restrict(e, keys).size if e in leading else e.size for e in exprs)
