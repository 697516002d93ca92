"""What the weights of a layer are multiplied with: rows of numbers, and how the weights stand as a matrix beside them.

    Conv             [o, i k]     rows: patches, of each group its own
    ConvTranspose    [i, o k]     rows: the channels of a position, of each group its own
    Gemm, MatMul     [o, i] or [i, o]
    LSTM, GRU, RNN   [d g h, i] and [d g h, h]     rows: steps of the input, and hidden units, of each direction its own
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxzip.net import Node
from onnxzip.ops import find
from onnxzip.ops.records import View
from onnxzip.ops.recurrent import GATES

POSITIONS, ROWS_A_COLUMN = 16, 1 / 16  # of a sample's patches, at least: the same ones in any part of a batch
Values = Sequence[Tensor | None]


@dataclass(frozen=True)
class LayerInputs:
    """What some weights have been multiplied with.

    Attributes:
        rows: [groups, rows, columns], some of all that there were.
        count: how many there were.
        first: whether the columns of the rows stand along the first axis of the weights' matrix.
        height: of that matrix; its other axis is what is left.
    """

    rows: Tensor
    count: int
    first: bool
    height: int


def layer_inputs(node: Node, place: int, inputs: Values, outputs: Sequence[Tensor]) -> LayerInputs | None:
    """What a node's input at a place has been multiplied with; None where it is no matrix of weights.

    Args:
        inputs, outputs: what the node has read and written.
    """
    if node.op in GATES:
        return _of_recurrence(node, place, inputs, outputs)
    if place != 1 or node.op not in _READERS:
        return None
    x, weights = inputs[0], inputs[1]
    assert x is not None and weights is not None
    return _READERS[node.op](node, x.float(), weights, outputs[0])


def _of_conv(node: Node, x: Tensor, weights: Tensor, y: Tensor) -> LayerInputs:
    operator, groups, columns = find(node.op), int(node.attrs["group"]), weights[0].numel()
    assert operator is not None and operator.linear is not None
    shapes = (tuple(x.shape), tuple(weights.shape))
    taps = torch.from_numpy(operator.linear.taps(View(node, shapes, (tuple(y.shape),), (False, True))))
    some = taps[_some(len(taps), columns)]
    padded = torch.nn.functional.pad(x.flatten(2), (0, 1))  # the zero behind the last position is the padding's
    places = some.where(some >= 0, padded.shape[2] - 1).flatten().to(x.device)
    patches = padded.index_select(2, places).reshape(*x.shape[:2], *some.shape)
    rows = patches.transpose(1, 2).reshape(-1, groups, columns).transpose(0, 1)
    return LayerInputs(rows, len(x) * len(taps), False, len(weights))


def _of_transposed(node: Node, x: Tensor, weights: Tensor, y: Tensor) -> LayerInputs:
    columns = len(weights) // int(node.attrs["group"])
    flat = x.flatten(2)
    some = _some(flat.shape[2], columns).to(x.device)
    rows = flat[..., some].transpose(1, 2).reshape(-1, int(node.attrs["group"]), columns).transpose(0, 1)
    return LayerInputs(rows, len(x) * flat.shape[2], True, len(weights))


def _of_gemm(node: Node, x: Tensor, weights: Tensor, y: Tensor) -> LayerInputs:
    return _of_rows(x.T if node.attrs["transA"] else x, weights, not node.attrs["transB"])


def _of_matmul(node: Node, x: Tensor, weights: Tensor, y: Tensor) -> LayerInputs | None:
    return _of_rows(x, weights, True) if weights.ndim == 2 else None


def _of_rows(x: Tensor, weights: Tensor, first: bool) -> LayerInputs:
    rows = x.reshape(-1, x.shape[-1])
    return LayerInputs(rows[None], len(rows), first, len(weights))


def _of_recurrence(node: Node, place: int, inputs: Values, outputs: Sequence[Tensor]) -> LayerInputs | None:
    """Of the weights of the inputs, and of the recurrence; the hidden units before the first step are left out.

    A sequence counts as one row: its steps are alike, and what is wrong in one goes through all that follow. (LSTM, halves of
    `fashion`, 300 steps, two seeds: 0.10 points of test error left; by Adam, without coordinates, 0.37 and 0.22.)
    """
    x, weights = inputs[0], inputs[place]
    if place not in (1, 2) or x is None or weights is None or not node.outputs[0]:
        return None
    directions, height = len(weights), weights.shape[0] * weights.shape[1]
    sequences = x.shape[0 if node.attrs.get("layout") else 1]
    if place == 1:
        rows = x.float().flatten(0, 1).expand(directions, -1, -1)
        return LayerInputs(rows, sequences, False, height)
    hidden = outputs[0].float().movedim(2 if node.attrs.get("layout") else 1, 0).flatten(1, 2)
    return LayerInputs(hidden, sequences, False, height)


def _some(positions: int, columns: int) -> Tensor:
    """Positions that are looked at, no matter in how many samples."""
    wanted = max(POSITIONS, math.ceil(ROWS_A_COLUMN * columns))
    return torch.randperm(positions, generator=torch.Generator().manual_seed(0))[:wanted].sort().values


_READERS: dict[str, Callable[[Node, Tensor, Tensor, Tensor], LayerInputs | None]] = {
    "Conv": _of_conv, "ConvTranspose": _of_transposed, "Gemm": _of_gemm, "MatMul": _of_matmul,
}
