"""Arrays with a header in one .npz file: what one shard knows of a step, to be added to the others'.

The header says what the arrays depend on: sha256 of every net, version, options, step, shard, number of samples.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.errors import InvalidDataError
from onnxzip.exporting.write import write_atomically
from onnxzip.peers import Arrays

HEADER = "__header__"
_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Sheet:
    """What a file holds.

    Attributes:
        header: JSON values by what they are.
        arrays: by name.
    """

    header: Mapping[str, Any]
    arrays: Arrays

    def save(self, path: Path) -> None:
        """Write the file, completely or not at all.

        Raises:
            UsageError: it exists or cannot be written.
        """
        content = io.BytesIO()
        text = json.dumps(self.header, sort_keys=True).encode()
        arrays: dict[str, Any] = {HEADER: np.frombuffer(text, np.uint8), **self.arrays}
        np.savez(content, **arrays)
        write_atomically(path, content.getvalue())


def read_sheet(path: Path) -> Sheet:
    """What a file holds.

    Raises:
        InvalidDataError: it cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(archive[HEADER].tobytes())
            return Sheet(header, {k: archive[k] for k in archive.files if k != HEADER})
    except _BROKEN as error:
        raise InvalidDataError(f"{path}: holds no moments, or is damaged. Delete it and start its shard again.") from error
