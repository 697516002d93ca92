"""Files in ONNX Runtime, run by callers who have the samples in front, wherever the files have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from mmap import ACCESS_READ, mmap
from pathlib import Path

import onnx
from onnx import ModelProto

from onnxzip.loading.fixing import NONE_FIXED, Fixed
from onnxzip.loading.in_front import AXES, axes_of
from onnxzip.runtime import Session, open_file


def opened(
    name: str, file: Path | bytes, device: str, axes: Mapping[str, int] | None = None, fixed: Fixed = NONE_FIXED,
    folder: Path | None = None,
) -> Session:
    """A file, or what is in one, in ONNX Runtime.

    Args:
        name: for messages.
        axes: along which the file has its samples; None for what it tells, if it is a fused one.
        fixed: inputs that are one number, which is fed to every run.
        folder: of what is in a file, where its params lie beside it.

    Raises:
        UsageError, BackendMissingError, UnsupportedError: as `open_file`.
    """
    session = open_file(name, file, device, folder=folder)
    if axes is None and _holds(file, AXES.encode()):
        axes = axes_of(ModelProto.FromString(file) if isinstance(file, bytes) else onnx.load(file, load_external_data=False))
    return replace(session, axes=axes or {}).fixed_at(fixed)


def _holds(file: Path | bytes, text: bytes) -> bool:
    """Whether a text stands in a file: most tell nothing of axes, and need not be read for it."""
    if isinstance(file, bytes):
        return text in file
    with file.open("rb") as opened_file, mmap(opened_file.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(text) >= 0
