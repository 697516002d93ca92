"""The weights of a file, by the type in which they lie: floats, and integers that floats are made of.

    w (int8) -> Cast -> Sub -> Mul -> the nodes that read W        w (int8) -> DequantizeLinear -> the nodes that read W
    w (int8) -> MatMulInteger, QLinearConv, ...
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxzip.loading.stored import HALVES, tensors_of
from onnxzip.net import Node
from onnxzip.runtime import operator_of, parts_of

FLOAT32 = TensorProto.DataType.Name(TensorProto.FLOAT)
_HALF_TYPES = frozenset(map(TensorProto.DataType.Name, HALVES))
_FLOATS = HALVES | {TensorProto.FLOAT, TensorProto.DOUBLE}
_INTEGERS = frozenset({  # those of 64 bits are sizes and places
    TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16,
    TensorProto.INT32,
})
_WEIGHTS_AT = {  # operators that compute with integers -> where their weights and biases stand
    "DequantizeLinear": (0,), "ConvInteger": (1,), "MatMulInteger": (0, 1), "QLinearConv": (3, 8), "QLinearMatMul": (0, 3),
    "com.microsoft.DynamicQuantizeMatMul": (1,), "com.microsoft.MatMulIntegerToFloat": (1,), "com.microsoft.QGemm": (3, 6),
    "com.microsoft.MatMulNBits": (1,), "com.microsoft.QAttention": (1,), "com.microsoft.DynamicQuantizeLSTM": (1, 2),
}


def weights_by_type(model: ModelProto) -> Counter[str]:
    """How many numbers the weights of a model have, those in branches and bodies too, by ONNX's name of their type."""
    found: Counter[str] = Counter()
    for graph in parts_of(model.graph, GraphProto):
        begun = made_into_floats(nodes_of(graph))
        for name, tensor in tensors_of(graph).items():
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


def counts_as_weights(array: np.ndarray, begun: bool) -> bool:
    """Whether a constant counts as params: floats do, and integers that nodes make floats of (`made_into_floats`)."""
    return array.dtype.kind == "f" or (begun and helper.np_dtype_to_tensor_dtype(array.dtype) in _INTEGERS)


def made_into_floats(nodes: Iterable[Node]) -> set[str]:
    """Values that nodes begin with which make floats of numbers, and those that such a value is made of."""
    known = list(nodes)
    makers = {value: node for node in known for value in node.outputs}
    found: set[str] = set()
    stack = [node.inputs[at] for node in known for at in _begins_with(node) if at < len(node.inputs)]
    while stack:
        value = stack.pop()
        if value and value not in found:
            found.add(value)
            stack += makers[value].inputs[:1] if value in makers else ()
    return found


def nodes_of(graph: GraphProto) -> list[Node]:
    """The nodes of a graph; of their attributes the type alone that a Cast gives."""
    return [_as_node(node) for node in graph.node]


def _as_node(node: NodeProto) -> Node:
    attrs = {a.name: int(a.i) for a in node.attribute if a.name == "to"}
    return Node(node.name, operator_of(node), tuple(v or None for v in node.input), tuple(node.output), attrs)


def _begins_with(node: Node) -> tuple[int, ...]:
    if node.op == "Cast":
        return (0,) if node.attrs.get("to") in _FLOATS else ()
    return _WEIGHTS_AT.get(node.op, ())
