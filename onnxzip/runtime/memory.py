"""Memory of this process: how much it was, and what is free of it but not given back.

The C library of Linux keeps freed blocks of up to 32 MB for itself, and a weight or an activation is one. Measured: loading
two nets of 100 MB leaves 690 MB behind that nothing uses. `malloc_trim` returns them; elsewhere there is nothing to do.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

try:
    import resource
except ImportError:  # of Unix alone
    resource = None  # type: ignore[assignment]


def give_back_freed() -> None:
    """Return what is free to the system."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


def let_go(arrays: Iterable[np.ndarray]) -> None:
    """Take the pages of mapped files out of memory; whoever reads them again gets them again."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for array in arrays:
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            array.base.madvise(mmap.MADV_DONTNEED)


@lru_cache(maxsize=1)
def _c_library() -> ctypes.CDLL | None:
    """The C library, where it has `malloc_trim`."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "malloc_trim") else None


def peak_rss_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not tell (Windows)."""
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
