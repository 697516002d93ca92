"""ONNX's own test cases of its operators, brought to where a net in canonical form can hold them.

A case counts where its operators are registered and its results are float32, as those of every net that can be merged.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from onnxzip.loading import load
from onnxzip.net import Net
from onnxzip.ops import find

# cases that cannot run, by name, with the reason
REASONS = {
    r"test_batchnorm_.*_training_mode": "training is no part of a net that is merged",
    r"test_maxpool_with_argmax_.*": "indices of the maxima are not computed in torch",
    r"test_.*_empty_set.*|test_reshape_allowzero.*|test_split_zero_size.*": "tensors without elements",
    r"test_group_normalization_(example|epsilon)|test_mvn": "shape inference does not see through these functions of ONNX",
    r"test_(training_)?dropout_.*ratio.*|test_training_dropout.*": "a dropout ratio that is an input means training",
}
NEWEST = 26  # opsets beyond differ in none of the operators that are registered here

OLDER_IR = 10


@dataclass(frozen=True)
class Case:
    """A model with what it must compute; inputs that a canonical net holds as constants are bound in the model."""

    name: str
    model: ModelProto
    feeds: dict[str, np.ndarray]
    wanted: tuple[np.ndarray, ...]
    rtol: float
    atol: float

    def net(self, folder: Path) -> Net:
        path = folder / f"{self.name}.onnx"
        onnx.save(self.model, path)
        return load(path)


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
        if all(find(n.op_type) is not None or n.op_type in ("Constant", "Shape") for n in nodes) and _is_float32(found.model):
            feeds, wanted = ([_array(v) for v in side] for side in found.data_sets[0])
            names = [port.name for port in found.model.graph.input]
            model, free = _bound(found.model, dict(zip(names, feeds, strict=True)))
            yield Case(found.name, model, free, tuple(wanted), found.rtol, max(found.atol, 1e-6))


def _is_float32(model: ModelProto) -> bool:
    kinds = [port.type.tensor_type.elem_type for port in model.graph.output]
    others = [port.type.tensor_type.elem_type for port in model.graph.input]
    return set(kinds) == {TensorProto.FLOAT} and set(others) <= {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}


def _array(value: object) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.array(value)


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
    bound.ir_version = min(bound.ir_version, OLDER_IR)
    for opset in bound.opset_import:
        opset.version = min(opset.version, NEWEST)
    return bound, {name: array for name, array in feeds.items() if name not in constant}
