"""Folded graphs -> Net: nodes with every attribute, constants as params or attributes, shapes with the batch as -1."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import AttributeProto, ModelProto

from onnxzip.errors import UnsupportedError
from onnxzip.loading.files import opset_of
from onnxzip.loading.portions import with_fixed_cuts
from onnxzip.loading.preparing import opset_imports
from onnxzip.loading.shapes import Runs, joined
from onnxzip.loading.subgraphs import subgraphs_of
from onnxzip.net import Net, Node, Port, Shape
from onnxzip.ops import find
from onnxzip.runtime import entries_of, value_of
from onnxzip.runtime.lowering import BATCHED_CONSTANTS, known_schema

Arrays = dict[str, np.ndarray]

_FLOATS: frozenset[np.dtype] = frozenset({np.dtype(np.float32)})

# attributes that stand for one number even where a file holds them as a list of one
_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})  # which give nothing of an image that is too small
_SCALARS = frozenset({"min", "max", "constant_value", "axis", "k", "depth", "dft_length", "frame_step", "frame_length"})

_BOUNDS = frozenset({("Slice", "starts"), ("Slice", "ends")})
_SHAPED = BATCHED_CONSTANTS | {"Reshape", "Split"}  # what may be a multiple of the batch


def to_net(path: Path, name: str, model: ModelProto, runs: Runs, floats: Container[np.dtype] = _FLOATS) -> Net:
    """The net that two folded graphs of one prepared model describe; attributes are complete, not yet normalised.

    Args:
        floats: types that a constant of floats may have.

    Raises:
        UnsupportedError: a value has no shape, a param depends on the batch, a node holds a subgraph.
    """
    graph = runs.first
    first, second = graph.tensors(), runs.second.tensors()
    constants = {n: t.values for n, t in first.items() if isinstance(t, gs.Constant)}
    others = {n: t.values for n, t in second.items() if isinstance(t, gs.Constant)}
    opsets = opset_imports(model)
    opset = opset_of(model)
    nodes = tuple(
        _node(path, node, other, constants, others, opset, opsets)
        for node, other in zip(graph.nodes, runs.second.nodes, strict=True)
    )
    read = {v for node in nodes for v in node.read}
    values = dict.fromkeys([*(t.name for t in graph.inputs), *(v for node in nodes for v in node.outputs)])
    _refuse_constant_outputs(path, graph, values)
    shapes = {v: _shape(path, first[v], second[v]) for v in values}
    params = {v: _param(path, v, constants[v], others[v], floats) for v in constants if v in read}
    net = Net(
        name=name,
        inputs=tuple(Port(t.name, _dtype(path, t), shapes[t.name]) for t in graph.inputs),
        outputs=tuple(Port(t.name, _dtype(path, t), shapes[t.name]) for t in graph.outputs),
        nodes=nodes,
        params=params,
        shapes=shapes | {v: tuple(a.shape) for v, a in params.items()},
        dtypes={v: _dtype(path, first[v]) for v in values} | {v: a.dtype for v, a in params.items()},
        opset=opset,
        opsets=opsets,
        ir_version=model.ir_version,
        metadata=entries_of(model),
    )
    return with_fixed_cuts(path, net, runs)


def _node(
    path: Path, node: gs.Node, other: gs.Node, constants: Arrays, others: Arrays, opset: int, opsets: dict[str, int]
) -> Node:
    domain, op = node.domain or "", operator_in(node)
    inner = subgraphs_of(path, node, other)
    attrs = _defaults(node.op, domain, opset, opsets) | {k: _plain(v) for k, v in node.attrs.items() if k not in inner} | inner
    inputs: list[str | None] = [t.name or None for t in node.inputs]
    record = find(op)
    for at, key in (record.constants if record is not None else {}).items():
        value = inputs[at] if at < len(inputs) else None
        if value is None:
            attrs.setdefault(key, None)
        elif value in constants:
            attrs[key] = _attribute_from(path, node, key, constants[value], others[value])
            inputs[at] = None
    while inputs and inputs[-1] is None:
        inputs.pop()
    inputs += next((graph.reads for graph in inner.values()), ())
    return Node(node.name, op, tuple(inputs), tuple(t.name for t in node.outputs), attrs)


def operator_in(node: gs.Node) -> str:
    """As `runtime.operator_of`, of a node of graphsurgeon's."""
    return f"{node.domain}.{node.op}" if node.domain else str(node.op)


