"""Nets with numbers of half types, read as the float32 nets that they are.

    w (half) -> Cast -> the nodes that read w          their weights lie in one
    x (half) -> nodes, Casts, subgraphs -> y (half)    they compute in float16, all of them or in parts

becomes nodes that read, compute and give float32. Ports keep their type, with a Cast behind an input and before an output.
What such a net computes in float64 (so torch's older exporter writes LayerNorm of halves) is computed in float32, too: that
has more digits than come in or go out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from onnxzip.errors import UnsupportedError
from onnxzip.loading.dims import ports_of_graph
from onnxzip.loading.half_ports import with_half_ports
from onnxzip.loading.stored import HALVES, as_tensor, held_by, read_floats
from onnxzip.runtime import parts_of

_TYPES = frozenset({"to", "dtype", "stash_type", "output_dtype", "output_datatype", "softmax_precision"})  # attributes


def widened(path: Path, model: ModelProto) -> ModelProto:
    """The model as one that computes in float32; the model itself where it has nothing of half types.

    Raises:
        UnsupportedError: it computes in bfloat16, looks at the bits of numbers, or has sequences of halves as ports.
    """
    if not _holds_halves(model):
        return model
    for kind, where in _computing(model):
        if kind == TensorProto.BFLOAT16:
            raise UnsupportedError(
                f"{path}: {where} is BFLOAT16, and ONNX Runtime's CPU has hardly an operator that computes in it: what "
                "comes of a merge could not be compared with the net. Convert it to float32 or float16 first."
            )
    _refuse_bits(path, model)
    return computing_in_float32(model)


def computing_in_float32(model: ModelProto) -> ModelProto:
    """A copy of a model that reads, computes and gives float32, but for ports of float16."""
    wide = deepcopy(model)
    both = ports_of_graph(wide), wide.graph.output
    inputs, outputs = ([p.name for p in ports if _kind_of(p) == TensorProto.FLOAT16] for ports in both)
    computes = computed_type(model) != TensorProto.FLOAT
    float32_throughout(wide, HALVES | {TensorProto.DOUBLE} if computes else HALVES)
    with_half_ports(wide.graph, inputs, outputs)
    return wide


def computed_type(model: ModelProto) -> int:
    """The half type that some of a model is computed in; FLOAT where there is none."""
    return max((kind for kind, _ in _computing(model)), default=TensorProto.FLOAT)


def float32_throughout(model: ModelProto, kinds: Collection[int] = HALVES) -> ModelProto:
    """Some types of floats, half types unless others are named, become float32 in place, ports too."""
    for node in parts_of(model, NodeProto):
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.type == AttributeProto.INT and attribute.i in kinds:
                attribute.i = TensorProto.FLOAT
    for tensor in parts_of(model, TensorProto):
        if tensor.data_type in kinds:
            tensor.CopyFrom(as_tensor(_in_range(read_floats(tensor)), TensorProto.FLOAT, tensor.name))
    for value in parts_of(model, ValueInfoProto):
        _widen_type(value.type, kinds)
    return model


def _in_range(array: np.ndarray) -> np.ndarray:
    """Numbers that float32 holds: what stands for minus infinity in float64 stays finite."""
    most = np.finfo(np.float32).max
    return np.where(np.isfinite(array), array.clip(-most, most), array)


def _widen_type(kind: TypeProto, kinds: Collection[int]) -> None:
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        _widen_type(getattr(kind, which).elem_type, kinds)
    elif which == "map_type":
        _widen_type(kind.map_type.value_type, kinds)
    elif which is not None and getattr(kind, which).elem_type in kinds:
        getattr(kind, which).elem_type = TensorProto.FLOAT


def _mentions_halves(kind: TypeProto) -> bool:
    wide = deepcopy(kind)
    _widen_type(wide, HALVES)
    return bool(wide != kind)


def _holds_halves(model: ModelProto) -> bool:
    return any(t.data_type in HALVES for t in parts_of(model, TensorProto)) or next(_computing(model), None) is not None


def _computing(model: ModelProto) -> Iterator[tuple[int, str]]:
    """Half types that something is given, computed or read in, weights that only Casts read aside; and what it is."""
    for port in (*ports_of_graph(model), *model.graph.output):
        for kind in {_kind_of(port)} & HALVES:
            yield kind, repr(port.name)
    held = {t.name: t.data_type for g in parts_of(model, GraphProto) for t in g.initializer}
    nodes = list(parts_of(model, NodeProto))
    held |= {n.output[0]: t.data_type for n in nodes if isinstance(t := held_by(n), TensorProto)}
    for node in nodes:
        if node.op_type == "Constant":
            continue
        kinds = {a.i for a in node.attribute if a.name in _TYPES and a.type == AttributeProto.INT}
        kinds |= {a.t.data_type for a in node.attribute if a.type == AttributeProto.TENSOR}
        kinds |= {held[v] for v in node.input if v in held} if node.op_type != "Cast" else set()
        for kind in kinds & HALVES:
            yield kind, f"what node {node.name or node.output[0]!r} ({node.op_type}) computes with"


def _refuse_bits(path: Path, model: ModelProto) -> None:
    for node in parts_of(model, NodeProto):
        if node.op_type == "BitCast":
            raise UnsupportedError(
                f"{path}: node {node.name or node.output[0]!r} (BitCast) looks at the bits of numbers in a net that computes "
                "in half types; these would be others in float32, in which weights are fitted. Export the net without it."
            )
    for port in (*ports_of_graph(model), *model.graph.output):
        if _kind_of(port) not in HALVES and _mentions_halves(port.type):
            raise UnsupportedError(
                f"{path}: {port.name!r} holds several tensors of half types; only tensors can keep their type when the net is "
                "computed in float32. Export the net with one output for each."
            )


def _kind_of(port: ValueInfoProto) -> int:
    """The type of the numbers of a port that is a tensor; 0 for any other."""
    return int(port.type.tensor_type.elem_type)
