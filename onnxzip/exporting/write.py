"""Writing a result: completely or not at all, never over a file that is in the way."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from onnxzip.errors import UsageError


def check_writable(path: Path, force: bool = False) -> None:
    """Find out before long work whether `path` can be written.

    Raises:
        UsageError: it is a directory, exists (without force), or its folder is missing or not writable.
    """
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"{path}: is a directory. Give the name of a file.")
    if not folder.is_dir():
        raise UsageError(f"{path}: the folder {folder} does not exist. Make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the folder {folder} is not writable.")
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already. Use --force to replace it.")


def write_atomically(path: Path, data: bytes, force: bool = False) -> None:
    """Put `data` into a file; whoever looks sees the old file or the whole new one.

    Raises:
        UsageError: as `check_writable`, or the system refuses (disk full); nothing is left behind.
    """
    check_writable(path, force)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(mode_of(path))
            os.replace(part, path)
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
