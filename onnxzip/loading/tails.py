"""The end of a net that cannot be analysed, cut off and kept as it is: the tail.

    it begins with    what has no shape that follows from that of the inputs (NonMaxSuppression, NonZero, Compress, Unique, a
                      Slice up to a number that is computed), or holds no tensor of numbers (text, sequences, maps)
    it goes on with   all that reads what it gives

What the tail reads becomes outputs of the net before it. The tail itself is taken from the file as it is before shapes are
folded into it, so that it takes every batch and every size that it took there.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxzip.errors import UnsupportedError
from onnxzip.loading.dims import ports_of_graph
from onnxzip.loading.mapped import large_params
from onnxzip.loading.shapes import BATCHES, folded_for
from onnxzip.net import Tail
from onnxzip.ops import find, why_unknown
from onnxzip.ops.listed import COUNTED, OTHER
from onnxzip.runtime import SHAPES_ONLY, needed_nodes, operator_of, read_by
from onnxzip.runtime.lowering import known_schema

_REWRITTEN = frozenset({"CastLike"})  # loading leaves none, and their shapes are known
KEPT = "it is kept as it is, with all that reads it"


def parted(path: Path, model: ModelProto) -> tuple[ModelProto, Tail | None]:
    """A prepared model without its tail, and the tail; most models have none, and are returned as they are.

    Raises:
        UnsupportedError: nothing stands before the tail.
        InvalidModelError: shapes contradict each other.
    """
    if not _may_have_tail(model):
        return model, None
    unlike = {n.name: OTHER for n in model.graph.node if _gives_no_tensor(model, n)}
    before = _without_other_kinds(model, _behind(model.graph, unlike)) if unlike else model
    graph = folded_for(path, before, large_params(path, model), BATCHES[0])
    unlike |= {n.name: why for n in graph.nodes if (why := _why_odd(n)) is not None}
    if not unlike:
        return model, None
    late = _behind(model.graph, unlike)
    types = {t.name: t.dtype for t in graph.tensors().values() if isinstance(t, gs.Variable)}
    numbers = _numbers(path, model, before, graph, late)
    nodes, read = _taken(model.graph, late, types.keys() | numbers.keys())
    reads = [v for v in read if v not in numbers]
    tail = _tail(path, model, nodes, reads, numbers, _beginnings(model.graph, late, unlike))
    rest = _before(model, late)
    told = {p.name for p in (*ports_of_graph(model), *rest.graph.output)}
    rest.graph.output.extend(_output(v, types[v]) for v in reads if v in types and v not in told)
    if not rest.graph.output:
        (node, why), *_ = tail.begins
        raise UnsupportedError(f"{path}: nothing stands before node {node!r}: {why}. Give nets whose layers stand before it.")
    return rest, tail


def _may_have_tail(model: ModelProto) -> bool:
    """Whether some node that reads data has no record, or takes a setting from them: finding out more takes a while."""
    data = {p.name for p in ports_of_graph(model)}
    for node in model.graph.node:
        read = [v in data for v in node.input]
        given = node.op_type not in SHAPES_ONLY and not data.isdisjoint(read_by(node))
        if not (given or _gives_no_tensor(model, node)):
            continue
        data.update(node.output)
        record = find(operator_of(node))
        if record is None and node.op_type not in _REWRITTEN:
            return True
        if any(at < len(read) and read[at] for at in (record.constants if record is not None else ())):
            return True
    return False


def _gives_no_tensor(model: ModelProto, node: NodeProto) -> bool:
    """Whether an operator gives sequences, maps or optional values, whatever it reads."""
    version = next((int(o.version) for o in model.opset_import if o.domain == node.domain), 1)
    schema = known_schema(node.op_type, node.domain, version)
    outputs = schema.outputs if schema is not None else ()
    return any(o.types and not any(t.startswith("tensor(") for t in o.types) for o in outputs)


def _why_odd(node: gs.Node) -> str | None:
    """Why a node cannot be held in a net; None where it can."""
    known = [t for t in (*node.inputs, *node.outputs) if not t.is_empty()]
    if any(t.dtype is not None and getattr(t.dtype, "kind", "f") in "OSU" for t in known):
        return OTHER
    made = [t for t in node.outputs if not t.is_empty()]
    static = all(t.shape is not None and all(isinstance(d, int) for d in t.shape) for t in made)
    return None if static else COUNTED


def _behind(graph: GraphProto, first: Container[str]) -> set[str]:
    """Names of some nodes, and of all that read what they give."""
    late, made = set[str](), set[str]()
    for node in graph.node:
        if node.name in first or not made.isdisjoint(read_by(node)):
            late.add(node.name)
            made.update(node.output)
    return late


def _beginnings(graph: GraphProto, late: Container[str], unlike: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The nodes of a tail that read nothing of it, and why it begins there."""
    made = {v for n in graph.node if n.name in late for v in n.output}
    first = [n for n in graph.node if n.name in unlike and made.isdisjoint(read_by(n))]
    return tuple((n.name, f"{why_unknown(operator_of(n)) or f'{n.op_type}: {unlike[n.name]}'}; {KEPT}") for n in first)


