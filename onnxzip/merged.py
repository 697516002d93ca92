"""What a merge gives back: a fused net that becomes one file, or beyond 2 GB two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from onnxzip.exporting.naming import path_of
from onnxzip.exporting.report import to_text
from onnxzip.exporting.shelf import Shelf
from onnxzip.exporting.staging import Fill, write, write_together
from onnxzip.exporting.write import check_unread
from onnxzip.values import file_of


@dataclass(frozen=True)
class Merged:
    """A fused net that has passed its verification.

    Attributes:
        content: the file, byte for byte as it was verified; of a net beyond 2 GB without its large params.
        report: what was done, as it goes to JSON.
        shelf: the large params of a net beyond 2 GB; None for any other.
        made_from: files of the nets that it was made from; read: other files that were read for it, data and modules. `save`
            leaves all of them alone.
    """

    content: bytes = field(repr=False)
    report: Mapping[str, Any] = field(repr=False)
    shelf: Shelf | None = field(default=None, repr=False)
    made_from: tuple[Path, ...] = field(default=(), repr=False)
    read: tuple[Path, ...] = field(default=(), repr=False)

    @cached_property
    def model(self) -> ModelProto:
        """The fused net; changes to it are not saved."""
        return onnx.load_from_string(self.content)

    def save(self, path: str | PathLike[str], force: bool = False, report: str | PathLike[str] | None = None) -> None:
        """Write the fused net, completely or not at all; one beyond 2 GB with its large params in `path`.data.

        Args:
            path: of the net.
            force: whether files may be replaced.
            report: where the report goes, too: all of these files are written, or none.

        Raises:
            UsageError: it is no path; a file exists (without force), was read for it (a net, data), or cannot be written.
        """
        place = _place(path, "save", "an ONNX file")
        net = [(place, partial(write, self.content))] if self.shelf is None else self.shelf.files(place)
        self._save(net + ([self._report_in(_place(report, "save", "a file"))] if report is not None else []), force)

    def save_report(self, path: str | PathLike[str], force: bool = False) -> None:
        """Write the report as JSON, completely or not at all.

        Raises:
            UsageError: the file exists (without force), was read for it (a net, data), or cannot be written.
        """
        self._save([self._report_in(_place(path, "save_report", "a file"))], force)

    def _report_in(self, path: Path) -> tuple[Path, Fill]:
        return path, partial(write, to_text(self.report).encode())

    def _save(self, files: Sequence[tuple[Path, Fill]], force: bool) -> None:
        check_unread([path for path, _ in files], self.made_from, self.read)
        write_together(files, force)


def _place(given: str | PathLike[str], what: str, of: str) -> Path:
    """Where a file goes, told by a path, which a name of a folder is not."""
    path_of(given, what, of)
    return file_of(given)
