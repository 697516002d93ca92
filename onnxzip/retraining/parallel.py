"""The losses of a batch that several processes share: gradients become their mean over all of them (DistributedDataParallel).

Each process weighs its mean loss by its part of the batch, so that this mean is the gradient of the whole batch's mean loss.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from onnxzip.peers import Peers
from onnxzip.retraining.losses import Losses

# A net's buffers are constants: none of them need be sent. What says so is called differently from torch 2.13 on.
_KEEP_BUFFERS: dict[str, Any] = next(
    {name: False}
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


def shared(losses: Losses, peers: Peers) -> nn.Module:
    """The losses themselves, or wrapped for several processes."""
    if peers.size == 1:
        return losses
    return DistributedDataParallel(losses, find_unused_parameters=not all_used(losses), **_KEEP_BUFFERS)


def all_used(losses: Losses) -> bool:
    """Whether every param that is trained has a part in some loss."""
    used = set(losses.net.reading.program([h.output for h in losses.heads]).given)
    return all(name in used for name, param in losses.net.params().items() if param.requires_grad)
