"""Ranks of torch.distributed, as torchrun starts them: gloo between CPUs, nccl between GPUs.

Every collective begins with a word from each rank: that it is well, or the error that ends it. So an error on one rank ends
all of them with its exit code. A rank that is killed says nothing; then its closed connections end the others.
"""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from onnxzip.errors import OnnxzipError, PeerError, RelayedError, UsageError
from onnxzip.peers import Arrays, Peers, differing

_WELL, _ASKED, _FAILED = range(3)
CHUNK = 16 << 20  # numbers that travel at once
Result = TypeVar("Result")


class Ranks(Peers):
    """The process group that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, ...).

    Args:
        device: `cpu` keeps GPUs out of it.
        timeout: seconds after which a silent rank is given up.
    """

    def __init__(self, device: str, timeout: float) -> None:
        self.neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        backend = "gloo" if device == "cpu" else _own_gpu(self.neighbours)
        self._kept(lambda: dist.init_process_group(backend, timeout=timedelta(seconds=timeout)))
        self.place, self.size = dist.get_rank(), dist.get_world_size()

    def begin(self, job: Callable[[], Mapping[str, object]], samples: Callable[[], str]) -> None:
        """See `Peers`."""
        mine = dict(job())
        self._well()
        jobs: list[Mapping[str, object]] = [{}] * self.size
        self._kept(lambda: dist.all_gather_object(jobs, mine))
        for place, other in enumerate(jobs):
            if differing(jobs[0], other):
                raise UsageError(
                    f"process {place} does another job than process 0 ({differing(mine, other if self.leads else jobs[0])}). "
                    "Start all processes with the same command on the same files."
                )

    def any(self, mine: bool) -> bool:
        """See `Peers`."""
        return self._well(asked=mine)

    def sum(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """See `Peers`."""
        self._well()
        found = {key: np.array(array, order="C") for key, array in arrays.items()}
        for part in _parts(found):
            self._kept(partial(dist.all_reduce, part))
        return found

    def gather(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """See `Peers`."""
        self._well()
        lengths = np.zeros((len(arrays), self.size), np.int64)
        lengths[:, self.place] = [len(a) for a in arrays.values()]
        self._kept(lambda: dist.all_reduce(torch.from_numpy(lengths)))
        found = {}
        for (key, array), counts in zip(arrays.items(), lengths, strict=True):
            ends = np.cumsum(counts)
            found[key] = np.zeros((ends[-1], *array.shape[1:]), array.dtype)
            for place, (end, count) in enumerate(zip(ends, counts, strict=True)):
                rows = found[key][end - count : end]
                if place == self.place:
                    rows[...] = array
                self._send({key: rows}, place)
        return found

    def first(self, name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        """See `Peers`."""
        self._well()
        found = {key: np.array(array, order="C") for key, array in arrays.items()}
        self._send(found, 0)
        return found

    def end(self, error: BaseException | None) -> None:
        """Part from the others, or tell them what ends this rank; of several errors the first rank's counts.

        Raises:
            RelayedError: another rank has failed, and reports it.
        """
        silent = isinstance(error, PeerError) or not (error is None or isinstance(error, OnnxzipError))
        try:
            if not silent:
                self._well(error)
        except RelayedError as relayed:
            error = relayed
            raise
        except PeerError:
            if error is None:
                raise  # else what has happened here counts, though nobody is left to be told
        finally:
            if isinstance(error, RelayedError):
                self._linger()
            _part(error)

    def _linger(self) -> None:
        """Wait until the rank that reports the error parts: torchrun stops all others when the first has ended."""
        with suppress(RuntimeError):
            dist.all_reduce(torch.zeros(1))

    def _well(self, error: BaseException | None = None, asked: bool = False) -> bool:
        """Tell the others how it stands here and hear how it stands there; whether any rank has asked for something.

        Raises:
            RelayedError: a rank has failed.
        """
        states = np.zeros(self.size, np.int64)
        states[self.place] = _FAILED if error is not None else _ASKED if asked else _WELL
        self._kept(lambda: dist.all_reduce(torch.from_numpy(states)))
        if _FAILED not in states:
            return _ASKED in states
        words: list[tuple[str, int] | None] = [None] * self.size
        code = error.exit_code if isinstance(error, OnnxzipError) else 0
        self._kept(lambda: dist.all_gather_object(words, (str(error), code) if error is not None else None))
        place, (message, exit_code) = next((p, word) for p, word in enumerate(words) if word is not None)
        if place != self.place:
            raise RelayedError(place, message, exit_code)
        return False

    def _send(self, arrays: Mapping[str, np.ndarray], source: int) -> None:
        for part in _parts(arrays):
            self._kept(partial(dist.broadcast, part, source))

    def _kept(self, call: Callable[[], Result]) -> Result:
        """A collective whose failure means that another process is gone."""
        try:
            return call()
        except (RuntimeError, ValueError) as error:
            raise lost(error) from error


def _part(error: BaseException | None) -> None:
    """Leave the group. Whom nobody told anything notices by the closed connections.

    Whatever still holds the group is let go first: a group that outlives this call aborts the interpreter at its exit.
    """
    if error is not None:
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    dist.destroy_process_group()


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another rank is gone, where torch itself had to do with it."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def lost(error: BaseException) -> PeerError:
    """The same for people."""
    told = " ".join(str(error).split())[:200]
    return PeerError(f"another process of this job has ended or cannot be reached ({told}). Start all of them again.")


def _parts(arrays: Mapping[str, np.ndarray]) -> Iterator[torch.Tensor]:
    """Contiguous arrays in portions, as tensors over the same memory."""
    for array in arrays.values():
        flat = torch.from_numpy(array).view(-1)
        yield from (flat[start : start + CHUNK] for start in range(0, len(flat), CHUNK))


def _own_gpu(neighbours: int) -> str:
    """Let this process see one GPU alone; the backends that suit them. nccl takes no two ranks on one GPU."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [d for d in seen.split(",") if d] if seen is not None else [str(k) for k in range(torch.cuda.device_count())]
    if not devices:
        return "gloo"
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(os.environ.get("LOCAL_RANK", "0")) % len(devices)]
    return "cpu:gloo,cuda:nccl" if neighbours <= len(devices) and dist.is_nccl_available() else "gloo"
