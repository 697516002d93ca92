"""Memory that is free but not given back.

The C library of Linux keeps freed blocks of up to 32 MB for itself, and a weight or an activation is one. Measured: loading
two nets of 100 MB leaves 690 MB behind that nothing uses. `malloc_trim` returns them; elsewhere there is nothing to do.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache


def give_back_freed() -> None:
    """Return what is free to the system."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


@lru_cache(maxsize=1)
def _c_library() -> ctypes.CDLL | None:
    """The C library, where it has `malloc_trim`."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "malloc_trim") else None
