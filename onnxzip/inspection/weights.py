"""The weights that a task finds in a fused net beside those of its original, channel by channel.

With M [groups, outputs, taps, inputs] of the original and R, C the original channel of each fused row and column, a fused
matrix F gives  E[R(r), :, C(c)] = F[r, :, c].  What no column of the fused net reads is dropped (E = 0 there); what fused rows
read of channels that are none of the task's is foreign.

    change^2 = (||E - M||^2 + ||foreign||^2) / ||M||^2        dropped^2 = ||M where dropped||^2 / ||M||^2

An infinite number that is still the same (a mask has some) counts in neither sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis.coupling import linear_view
from onnxzip.exporting.traces import Taken
from onnxzip.net import Net, Node, consumers


@dataclass(frozen=True)
class Change:
    """Sums of squares: of what has changed, of the original, of what was dropped, of what is foreign."""

    apart: float = 0.0
    energy: float = 0.0
    dropped: float = 0.0
    foreign: float = 0.0

    def __add__(self, other: Change) -> Change:
        return Change(
            self.apart + other.apart, self.energy + other.energy, self.dropped + other.dropped, self.foreign + other.foreign
        )

    def of_energy(self, part: float) -> float | None:
        """The root of a part over the energy; None where NaN or other infinite numbers leave none."""
        found = float(np.sqrt(part / self.energy)) if self.energy > 0 else float(np.sqrt(part))
        return found if np.isfinite(found) else None

    @property
    def relative(self) -> float | None:
        """The whole change."""
        return self.of_energy(self.apart + self.foreign)


@dataclass(frozen=True)
class Fused:
    """A fused node with weights: its net, the node, the original channel of each of its rows and columns (-1: none).

    Columns behind those are of other weights: recurrent nodes have there what they hear of units that run apart.
    """

    net: Net
    node: Node
    rows: np.ndarray
    columns: np.ndarray


def weights_change(
    net: Net, node: Node, fused: Sequence[Fused], biases: Iterable[tuple[Node, Sequence[Fused]]]
) -> Change | None:
    """How the weights of an original node have changed, and some biases.

    Args:
        net: the original.
        fused: all nodes that the node has become.
        biases: nodes of the original, with what they have become, whose biases count here: the node itself, and those whose
            products are added to its own, since any of them may hold what was the other's.

    Returns:
        None where one of them has no weights of its own.
    """
    matrix = matrix_of(net, node)
    if matrix is None:
        return None
    new, read, foreign = np.zeros_like(matrix), np.zeros(matrix.shape, bool), 0.0
    for one in fused:
        found = matrix_of(one.net, one.node)
        if found is None:
            return None
        foreign += _placed(one, found, new, read)
    before, after = np.zeros(matrix.shape[0] * matrix.shape[1]), np.zeros(matrix.shape[0] * matrix.shape[1])
    for other, made in biases:
        before += bias_of(net, other)
        for one in made:
            own = one.rows >= 0
            after[one.rows[own]] += np.broadcast_to(bias_of(one.net, one.node), one.rows.shape)[own]
    changed = _compared(new, matrix) + _compared(after, before)
    return changed + Change(0.0, 0.0, float(np.square(np.where(read, 0.0, matrix)).sum()), foreign)


def _compared(new: np.ndarray, original: np.ndarray) -> Change:
    """The sums of two arrays of one shape."""
    same = np.isinf(original) & (new == original)
    new, original = np.where(same, 0.0, new), np.where(same, 0.0, original)
    return Change(float(np.square(new - original).sum()), float(np.square(original).sum()))


def matrix_of(net: Net, node: Node) -> np.ndarray | None:
    """Weights of a node, float64 [groups, outputs, taps, inputs]; None where it has none."""
    found = linear_view(net, node)
    if found is None:
        return None
    linear, view = found
    return np.asarray(linear.matrix(view, net.params).astype(np.float64))


def bias_of(net: Net, node: Node) -> np.ndarray:
    """Bias of a node with weights, float64 [outputs]; one zero where it has none."""
    found = linear_view(net, node)
    name = node.input(found[0].bias) if found is not None else None
    return np.zeros(1) if name is None else np.asarray(net.params[name].astype(np.float64).reshape(-1))


def sum_of(net: Net, node: Node) -> str:
    """The value that a node adds to: its own output, or, where only an Add of values reads that, the sum."""
    value, readers = node.outputs[0], consumers(net.nodes)
    while len(found := readers.get(value, [])) == 1 and found[0].op == "Add" and not set(found[0].inputs) & set(net.params):
        value = found[0].outputs[0]
    return value


def summed_with(net: Net, node: Node) -> tuple[Node, ...]:
    """The nodes with weights whose products are added up with a node's, itself among them, in the net's order."""
    end = sum_of(net, node)
    return tuple(n for n in net.nodes if n is node or (matrix_of(net, n) is not None and sum_of(net, n) == end))


def _placed(fused: Fused, matrix: np.ndarray, new: np.ndarray, read: np.ndarray) -> float:
    """Put a fused node's weights where the original has them, in place; the energy of what is foreign."""
    matrix = matrix[..., : len(fused.columns) // len(matrix)]
    groups, outputs, _, inputs = matrix.shape
    per_group, wide = new.shape[1], new.shape[3]
    rows, columns = fused.rows.reshape(groups, outputs), fused.columns.reshape(groups, inputs)
    foreign = 0.0
    for group in range(groups):
        mine, own = np.flatnonzero(rows[group] >= 0), np.flatnonzero(columns[group] >= 0)
        others = np.flatnonzero(columns[group] < 0)
        target, out = np.divmod(rows[group, mine], per_group)
        source = columns[group, own] % wide
        at = target[:, None], out[:, None], slice(None), source[None, :]
        new[at] = matrix[group][mine][:, :, own].transpose(0, 2, 1)
        read[at] = True
        foreign += float(np.square(matrix[group][mine][:, :, others]).sum())
    return foreign


def taken_change(net: Net, array: np.ndarray, taken: Taken) -> Change:
    """How a param has changed that was taken over: the fused one against the same channels of the original."""
    original = net.params[taken.param].astype(np.float64)
    present = np.ones((), bool)
    for axis, channels in enumerate(taken.axes):
        if channels is not None:
            original = original if original.size == 1 else np.take(original, np.maximum(channels, 0), axis=axis)
            present = present & (channels >= 0).reshape([-1 if d == axis else 1 for d in range(len(taken.axes))])
    return _compared(np.where(present, array.astype(np.float64), 0.0), np.where(present, original, 0.0))
