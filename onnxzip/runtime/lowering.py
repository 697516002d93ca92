"""One canonical node to the ONNX nodes and constants that mean the same at the net's opset.

An attribute that the operator's schema knows stays an attribute; one that the operator's record calls a constant input
becomes an initializer again (`axes` of ReduceMean is an attribute before opset 18, an input from there on). A constant that
contains the batch (-k for k times the batch) is computed from the shape of the first graph input that has a batch axis, one
that follows other sizes from the shapes that it follows (`measures`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from onnxzip.net import BATCH, Names, Net, Node, Subgraph
from onnxzip.ops import find
from onnxzip.ops.recurrent import takes_gates
from onnxzip.runtime.inner import inner_graph, own_inputs
from onnxzip.runtime.measures import Lowered, measured

# operators whose constant inputs are shapes: there -k is k times the batch, elsewhere it is a number
GELU_SINCE = 20  # opset; nets of any have Gelu as one node while they are merged
BATCHED_CONSTANTS = frozenset({"Expand", "Resize", "Tile", "AffineGrid", "CenterCropPad"})


def split_domain(op: str) -> tuple[str, str]:
    """`com.microsoft.Gelu` -> (`com.microsoft`, `Gelu`); the default domain is the empty one."""
    domain, _, name = op.rpartition(".")
    return domain, name


def known_schema(op: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """The operator's schema at a version of its domain; None where onnx does not know it."""
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def schema_of(op: str, net: Net) -> onnx.defs.OpSchema | None:
    """As `known_schema`, at the net's opset."""
    domain, name = split_domain(op)
    return known_schema(name, domain, net.opsets.get(domain, 1) if domain else net.opset)


def lower(net: Net, node: Node, names: Names) -> Lowered:
    """The ONNX form of one node of a canonical net."""
    if node.op == "MatMul" and len(node.inputs) == 3:
        return _lower_biased_matmul(node, names)
    if takes_gates(node.op, node.inputs):
        return _lower_steps(net, node, names)
    if node.op == "Gelu" and net.opset < GELU_SINCE:
        return _lower_gelu(net, node, names)
    domain, op = split_domain(node.op)
    schema, record = schema_of(node.op, net), find(node.op)
    moved = {} if record is None else {name: at for at, name in record.constants.items()}
    inputs, attributes, extra = ["" if v is None else v for v in node.inputs[: own_inputs(node)]], [], []
    for key, value in sorted((k, v) for k, v in node.attrs.items() if v is not None):
        if key in schema.attributes if schema is not None else key not in moved:
            plain = inner_graph(node, value, key) if isinstance(value, Subgraph) else value
            attributes.append(_attribute(key, plain, schema))
        elif key in moved:
            name = names.fresh(f"{node.name}.{key}")
            inputs += [""] * (moved[key] + 1 - len(inputs))
            inputs[moved[key]] = name
            kind = _constant_dtype(net, node, schema, moved[key], value)
            extra.append(_constant(net, node, key, name, value, kind, names))
    proto = helper.make_node(op, inputs, list(node.outputs), name=node.name, domain=domain)
    proto.attribute.extend(attributes)
    return Lowered((*_flat(e.nodes for e in extra), proto), _flat(e.constants for e in extra))


def _flat(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(item for part in parts for item in part)


def _attribute(key: str, value: Any, schema: onnx.defs.OpSchema | None) -> AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, numpy_helper.from_array(value))
    kind = None if schema is None else int(schema.attributes[key].type)  # type: ignore[call-overload]
    return helper.make_attribute(key, list(value) if isinstance(value, tuple) else value, attr_type=kind)


def _lower_biased_matmul(node: Node, names: Names) -> Lowered:
    x, w, bias = (v or "" for v in node.inputs)
    product = names.fresh(f"{node.outputs[0]}.product")
    return Lowered(
        (
            helper.make_node("MatMul", [x, w], [product], name=node.name),
            helper.make_node("Add", [product, bias], list(node.outputs), name=names.fresh(f"{node.name}.bias")),
        )
    )


