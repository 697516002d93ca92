"""The torch function of every operator computes what ONNX says: on ONNX's own cases, and on the samples of the laws."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from backend_cases import IR, OPSET, REASONS, Case, cases, reason
from evaluation import evaluate
from onnx import helper, numpy_helper
from operator_samples import Sample, p
from operator_samples_shaped import SAMPLES

from onnxzip.loading import load
from onnxzip.net import Net, Shape, bind_batch
from onnxzip.ops import registered

# operators that no case leaves in a net in canonical form: the samples alone speak for their values
NO_CASE = {
    **dict.fromkeys(("GlobalLpPool", "MaxRoiPool"), "ONNX has no case"),
}
LEAST_CASES = 1090
RUN = [case for case in cases() if reason(case.name) is None]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@cache
def net_of(case: Case, folder: Path) -> Net:
    path = folder / f"{case.name}.onnx"
    onnx.save(case.model, path)
    return load(path)


@pytest.mark.parametrize("case", RUN, ids=lambda case: case.name)
def test_onnx_cases(case: Case, folder: Path) -> None:
    net = net_of(case, folder)
    axes = {port.name: port.axis for port in (*net.inputs, *net.outputs)}
    feeds = {name: torch.from_numpy(np.moveaxis(a, axes[name], 0) if axes[name] else a) for name, a in case.feeds.items()}
    results = evaluate(net, feeds)
    assert list(results) == [port.name for port in case.model.graph.output]
    for (name, result), want in zip(results.items(), case.wanted, strict=True):
        found = np.moveaxis(result.numpy(), 0, axes[name]) if axes[name] else result.numpy()
        np.testing.assert_allclose(found, want, rtol=case.rtol, atol=case.atol)
        assert found.dtype == want.dtype


@pytest.mark.parametrize(("op", "shape", "settings"), [("Gather", (), {"axis": 0}), ("GatherND", (1,), {"batch_dims": 0})])
def test_one_number_of_a_vector_has_no_axes(op: str, shape: Shape, settings: dict[str, int]) -> None:
    vector = np.arange(3, dtype=np.float32)
    (found,) = Sample(op, (p(3), p(*shape))).run([vector, np.full(shape, 2, np.int64)], settings)
    assert found.shape == () and found == 2


def test_enough_cases_run_and_every_reason_is_needed() -> None:
    assert len(RUN) >= LEAST_CASES
    assert {reason(case.name) for case in cases()} == {None, *REASONS.values()}


def test_every_operator_occurs_in_the_laws_and_in_the_cases(folder: Path) -> None:
    names = {operator.name for operator in registered()}
    assert {sample.op for sample in SAMPLES} == names
    assert {node.op for case in RUN for node in net_of(case, folder).nodes} == names - set(NO_CASE)


def model_of(sample: Sample, arrays: list[np.ndarray | None]) -> onnx.ModelProto:
    """The sample as a model; its constants become initializers."""
    names = [f"in{k}" if a is not None else "" for k, a in enumerate(arrays)]
    constants = {k: sample.attrs[key] for k, key in sample.operator.constants.items() if sample.attrs.get(key) is not None}
    names += [""] * (max(constants, default=0) + 1 - len(names))
    for k in constants:
        names[k] = f"constant{k}"
    attrs = {k: v for k, v in sample.attrs.items() if k not in sample.operator.constants.values()}
    node = helper.make_node(sample.op, names, [f"out{k}" for k in range(sample.outputs)], **attrs)
    inputs = [helper.make_tensor_value_info(f"in{k}", kind(a), a.shape) for k, a in enumerate(arrays) if a is not None]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    constants = {k: bind_batch(v, 2) if sample.operator.constants[k] == "sizes" else v for k, v in constants.items()}
    stored = [numpy_helper.from_array(constant(v), f"constant{k}") for k, v in constants.items()]
    graph = helper.make_graph([node], "sample", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset_for(sample.op))], ir_version=IR)


def opset_for(op: str) -> int:
    """21 where it will do: ONNX Runtime has not yet every version that came later."""
    return 21 if onnx.defs.has(op, 21) else OPSET


def kind(array: np.ndarray) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def constant(value: Any) -> np.ndarray:
    array = np.array(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.standard], ids=str)
def test_samples_have_the_values_of_onnx_runtime(sample: Sample) -> None:
    arrays = [None if a is None else np.asarray(constant(a)) for a in sample.arrays(2)]
    model = model_of(sample, arrays)
    feeds = {f"in{k}": a for k, a in enumerate(arrays) if a is not None}
    wanted = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    for got, want in zip(sample.run(arrays), wanted, strict=True):
        assert got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
