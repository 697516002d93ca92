"""A net as an ONNX ModelProto: the inverse of loading, deterministic to the byte."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxzip.net import BATCH, Axis, Names, Net
from onnxzip.runtime.fields import put_fields
from onnxzip.runtime.lowering import lower

BATCH_NAME = "N"
NOTHING: Mapping[str, int] = {}


def to_model(net: Net, outside: Mapping[str, int] = NOTHING, location: str = "") -> ModelProto:
    """The net as a model at its own opset; batch and free axes have the names that the net says, the batch else `N`.

    The same net gives the same bytes (`SerializeToString(deterministic=True)`).

    Args:
        outside: params that are not to stand in the model -> where in the file of that location they begin.
    """
    names = Names.beside(net)
    lowered = [lower(net, node, names) for node in net.nodes]
    constants = [c for part in lowered for c in part.constants]
    params = [
        tensor_outside(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape, location, outside[name], a.nbytes)
        if name in outside
        else numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), name)
        for name, a in net.params.items()
    ]
    graph = helper.make_graph(
        [proto for part in lowered for proto in part.nodes],
        net.name or "net",
        [_value_info(net, p.name) for p in net.inputs],
        [_value_info(net, p.name) for p in net.outputs],
        initializer=[*params, *constants],
        value_info=_inner_values(net),
    )
    return _model(net, graph)


def tensor_outside(name: str, kind: int, dims: Iterable[int], location: str, offset: int, length: int) -> TensorProto:
    """A tensor whose numbers lie in another file, from one of its bytes on, so many bytes."""
    tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _model(net: Net, graph: GraphProto) -> ModelProto:
    opsets = [helper.make_opsetid("", net.opset), *(helper.make_opsetid(d, v) for d, v in sorted(net.opsets.items()))]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="onnxzip", ir_version=net.ir_version)
    helper.set_model_props(model, dict(sorted(net.metadata.items())))
    put_fields(model, net.fields)
    return model


def _inner_values(net: Net) -> list[ValueInfoProto]:
    ends = {p.name for p in (*net.inputs, *net.outputs)}
    inner = [v for node in net.nodes for v in node.outputs if v not in ends]
    return [_value_info(net, v) for v in inner]


def _value_info(net: Net, name: str) -> ValueInfoProto:
    batch = net.batch or BATCH_NAME
    dims: list[int | str | None] = [d if d >= 0 else batch if d == BATCH else None for d in net.shapes[name]]
    for k in range(len(dims)):
        if (free := net.sizes.axes.get(Axis(name, k))) is not None:
            dims[k] = free or None
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(net.dtypes[name])), dims)
