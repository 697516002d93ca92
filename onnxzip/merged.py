"""What a merge gives back: a fused net that becomes one file, or beyond 2 GB two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from onnxzip.exporting.report import to_text
from onnxzip.exporting.shelf import Shelf
from onnxzip.exporting.write import write_atomically


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