def _numbers(
    path: Path, model: ModelProto, before: ModelProto, folded: gs.Graph, late: Container[str]
) -> dict[str, np.ndarray]:
    """Numbers that a tail reads and that follow from shapes of what stands before it, where they are the same for every batch.

    What follows from the inputs' shapes alone is computed in the tail, for any size. Of anything else the tail would read the
    whole value for its shape, and all that makes it could not be shared.
    """
    ports, known = {p.name for p in ports_of_graph(model)}, {t.name for t in model.graph.initializer}
    read = {v for n in model.graph.node if n.name in late for v in read_by(n)}
    found = {k: t.values for k, t in folded.tensors().items() if isinstance(t, gs.Constant) and k in read - known}
    variables = {t.name for t in folded.tensors().values() if isinstance(t, gs.Variable)}
    found = {k: a for k, a in found.items() if set(_taken(model.graph, (), variables, [k])[1]) - ports - known}
    if not found:
        return {}
    second = folded_for(path, before, large_params(path, model), BATCHES[1]).tensors()
    return {k: a for k, a in found.items() if isinstance(t := second.get(k), gs.Constant) and np.array_equal(a, t.values)}


def _taken(
    graph: GraphProto, late: Container[str], computed: Container[str], ends: Iterable[str] = ()
) -> tuple[list[NodeProto], list[str]]:
    """Late nodes and those that compute some ends, with what computes numbers from shapes for them, and what these read."""
    makers = {v: n for n in graph.node for v in n.output}
    known = {p.name for p in (*graph.input, *graph.initializer)}
    needed, reads = set[str](), dict[str, None]()
    waiting = [*ends, *(v for n in graph.node if n.name in late for v in n.output)]
    while waiting:
        value = waiting.pop()
        node = makers.get(value)
        if value in known or (node is not None and node.name not in late and value in computed):
            reads[value] = None
        elif node is not None and node.name not in needed:
            needed.add(node.name)
            waiting.extend(read_by(node))
    return [n for n in graph.node if n.name in needed], list(reads)


def _tail(
    path: Path, model: ModelProto, nodes: Iterable[NodeProto], reads: Collection[str], numbers: Mapping[str, np.ndarray],
    begins: tuple[tuple[str, str], ...],
) -> Tail:
    graph, whole = GraphProto(), model.graph
    graph.node.extend(nodes)
    graph.initializer.extend(t for t in whole.initializer if t.name in reads)
    for tensor in graph.initializer:
        _put_inside(path, model, tensor)
    graph.initializer.extend(numpy_helper.from_array(np.array(a, order="C"), k) for k, a in numbers.items())
    made = {v for n in graph.node for v in n.output}
    graph.output.extend(p for p in whole.output if p.name in made)
    held = {t.name for t in graph.initializer}
    found = {}
    for port in whole.output:
        read = {v for n in needed_nodes(graph, [port.name]) for v in read_by(n)} if port.name in made else {port.name}
        found[port.name] = tuple(v for v in dict.fromkeys((*reads, port.name)) if v in read and v not in held)
    return Tail(graph.SerializeToString(deterministic=True), found, begins)


def _put_inside(path: Path, model: ModelProto, tensor: TensorProto) -> None:
    """Let a constant that lies in another file stand in the graph."""
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(large_params(path, model)[tensor.name]), tensor.name))


def _before(model: ModelProto, late: Container[str]) -> ModelProto:
    """The model without its tail, which gives only those of its outputs that the tail does not compute."""
    new = deepcopy(model)
    gone = {v for n in model.graph.node if n.name in late for v in n.output}
    for part in ("node", "output"):
        new.graph.ClearField(part)
    new.graph.node.extend(n for n in model.graph.node if n.name not in late)
    new.graph.output.extend(p for p in model.graph.output if p.name not in gone)
    return new


def _without_other_kinds(model: ModelProto, late: Container[str]) -> ModelProto:
    """The model without some late nodes; in their place others read what they do, and give something of a known type."""
    new = _before(model, late)
    made = {v for n in new.graph.node for v in n.output}
    for value in dict.fromkeys(v for n in model.graph.node if n.name in late for v in read_by(n) if v in made):
        name = f"{value}.read"
        new.graph.node.append(helper.make_node("Cast", [value], [name], name, to=TensorProto.FLOAT))
        new.graph.output.append(_output(name, TensorProto.FLOAT))
    return new


def _output(name: str, kind: np.dtype | int) -> ValueInfoProto:
    """An output of a type and any shape."""
    return helper.make_tensor_value_info(name, kind if isinstance(kind, int) else helper.np_dtype_to_tensor_dtype(kind), None)