def _defaults(op: str, domain: str, opset: int, opsets: dict[str, int]) -> dict[str, Any]:
    """What the operator's schema says of attributes that a file leaves out."""
    schema = known_schema(op, domain, opsets.get(domain, 1) if domain else opset)
    defaults = {} if schema is None else {key: attribute.default_value for key, attribute in schema.attributes.items()}
    return {key: value_of(value) for key, value in defaults.items() if value.type != AttributeProto.UNDEFINED}


def _plain(value: Any) -> Any:
    if isinstance(value, gs.Tensor):
        return np.array(value.values)
    return tuple(value) if isinstance(value, list) else value


def _attribute_from(path: Path, node: gs.Node, key: str, first: np.ndarray, second: np.ndarray) -> Any:
    """A constant input as python numbers; in a shape, those that grow with the batch as -k. Bounds of Slices as they are."""
    if first.shape != second.shape:
        raise _batch_dependent_setting(path, node, key)
    if key in _SCALARS and first.size == 1:
        first, second = first.reshape(()), second.reshape(())
    if np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
        return _tuples(first.tolist())
    if (node.op, key) in _BOUNDS and not node.domain:
        return _tuples(first.tolist())
    if first.ndim != 1 or first.dtype.kind not in "iu" or operator_in(node) not in _SHAPED:
        raise _batch_dependent_setting(path, node, key)
    return joined(path, node.name, tuple(first.tolist()), tuple(second.tolist()))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _param(path: Path, name: str, first: np.ndarray, second: np.ndarray, floats: Container[np.dtype]) -> np.ndarray:
    if first is not second and not np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
        raise UnsupportedError(f"{path}: constant {name!r} depends on the batch size. Export the net with a fixed batch of 1.")
    if first.dtype.kind not in "fiub" or (first.dtype.kind == "f" and first.dtype not in floats):
        raise _not_float32(path, "constant", name, first.dtype)
    return np.asanyarray(first, order="C")


def _not_float32(path: Path, kind: str, name: str, dtype: np.dtype) -> UnsupportedError:
    return UnsupportedError(f"{path}: {kind} {name!r} is {dtype}; only float32 nets can be merged. Convert it to float32.")


def _batch_dependent_setting(path: Path, node: gs.Node, key: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: {key!r} of node {node.name!r} ({operator_in(node)}) depends on the batch size. Export the net with a fixed "
        "batch of 1."
    )


def _refuse_constant_outputs(path: Path, graph: gs.Graph, values: Container[str]) -> None:
    for port in graph.outputs:
        if port.name not in values:
            raise UnsupportedError(f"{path}: output {port.name!r} does not depend on any input. Export the net without it.")


def _shape(path: Path, first: gs.Tensor, second: gs.Tensor) -> Shape:
    for tensor in (first, second):
        if tensor.shape is None or not all(isinstance(d, int) for d in tensor.shape):
            node = f"node {tensor.inputs[0].name!r} ({operator_in(tensor.inputs[0])})" if tensor.inputs else "the graph"
            raise UnsupportedError(
                f"{path}: value {tensor.name!r} of {node} has no static shape; it may depend on the data, or its operator "
                "is not known. Export the net with fixed sizes, or cut that part off."
            )
        if min(tensor.shape, default=1) < (tensor.inputs[0].op in _WINDOWS if tensor.inputs else 0):
            raise UnsupportedError(
                f"{path}: value {tensor.name!r} would have the shape {tensor.shape}: an input of this size is too small for "
                "the net. Give a larger one."
            )
    return joined(path, first.name, tuple(first.shape), tuple(second.shape))


def _dtype(path: Path, tensor: gs.Tensor) -> np.dtype:
    try:
        dtype = np.dtype(tensor.dtype if tensor.dtype is not None else "V")
    except TypeError as error:
        raise UnsupportedError(
            f"{path}: value {tensor.name!r} has the type {tensor.dtype}, which numpy does not know. Convert it to float32."
        ) from error
    if dtype.kind == "f" and dtype not in (np.float16, np.float32, np.float64):
        raise _not_float32(path, "value", tensor.name, dtype)
    return dtype
