"""Nets whose weights lie as integers in their files.

With DequantizeLinear behind them they are refused, for one reason; with a Cast they are nets of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import failed, images, run, write_net
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

import onnxzip
from onnxzip.inspection.inspecting import inspect
from onnxzip.loading.weights import weights_by_type

WEIGHTS = ("w0", "w1", "w2")
INVALID = 3


class Shown(CalibrationDataReader):  # type: ignore[misc]
    """Samples that show ranges."""

    def __init__(self) -> None:
        self.left = [{"image": images(20)}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def quantised(path: Path, seed: int) -> Path:
    """A small net with weights of eight bits, each with a DequantizeLinear behind it."""
    return quantised_as(write_net(path, seed), path)


def quantised_as(net: Path, path: Path) -> Path:
    """The same of a net, or of what was made of it."""
    model = onnx.load(net)
    nodes = []
    for tensor in [t for t in model.graph.initializer if t.name.endswith(WEIGHTS)]:
        scale, name = eight_bits(tensor), tensor.name.removesuffix(".q")
        model.graph.initializer.append(scale)
        nodes.append(helper.make_node("DequantizeLinear", [tensor.name, scale.name], [name], name=f"{name}.back"))
    return saved(path, model, nodes)


def cast(path: Path, seed: int, zero: int = 0) -> Path:
    """A small net with weights of eight bits, each with a Cast behind it, and what makes floats of its numbers."""
    model = onnx.load(write_net(path, seed))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(zero), "zero"))
    nodes = []
    for tensor in [t for t in model.graph.initializer if t.name in WEIGHTS]:
        scale, name = eight_bits(tensor, zero), tensor.name.removesuffix(".q")
        model.graph.initializer.append(scale)
        nodes += [
            helper.make_node("Cast", [tensor.name], [f"{name}.cast"], to=TensorProto.FLOAT),
            helper.make_node("Sub", [f"{name}.cast", "zero"], [f"{name}.about"]),
            helper.make_node("Mul", [f"{name}.about", scale.name], [name]),
        ]
    return saved(path, model, nodes)


def eight_bits(tensor: TensorProto, zero: int = 0) -> TensorProto:
    """Make a tensor one of int8, of uint8 where its zero is another number; its scale."""
    array, name = numpy_helper.to_array(tensor), tensor.name
    scale = np.float32(np.abs(array).max() / 127)
    numbers = np.round(array / scale) + zero
    tensor.CopyFrom(numpy_helper.from_array(numbers.astype(np.uint8 if zero else np.int8), f"{name}.q"))
    return numpy_helper.from_array(scale, f"{name}.scale")


def saved(path: Path, model: onnx.ModelProto, before: Sequence[NodeProto]) -> Path:
    """The model with nodes in front of its own."""
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in (*before, *model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def test_a_reason_is_told_once(tmp_path: Path) -> None:
    nets = [quantised(tmp_path / f"{name}.onnx", seed) for seed, name in enumerate("ab")]
    places = "(a: w0.back, a: w1.back, a: w2.back, b: w0.back and 2 more: operator DequantizeLinear is not registered: "
    assert failed(INVALID, "plan", *nets, words=("share nothing", places)).count("DequantizeLinear") == 1


def test_tables_tell_a_reason_once_and_the_report_every_place(tmp_path: Path) -> None:
    path = quantised(tmp_path / "a.onnx", 1)
    assert [r["where"] for r in inspect(path)["refusals"]] == ["w0.back", "w1.back", "w2.back"]
    told = run("inspect", path).out
    assert "w0.back, w1.back, w2.back" in told and told.count("DequantizeLinear is not registered") == 1


@pytest.mark.parametrize(("zero", "kind"), [(0, "int8"), (128, "uint8")])
def test_weights_of_integers_count_as_such(tmp_path: Path, zero: int, kind: str) -> None:
    """The net with float32 weights has as many; the fused file has those, and tells why it is larger."""
    nets = {name: cast(tmp_path / f"{name}.onnx", seed, zero) for seed, name in enumerate("ab")}
    float32 = {name: write_net(tmp_path / f"{name}{name}.onnx", seed) for seed, name in enumerate("ab")}
    planned, wanted = onnxzip.plan(nets), onnxzip.plan(float32)
    added = len(("zero", *WEIGHTS))
    for name in nets:
        assert planned["tasks"][name]["params"] == wanted["tasks"][name]["params"] + added
    assert planned["merged"]["params"] == wanted["merged"]["params"] and planned["merged"]["params_ratio"] < 0.55
    assert planned["stored"] == {"merged": "float32", "tasks": {"a": kind, "b": kind}}
    assert f"Weights are float32 in the fused file ({kind} in a, b)" in run("plan", *nets.values()).out
    report = onnxzip.merge(nets, images(64), share=0.0).report
    assert report["stored"] == planned["stored"] and report["tasks"]["a"]["params"] == planned["tasks"]["a"]["params"]
    assert max(t["fidelity"]["relative_error"] for t in report["tasks"].values()) < 1e-5


def test_integers_that_no_floats_are_made_of_are_no_weights() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> n (float[N,3,2] x) => (float[N,6] y)
        <int64[2] shape = {0, 6}, int8[3] order = {2, 0, 1}, float half = {0.5}>
        { a = Constant <value = int8[2] {3, 4}> () b = Cast <to = 1> (a) i = Cast <to = 7> (order) c = Gather <axis = 1> (x, i)
          d = Mul (c, b) e = Mul (d, half) y = Reshape (e, shape) }"""
    assert weights_by_type(onnx.parser.parse_model(text)) == {"FLOAT": 1, "INT8": 2}


class TestInspect:
    """What `inspect` says of a fused file that was quantised afterwards: as many params as before, in fewer bytes."""

    @pytest.fixture
    def fused(self, tmp_path: Path) -> Path:
        nets = {name: write_net(tmp_path / f"{name}.onnx", seed) for seed, name in enumerate("ab")}
        onnxzip.merge(nets, images(60)).save(tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    @pytest.mark.parametrize("way", ["one by one", "integers", "pairs"])
    def test_weights_of_integers_count_with_their_bytes(self, fused: Path, way: str) -> None:
        path = fused.with_name("q.onnx")
        if way == "one by one":
            quantised_as(fused, path)
        elif way == "integers":
            quantize_dynamic(fused, path)
        else:
            quantize_static(fused, path, Shown(), QuantFormat.QDQ, weight_type=QuantType.QInt8, per_channel=True)
        before, after = inspect(fused), inspect(path)
        scales = after["file"]["params"] - before["file"]["params"]
        assert 0 < scales < 100
        for part in ("nodes", "owners"):
            assert sum(entry["params"] for entry in after[part]) == after["file"]["params"], part
            kinds = [sum(entry["bytes"] for entry in report[part]) for report in (before, after)]
            assert kinds[1] < 0.45 * kinds[0]
