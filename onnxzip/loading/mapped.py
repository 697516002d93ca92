"""Large params: those in files of their own are mapped, not read, so that a net of many gigabytes is planned without loading
it; those in the model itself are copied out of it once, not by every look at the graph.

A model keeps its references to mapped ones; whoever needs their numbers finds them here, by name, as read-only arrays.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from onnxzip.errors import InvalidModelError

SMALLEST = 1 << 20  # bytes; what is smaller is read: it may be a shape, or be folded


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array is a file's content."""
    return isinstance(array, np.memmap)


def read_small(path: Path, model: ModelProto) -> None:
    """Load external data that are small, or in a form that cannot be mapped, into the model.

    Raises:
        OSError, ValueError: they cannot be read.
    """
    folder = str(path.parent)
    inner = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in [*inner, *(t for t in model.graph.initializer if not _can_map(path, t))]:
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, folder)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def large_params(path: Path, model: ModelProto) -> dict[str, np.ndarray]:
    """All params that are still outside of a model, and large ones of floats in it, by name: read-only arrays.

    Raises:
        InvalidModelError: a file is too short.
    """
    found: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.raw_data) >= SMALLEST:
            found[tensor.name] = numpy_helper.to_array(tensor)
        elif uses_external_data(tensor):
            info = ExternalDataInfo(tensor)
            dtype, shape = _dtype(tensor), tuple(tensor.dims)
            try:
                found[tensor.name] = np.memmap(path.parent / info.location, dtype, "r", info.offset or 0, shape)
            except (OSError, ValueError) as error:
                raise InvalidModelError(f"{path}: its external data cannot be read: {error}. Keep it beside.") from error
    return found


def _dtype(tensor: TensorProto) -> np.dtype:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")


def _can_map(path: Path, tensor: TensorProto) -> bool:
    """Whether a tensor is large, of plain float32, and in a file beside the model that is long enough."""
    if not uses_external_data(tensor) or tensor.data_type != TensorProto.FLOAT or 4 * math.prod(tensor.dims) < SMALLEST:
        return False
    info = ExternalDataInfo(tensor)
    file = path.parent / info.location
    return file.is_file() and file.stat().st_size >= (info.offset or 0) + 4 * math.prod(tensor.dims)
