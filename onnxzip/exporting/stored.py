"""A net as the model of its file: with params in the type in which its sources hold them.

    w (half) -> Cast -> w.float32 -> the nodes that read w
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxzip.loading.half_ports import names_in
from onnxzip.loading.stored import as_tensor, read_floats
from onnxzip.net import Net
from onnxzip.runtime import put_nodes, to_model


def stored_model(net: Net) -> ModelProto:
    """The net at its own opset; single numbers stay float32, and so does a param that a half type cannot hold."""
    model = to_model(net)
    kind = TensorProto.DataType.Value(net.stored)
    if kind == TensorProto.FLOAT:
        return model
    graph = model.graph
    names = names_in(graph)
    wide: dict[str, str] = {}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < 2:
            continue
        half = as_tensor(array, kind, tensor.name)
        if np.isfinite(read_floats(half)).all():
            tensor.CopyFrom(half)
            wide[tensor.name] = names.fresh(f"{tensor.name}.float32")
    nodes = list(graph.node)
    for node in nodes:
        node.input[:] = [wide.get(v, v) for v in node.input]
    casts = [helper.make_node("Cast", [name], [new], name=new, to=TensorProto.FLOAT) for name, new in wide.items()]
    put_nodes(graph, (*casts, *nodes))
    return model

