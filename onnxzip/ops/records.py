"""What is known of an operator: its line, its torch function, the channel maps it commutes with.

A line is a signature in the notation of einops, one pattern per input and output, read as an equation between axes:

    n i *s, o i *k, o -> n o *t        Conv (x, W, b -> y)
    n c *s, c 1 *k, c -> n c *t        depthwise Conv
    n p *s, n q *s -> n (p+q) *s       Concat on axis 1
    n c h w -> n (c h w)               Flatten

A name used twice is one channel space; `( )` a product (major first), `(+)` a concatenation, `*s` the remaining axes, `1` an
axis that couples nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from onnxzip.net import Node, Shape


class Symmetry(IntEnum):
    """The widest class of channel maps that an operator commutes with: each class contains those below it."""

    PERMUTATION = 1
    SCALING = 2
    LINEAR = 3


@dataclass(frozen=True)
class View:
    """A node together with the shapes of what it reads and writes.

    Attributes:
        inputs, outputs: shapes; None for an omitted input.
        constant: for each input, whether it is a param.
    """

    node: Node
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape, ...]
    constant: tuple[bool, ...]

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.node.attrs


@dataclass(frozen=True)
class Line:
    """A signature with what its text alone does not tell.

    Attributes:
        text: patterns of the present inputs and of all outputs.
        sizes: lengths of names that stand in composites only.
        whole: names of which the operator needs all channels at once (Softmax, a mean over channels).
        ordered: names of which the operator needs all channels at once, each between its neighbours (LRN).
        pinned: names whose channels have a fixed order and meaning (those that a stride takes).
        padded: of the pinned ones, those that stay free where they are channels that weights make: name before -> name behind,
            and how many channels the node adds at the front and at the end.
        symmetry: a bound on the channel maps of this use, where it is narrower than its operator: an Add commutes with
            every linear map, an Add of a param with permutations alone.
    """

    text: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    ordered: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    padded: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    symmetry: Symmetry = Symmetry.LINEAR


@dataclass(frozen=True)
class Linear:
    """How a node with weights becomes a matrix product over gathered inputs.

    With x flattened to [first axis, channels, S] and `taps` of shape [P, K] (output position, kernel tap -> input position, -1
    where the tap reads padding):  y[b, g*o, p] = sum_k sum_i  M[g, o, k, i] x[b, g*i, taps[p, k]] + bias[g*o].

    Attributes:
        taps: view -> int array [P, K].
        to_matrix: (view, weight) -> [groups, outputs, K, inputs], outputs and inputs per group.
        from_matrix: the inverse, for any number of outputs, inputs (and groups, where diagonal).
        channel: position of the channel axis in x and y.
        diagonal: view -> whether the groups are the channels of x themselves (depthwise, BatchNormalization).
        weight, bias: positions among the node's inputs.
    """

    taps: Callable[[View], np.ndarray]
    to_matrix: Callable[[View, np.ndarray], np.ndarray]
    from_matrix: Callable[[View, np.ndarray], np.ndarray]
    channel: Callable[[View], int]
    diagonal: Callable[[View], bool]
    weight: int = 1
    bias: int = 2

    def matrix(self, view: View, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """The weights of a node among a net's params: [groups, outputs, K, inputs]."""
        return self.to_matrix(view, params[str(view.node.inputs[self.weight])])


@dataclass(frozen=True)
class Operator:
    """All that is known of one operator.

    Attributes:
        name: as in ONNX.
        line: the signature, or view -> Line where it depends on attributes or shapes.
        torch: the function: inputs by position (None where omitted), attributes by keyword; returns a tensor or a tuple.
        symmetry: channel maps that it commutes with, as far as the line's names go.
        constants: inputs that are constants of the graph, by position; loading moves them among the attributes.
        linear: set for operators with weights that are fitted by least squares.
        adapt: (node, input shapes, output shapes, sizes of the line's names) -> attributes that change when channels are
            dropped from its axes.
        derived: attributes that follow from shapes (`shape` of Reshape, `group` of a depthwise Conv): two nets may differ in
            them.
        commutative: whether the order of its inputs means nothing.
        told_outputs: whether the function is told, by the keyword `outputs`, how many outputs are asked for: some cost time.
        bounds: of an operator that only clips, x -> min(max(x, lowest), highest): node -> (lowest, highest).
    """

    name: str
    line: str | Callable[[View], Line]
    torch: Callable[..., Any]
    symmetry: Symmetry
    constants: Mapping[int, str] = field(default_factory=dict)
    linear: Linear | None = None
    adapt: Callable[[Node, tuple[Shape | None, ...], tuple[Shape, ...], Mapping[str, int]], Mapping[str, Any]] | None = None
    derived: frozenset[str] = frozenset()
    commutative: bool = False
    told_outputs: bool = False
    bounds: Callable[[Node], tuple[float, float]] | None = None

    def line_for(self, view: View) -> Line:
        """The signature of one use of the operator."""
        return Line(self.line) if isinstance(self.line, str) else self.line(view)

    def symmetry_for(self, view: View) -> Symmetry:
        """The widest class of channel maps that one use of the operator commutes with.

        Params stay as they are; those of a linear node follow (a scaled output has scaled rows, a scaled input the inverse).
        """
        return min(self.symmetry, self.line_for(view).symmetry)
