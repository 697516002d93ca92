"""Shapes, and constants that follow from shapes, found by giving the batch two values.

With the batch bound to a number, shape inference and constant folding turn every Shape -> Gather -> Concat -> Reshape chain
into constants. Doing so for B = 2 and for B = 3 tells what depends on the batch: a dim d2 = d3 is static, one with d2 = 2k
and d3 = 3k is k times the batch and written -k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, TensorProto, helper, shape_inference
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.loading.dims import ports_of_graph
from onnxzip.loading.files import plain
from onnxzip.loading.growing import growers
from onnxzip.loading.lookups import with_rows_of_samples, without_counting_gathers
from onnxzip.loading.mapped import large_params
from onnxzip.loading.one_batch import as_of_one_batch
from onnxzip.loading.overwritten import without_overwriting
from onnxzip.loading.subgraphs import with_state_shapes, with_taken_branches
from onnxzip.net import Shape
from onnxzip.runtime import SHAPES_ONLY, parts_of, quiet

BATCHES = (2, 3)
_SHAPE_LIKE = 1024
_SHAPED_AS_READ = frozenset({"GroupNormalization", "MeanVarianceNormalization"})
_OF_TYPES = frozenset({"Cast", "CastLike"})
_MADE_PLAIN = frozenset({"CastLike", "ScatterND"})  # other nodes take their place once enough is known


@dataclass(frozen=True)
class Runs:
    """The same folded graph for two batch sizes; the same object twice where the batch is a fixed number."""

    first: gs.Graph
    second: gs.Graph

    @property
    def fixed(self) -> bool:
        return self.first is self.second


def fold_for_both_batches(path: Path, model: ModelProto) -> Runs:
    """Fold and infer a prepared model for two batch sizes.

    A constant that grows with the batch because a node expands it (a class token repeated for every sample) is not folded.

    Raises:
        InvalidModelError: shapes contradict each other, or what a Reshape reads.
        UnsupportedError: an input or output is no tensor; an input has a dynamic axis behind the batch; the graph depends on
            the batch.
    """
    _refuse_other_kinds(path, model)
    fold = partial(folded_for, path, model, large_params(path, model))
    if not _batched_inputs(path, model):
        graph = fold(1)
        return Runs(graph, graph)
    try:
        runs = Runs(*map(fold, BATCHES))
    except InvalidModelError as error:
        raise as_of_one_batch(path, model, fold, error) from error.__cause__
    kept = frozenset(growers(model, _grown_constants(runs)))
    while kept:
        runs = Runs(*(fold(batch, kept) for batch in BATCHES))
        growing = kept & _growing(runs)
        if growing == kept:
            break
        kept = growing
    with_rows_of_samples(runs.first, runs.second)
    if [(n.op, n.name) for n in runs.first.nodes] != [(n.op, n.name) for n in runs.second.nodes]:
        raise UnsupportedError(f"{path}: which nodes it has depends on the batch size. Export it with a fixed batch of 1.")
    return runs


def joined(path: Path, name: str, first: Shape, second: Shape) -> Shape:
    """Both runs' shapes of a value as one, with -k for k times the batch.

    Raises:
        UnsupportedError: a dim is neither static nor a multiple of the batch.
    """
    dims = []
    for a, b in zip(first, second, strict=True):
        if a == b:
            dims.append(a)
        elif a * BATCHES[1] == b * BATCHES[0] and a % BATCHES[0] == 0:
            dims.append(-(a // BATCHES[0]))
        else:
            raise UnsupportedError(
                f"{path}: value {name!r} has {first} entries for a batch of {BATCHES[0]} and {second} for {BATCHES[1]}: "
                "its size is not a multiple of the batch. Export the net with a fixed batch of 1."
            )
    return tuple(dims)


def _refuse_other_kinds(path: Path, model: ModelProto) -> None:
    """Only tensors are known: no sequences, maps, optional values."""
    for kind, ports in (("input", model.graph.input), ("output", model.graph.output)):
        for port in ports:
            if port.type.WhichOneof("value") != "tensor_type":
                raise UnsupportedError(
                    f"{path}: {kind} {port.name!r} is not a tensor; only nets over tensors can be merged. Export the net "
                    "without it (scikit-learn: `zipmap=False`)."
                )


def _batched_inputs(path: Path, model: ModelProto) -> tuple[str, ...]:
    batched = []
    for port in ports_of_graph(model):
        if not port.type.tensor_type.HasField("shape"):
            raise UnsupportedError(f"{path}: input {port.name!r} has no shape. Export the net with its input shapes.")
        dynamic = [k for k, dim in enumerate(port.type.tensor_type.shape.dim) if dim.dim_value <= 0]
        if any(k > 0 for k in dynamic):
            raise UnsupportedError(
                f"{path}: input {port.name!r} has dynamic axes {[k for k in dynamic if k > 0]}; only axis 0, the batch, may "
                "be dynamic. Export the net with fixed numbers there, or fix them with "
                "`python -m onnxruntime.tools.make_dynamic_shape_fixed`."
            )
        if dynamic:
            batched.append(port.name)
    return tuple(batched)


def folded_for(
    path: Path, model: ModelProto, mapped: Mapping[str, np.ndarray], batch: int, kept: frozenset[str] = frozenset()
) -> gs.Graph:
    """A prepared model inferred and folded for one batch size until nothing changes any more, but for some nodes that grow.

    Raises:
        InvalidModelError, UnsupportedError: as `fold_for_both_batches`.
    """
    graph, batches = gs.import_onnx(model), dict.fromkeys(_batched_inputs(path, model), batch)
    for tensor in graph.tensors().values():
        if tensor.name in mapped:
            tensor.values = mapped[tensor.name]
    for port in graph.inputs:
        port.shape = [batches.get(port.name, port.shape[0]), *port.shape[1:]] if port.shape else port.shape
    given = {port.name for port in graph.inputs}
    for port in graph.outputs:
        if isinstance(port, gs.Variable) and port.name not in given:
            port.shape = None
    before, now = None, _progress(path, graph)
    while now != before:
        first = before is None
        if _may_fold(graph) or (first and any(n.op in _OF_TYPES for n in graph.nodes)):
            with G_LOGGER.suppress(G_LOGGER.CRITICAL), quiet():
                graph.fold_constants(should_exclude_node=lambda node: node.name in kept, flatten_subgraphs=False)
            with_taken_branches(graph)
        elif not first:
            break
        without_overwriting(graph)
        graph.cleanup().toposort()
        _plain_casts(graph)
        with_state_shapes(graph)
        before, now = now, _progress(path, graph)
    _refuse_other_counts(path, graph)
    return without_counting_gathers(graph)


def _refuse_other_counts(path: Path, graph: gs.Graph) -> None:
    """onnx believes what a Reshape says that it gives, whatever it reads."""
    for node in (n for n in graph.nodes if n.op == "Reshape"):
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if _is_static(before) and _is_static(after) and math.prod(before) != math.prod(after):
            raise InvalidModelError(
                f"{path}: node {node.name!r} (Reshape) cannot make {list(after)} of {list(before)}: it is made for another "
                "size of the input, or a batch of 1. Export the net with that size fixed."
            )


def _may_fold(graph: gs.Graph) -> bool:
    """Whether there can be anything to fold but Casts: looking for it takes longer than all else that loading does."""
    return any(
        (n.op in SHAPES_ONLY and n.inputs[0].shape is not None) or n.op in _MADE_PLAIN or any(n.subgraphs())
        or all(map(_is_constant, n.inputs)) for n in graph.nodes
    )


def _is_constant(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) or bool(tensor.is_empty())


def _plain_casts(graph: gs.Graph) -> None:
    """CastLike is a Cast, once the type that it takes as its model is known."""
    for node in graph.nodes:
        if node.op == "CastLike" and not node.domain and node.inputs[1].dtype is not None:
            kind = node.inputs[1].dtype
            number = kind if isinstance(kind, int) else helper.np_dtype_to_tensor_dtype(np.dtype(kind))
            node.op, node.attrs = "Cast", {"to": number, **node.attrs}
            node.inputs.pop()


def _progress(path: Path, graph: gs.Graph) -> tuple[int, int]:
    """Infer shapes; the number of nodes left and of values whose shape is known."""
    _infer(path, graph)
    known = sum(_is_static(t.shape) for t in graph.tensors().values())
    return len(graph.nodes), known


def _infer(path: Path, graph: gs.Graph) -> None:
    """Put the shape and type of every value into the graph; large constants take part by their shape alone."""
    tensors = graph.tensors()
    large = [t for t in tensors.values() if isinstance(t, gs.Constant) and math.prod(t.shape) > _SHAPE_LIKE]
    arrays = [t.values for t in large]
    for tensor, array in zip(large, arrays, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.values = LazyValues(TensorProto(name=tensor.name, data_type=kind, dims=array.shape))
    skeleton = gs.export_onnx(graph)
    _as_identities(skeleton)
    _undeclared(skeleton.graph)
    for tensor, array in zip(large, arrays, strict=True):
        tensor.values = array
    try:
        inferred = shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise InvalidModelError(f"{path}: its shapes contradict each other: {plain(error)}. Export the net again.") from error
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = tensors.get(info.name)
        if isinstance(tensor, gs.Variable) and not (_is_static(tensor.shape) and tensor.dtype is not None):
            found = OnnxImporter.import_tensor(info)
            tensor.shape, tensor.dtype = found.shape, found.dtype


def _as_identities(model: ModelProto) -> None:
    """For shapes alone: operators that ONNX defines as functions, of which it infers nothing, keep those of their input."""
    for node in model.graph.node:
        if node.op_type in _SHAPED_AS_READ and not node.domain:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]


def _undeclared(graph: GraphProto) -> None:
    """Without what subgraphs say of the shapes of their values: some exporters write wrong ones, which no runtime minds."""
    for inner in (g for node in graph.node for g in parts_of(node, GraphProto)):
        del inner.value_info[:]
        for port in inner.output:
            port.type.tensor_type.ClearField("shape")


def _grown_constants(runs: Runs) -> set[str]:
    """Float constants, and others of more than one axis, that differ between the runs."""
    second = runs.second.tensors()
    grown = set()
    for name, tensor in runs.first.tensors().items():
        if isinstance(tensor, gs.Constant) and isinstance(second.get(name), gs.Constant):
            a, b = tensor.values, second[name].values
            if a is not b and not np.array_equal(a, b) and (a.shape != b.shape or a.dtype.kind == "f"):
                grown.add(name)
    return grown


def _growing(runs: Runs) -> set[str]:
    """Nodes that give more entries to a larger batch, or whose entries are not counted yet."""
    second = {n.name: n.outputs[0].shape for n in runs.second.nodes}
    shapes = {n.name: n.outputs[0].shape for n in runs.first.nodes}
    return {name for name, shape in shapes.items() if shape != second.get(name) or not _is_static(shape)}


def _is_static(shape: list[object] | None) -> bool:
    return shape is not None and all(isinstance(d, int) for d in shape)
