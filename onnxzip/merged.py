"""What a merge gives back, and how a fused net becomes a file: one of up to 2 GB, or one with a file of weights beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from onnxzip.analysis import Plan
from onnxzip.errors import UnsupportedError
from onnxzip.exporting.report import to_text
from onnxzip.exporting.shelf import WEIGHTS, Shelf
from onnxzip.exporting.write import write_atomically
from onnxzip.net import Net
from onnxzip.runtime import to_model

LARGEST_FILE = (1 << 31) - 1


@dataclass(frozen=True)
class Merged:
    """A fused net that has passed its verification.

    Attributes:
        content: the file, byte for byte as it was verified; of a net beyond 2 GB without its large params.
        report: what was done, as it goes to JSON.
        shelf: the large params of a net beyond 2 GB; None for any other.
    """

    content: bytes = field(repr=False)
    report: Mapping[str, Any] = field(repr=False)
    shelf: Shelf | None = field(default=None, repr=False)

    @cached_property
    def model(self) -> ModelProto:
        """The fused net; changes to it are not saved."""
        return onnx.load_from_string(self.content)

    def save(self, path: str | PathLike[str], force: bool = False) -> None:
        """Write the fused net, completely or not at all; one beyond 2 GB with its large params in `path`.data.

        Raises:
            UsageError: a file exists (without force) or cannot be written.
        """
        if self.shelf is None:
            write_atomically(Path(path), self.content, force)
        else:
            self.shelf.save(Path(path), force)

    def save_report(self, path: str | PathLike[str], force: bool = False) -> None:
        """Write the report as JSON, completely or not at all.

        Raises:
            UsageError: the file exists (without force) or cannot be written.
        """
        write_atomically(Path(path), to_text(self.report).encode(), force)


def shelf_for(plan: Plan) -> Shelf | None:
    """A shelf for the params of a fused net that one file cannot hold."""
    names = [w.name for w in plan.layout.weights] + [t.name for t in plan.layout.taken]
    return Shelf() if 4 * sum(math.prod(plan.layout.shapes[n]) for n in names) > LARGEST_FILE else None


def to_bytes(net: Net, shelf: Shelf | None = None) -> bytes:
    """A net as the content of its file, less what lies on a shelf; the shelf has that file, too.

    Raises:
        UnsupportedError: an ONNX file cannot be that large.
    """
    places = {} if shelf is None else shelf.places(net.params)
    size = sum(a.nbytes for name, a in net.params.items() if name not in places)
    if size > LARGEST_FILE:
        raise UnsupportedError(f"the fused net has {size:,} bytes of params: more than the 2 GB that one ONNX file can hold")
    content = bytes(to_model(net, places, WEIGHTS).SerializeToString(deterministic=True))
    if shelf is not None:
        shelf.graph.write_bytes(content)
    return content
