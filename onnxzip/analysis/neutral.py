"""Layers that change nothing: what a shallower net is given where a deeper one has more, so that both go the same way.

    Conv, Gemm, MatMul, depthwise    weights 1 from each channel to itself at the centre tap, no bias
    x + branch(x)                    the other net's branch, the weights of its last layers zero
    Relu, Clip                       as they are, where all that arrives lies within their bounds

After Net2DeeperNet (Chen, Goodfellow, Shlens: Net2Net, ICLR 2016, arXiv 1511.05641) and residual blocks that are the identity.
The net with them computes what it did, bit for bit but for the sign of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.analysis.coupling import linear_view, view_of
from onnxzip.net import Net, Node, producers, renamed_inputs, with_values
from onnxzip.ops import Linear, Operator, Symmetry, View, find

_SAME_RANGE = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose",
                         "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "Dropout"})
_KEEP_ZERO = frozenset({"Asin", "Asinh", "Atan", "Atanh", "Celu", "Elu", "Erf", "Gelu", "HardSwish", "Mish", "Selu", "Shrink",
                        "Sign", "Sin", "Sinh", "Softsign", "Sqrt", "Swish", "Tan", "Tanh"})  # besides all of class SCALING
_EVERYTHING = (-math.inf, math.inf)


class NotNeutralError(Exception):
    """A layer for which there is no neutral one; the message says why."""


@dataclass(frozen=True)
class Graft:
    """Nodes for one net, copied from another and made neutral.

    Attributes:
        nodes: in order; params: of theirs; shapes: of all that they write and of the params.
        end: the value that stands for the one they begin with.
    """

    nodes: tuple[Node, ...]
    params: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    end: str


def grafted(net: Net, at: str, graft: Graft, readers: frozenset[str]) -> Net:
    """The net with a graft behind a value, for some of the value's readers (names of nodes)."""
    place = next((k + 1 for k, n in enumerate(net.nodes) if at in n.outputs), 0)
    behind = [renamed_inputs(n, {at: graft.end}) if n.name in readers else n for n in net.nodes[place:]]
    grown = with_values(net, (*net.nodes[:place], *graft.nodes, *behind), graft.shapes, net.dtypes[at])
    return replace(grown, params={**net.params, **graft.params})


def neutral(source: Net, segment: tuple[Node, ...], start: str, net: Net, at: str, prefix: str) -> Graft:
    """A segment of one net as a graft for another: from `start` of the source, behind `at` of the net.

    Raises:
        NotNeutralError: there is none.
    """
    names = {start: at} | {v: f"{prefix}{v}" for n in segment for v in n.outputs}
    end = names[segment[-1].outputs[0]]
    if len(segment) == 1:
        node, params = _single(source, segment[0], net, at, prefix)
        copies: tuple[Node, ...] = (node,)
    else:
        copies, params = _branch(source, segment, start, net, at, names, prefix)
    copies = tuple(replace(c, name=f"{prefix}{c.name}") for c in copies)
    shapes = {names[v]: source.shapes[v] for n in segment for v in n.outputs} | {end: net.shapes[at]}
    return Graft(copies, params, shapes | {k: tuple(a.shape) for k, a in params.items()}, end)


def _single(source: Net, node: Node, net: Net, at: str, prefix: str) -> tuple[Node, dict[str, np.ndarray]]:
    out = (f"{prefix}{node.outputs[0]}",)
    linear = linear_view(source, node)
    if linear is not None:
        return _identity(source, node, *linear, net, at, prefix)
    operator = find(node.op)
    if operator is None or operator.bounds is None or len(node.inputs) != 1:
        raise NotNeutralError(f"{node.op} {node.name!r} changes what passes through it")
    low, high = operator.bounds(node)
    least, most = bounds_of(net, at)
    if least < low or most > high:
        raise NotNeutralError(f"{node.op} {node.name!r} would cut off some of what passes through it there")
    return replace(node, inputs=(at,), outputs=out), {}


