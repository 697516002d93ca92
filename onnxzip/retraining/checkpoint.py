"""Checkpoints: everything that a course needs to go on as if it had not been interrupted, in one file, replaced at once.

A checkpoint carries the hash of what it belongs to (net, options, the teachers' answers on the rows that judge), and is
refused elsewhere. It holds tensors and plain values only and is read without executing anything.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxzip.errors import UsageError
from onnxzip.exporting.write import write_atomically
from onnxzip.peers import Peers
from onnxzip.retraining.batches import Stream

FORMAT = 1


@dataclass(frozen=True)
class Keeper:
    """Where checkpoints go.

    Attributes:
        path: of the file; None for no checkpoints.
        every: steps between two.
        belongs: hash of what they belong to.
        peers: the processes that train together; the first one keeps the file.
        note: is told of checkpoints that cannot be written.
    """

    path: Path | None
    every: int
    belongs: str
    peers: Peers
    note: Callable[[str], None]

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, completely or not at all: a disk that is full must not cost what has been learned."""
        if self.path is not None and self.peers.leads:
            buffer = io.BytesIO()
            torch.save({"format": FORMAT, "belongs": self.belongs, **state}, buffer)
            try:
                write_atomically(self.path, buffer.getvalue(), force=True)
            except UsageError as error:
                self.note(f"the retraining goes on without a checkpoint of step {state['step']}: {error}")

    def load(self) -> dict[str, Any]:
        """What the file holds, for all processes.

        Raises:
            UsageError: there is none, it is damaged, or it belongs to something else.
        """
        if self.path is None:
            raise UsageError("--resume needs --checkpoint FILE: the checkpoint to go on from")
        content = content_of(self.path) if self.peers.leads else b""
        told = self.peers.gather("checkpoint", {"content": np.frombuffer(content, np.uint8)})["content"]
        try:
            state = torch.load(io.BytesIO(told.tobytes()), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise UsageError(f"{self.path}: is no checkpoint that can be read. Leave --resume out to begin anew.") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise UsageError(f"{self.path}: is no checkpoint of this version. Leave --resume out to begin anew.")
        if state["belongs"] != self.belongs:
            raise UsageError(
                f"{self.path}: belongs to another net, other data or other options. Give those it was made with, or leave "
                "--resume out to begin anew."
            )
        return state


def content_of(path: Path) -> bytes:
    """What is in the file of a checkpoint.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such checkpoint. Leave --resume out to begin.") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error


def belonging(content: bytes, options: Iterable[object], streams: Iterable[Stream]) -> str:
    """Hash of a fused file, of options, and of the rows that judge with the teachers' answers."""
    digest = hashlib.sha256(content)
    digest.update(repr(tuple(options)).encode())
    for stream in streams:
        digest.update(repr((stream.pool.tasks, len(stream.pool.order))).encode())
        for portion in stream.judging():
            for name, tensor in (*portion.feeds.items(), *portion.targets.items()):
                digest.update(name.encode())
                digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
