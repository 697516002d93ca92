"""Nets whose weights lie in a half type, each with a Cast to float32 behind it: read as the float32 nets that they are."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto, numpy_helper

from onnxzip.errors import UnsupportedError
from onnxzip.loading.stored import HALVES, holders, read_floats


def widened(path: Path, model: ModelProto) -> ModelProto:
    """The model with float32 weights.

    Raises:
        UnsupportedError: it computes with halves.
    """
    halves = {name: t for name, t in holders(model) if isinstance(t, TensorProto) and t.data_type in HALVES}
    if not halves:
        return model
    for node in model.graph.node:
        read = [v for v in node.input if v in halves]
        casts = node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)
        if read and not casts:
            kind = TensorProto.DataType.Name(halves[read[0]].data_type)
            raise UnsupportedError(
                f"{path}: node {node.name or node.output[0]!r} ({node.op_type}) computes with {kind}; weights are fitted in "
                "float32. Convert the net to float32, merge it, and convert the result."
            )
    wide = ModelProto()
    wide.CopyFrom(model)
    for name, tensor in holders(wide):
        if name in halves and isinstance(tensor, TensorProto):
            tensor.CopyFrom(numpy_helper.from_array(read_floats(tensor), tensor.name))
    return wide
