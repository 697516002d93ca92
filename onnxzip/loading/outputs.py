"""Outputs that a file names without their type or shape, as whoever adds one to a finished net leaves them.

ONNX Runtime finds out by itself what they are; onnx's checker wants it told.
"""

from __future__ import annotations

from onnx import ModelProto, ValueInfoProto, shape_inference


def with_typed_outputs(model: ModelProto) -> bool:
    """Give such outputs the type and shape that follow from the nodes, in place; whether there are any."""
    untold = [port for port in model.graph.output if _is_untold(port)]
    if not untold:
        return False
    found = {port.name: port for port in shape_inference.infer_shapes(model).graph.output}
    for port in untold:
        port.CopyFrom(found[port.name])
    return True


def _is_untold(port: ValueInfoProto) -> bool:
    return port.type.WhichOneof("value") in (None, "tensor_type") and not port.type.tensor_type.HasField("shape")
