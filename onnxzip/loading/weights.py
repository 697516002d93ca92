"""The weights of a file, by the type in which they lie: floats, and integers that floats are made of.

    w (int8) -> Cast -> Sub -> Mul -> the nodes that read W        w (int8) -> DequantizeLinear -> the nodes that read W
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxzip.loading.stored import HALVES

FLOAT32 = TensorProto.DataType.Name(TensorProto.FLOAT)
_HALF_TYPES = frozenset(map(TensorProto.DataType.Name, HALVES))
_FLOATS = HALVES | {TensorProto.FLOAT, TensorProto.DOUBLE}
_INTEGERS = frozenset({  # those of 64 bits are sizes and places
    TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16,
    TensorProto.INT32,
})


def weights_by_type(model: ModelProto) -> Counter[str]:
    """How many numbers the weights of a model have, by ONNX's name of their type."""
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    constants |= {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    begun = _made_into_floats(graph)
    found: Counter[str] = Counter()
    for name, tensor in constants.items():
        if tensor.data_type in _FLOATS or (tensor.data_type in _INTEGERS and name in begun):
            found[TensorProto.DataType.Name(tensor.data_type)] += math.prod(tensor.dims)
    return found


def stored_type(model: ModelProto) -> str:
    """The type in which most of a model's weights lie, by their number; float32 where no other has more."""
    sizes = weights_by_type(model)
    return max(sizes, key=lambda kind: (sizes[kind], kind == FLOAT32), default=FLOAT32)


def common_type(stored: Iterable[str]) -> str:
    """The type in which a net made of others holds its weights: the half type that all of them have, else float32."""
    kinds = set(stored)
    return kinds.pop() if len(kinds) == 1 and kinds <= _HALF_TYPES else FLOAT32


def _made_into_floats(graph: GraphProto) -> set[str]:
    """Values that nodes begin with which make floats of numbers, and those that such a value is made of."""
    makers = {value: node for node in graph.node for value in node.output}
    found: set[str] = set()
    for node in graph.node:
        value = node.input[0] if _makes_floats(node) else ""
        while value and value not in found:
            found.add(value)
            maker = makers.get(value)
            value = maker.input[0] if maker is not None and maker.input else ""
    return found


def _makes_floats(node: NodeProto) -> bool:
    if node.op_type == "Cast":
        return any(a.name == "to" and a.i in _FLOATS for a in node.attribute)
    return node.op_type == "DequantizeLinear"
