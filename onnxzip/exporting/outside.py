"""Models whose large params lie in files beside that of their graph: how large they are, and how they become files.

What is written is copied from file to file: none of these params is held in memory. A model that one file can hold becomes
one, with all params inside; a larger one becomes two:

    OUT.onnx        the graph, small params, and where the others lie
    OUT.onnx.data   the others, one after the other, each from a page on
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.exporting.shelf import PAGE, beside
from onnxzip.exporting.staging import Fill, write, written
from onnxzip.exporting.write import place_of
from onnxzip.loading.beside import fits_one_file
from onnxzip.runtime import tensor_outside

CHUNK = 16 << 20  # bytes
_DELIMITED = 2  # protobuf's number for a part whose length is told
_GRAPH, _INITIALIZER, _RAW = (
    kind.DESCRIPTOR.fields_by_name[name].number
    for kind, name in ((ModelProto, "graph"), (GraphProto, "initializer"), (TensorProto, "raw_data"))
)


def length_of(tensor: TensorProto) -> int:
    """Bytes of a param's numbers; 0 for texts."""
    if uses_external_data(tensor):
        return _told_length(tensor)
    return len(tensor.raw_data) or len(_numbers(tensor))


def size_of(model: ModelProto) -> int:
    """Bytes of a model with all its params."""
    return int(model.ByteSize()) + sum(map(_outside_of, model.graph.initializer))


def size_with_numbers(tensor: TensorProto) -> int:
    """Bytes of a param in a model, and of its numbers where they lie outside."""
    return int(tensor.ByteSize()) + _outside_of(tensor)


def copy_numbers(tensor: TensorProto, folder: Path, file: BinaryIO) -> None:
    """Write a param's numbers as external data hold them: little-endian, in C order.

    Args:
        folder: of the model's file, which tells where the param lies.

    Raises:
        InvalidModelError: the file in which they lie is too short.
    """
    if not uses_external_data(tensor):
        file.write(tensor.raw_data or _numbers(tensor))
        return
    info, left = ExternalDataInfo(tensor), _told_length(tensor)
    source = folder / info.location
    with source.open("rb") as reader:
        reader.seek(info.offset or 0)
        while left:
            content = reader.read(min(left, CHUNK))
            if not content:
                raise InvalidModelError(f"{source}: ends within the param {tensor.name!r}. Copy or merge it again.")
            file.write(content)
            left -= len(content)


def whole(model: ModelProto, folder: Path, what: str) -> ModelProto:
    """A model with all its params in it.

    Args:
        model: is changed where params lie outside of it.
        what: to do where that cannot be, for the message.

    Raises:
        UnsupportedError: one model cannot hold them.
    """
    if not fits_one_file(size := size_of(model)):
        raise UnsupportedError(f"{model.graph.name!r} has {size:,} bytes: more than the 2 GB that one model can hold. {what}")
    onnx.load_external_data_for_model(model, str(folder))
    return model


def files_of(model: ModelProto, folder: Path, path: Path) -> list[tuple[Path, Fill]]:
    """The files of a model: `path`, and where one cannot hold it `path`.data before it, where a link leads.

    Args:
        folder: of the file that the model was read from.
    """
    outside = [t for t in model.graph.initializer if uses_external_data(t)]
    if fits_one_file(size_of(model)):
        if not outside:
            return [(path, partial(write, bytes(model.SerializeToString(deterministic=True))))]
        return [(path, partial(_write_whole, model, folder))]
    data = beside(place_of(path))
    moved, starts, end = ModelProto(), dict[str, int](), 0
    moved.CopyFrom(model)
    for tensor in (t for t in moved.graph.initializer if uses_external_data(t)):
        starts[tensor.name] = start = -(-end // PAGE) * PAGE
        end = start + _told_length(tensor)
        there = tensor_outside(tensor.name, tensor.data_type, tensor.dims, data.name, start, end - start)
        tensor.ClearField("external_data")
        tensor.external_data.extend(there.external_data)
    graph = bytes(moved.SerializeToString(deterministic=True))
    by_name = {t.name: t for t in outside}
    return [(data, partial(write_numbers, by_name, starts, folder)), (path, partial(write, graph))]


def write_numbers(tensors: Mapping[str, TensorProto], starts: Mapping[str, int], folder: Path, path: Path) -> None:
    """A file of params, each from its byte on; on the disk when it returns.

    Args:
        tensors: by name.
        starts: name -> where it begins, in rising order.
        folder: of the file that the model was read from.
    """
    with written(path) as file:
        for name, start in starts.items():
            file.write(bytes(start - file.tell()))
            copy_numbers(tensors[name], folder, file)


def _write_whole(model: ModelProto, folder: Path, path: Path) -> None:
    """A model as one file, its params copied into it; on the disk when it returns.

    Fields of a message may come in any order, and parts of one message add up: so the graph is written as its small parts in
    one piece, and then each param that lies outside.
    """
    inner, shell = GraphProto(), ModelProto()
    shell.CopyFrom(model)
    shell.ClearField("graph")
    inner.CopyFrom(model.graph)
    inner.ClearField("initializer")
    inner.initializer.extend(t for t in model.graph.initializer if not uses_external_data(t))
    outside = [t for t in model.graph.initializer if uses_external_data(t)]
    small = bytes(inner.SerializeToString(deterministic=True))
    heads = [_head(t) for t in outside]
    lengths = [len(h) + _told_length(t) for h, t in zip(heads, outside, strict=True)]
    keys = [_key(_INITIALIZER, length) for length in lengths]
    with written(path) as file:
        file.write(shell.SerializeToString(deterministic=True))
        file.write(_key(_GRAPH, len(small) + sum(map(len, keys)) + sum(lengths)))
        file.write(small)
        for key, head, tensor in zip(keys, heads, outside, strict=True):
            file.write(key + head)
            copy_numbers(tensor, folder, file)


def _head(tensor: TensorProto) -> bytes:
    """All of a param in a file but its numbers, which follow."""
    told = TensorProto()
    told.CopyFrom(tensor)
    told.ClearField("external_data")
    told.ClearField("data_location")
    return bytes(told.SerializeToString(deterministic=True)) + _key(_RAW, _told_length(tensor))


def _key(field: int, length: int) -> bytes:
    """What stands before a part of a message: which field it is, and its length in bytes."""
    return _varint(field << 3 | _DELIMITED) + _varint(length)


def _varint(number: int) -> bytes:
    """A number as protobuf writes it: 7 bits a byte, the lowest first, the highest bit of all but the last byte set."""
    groups = [number >> k & 127 for k in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _outside_of(tensor: TensorProto) -> int:
    return _told_length(tensor) if uses_external_data(tensor) else 0


def _told_length(tensor: TensorProto) -> int:
    """Bytes of a param that lies outside: what is told, or else what its shape needs."""
    size = int(np.prod(tensor.dims, dtype=np.int64))
    return ExternalDataInfo(tensor).length or size * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _numbers(tensor: TensorProto) -> bytes:
    """A param's numbers from whatever field holds them; nothing of texts, which have no such form."""
    if tensor.data_type == TensorProto.STRING:
        return b""
    array = np.ascontiguousarray(numpy_helper.to_array(tensor))
    return (array.byteswap() if sys.byteorder == "big" else array).tobytes()
