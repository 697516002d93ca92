"""What makes two nodes alike: operator, attributes, the structure of their axes, and what lies ahead of them.

The labels of what lies ahead are refined towards the outputs, round by round, after Weisfeiler and Leman (1968).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxzip.analysis.coupling import Coupling, makes_kept
from onnxzip.analysis.embeddings import why_as_it_is
from onnxzip.analysis.spaces import Expr
from onnxzip.loading.masks import masks_of
from onnxzip.net import Net, Node, consumers
from onnxzip.ops import find

_NORMALISING = frozenset({"Mul", "Div", "Add", "Sub", "BatchNormalization"})
_PER_PLACE = _NORMALISING | {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"}
_ACTING = frozenset({"Mul", "Div", "Add", "Sub", "PRelu"})
_LEAST_EPSILON = 2e-6
FUTURE = 12  # rounds of refinement towards the outputs


def described(net: Net, node: Node) -> str:
    weights = [str(list(net.shapes[v])) for v in node.read if v in net.params]
    return " ".join([node.op, *weights[:1]])


def parting(coupling: Coupling, node: Node, other_task: str, other_net: Net, other: Node, alone: Sequence[str]) -> str:
    """Why a node does not play another one's part.

    Args:
        alone: of what it reads, values that its net has for itself.
    """
    net, there = coupling.net, repr(other_task)
    mine, theirs = described(net, node), described(other_net, other)
    if mine != theirs:
        return f"{mine} stands where {there} has {theirs}"
    if node.op in _NORMALISING and {p.name for p in net.inputs}.intersection(node.read):
        fixed = "a first layer that pads with zeros, or has no weights, cannot take them"
        return f"its constants are others than in {there}; {fixed}"
    fitted = {name for name, (linear, view) in coupling.weighted.items() if not linear.diagonal(view)}
    if why := why_as_it_is(net, coupling.axes, fitted, node):
        return f"{mine} has other params than in {there}, and these stay as they are: {why}"
    operator = find(node.op)
    if operator is not None and operator.linear is None and any(v in net.params for v in node.inputs):
        return f"{mine} has other params than in {there}, and none are fitted for {node.op}"
    if alone:
        return f"{mine} reads {alone[0]!r}, too, to which nothing in {there} corresponds"
    return f"{mine} differs from the one in {there} in its attributes, or in what else it reads"


def fingerprint(coupling: Coupling, expr: Expr) -> Hashable:
    """The structure of an axis without the sizes of channel spaces."""
    if expr.kind == "atom":
        return "channels" if expr.atom in coupling.produced else expr.size
    return (expr.kind, *(fingerprint(coupling, p) for p in expr.parts))


def free_inputs(coupling: Coupling, node: Node) -> set[int]:
    """Positions of the params that may be any in nets that are alike."""
    taken_over = _one_for_all(coupling, node) | _added_to_scores(coupling.net, node)
    return _fitted(coupling, node).union(taken_over, channel_numbers(coupling, node))


def _fitted(coupling: Coupling, node: Node) -> set[int]:
    """Those that a least squares finds."""
    linear, view = coupling.weighted.get(node.name, (None, None))
    if linear is None or view is None or linear.diagonal(view) or makes_kept(coupling, node):
        return set()
    return {linear.weight, linear.bias}


def _one_for_all(coupling: Coupling, node: Node) -> set[int]:
    """Those that are one for all channels of a value (`leading`), and no masks."""
    net, free = coupling.net, coupling.produced | set(coupling.inside)
    if node.op not in _PER_PLACE and not makes_kept(coupling, node):
        return set()

    def carries(value: str) -> bool:
        return any(a in free for e in coupling.exprs(value) for a in e.atoms())

    if not carries(node.outputs[0]):
        return set()
    params = {k: str(v) for k, v in enumerate(node.inputs) if v in net.params and not carries(str(v))}
    large = {k: v for k, v in params.items() if net.params[v].size > 1 and net.dtypes[v].kind == "f"}
    return {k for k, v in large.items() if not masks_of(net, [v])}


def _added_to_scores(net: Net, node: Node) -> set[int]:
    """Those, no masks, that are added to the scores of a single head: what is learned of the distance between positions."""
    params = {k: v for k, v in enumerate(node.read) if v in net.params and net.params[v].size > 1}
    if node.op != "Add" or not params or all(n.op != "Softmax" or n.inputs[0] != node.outputs[0] for n in net.nodes):
        return set()
    return {k for k, v in params.items() if not masks_of(net, [v])}


def channel_numbers(coupling: Coupling, node: Node) -> dict[int, int]:
    """Positions of single numbers that act on the channels of a value, and its axis of channels: they may be others in nets
    that are alike."""
    net = coupling.net
    found = {k: str(v) for k, v in enumerate(node.inputs) if v in net.params and net.params[str(v)].size == 1}
    if node.op not in _ACTING or not found or not all(net.dtypes[v].kind == "f" for v in found.values()):
        return {}
    channels = coupling.produced | set(coupling.inside)
    axis = next((d for d, e in enumerate(coupling.exprs(node.outputs[0])) if channels.issuperset(e.atoms())), None)
    own = {k for k, v in found.items() if any(a in coupling.produced for e in coupling.exprs(v) for a in e.atoms())}
    return {} if axis is None else dict.fromkeys(found.keys() - own, axis)


def numbers_of(coupling: Coupling, node: Node) -> tuple[float, ...]:
    """The single numbers of a node that act on channels, by size: which operand of a sum comes first means nothing."""
    return tuple(sorted(coupling.net.params[str(node.inputs[k])].item() for k in channel_numbers(coupling, node)))


def local_key(coupling: Coupling, node: Node) -> Hashable:
    """Operator and attributes, less those that follow from shapes."""
    operator = find(node.op)
    derived = operator.derived if operator is not None else frozenset()
    attrs = {k: _hashable(v) for k, v in node.attrs.items() if k not in derived}
    if "epsilon" in attrs:
        attrs["epsilon"] = _rounded(float(node.attrs["epsilon"]))
    return (node.op, tuple(sorted(attrs.items())), len(node.outputs))


def _rounded(epsilon: float) -> str:
    """What keeps a norm from dividing by zero, as far as it tells nets apart: in float16 1e-5 is a bit more, 1e-12 is 1e-7."""
    return "least" if epsilon < _LEAST_EPSILON else f"{epsilon:.1e}"


def _hashable(value: Any) -> Hashable:
    return value.tobytes() if isinstance(value, np.ndarray) else value if isinstance(value, (tuple, str)) else repr(value)


def futures_of(coupling: Coupling) -> dict[str, list[int]]:
    """Per node, labels of its neighbourhood towards the outputs, one more step with each round."""
    net = coupling.net
    readers = consumers(net.nodes)
    label = {n.name: hash(local_key(coupling, n)) for n in net.nodes}
    rounds = {n.name: [label[n.name]] for n in net.nodes}
    now = dict(label)
    for _ in range(FUTURE):
        now = {n.name: hash((label[n.name], tuple(sorted(_ahead(n, readers, now))))) for n in net.nodes}
        for name, value in now.items():
            rounds[name].append(value)
    return rounds


def _ahead(node: Node, readers: Mapping[str, list[Node]], now: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Labels of what reads a node, and where among its inputs, if their order means anything."""
    for value in node.outputs:
        for reader in readers.get(value, []):
            operator = find(reader.op)
            unordered = operator is not None and operator.commutative
            yield from ((now[reader.name], 0 if unordered else k) for k, v in enumerate(reader.inputs) if v == value)


def places_of(coupling: Coupling, node: Node) -> tuple[Hashable, ...]:
    """Where what a node writes stands in what it reads: slices of one value may differ in nothing else."""
    read = [a for v in node.read for e in coupling.exprs(v) for a in e.atoms()]
    written = [a for v in node.outputs for e in coupling.exprs(v) for a in e.atoms()]
    return (frozenset(coupling.names.get(node.name, ())), *(read.index(a) if a in read else -1 for a in written))


def resemblance(ours: Coupling, node: Node, theirs: Coupling, other: Node) -> float:
    """How alike two nodes are that do the same and have equal futures: below one."""
    same_shapes = ours.net.shapes[node.outputs[0]] == theirs.net.shapes[other.outputs[0]]
    same_places = places_of(ours, node) == places_of(theirs, other)
    return 0.5 * same_shapes + 0.25 * same_places + 0.125 * (numbers_of(ours, node) == numbers_of(theirs, other))
