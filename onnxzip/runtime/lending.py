"""Params that ONNX Runtime maps from the file in which they lie, in nets too large for copies of them.

Measured on a net of 2.5 GB: a session needs 70 MB of memory beside the mapped pages, where handing the same arrays over as
external initializers takes 2.5 GB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto

from onnxzip.net import Net

# A net with more bytes of params than that is run on its params where they are, those of LENT_BYTES or more; packing them for
# faster products would copy them, too.
COPIED_BYTES, LENT_BYTES = 256 << 20, 1 << 20


@dataclass(frozen=True)
class Lent:
    """Params that a session maps from the file in which they lie.

    Attributes:
        file: None where there are none.
        offsets: param -> where it begins there.
    """

    file: Path | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)


def lent_by(net: Net) -> Lent:
    """Params that a session reads where they are, in a net too large for a copy of them."""
    if sum(a.nbytes for a in net.params.values()) <= COPIED_BYTES:
        return Lent()
    by_file: dict[str, dict[str, np.memmap]] = {}
    for name, array in net.params.items():
        if isinstance(array, np.memmap) and array.filename is not None and array.nbytes >= LENT_BYTES:
            by_file.setdefault(str(array.filename), {})[name] = array
    if not by_file:
        return Lent()
    file, mapped = max(by_file.items(), key=lambda item: sum(a.nbytes for a in item[1].values()))
    return Lent(Path(file), {k: a.offset for k, a in mapped.items()})


def has_much_beside(file: Path | bytes) -> bool:
    """Whether the params of a file, or of what is in one, lie in other files, and are many."""
    try:
        model = ModelProto.FromString(file) if isinstance(file, bytes) else onnx.load(file, load_external_data=False)
    except (OSError, DecodeError):
        return False  # whoever opens it says so
    outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    return bool(sum(4 * math.prod(t.dims) for t in outside) > COPIED_BYTES)
