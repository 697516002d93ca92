"""ONNX graphs written node by node, for computations that are no net: run where the nets run, on values that stay there."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxzip.runtime.session import Session, open_bytes

OPSET, IR_VERSION = 17, 8
_KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}


class Graph:
    """A graph that is being written; values go by names, every shape is left to ONNX Runtime.

    Args:
        name: for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[NodeProto] = []
        self._inputs: dict[str, ValueInfoProto] = {}
        self._constants: list[TensorProto] = []

    def input(self, name: str, rank: int, dtype: type[np.generic] = np.float32) -> str:
        """An input of the graph; the same one when it is named again."""
        if name not in self._inputs:
            self._inputs[name] = helper.make_tensor_value_info(name, _KINDS[np.dtype(dtype)], [None] * rank)
        return name

    def constant(self, array: np.ndarray) -> str:
        """A constant: float32 or int64."""
        name = f"constant {len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def numbers(self, *values: int) -> str:
        """A list of whole numbers, as shapes and axes are given."""
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node; returns its output."""
        name = f"value {len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def open(self, outputs: dict[str, str], device: str, threads: int) -> Session:
        """A session that computes some values under the given names (name -> value).

        Raises:
            UsageError, BackendMissingError, UnsupportedError: as `open_session`.
        """
        ends = [helper.make_node("Identity", [value], [name]) for name, value in outputs.items()]
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph([*self._nodes, *ends], self.name, [*self._inputs.values()], ports, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return open_bytes(self.name, model.SerializeToString(), tuple(outputs), device, threads)