def _identity(
    source: Net, node: Node, linear: Linear, view: View, net: Net, at: str, prefix: str
) -> tuple[Node, dict[str, np.ndarray]]:
    """A layer with weights that gives back what it reads, in the width of the other net."""
    taps = linear.taps(view)
    centre = next((k for k in range(taps.shape[1]) if np.array_equal(taps[:, k], np.arange(len(taps)))), None)
    spatial = [d for k, d in enumerate(source.shapes[node.outputs[0]]) if k != linear.channel(view)]
    if centre is None or spatial != [d for k, d in enumerate(net.shapes[at]) if k != linear.channel(view)]:
        raise NotNeutralError(f"{node.op} {node.name!r} changes the size of what passes through it")
    groups, rows = linear.matrix(view, source.params).shape[:2]
    channels = net.shapes[at][linear.channel(view)]
    if linear.diagonal(view):
        if rows != 1:
            raise NotNeutralError(f"{node.op} {node.name!r} makes several channels of one")
        groups = channels
    if channels % groups:
        raise NotNeutralError(f"{node.op} {node.name!r} has {groups} groups, and there are {channels} channels")
    size = channels // groups
    matrix = np.zeros((groups, size, taps.shape[1], size), np.float32)
    matrix[:, np.arange(size), centre, np.arange(size)] = 1
    names = {k: f"{prefix}{v}" for k, v in enumerate(node.inputs) if k > 0 and v is not None}
    params = {names[linear.weight]: np.ascontiguousarray(linear.from_matrix(view, matrix))}
    if linear.bias in names:
        params[names[linear.bias]] = np.zeros(channels, np.float32)
    if set(names) - {linear.weight, linear.bias}:
        raise NotNeutralError(f"{node.op} {node.name!r} has other params than weights and bias")
    attrs = dict(node.attrs) | ({"group": groups} if "group" in node.attrs else {})
    inputs = tuple(at if k == 0 else names.get(k) for k in range(len(node.inputs)))
    return replace(node, inputs=inputs, outputs=(f"{prefix}{node.outputs[0]}",), attrs=attrs), params


def _branch(
    source: Net, segment: tuple[Node, ...], start: str, net: Net, at: str, names: Mapping[str, str], prefix: str
) -> tuple[tuple[Node, ...], dict[str, np.ndarray]]:
    """x + branch(x) with a branch of zeros."""
    adder = segment[-1]
    if adder.op != "Add" or start not in adder.inputs or source.shapes[adder.outputs[0]] != source.shapes[start]:
        raise NotNeutralError(f"the part that ends in {adder.op} {adder.name!r} is no branch that is added to what it reads")
    if source.shapes[start] != net.shapes[at]:
        raise NotNeutralError(
            f"the branch that is added in {adder.name!r} is for {list(source.shapes[start])[1:]}, there it is "
            f"{list(net.shapes[at])[1:]}"
        )
    (inner,) = [v for v in adder.inputs if v != start] or [start]
    lasts = _makers_of_zero(source, str(inner), {n.name for n in segment})
    if not lasts:
        raise NotNeutralError(f"the branch that is added in {adder.name!r} does not end in a layer with weights")
    zeroed = {(n.name, v) for n, linear in lasts for v in _weights_of(n, linear)}
    params, copies = dict[str, np.ndarray](), []
    for node in segment:
        inputs: list[str | None] = []
        for value in node.inputs:
            if value in source.params:
                name = f"{prefix}{value}"
                array = source.params[str(value)]
                params[name] = np.zeros_like(array) if (node.name, value) in zeroed else array
                inputs.append(name)
            else:
                inputs.append(None if value is None else names[value])
        copies.append(replace(node, inputs=tuple(inputs), outputs=tuple(names[v] for v in node.outputs)))
    return tuple(copies), params


