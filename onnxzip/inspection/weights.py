"""The weights that a task finds in a fused net beside those of its original, channel by channel.

With M [groups, outputs, taps, inputs] of the original and R, C the original channel of each fused row and column, a fused
matrix F gives  E[R(r), :, C(c)] = F[r, :, c].  What no column of the fused net reads is dropped (E = 0 there); what fused rows
read of channels that are none of the task's is foreign.

    change^2 = (||E - M||^2 + ||foreign||^2) / ||M||^2        dropped^2 = ||M where dropped||^2 / ||M||^2
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis.coupling import linear_view
from onnxzip.exporting.traces import Taken
from onnxzip.net import Net, Node


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

    def of_energy(self, part: float) -> float:
        """The root of a part over the energy."""
        return float(np.sqrt(part / self.energy)) if self.energy > 0 else float(np.sqrt(part))

    @property
    def relative(self) -> float:
        """The whole change."""
        return self.of_energy(self.apart + self.foreign)


@dataclass(frozen=True)
class Fused:
    """A fused node with weights: its net, the node, the original channel of each of its rows and columns (-1: none)."""

    net: Net
    node: Node
    rows: np.ndarray
    columns: np.ndarray


def weights_change(net: Net, node: Node, fused: Sequence[Fused], summed: Iterable[Node]) -> Change | None:
    """How the weights and the bias of an original node have changed.

    Args:
        net: the original.
        fused: all nodes that the node has become.
        summed: nodes of the original whose products are added up with this one's: one fused bias stands for theirs all.

    Returns:
        None where one of them has no weights of its own.
    """
    original = matrix_of(net, node)
    if original is None:
        return None
    matrix, bias = original[0], np.zeros_like(original[1])
    if any(_has_bias(one.net, one.node) for one in fused):
        found = (matrix_of(net, other) for other in summed)
        bias = np.sum([b.reshape(bias.shape) for _, b in (f for f in found if f is not None)], axis=0)
    new, new_bias = np.zeros_like(matrix), np.zeros_like(bias)
    read = np.zeros(matrix.shape, bool)
    foreign = 0.0
    for one in fused:
        made = matrix_of(one.net, one.node)
        if made is None:
            return None
        foreign += _placed(one, made, new, new_bias, read)
    apart = float(np.square(new - matrix).sum() + np.square(new_bias - bias).sum())
    energy = float(np.square(matrix).sum() + np.square(bias).sum())
    return Change(apart, energy, float(np.square(np.where(read, 0.0, matrix)).sum()), foreign)


def matrix_of(net: Net, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights [groups, outputs, taps, inputs] and bias [groups, outputs] of a node, float64; None where it has none."""
    found = linear_view(net, node)
    if found is None or found[0].linear is None:
        return None
    linear, view = found[0].linear, found[1]
    matrix = linear.to_matrix(view, net.params[str(node.inputs[linear.weight])]).astype(np.float64)
    name = node.inputs[linear.bias] if len(node.inputs) > linear.bias else None
    bias = np.zeros(matrix.shape[:2]) if name is None else net.params[name].astype(np.float64).reshape(matrix.shape[:2])
    return matrix, bias


def _has_bias(net: Net, node: Node) -> bool:
    found = linear_view(net, node)
    at = found[0].linear.bias if found is not None and found[0].linear is not None else len(node.inputs)
    return len(node.inputs) > at and node.inputs[at] is not None


def _placed(
    fused: Fused, found: tuple[np.ndarray, np.ndarray], new: np.ndarray, new_bias: np.ndarray, read: np.ndarray
) -> float:
    """Put a fused node's weights where the original has them, in place; the energy of what is foreign."""
    matrix, bias = found
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
        values = matrix[group][mine][:, :, own]
        new[at] = values.transpose(0, 2, 1)
        read[at] = True
        new_bias[target, out] = bias[group, mine]
        foreign += float(np.square(matrix[group][mine][:, :, others]).sum())
    return foreign


def taken_change(net: Net, array: np.ndarray, taken: Taken) -> Change:
    """How a param has changed that was taken over: the fused one against the same channels of the original."""
    original = net.params[taken.param].astype(np.float64)
    present = np.ones((), bool)
    for axis, channels in enumerate(taken.axes):
        if channels is not None:
            original = np.take(original, np.maximum(channels, 0), axis=axis)
            present = present & (channels >= 0).reshape([-1 if d == axis else 1 for d in range(original.ndim)])
    apart = np.where(present, array.astype(np.float64) - original, 0.0)
    return Change(float(np.square(apart).sum()), float(np.square(np.where(present, original, 0.0)).sum()))
