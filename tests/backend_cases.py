"""ONNX's own test cases of its operators, brought to where a net in canonical form can hold them.

A case counts where its operators are registered and its values are floats, indices or truth values. Those of float64 are run
in float32, the only type of the nets that are merged.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxzip.ops import find

# cases that are left out, by name, with the reason
REASONS = {
    r"test_batchnorm_.*_training_mode|test_training_dropout(_default)?(_mask)?": "training is no part of a net that is merged",
    r"test_.*_empty_set.*|test_reshape_allowzero_reordered|test_split_zero_size.*|test_tril_zero": "tensors without elements",
    r"test_attention_.*_qk_matmul.*|test_attention_local_window_gqa_rank4_mask|test_maxunpool_export_with_output_shape":
        "onnx infers no shape of an output, which may be an omitted one",
    r"test_flexattention_double_.*": "casts to float64 inside",
    r"test_(center_crop_pad|(blackman|hamming|hann)window)_.*_expanded|test_.*window_expanded": "a size that is an input",
    r"test_spacetodepth_(dcr|crd)_mode_example": "an attribute of an opset that ONNX Runtime does not know yet",
}
# what ONNX Runtime knows; later versions add nothing to the registered operators but types, and a mode of SpaceToDepth
OPSET, IR = 26, 10
# operators that loading leaves none of
GOING = frozenset({"CastLike", "Constant", "ConstantOfShape", "EyeLike", "Range", "Shape", "Size"})
_OTHERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})


@dataclass(frozen=True, eq=False)
class Case:
    """A model with what it must compute; inputs that a canonical net holds as constants are bound in the model."""

    name: str
    model: ModelProto
    feeds: dict[str, np.ndarray]
    wanted: tuple[np.ndarray, ...]
    rtol: float
    atol: float


def reason(name: str) -> str | None:
    """Why a case is left out."""
    return next((why for pattern, why in REASONS.items() if re.fullmatch(pattern, name)), None)


@cache
def cases() -> tuple[Case, ...]:
    """All cases that count, those with a reason to be left out among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the collection computes overflows on purpose
        from onnx.backend.test.case.node import collect_testcases

        return tuple(_counting(collect_testcases("")))


def _counting(collected: list) -> Iterator[Case]:
    for found in collected:
        nodes = found.model.graph.node
        known = {n.op_type for n in nodes if find(n.op_type) is not None}
        if known and {n.op_type for n in nodes} <= known | GOING and _is_float(found.model):
            feeds, wanted = ([_array(v) for v in side] for side in found.data_sets[0])
            names = [port.name for port in found.model.graph.input]
            model, free = _bound(found.model, dict(zip(names, feeds, strict=True)))
            yield Case(found.name, model, free, tuple(wanted), found.rtol, max(found.atol, 1e-6))


def _is_float(model: ModelProto) -> bool:
    kinds = {p.type.tensor_type.elem_type for p in (*model.graph.input, *model.graph.output)}
    return len(kinds & _FLOATS) <= 1 and kinds <= _FLOATS | _OTHERS


def _array(value: object) -> np.ndarray:
    array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.array(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _bound(model: ModelProto, feeds: dict[str, np.ndarray]) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """Axes, shapes, bounds and the like become initializers; the opset becomes one that ONNX Runtime knows."""
    bound = ModelProto()
    bound.CopyFrom(model)
    constant = {
        node.input[k] for node in model.graph.node if (record := find(node.op_type)) is not None
        for k in record.constants if k < len(node.input) and node.input[k] in feeds
    }
    bound.graph.initializer.extend(numpy_helper.from_array(feeds[name], name) for name in sorted(constant))
    ports = [port for port in bound.graph.input if port.name not in constant]
    del bound.graph.input[:]
    bound.graph.input.extend(ports)
    for port in (*bound.graph.input, *bound.graph.output):
        if port.type.tensor_type.elem_type == TensorProto.DOUBLE:
            port.type.tensor_type.elem_type = TensorProto.FLOAT
    bound.ir_version = min(bound.ir_version, IR)
    for opset in bound.opset_import:
        opset.version = opset.version if opset.domain else min(max(opset.version, 7), OPSET)
    return bound, {name: array for name, array in feeds.items() if name not in constant}
