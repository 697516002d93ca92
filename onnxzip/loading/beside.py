"""Files that belong to nets: those with their external data, which whoever writes must not take for places of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxzip.runtime import parts_of

LARGEST_FILE = (1 << 31) - 1  # bytes that one ONNX file, which is one message of protobuf, can have


def fits_one_file(size: int) -> bool:
    """Whether one ONNX file can hold so many bytes."""
    return size <= LARGEST_FILE


def with_external_data(nets: Iterable[str | PathLike[str]]) -> list[Path]:
    """Files of nets, each followed by those that hold its external data; of a file that is no net nothing follows."""
    found: dict[Path, None] = {}
    for net in map(Path, nets):
        found.update(dict.fromkeys([net, *(net.parent / location for location in _locations(net))]))
    return list(found)


def is_linked(file: Path) -> bool:
    """Whether a file is a link, or is one of several names of what it holds: caches of downloads are made of these."""
    return file.is_symlink() or (file.is_file() and file.stat().st_nlink > 1)


def bytes_read(net: Path) -> int:
    """Bytes of a net: of its file, and of what it reads of others, which may hold more; of files that are missing none."""
    parts = {(info.location, info.offset or 0, info.length) for info in map(ExternalDataInfo, _outside(net))}
    places = [(net.parent / name, offset, length) for name, offset, length in parts if (net.parent / name).is_file()]
    sizes = (file.stat().st_size - offset if length is None else length for file, offset, length in places)
    return net.stat().st_size + sum(sizes)


def _locations(path: Path) -> list[str]:
    """Where a file says that its external data lie, relative to its folder."""
    return [entry.value for tensor in _outside(path) for entry in tensor.external_data if entry.key == "location"]


def _outside(path: Path) -> list[TensorProto]:
    """The tensors whose numbers lie in other files."""
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False) if os.path.isfile(path) else onnx.ModelProto()
    except (OSError, DecodeError):
        return []  # whoever reads the file says what is wrong with it
    return [tensor for tensor in parts_of(model, TensorProto) if tensor.external_data]
