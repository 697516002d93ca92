"""Where a file stores its float params, and how other values get there in the encoding that stands there.

A param is an initializer, or what a Constant node of the main graph holds (some exporters store all weights so); its name is
that of the value. Half types are read as float32 and rounded to the nearest on the way back, ties to even; everything but
the bits of the numbers stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxzip.errors import InvalidDataError
from onnxzip.runtime import operator_of

Holder = TensorProto | AttributeProto

_BITS: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.BFLOAT16: np.dtype("<u2"),
}
_FIELDS: dict[int, str] = {TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data"}
HALVES: frozenset[int] = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def tensors_of(graph: GraphProto) -> dict[str, TensorProto]:
    """The constants of a graph by name: initializers, and what Constant nodes hold as tensors."""
    nodes = [n for n in graph.node if n.op_type == "Constant"]
    return {t.name: t for t in graph.initializer} | {
        n.output[0]: a.t for n in nodes for a in n.attribute if a.name == "value"
    }


def holders(model: ModelProto) -> Iterator[tuple[str, Holder]]:
    """Every float param of the main graph: its name, and the part of the model that holds its numbers."""
    for tensor in model.graph.initializer:
        if tensor.data_type in _BITS:
            yield tensor.name, tensor
    for node in model.graph.node:
        if (held := held_by(node)) is not None:
            yield node.output[0], held


def held_by(node: NodeProto) -> Holder | None:
    """What holds the floats of a Constant node; None for any other node."""
    if operator_of(node) != "Constant":
        return None
    for attribute in node.attribute:
        held: Holder = attribute.t if attribute.name == "value" else attribute
        if attribute.name in ("value_float", "value_floats") or (attribute.name == "value" and held.data_type in _BITS):
            return held
    return None


def read_floats(holder: Holder) -> np.ndarray:
    """The numbers, float64 or float32."""
    bits = _bits(holder)
    if isinstance(holder, TensorProto) and holder.data_type == TensorProto.BFLOAT16:
        return np.asarray((bits.astype(np.uint32) << 16).view(np.float32))
    return np.array(bits, np.float64 if bits.dtype.itemsize == 8 else np.float32)


def write_floats(holder: Holder, array: np.ndarray) -> bool:
    """Put numbers of the same shape there; whether that has changed anything."""
    kind = holder.data_type if isinstance(holder, TensorProto) else TensorProto.FLOAT
    bits = _rounded(array, kind)
    if bits.tobytes() == _bits(holder).tobytes():
        return False
    if isinstance(holder, AttributeProto):
        if holder.name == "value_float":
            holder.f = float(bits)
        else:
            holder.floats[:] = bits.tolist()
    elif holder.HasField("raw_data"):
        holder.raw_data = bits.tobytes()
    else:
        getattr(holder, _FIELDS.get(kind, "int32_data"))[:] = bits.reshape(-1).view(_unsigned(kind)).tolist()
    return True


def step_of(dtype: np.dtype) -> float:
    """From one float16 to the next, relative to it: so far apart may two equal results be when rounded. 0 for other types."""
    return float(np.finfo(np.float16).eps) if dtype == np.float16 else 0.0


def as_tensor(array: np.ndarray, kind: int, name: str) -> TensorProto:
    """Numbers as a tensor of a type of float."""
    return TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=_rounded(array, kind).tobytes())


def _unsigned(kind: int) -> np.dtype:
    """The type of an entry of the field that holds numbers of this kind: half types stand there by their bits."""
    return np.dtype("<u2") if kind in HALVES else _BITS[kind]


def _bits(holder: Holder) -> np.ndarray:
    if isinstance(holder, AttributeProto):
        return np.array(holder.f if holder.name == "value_float" else holder.floats, np.dtype("<f4"))
    kind, shape = holder.data_type, tuple(holder.dims)
    if holder.HasField("raw_data"):
        return np.frombuffer(holder.raw_data, _BITS[kind]).reshape(shape)
    entries = np.array(getattr(holder, _FIELDS.get(kind, "int32_data")), None if kind in _FIELDS else np.int64)
    return np.asarray(entries, _unsigned(kind)).view(_BITS[kind]).reshape(shape)


def _rounded(array: np.ndarray, kind: int) -> np.ndarray:
    """The array in the stored type; a bfloat16 is the upper half of a float32, and a NaN stays one whatever its lower half."""
    if kind != TensorProto.BFLOAT16:
        with np.errstate(over="ignore"):  # whoever writes looks at what became infinite
            return np.array(array, _BITS[kind])
    wide = np.ascontiguousarray(array, np.float32).reshape(array.shape).view(np.uint32)
    nearest = (wide + (0x7FFF + ((wide >> 16) & 1))) >> 16
    return np.where(wide << 1 > 0xFF000000, 0x7FC0, nearest).astype(np.dtype("<u2"))


def replaced(content: bytes, arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file with other values of its params; the file itself, byte for byte, where none of them changes.

    Raises:
        InvalidDataError: a value is NaN or infinite that was not, or becomes so in the type of its param.
    """
    model = ModelProto.FromString(content)
    changed = False
    for name, holder in holders(model):
        if name in arrays:
            before = np.isfinite(read_floats(holder)).all()
            changed |= write_floats(holder, arrays[name])
            if before and not np.isfinite(read_floats(holder)).all():
                raise InvalidDataError(f"param {name!r} has become NaN or infinite. Train with a smaller learning rate.")
    return bytes(model.SerializeToString()) if changed else content
