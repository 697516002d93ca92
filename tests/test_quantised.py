"""Nets whose weights lie as integers in their files: with DequantizeLinear behind them they are refused, for one reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from merging import failed, run, write_net
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxzip.inspection.inspecting import inspect

WEIGHTS = ("w0", "w1", "w2")
INVALID = 3


def quantised(path: Path, seed: int) -> Path:
    """A small net with weights of eight bits, each with a DequantizeLinear behind it."""
    model = onnx.load(write_net(path, seed))
    nodes = []
    for tensor in [t for t in model.graph.initializer if t.name in WEIGHTS]:
        scale, name = eight_bits(tensor), tensor.name.removesuffix(".q")
        model.graph.initializer.append(scale)
        nodes.append(helper.make_node("DequantizeLinear", [tensor.name, scale.name], [name], name=f"{name}.back"))
    return saved(path, model, nodes)


def eight_bits(tensor: TensorProto) -> TensorProto:
    """Make a tensor one of int8; its scale."""
    array, name = numpy_helper.to_array(tensor), tensor.name
    scale = np.float32(np.abs(array).max() / 127)
    tensor.CopyFrom(numpy_helper.from_array(np.round(array / scale).astype(np.int8), f"{name}.q"))
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
