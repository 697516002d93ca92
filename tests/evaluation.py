"""Nets computed in torch, by the functions of their operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from onnxzip.net import Net
from onnxzip.ops.evaluate import program_of

NOTHING: Mapping[str, torch.Tensor] = {}


def evaluate(net: Net, feeds: Mapping[str, Any], params: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """The net's outputs by name.

    Args:
        params: tensors in place of the net's params, by name: those that are trained.
    """
    constants = {k: torch.tensor(v) for k, v in net.params.items() if k not in params}
    return program_of(net).run({**constants, **params, **feeds})