def _lower_gelu(net: Net, node: Node, names: Names) -> Lowered:
    """x (1 + erf(x / sqrt 2)) / 2, or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, for opsets without Gelu."""
    x, numbers, made = str(node.inputs[0]), list[onnx.TensorProto](), list[onnx.NodeProto]()

    def add(op: str, *read: str | float) -> str:
        out, inputs = names.fresh(f"{node.outputs[0]}.{op.lower()}"), list[str]()
        for value in read:
            if not isinstance(value, str):
                numbers.append(numpy_helper.from_array(np.array(value, net.dtypes[x]), names.fresh(f"{node.name}.number")))
            inputs.append(value if isinstance(value, str) else numbers[-1].name)
        made.append(helper.make_node(op, inputs, [out], name=out))
        return out

    if node.attrs["approximate"] == "tanh":
        cube = add("Mul", add("Mul", add("Mul", x, x), x), 0.044715)
        gate = add("Tanh", add("Mul", add("Add", x, cube), (2 / np.pi) ** 0.5))
    else:
        gate = add("Erf", add("Mul", x, 0.5**0.5))
    add("Mul", add("Mul", x, add("Add", gate, 1.0)), 0.5)
    made[-1].output[0], made[-1].name = node.outputs[0], node.name
    return Lowered(tuple(made), tuple(numbers))


def _lower_steps(net: Net, node: Node, names: Names) -> Lowered:
    """A recurrent node that reads its gates: with the identity for weights."""
    r, bias = str(node.inputs[2]), node.inputs[3]
    gates = net.shapes[r][1]
    inputs, weights = list(node.inputs), names.fresh(f"{node.name}.gates")
    inputs[1] = weights
    extra, made = [numpy_helper.from_array(np.eye(gates, dtype=np.float32)[None], weights)], []
    if bias is not None:
        none, both = names.fresh(f"{bias}.none"), names.fresh(f"{bias}.both")
        inputs[3] = both
        extra.append(numpy_helper.from_array(np.zeros((1, gates), np.float32), none))
        made.append(helper.make_node("Concat", [none, bias], [both], name=both, axis=1))
    whole = lower(net, replace(node, inputs=tuple(inputs)), names)
    return Lowered((*made, *whole.nodes), (*extra, *whole.constants))


def _constant_dtype(net: Net, node: Node, schema: onnx.defs.OpSchema | None, at: int, value: Any) -> np.dtype:
    """int64 or float32; the dtype of the data where the schema ties them together (min of Clip)."""
    if schema is not None and schema.inputs and node.inputs[0] is not None:
        formal = schema.inputs[min(at, len(schema.inputs) - 1)]
        if formal.type_str == schema.inputs[0].type_str:
            return net.dtypes[node.inputs[0]]
    kind = np.asarray(value).dtype.kind if np.size(value) else "i"  # no axes at all
    return np.dtype({"b": np.bool_, "i": np.int64}.get(kind, np.float32))


def _constant(net: Net, node: Node, key: str, name: str, value: Any, dtype: np.dtype, names: Names) -> Lowered:
    """An initializer; for numbers that contain the batch, or follow other sizes, the nodes that compute them."""
    numbers = net.sizes.numbers.get((node.name, key))
    if numbers is not None:
        return measured(name, numbers, names)
    if node.op == "Reshape":
        value = tuple(-1 if v < 0 else v for v in value)
    elif node.op in BATCHED_CONSTANTS and any(v < 0 for v in np.atleast_1d(value)):
        return _batched_constant(net, name, value, names)
    return Lowered((), (numpy_helper.from_array(np.asarray(value, dtype), name),))


def _batched_constant(net: Net, name: str, value: tuple[int, ...], names: Names) -> Lowered:
    """max(value, 0) + batch * max(-value, 0), with the batch read from a graph input: -k there is k times it."""
    largest = max(d for p in net.inputs for d in p.shape if d < 0)
    source = next(p for p in net.inputs if largest in p.shape)
    dim, several = source.shape.index(largest), largest != BATCH
    keys = ("shape", "at", "batch", *(("each", "entries") if several else ()), "times", "scaled", "rest")
    parts = {key: names.fresh(f"{name}.{key}") for key in keys}
    arrays = {
        "at": np.array([dim], np.int64),
        "times": np.array([max(-v, 0) for v in value], np.int64),
        "rest": np.array([max(v, 0) for v in value], np.int64),
        **({"each": np.array([-largest], np.int64)} if several else {}),
    }
    read, batch = parts["entries" if several else "batch"], parts["batch"]
    divided = (helper.make_node("Div", [read, parts["each"]], [batch], name=batch),) if several else ()
    nodes = (
        helper.make_node("Shape", [source.name], [parts["shape"]], name=parts["shape"]),
        helper.make_node("Gather", [parts["shape"], parts["at"]], [read], name=read, axis=0),
        *divided,
        helper.make_node("Mul", [batch, parts["times"]], [parts["scaled"]], name=parts["scaled"]),
        helper.make_node("Add", [parts["scaled"], parts["rest"]], [name], name=name),
    )
    return Lowered(nodes, tuple(numpy_helper.from_array(a, parts[k]) for k, a in arrays.items()))
