"""Results of several files: made in a hidden folder beside their place, checked there, then moved; or nothing is left.

A rename is atomic, so whoever looks sees a whole file or folder, old or new. What is replaced waits in the hidden folder until
the new one is in its place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from onnxzip.errors import UsageError
from onnxzip.exporting.write import PART, mode_of, place_of


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A folder for what will be moved to `path`, on the same disk; it is gone afterwards, with all that is left in it.

    Raises:
        UsageError: the system refuses (disk full).
    """
    try:
        stage = Path(tempfile.mkdtemp(prefix=".", suffix=PART, dir=place_of(path).parent))
        try:
            yield stage
        finally:
            shutil.rmtree(stage)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}.") from error


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files by name into a folder, on the disk when it returns."""
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def put(parts: Mapping[Path, Path], stage: Path) -> None:
    """Move staged files and folders to their places, in order: if one cannot be moved, all are as before.

    Args:
        parts: what is staged -> its place. What stands there is replaced; a link stays, and leads to what is new.
        stage: the folder they are staged in.
    """
    with ExitStack() as undo:
        for k, (part, place) in enumerate((part, place_of(path)) for part, path in parts.items()):
            part.chmod(mode_of(place, folder=part.is_dir()))
            for inner in part.rglob("*"):  # some libraries keep what they write to themselves
                inner.chmod(mode_of(place / inner.relative_to(part), folder=inner.is_dir()))
            old = stage / f"replaced.{k}" if place.exists() else None
            undo.callback(_take_back, place, old, stage / f"taken back.{k}")
            if old is not None:
                os.rename(place, old)
            os.rename(part, place)
        undo.pop_all()


def _take_back(place: Path, old: Path | None, aside: Path) -> None:
    """Undo one move, as far as it was made."""
    if old is None or old.exists():
        if place.exists():
            os.rename(place, aside)
        if old is not None:
            os.rename(old, place)
