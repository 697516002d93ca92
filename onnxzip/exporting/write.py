"""Writing a result: completely or not at all, never over a file that is in the way, and never over what was read."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from onnxzip.errors import UsageError
from onnxzip.loading.beside import with_external_data

PART = ".part"  # ending of what is not complete; it begins with a dot, and is short, for the longest name that a file can have


def check_outputs(
    outputs: Sequence[Path], nets: Iterable[str | PathLike[str]], others: Iterable[Path] = (), force: bool = False
) -> None:
    """Refuse before long work what could not be written after it, and what would overwrite an input.

    Raises:
        UsageError: as `check_unread` and `check_writable`; two outputs are the same.
    """
    check_unread(outputs, nets, others)
    for k, path in enumerate(outputs):
        if os.path.realpath(path) in map(os.path.realpath, outputs[:k]):
            raise UsageError(f"{path}: is given twice as a place to write to")
        check_writable(path, force)


def check_unread(outputs: Iterable[Path], nets: Iterable[str | PathLike[str]], others: Iterable[Path] = ()) -> None:
    """Refuse to write to what is read: nets, their external data, and other files.

    Raises:
        UsageError: an output is one of them.
    """
    read = {os.path.realpath(p) for p in (*with_external_data(nets), *others)}
    for path in outputs:
        if os.path.realpath(path) in read:
            raise UsageError(f"{path}: is read by this command; write to another file")


def check_writable(path: Path, force: bool = False) -> None:
    """Find out before long work whether `path` can be written.

    Raises:
        UsageError: it is a directory or no regular file, exists (without force), cannot be the name of a file, or its folder
            is missing or not writable.
    """
    place = place_of(path)
    folder, kind = place.parent, _kind_of(place, path)
    if kind == stat.S_IFDIR:
        raise UsageError(f"{path}: is a directory. Give the name of a file.")
    if not os.path.isdir(folder):
        raise UsageError(f"{path}: the folder {folder} does not exist. Make it first.")
    if kind == stat.S_IFLNK:
        raise UsageError(f"{path}: is a link that leads to itself. Name a file.")
    if kind not in (None, stat.S_IFREG):
        raise UsageError(f"{path}: is no regular file but a device, a pipe or a socket. Name a file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the folder {folder} is not writable.")
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path}: exists already. Use --force, in Python force=True, to replace it.")


def place_of(path: Path) -> Path:
    """Where what is written to a path goes: a link stays, and what it leads to is replaced."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def write_atomically(path: Path, data: bytes, force: bool = False) -> None:
    """Put `data` into a file; whoever looks sees the old file or the whole new one.

    Raises:
        UsageError: as `check_writable`, or the system refuses (disk full); nothing is left behind.
    """
    check_writable(path, force)
    place = place_of(path)
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=PART, dir=place.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(mode_of(place))
            os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}.") from error


def mode_of(path: Path, folder: bool = False) -> int:
    """Permissions of what is replaced, else those that the umask gives a new file or folder."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return (0o777 if folder else 0o666) & ~mask


def _kind_of(place: Path, path: Path) -> int | None:
    """What stands in a place, as `stat` calls it; None for nothing. `path` is what messages call it.

    Raises:
        UsageError: nothing can stand there.
    """
    try:
        return stat.S_IFMT(os.lstat(place).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}.") from error
