"""Arrays with a header in one .npz file, and moments kept so: what one shard knows of a step, to be added to the others'.

The header says what the arrays depend on: sha256 of every net, version, options, step, shard, number of samples. Moments of
shards are additive as long as all of that but the shard and its samples is the same; else adding them is refused.
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

from onnxzip.errors import InvalidDataError, UsageError
from onnxzip.exporting.write import write_atomically
from onnxzip.linalg.moments import Moments
from onnxzip.peers import Arrays, differing

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


@dataclass(frozen=True)
class StoredMoments:
    """Moments and what they depend on.

    Attributes:
        nets: task -> sha256 of its file.
        job: whatever else must be the same: version, options, step.
        moments: sums over the samples of some shards.
    """

    nets: Mapping[str, str]
    job: Mapping[str, Any]
    moments: Moments

    def __add__(self, other: StoredMoments) -> StoredMoments:
        """Moments over the samples of both.

        Raises:
            UsageError: they are of other nets or of another job.
        """
        if found := differing(self.nets, other.nets) or differing(self.job, other.job):
            raise UsageError(f"moments of different merges cannot be added ({found})")
        return StoredMoments(self.nets, self.job, self.moments + other.moments)

    def save(self, path: Path) -> None:
        """Write them to a file, completely or not at all.

        Raises:
            UsageError: it exists or cannot be written.
        """
        Sheet({"nets": dict(self.nets), "job": dict(self.job)}, self.moments.as_arrays()).save(path)


def read_moments(path: Path) -> StoredMoments:
    """Moments from a file.

    Raises:
        InvalidDataError: it holds none.
    """
    sheet = read_sheet(path)
    if set(sheet.header) != {"nets", "job"} or set(sheet.arrays) != {"count", "zz", "zp", "pp"}:
        raise InvalidDataError(f"{path}: holds no moments of one step")
    return StoredMoments(sheet.header["nets"], sheet.header["job"], Moments.from_arrays(sheet.arrays))
