"""Results of several files: made in a hidden folder beside their place, checked there, then moved; or nothing is left.

A rename is atomic, so whoever looks sees a whole file or folder, old or new. What is replaced waits in the hidden folder until
the new one is in its place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from onnxzip.errors import UsageError
from onnxzip.exporting.write import PART, check_outputs, mode_of, place_of
from onnxzip.signals import undisturbed

Fill = Callable[[Path], None]  # makes the file whose path it is given, on the disk when it returns


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
            with undisturbed():
                shutil.rmtree(stage)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}.") from error


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files by name into a folder, on the disk when it returns."""
    for name, content in files.items():
        write(content, folder / name)


def write(content: bytes, path: Path) -> None:
    """A file, on the disk when it returns."""
    with written(path) as file:
        file.write(content)


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, on the disk afterwards."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_together(files: Sequence[tuple[Path, Fill]], force: bool = False) -> None:
    """Write all of these files, or none: each is made in a hidden folder beside its place; once all are there, all are moved.

    Raises:
        UsageError: as `check_outputs`, or the system refuses (disk full); everything is as before then.
        KeyboardInterrupt: as `put`.
    """
    check_outputs([path for path, _ in files], (), force=force)
    parts: dict[Path, Path] = {}
    with ExitStack() as stages:
        for path, fill in files:
            part = stages.enter_context(staged(path)) / "part"
            fill(part)
            parts[part] = path
        put(parts)


def put(parts: Mapping[Path, Path]) -> None:
    """Move staged files and folders to their places, in order: if one cannot be moved, all are as before.

    Args:
        parts: what is staged -> its place. What stands there is replaced; a link stays, and leads to what is new.

    Raises:
        UsageError: the system refuses.
        KeyboardInterrupt: a signal has come meanwhile; all are in their places, and it says so.
    """
    try:
        with undisturbed():
            _move(parts)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; the result was written") from error


def _move(parts: Mapping[Path, Path]) -> None:
    with ExitStack() as undo:
        for part, path in parts.items():
            place = place_of(path)
            try:
                part.chmod(mode_of(place, folder=part.is_dir()))
                for inner in part.rglob("*"):  # some libraries keep what they write to themselves
                    inner.chmod(mode_of(place / inner.relative_to(part), folder=inner.is_dir()))
                old = Path(tempfile.mkdtemp(dir=part.parent)) / "old" if place.exists() else None
                undo.callback(_take_back, part, place, old)
                if old is not None:
                    os.rename(place, old)
                os.rename(part, place)
            except OSError as error:
                raise UsageError(f"{path}: cannot be written: {error.strerror or error}.") from error
        undo.pop_all()


def _take_back(part: Path, place: Path, old: Path | None) -> None:
    """Undo one move, as far as it was made."""
    if old is None or old.exists():
        if place.exists():
            os.rename(place, part)
        if old is not None:
            os.rename(old, place)
