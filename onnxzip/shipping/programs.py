"""A net as a program of torch.export: what PyTorch's own converters start from. Outputs are a tuple, in the net's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from onnxzip.retraining.module import TorchNet, read_module
from onnxzip.shipping.records import Arrays
from onnxzip.shipping.records import Tensor as Port


class _InOrder(nn.Module):
    """A net with its outputs in order instead of by name."""

    def __init__(self, net: TorchNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net(*inputs).values())


def write_program(content: bytes, inputs: Sequence[Port], path: Path) -> None:
    """Trace a net with static shapes and write the program.

    Raises:
        UnsupportedError: operators in it have no torch function; all of them are named.
    """
    module = _InOrder(read_module(content)).requires_grad_(False).eval()
    samples = tuple(torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in inputs)
    with torch.no_grad():
        torch.export.save(torch.export.export(module, samples), path)


def open_program(path: Path, names: Sequence[str]) -> Callable[[Arrays], Arrays]:
    """What computes outputs by name with a written program, in torch."""
    module = torch.export.load(path).module()

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            found = module(*(torch.tensor(array) for array in inputs.values()))
        return {name: value.numpy() for name, value in zip(names, found, strict=True)}

    return run