def bounds_of(net: Net, value: str) -> tuple[float, float]:
    """Between what all entries of a value are known to lie."""
    node = producers(net.nodes).get(value)
    operator = find(node.op) if node is not None else None
    if node is None or operator is None:
        return _EVERYTHING
    if node.op == "Sigmoid" or node.op == "Softmax":
        return 0.0, 1.0
    if operator.bounds is not None:
        low, high = operator.bounds(node)
        least, most = bounds_of(net, str(node.inputs[0]))
        return min(max(least, low), high), max(min(most, high), low)
    if node.op in _SAME_RANGE:
        return bounds_of(net, str(node.inputs[0]))
    if node.op == "Concat":
        inner = [bounds_of(net, str(v)) for v in node.inputs]
        return min(b[0] for b in inner), max(b[1] for b in inner)
    if _is_identity(net, node):
        return bounds_of(net, str(node.inputs[0]))
    return _bounds_of_sum(net, node)


def _bounds_of_sum(net: Net, node: Node) -> tuple[float, float]:
    """Of an Add whose one side is zero: those of the other."""
    if node.op != "Add" or any(v in net.params for v in node.inputs):
        return _EVERYTHING
    sides = [v for v in node.read if not _is_zero(net, v)]
    return bounds_of(net, sides[0]) if len(sides) == 1 else _EVERYTHING


def _is_zero(net: Net, value: str) -> bool:
    """Whether a value comes from layers whose weights and bias are all zero."""
    lasts = _makers_of_zero(net, value, {n.name for n in net.nodes})
    return bool(lasts) and not any(net.params[v].any() for n, linear in lasts for v in _weights_of(n, linear))


def _weights_of(node: Node, linear: Linear) -> list[str]:
    """Weights and bias of a layer."""
    return [v for k in (linear.weight, linear.bias) if (v := node.input(k)) is not None]


def _makers_of_zero(net: Net, value: str, among: Set[str]) -> list[tuple[Node, Linear]]:
    """Layers, of some by name, that make a value zero once all of their weights are; none where no layers do."""
    node = producers(net.nodes).get(value)
    operator = find(node.op) if node is not None and node.name in among else None
    if node is None or operator is None:
        return []
    if (found := linear_view(net, node)) is not None:
        return [(node, found[0])]
    sides = [_makers_of_zero(net, v, among) for v in node.read if v not in net.params]
    if node.op in ("Mul", "MatMul"):
        return next((some for some in sides if some), [])
    return [pair for some in sides for pair in some] if all(sides) and _keeps_zero(net, node, operator) else []


def _keeps_zero(net: Net, node: Node, operator: Operator) -> bool:
    """Whether a node makes zeros of zeros: f(0) = f(s 0) = s f(0) for all s > 0 where it commutes with scaling."""
    if any(v in net.params and net.dtypes[str(v)].kind == "f" and net.params[str(v)].any() for v in node.inputs):
        return node.op in ("PRelu", "Div")
    if operator.bounds is not None:
        return operator.bounds(node)[0] <= 0 <= operator.bounds(node)[1]
    return node.op in _KEEP_ZERO or (node.op != "Div" and operator.symmetry_for(view_of(net, node)) >= Symmetry.SCALING)


def _is_identity(net: Net, node: Node) -> bool:
    """Whether a layer with weights hands its input through."""
    linear, view = linear_view(net, node) or (None, None)
    if linear is None or view is None:
        return False
    matrix = linear.matrix(view, net.params)
    taps = linear.taps(view)
    centre = [k for k in range(taps.shape[1]) if np.array_equal(taps[:, k], np.arange(len(taps)))]
    if not centre or matrix.shape[1] != matrix.shape[3] or any(net.params[str(v)].any() for v in node.inputs[2:] if v):
        return False
    wanted = np.zeros_like(matrix)
    wanted[:, np.arange(matrix.shape[1]), centre[0], np.arange(matrix.shape[1])] = 1
    return bool(np.array_equal(matrix, wanted))
