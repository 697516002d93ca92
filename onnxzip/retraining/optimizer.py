"""How weights move: each tensor by a set fraction of its own size, in directions that are all of one strength.

    matrices  m <- mu m + g;  w <- w - rate |w0| orth((g + mu m) S^-1) S^-1        orth(U S V') = sqrt(longer side) U V'
    the rest  Adam with rate |w0| instead of one rate for all          |w0| = root mean square of the tensor at the start

S are the coordinates of a layer (`onnxzip.retraining.coordinates`), 1 where it has none. Convolution kernels are matrices
[out, in * kernel]. The factor U V' is found by five steps of Newton and Schulz (Jordan 2024,
"Muon"), on a block's Gram matrix alone, in blocks of at most `BLOCK` rows: with a whole [300, 784] a step of LeNet-300-100
takes 2.4 times as long as in blocks, and learns no more. In blocks of 32 rows it learns less a step (loss after 300 steps,
LeNet-5, fashion + digits: 0.076 instead of 0.067; LeNet-300-100, fashion halves: 0.037 instead of 0.029). mu = 0.9: held-out
loss of LeNet-300-100 after 300 steps, over the start's, mean of four pairs, 0.49, with 0.95 0.51. Against Adam (rate 0.001)
after 300 steps, LeNet-300-100, mean of four pairs, mu = 0.95: 0.45 points of test error, Adam 0.56; loss 0.59, Adam 0.70.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onnxzip.retraining.coordinates import Coordinates

MOMENTUM, BETAS = 0.9, (0.9, 0.95)
BLOCK = 128  # rows
SMALLEST_MATRIX = 4  # shorter side; below it a matrix has too few directions
LEAST_SIZE, LEAST_BIAS = 1e-3, 3e-2
_NEWTON = (3.4445, -4.7750, 2.0315)
_EPSILON = 1e-8


class Proportional(torch.optim.Optimizer):
    """See the module.

    Args:
        params: those to train.
        rate: fraction of its size that a tensor moves in a step.
        coordinates: of weights that have them.
    """

    def __init__(
        self, params: Iterable[Tensor], rate: float, coordinates: Mapping[Tensor, Coordinates] | None = None
    ) -> None:
        super().__init__(params, {"lr": rate})
        self.coordinates = {} if coordinates is None else coordinates

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every param that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, param.grad, self.state[param], group["lr"])

    def _move(self, param: Tensor, gradient: Tensor, state: dict[str, Any], rate: float) -> None:
        coordinates = self.coordinates.get(param)
        height = len(param) if coordinates is None else coordinates.height
        matrix = is_matrix(param, height)
        if not state:
            state["size"] = float(param.square().mean().sqrt())
            state["steps"] = 0
            state["mean"] = torch.zeros_like(param)
            if not matrix:
                state["square"] = torch.zeros_like(param)
        state["steps"] += 1
        if matrix:
            state["mean"].mul_(MOMENTUM).add_(gradient)
            ahead = (gradient + MOMENTUM * state["mean"]).reshape(height, -1)
            turned: Callable[[Tensor], Tensor] = _as_it_is if coordinates is None else coordinates.turned
            direction = turned(orthogonal(turned(ahead)))
            param.add_(direction.reshape(param.shape), alpha=-rate * max(state["size"], LEAST_SIZE))
            return
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        mean, square = (state[k] / (1 - b ** state["steps"]) for k, b in zip(("mean", "square"), BETAS, strict=True))
        param.addcdiv_(mean, square.sqrt() + _EPSILON, value=-rate * max(state["size"], LEAST_BIAS))


def _as_it_is(matrix: Tensor) -> Tensor:
    return matrix


def is_matrix(param: Tensor, height: int) -> bool:
    """Whether a param has rows and columns enough, being a matrix of a height."""
    return param.ndim >= 2 and min(height, param.numel() // max(height, 1)) >= SMALLEST_MATRIX


def orthogonal(matrix: Tensor) -> Tensor:
    """Directions of one strength: blocks of rows with all of their singular values near 1, in entries of size about 1."""
    a, b, c = _NEWTON
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    count = -(-len(wide) // BLOCK)
    height = -(-len(wide) // count)
    x = nn.functional.pad(wide, (0, 0, 0, count * height - len(wide))).reshape(count, height, -1)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + torch.finfo(x.dtype).tiny)
    square, unit = x @ x.mT, torch.eye(height, dtype=x.dtype, device=x.device)
    product = unit.expand(count, -1, -1)
    for _ in range(5):
        factor = a * unit + torch.baddbmm(square, square, square, beta=b, alpha=c)
        product, square = factor @ product, factor @ square @ factor
    found: Tensor = (product @ x).reshape(count * height, -1)[: len(wide)] * max(matrix.shape) ** 0.5
    return found if wide is matrix else found.T
