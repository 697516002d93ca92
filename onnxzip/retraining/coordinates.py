"""Coordinates of weights in which all directions of a layer's inputs are equally strong.

    W' = W S,   S = ((G + l g) / (1 + l) g)^1/2          G: mean of x x' over the layer's inputs x;  g: mean of its diagonal

A step of one strength in W' moves what the layer *computes* evenly; in W it hardly moves what the weak directions of x say,
which is most of them: a few directions hold nearly all of x. (G as a preconditioner: Martens and Grosse 2015, arXiv
1503.05671, and alone, without the gradients' own, Benzing 2022, arXiv 2201.12250; here it turns what the optimizer then makes
orthogonal.)

    l = LEAST + columns / rows of a step

What a step tells of a direction is noise by so much: with 784 inputs and 128 rows a small l destroys a good start, where 128
images have 200,000 rows it is of use. Held-out loss over the start's after 100 steps at a rate of 0.0046, one seed, halves of
`fashion`, in the coordinates of the weights / with LEAST = 0, 0.03 and 0.1: LeNet-300-100 0.648 / 0.591, 0.591; LeNet-5 0.723
/ 0.713, 0.703, 0.701; MobileNetV2-like 0.542 / 0.466, 0.461, 0.476; with LEAST = 0.01 and 0.03 VGG-like 0.748 / 0.729, 0.722,
ResNet-like 0.589 / 0.449, 0.449. Three or ten times the noise: MobileNetV2-like 0.472, 0.469, LeNet-5 0.717, 0.726. Steps as
long as before turning, or a fraction of what the layer computes instead of its weights: MobileNetV2-like 0.526, 0.463,
LeNet-5 0.726, 0.848. From random weights, 300 steps, points of test error: LeNet-5 1.91 / 1.15, MobileNetV2-like 2.95 / 2.14.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from onnxzip.net import Node
from onnxzip.peers import ALONE, Peers
from onnxzip.retraining.batches import Batch
from onnxzip.retraining.layer_inputs import layer_inputs
from onnxzip.retraining.losses import Losses

BATCHES = 4  # that tell what layers read
LEAST = 0.03
WIDEST = 2304  # columns; wider layers are trained in the coordinates of their weights: eigenvectors take the cube of it


@dataclass(frozen=True)
class Coordinates:
    """Of the weights of one layer.

    Attributes:
        root: S^-1 of each group: [groups, columns, columns].
        first: whether the layer's inputs stand along the first axis of the weights' matrix.
        height: of that matrix.
    """

    root: Tensor
    first: bool
    height: int

    def turned(self, matrix: Tensor) -> Tensor:
        """The matrix times S^-1: of a gradient by W the one by W', of a step of W' the one of W."""
        parts = matrix.reshape(len(self.root), -1, matrix.shape[-1])
        return (self.root @ parts if self.first else parts @ self.root).reshape(matrix.shape)


@torch.no_grad()
def coordinates_of(losses: Losses, batches: Sequence[Batch], peers: Peers = ALONE) -> dict[Tensor, Coordinates]:
    """Those of all layers whose inputs can be told, by their weights.

    Args:
        losses: of the net at the start.
        batches: what this process sees of some steps; its peers see the rest of them.
    """
    trained = {n: p for n, p in losses.net.params().items() if p.requires_grad}
    seen = _Seen(trained)
    for portion in (p for batch in batches for p in batch):
        with losses.net.watched(seen):
            losses.outputs(portion)
    found: dict[Tensor, Coordinates] = {}
    for name in [n for n in trained if n in seen.matrices and n not in seen.mixed]:
        here = {"square": seen.squares.pop(name).cpu().numpy(), "counts": seen.counts[name]}
        whole = peers.sum(f"inputs of {name}", here)
        taken, rows = whole["counts"]
        noise = whole["square"].shape[-1] / (rows / len(batches))
        root = _root(torch.tensor(whole["square"] / taken, device=trained[name].device), LEAST + noise)
        if root is not None:
            found[trained[name]] = Coordinates(root.float(), *seen.matrices[name])
    return found


def room_for(params: Iterable[Tensor]) -> int:
    """Bytes that the coordinates of params take at most."""
    return sum(4 * min(max(len(p), p[0].numel()), WIDEST) ** 2 for p in params if p.ndim > 1)


class _Seen:
    """Sums over what layers read, by the names of their weights.

    Args:
        trained: weights by name.
    """

    def __init__(self, trained: Mapping[str, Tensor]) -> None:
        self.trained = trained
        self.matrices: dict[str, tuple[bool, int]] = {}  # of `LayerInputs`: first, height
        self.mixed: set[str] = set()  # those that stand in different ways in several layers
        self.squares: dict[str, Tensor] = {}  # [groups, columns, columns]
        self.counts: dict[str, np.ndarray] = {}  # rows that were looked at, all rows

    def __call__(self, node: Node, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
        """A node has been run."""
        for place, name in enumerate(node.inputs):
            read = layer_inputs(node, place, inputs, outputs) if name in self.trained else None
            if name is None or read is None or read.rows.shape[-1] > WIDEST:
                continue
            square = (read.rows.mT @ read.rows).double()
            matrix = (read.first, read.height)
            if self.matrices.setdefault(name, matrix) != matrix or self.squares.get(name, square).shape != square.shape:
                self.mixed.add(name)
                continue
            count = np.array([read.rows.shape[1], read.count], np.int64)
            self.squares[name] = self.squares[name] + square if name in self.squares else square
            self.counts[name] = self.counts[name] + count if name in self.counts else count


def _root(covariance: Tensor, damping: float) -> Tensor | None:
    """S^-1 for [groups, n, n]; None for a group without any inputs, or with infinite ones."""
    size = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None]
    if not bool((size > 0).all() and covariance.isfinite().all()):
        return None
    strengths, axes = torch.linalg.eigh(covariance)
    strengths = (strengths.clamp_min(0) / size + damping) / (1 + damping)
    root: Tensor = (axes * strengths.rsqrt()[:, None, :]) @ axes.mT
    return root
