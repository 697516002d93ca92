"""Which processes do a job together: ranks where torchrun started this one, shards where asked for, else this one alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from onnxzip.config import JobOptions, WaitOptions
from onnxzip.distributed.exchange import Exchange
from onnxzip.errors import UsageError
from onnxzip.ops.lazy import execute, torch
from onnxzip.peers import ALONE, Peers


def under_torchrun() -> bool:
    """Whether torchrun, or whoever sets the same variables, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def joined(options: JobOptions, wait: WaitOptions, device: str) -> Iterator[Peers]:
    """The processes of a job, meanwhile; an error in one of them ends all.

    Args:
        device: `cpu` keeps GPUs out of it.

    Raises:
        UsageError: torchrun and --shard at once.
        PeerError: another process has ended.
    """
    if not under_torchrun():
        yield exchange_of(options, wait)
        return
    if options.shard is not None:
        raise UsageError("--shard is for processes that torchrun has not started; leave out one of both")
    execute(torch)
    from onnxzip.distributed.ranks import Ranks, is_lost, lost

    ranks = Ranks(device, wait.exchange_timeout)
    try:
        yield ranks
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process is ending: let it say why
        ranks.end(error)
        if is_lost(error):
            raise lost(error) from error
        raise
    ranks.end(None)


def exchange_of(options: JobOptions, wait: WaitOptions) -> Peers:
    """The shards of a folder, or one process alone."""
    if options.shard is None or options.exchange is None:
        return ALONE
    place, size = options.shard
    return Exchange(options.exchange, place - 1, size, wait.exchange_timeout)
