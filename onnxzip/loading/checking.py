"""onnx's check of a model that is no longer what its file holds, with params beside that file.

onnx looks for these beside the file only where it reads the file itself. So it is given the model without them, and each place
where some of them lie by itself.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from onnxzip.runtime import parts_of, tensor_outside


def check_changed(path: Path, model: ModelProto) -> None:
    """Check a model that was read from a file and then changed; of params beside it nothing is read but a byte of each file.

    Raises:
        onnx.checker.ValidationError: it is no valid model, or params lie where onnx does not look for them.
        OSError, ValueError: they cannot be read.
    """
    outside = [tensor for tensor in parts_of(model, TensorProto) if uses_external_data(tensor)]
    for location in dict.fromkeys(ExternalDataInfo(tensor).location for tensor in outside):
        _check_place(location, str(path.parent))
    onnx.checker.check_model(_emptied(model) if outside else model)


def _emptied(model: ModelProto) -> ModelProto:
    """A copy whose params beside it have no entries."""
    copy = deepcopy(model)
    for tensor in parts_of(copy, TensorProto):
        if uses_external_data(tensor):
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    return copy


def _check_place(location: str, folder: str) -> None:
    load_external_data_for_tensor(tensor_outside(location, TensorProto.UINT8, [1], location, 0, 1), folder)
