"""Files that belong to nets: those with their external data, which whoever writes must not take for places of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import TensorProto


def with_external_data(nets: Iterable[str | PathLike[str]]) -> list[Path]:
    """Files of nets, each followed by those that hold its external data; of a file that is no net nothing follows."""
    found: dict[Path, None] = {}
    for net in map(Path, nets):
        found.update(dict.fromkeys([net, *(net.parent / location for location in _locations(net))]))
    return list(found)


def is_linked(file: Path) -> bool:
    """Whether a file is a link, or is one of several names of what it holds: caches of downloads are made of these."""
    return file.is_symlink() or (file.is_file() and file.stat().st_nlink > 1)


def _locations(path: Path) -> list[str]:
    """Where a file says that its external data lie, relative to its folder."""
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False) if os.path.isfile(path) else onnx.ModelProto()
    except (OSError, DecodeError):
        return []  # whoever reads the file says what is wrong with it
    return [entry.value for tensor in tensors_in(model) for entry in tensor.external_data if entry.key == "location"]


def tensors_in(message: Message) -> Iterator[TensorProto]:
    """Every tensor at any depth of a message: initializers, attributes, branches, functions."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Iterable) else [value]:
                yield from tensors_in(part)
