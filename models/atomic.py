"""A file appears under its name only when it is complete: write beside it, then rename.

A reader (or a run that is cut off) therefore never meets half a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path in the same folder, with the same suffix, to write to; rename it to ``path`` on success.

    Args:
        path: the final name of the file.

    Yields:
        The temporary path. If the body raises, the temporary file is removed and ``path`` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
