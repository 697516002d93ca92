"""Streaming nets as torch writes them, in two dialects: recurrent layers whose states come from outside and go back there.

Nets of other weights with states of their own, side by side; nets that are nearly the same, which share all units and states.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import fed
from onnx import ModelProto, numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxzip  # noqa: E402
from onnxzip.loading.in_front import axes_of  # noqa: E402

FEATURES, UNITS, WIDTH, STEPS, STATES = 5, 6, 8, 4, "hc"


class Stream(torch.nn.Module):  # type: ignore[misc]
    """A layer, recurrent ones with states, a head."""

    def __init__(self, kind: str, layers: int, conv: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv1d(FEATURES, WIDTH, 3, padding=1) if conv else None
        self.first = torch.nn.Linear(WIDTH if conv else FEATURES, WIDTH)
        self.recurrent = getattr(torch.nn, kind)(WIDTH, UNITS, layers, batch_first=True)
        self.head = torch.nn.Linear(UNITS, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor, *c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.conv is not None:
            x = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        y, now = self.recurrent(torch.relu(self.first(x)), (h, *c) if c else h)
        return (self.head(y), *(now if c else (now,)))


NETS = {
    "LSTM": ("LSTM", 1, False), "two layers of LSTM": ("LSTM", 2, False), "two layers of GRU": ("GRU", 2, False),
    "convolution and GRU": ("GRU", 1, True),
}


def exported(kind: str, layers: int, conv: bool, dialect: str, fixed: bool) -> ModelProto:
    """The net for any number of samples, or for one."""
    net, count = Stream(kind, layers, conv).eval(), 1 if fixed else 3
    states = STATES[: 2 if kind == "LSTM" else 1]
    feeds = (torch.zeros(count, STEPS, FEATURES), *(torch.zeros(layers, count, UNITS) for _ in states))
    names, ends = ["x", *states], ["y", *(f"{s}n" for s in states)]
    place = {n: int(n[0] in STATES) for n in (*names, *ends)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dialect == "torchscript":
            file = io.BytesIO()
            torch.onnx.export(
                net, feeds, file, input_names=names, output_names=ends, opset_version=17, dynamo=False,
                dynamic_axes=None if fixed else {n: {k: "batch"} for n, k in place.items()},
            )
            return onnx.load_from_string(file.getvalue())
        batch = torch.export.Dim("batch", min=1, max=512)
        shapes = ({0: batch}, {1: batch}, *([({1: batch},)] if len(states) > 1 else []))
        program = torch.onnx.export(
            net, feeds, input_names=names, output_names=ends, opset_version=18, dynamo=True, verbose=False,
            dynamic_shapes=None if fixed else shapes,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def a_little_off(model: ModelProto) -> ModelProto:
    """The net with weights a thousandth off."""
    copy, rng = ModelProto(), np.random.default_rng(2)
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            off = array * (1 + 1e-3 * rng.standard_normal(array.shape))
            tensor.CopyFrom(numpy_helper.from_array(off.astype(np.float32), tensor.name))
    return copy


def with_other_weights(model: ModelProto) -> ModelProto:
    """The net with its weights in another order."""
    copy, rng = ModelProto(), np.random.default_rng(2)
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1:
            tensor.CopyFrom(numpy_helper.from_array(rng.permutation(array.reshape(-1)).reshape(array.shape), tensor.name))
    return copy


@pytest.mark.parametrize("dialect", ["torchscript", "dynamo"])
@pytest.mark.parametrize(("name", "fixed"), [*((name, False) for name in NETS), ("two layers of LSTM", True)])
def test_streams(name: str, dialect: str, fixed: bool, tmp_path: Path) -> None:
    """Each task's states go through the fused file as through its original, step by step."""
    kind, layers, conv = NETS[name]
    states = STATES[: 2 if kind == "LSTM" else 1]
    model, files = exported(kind, layers, conv, dialect, fixed), {t: tmp_path / f"{t}.onnx" for t in "ab"}
    onnx.save(model, files["a"])
    onnx.save(with_other_weights(model), files["b"])
    assert axes_of(model) == dict.fromkeys(states, 1)
    rng = np.random.default_rng(1)
    data = {"x": rng.standard_normal((60, STEPS, FEATURES), np.float32)}
    data |= {s: rng.standard_normal((layers, 60, UNITS), np.float32) for s in states}
    merged = onnxzip.merge(files, data, share=0, apart=list(states))
    count = 1 if fixed else 3
    x = rng.standard_normal((5, count, STEPS, FEATURES), np.float32)
    alone = {t: {s: np.zeros((layers, count, UNITS), np.float32) for s in states} for t in files}
    now = {f"{t}_{s}": alone[t][s] for t in files for s in states}
    for step in x:
        found = fed(merged.content, {"x": step, **now})
        now = {f"{t}_{s}": found[f"{t}_{s}n"] for t in files for s in states}
        for task, path in files.items():
            want = fed(path, {"x": step, **alone[task]})
            alone[task] = {s: want[f"{s}n"] for s in states}
            np.testing.assert_allclose(found[f"{task}_y"], want["y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dialect", ["torchscript", "dynamo"])
@pytest.mark.parametrize(("name", "fixed"), [*((name, False) for name in NETS), ("two layers of LSTM", True)])
def test_near_streams_share_all_units_and_their_states(name: str, dialect: str, fixed: bool, tmp_path: Path) -> None:
    kind, layers, conv = NETS[name]
    states = STATES[: 2 if kind == "LSTM" else 1]
    model, files = exported(kind, layers, conv, dialect, fixed), {t: tmp_path / f"{t}.onnx" for t in "ab"}
    onnx.save(model, files["a"])
    onnx.save(a_little_off(model), files["b"])
    rng = np.random.default_rng(1)
    data = {"x": rng.standard_normal((60, STEPS, FEATURES), np.float32)}
    data |= {s: 0.3 * rng.standard_normal((layers, 60, UNITS), np.float32) for s in states}
    merged = onnxzip.merge(files, data)
    assert all(s["shared"] == s["groups"] for s in merged.report["spaces"]) and merged.report["merged"]["macs_ratio"] < 0.6
    count = 1 if fixed else 3
    alone = {t: {s: np.zeros((layers, count, UNITS), np.float32) for s in states} for t in files}
    now = {s: np.zeros((layers, count, UNITS), np.float32) for s in states}
    for step in rng.standard_normal((5, count, STEPS, FEATURES), np.float32):
        found = fed(merged.content, {"x": step, **now})
        now = {s: found[f"a_{s}n"] for s in states}
        for task, path in files.items():
            want = fed(path, {"x": step, **alone[task]})
            alone[task] = {s: want[f"{s}n"] for s in states}
            np.testing.assert_allclose(found[f"{task}_y"], want["y"], rtol=0, atol=0.01)
