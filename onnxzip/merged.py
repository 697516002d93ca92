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

from onnxzip.exporting.naming import path_of
from onnxzip.exporting.report import to_text
from onnxzip.exporting.shelf import Shelf, beside
from onnxzip.exporting.write import check_unread, write_atomically


@dataclass(frozen=True)
class Merged:
    """A fused net that has passed its verification.

    Attributes:
        content: the file, byte for byte as it was verified; of a net beyond 2 GB without its large params.
        report: what was done, as it goes to JSON.
        shelf: the large params of a net beyond 2 GB; None for any other.
        made_from: files of the nets that it was made from, which `save` leaves alone.
    """

    content: bytes = field(repr=False)
    report: Mapping[str, Any] = field(repr=False)
    shelf: Shelf | None = field(default=None, repr=False)
    made_from: tuple[Path, ...] = field(default=(), repr=False)

    @cached_property
    def model(self) -> ModelProto:
        """The fused net; changes to it are not saved."""
        return onnx.load_from_string(self.content)

    def save(self, path: str | PathLike[str], force: bool = False) -> None:
        """Write the fused net, completely or not at all; one beyond 2 GB with its large params in `path`.data.

        Raises:
            UsageError: it is no path; a file exists (without force), is one that the net was made from, or cannot be written.
        """
        place = path_of(path, "save")
        check_unread([place] if self.shelf is None else [place, beside(place)], self.made_from)
        if self.shelf is None:
            write_atomically(place, self.content, force)
        else:
            self.shelf.save(place, force)

    def save_report(self, path: str | PathLike[str], force: bool = False) -> None:
        """Write the report as JSON, completely or not at all.

        Raises:
            UsageError: the file exists (without force), is one that the net was made from, or cannot be written.
        """
        place = path_of(path, "save_report", "a file")
        check_unread([place], self.made_from)
        write_atomically(place, to_text(self.report).encode(), force)
