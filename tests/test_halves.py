"""Weights of half types stay so: nets are merged in float32, and the result holds its weights in their type."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import images, outputs_of, run, write_net
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxzip
from onnxzip.loading import load
from onnxzip.loading.stored import as_tensor, read_floats

KINDS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
each = pytest.mark.parametrize("kind", KINDS)


def halved(path: Path, kind: int) -> Path:
    """The same net with its weights in a half type, each with a Cast behind it."""
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        tensor.CopyFrom(as_tensor(numpy_helper.to_array(tensor), kind, f"{tensor.name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [tensor.name.removesuffix(".half")], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    new = ModelProto()
    new.CopyFrom(model)
    del new.graph.node[:]
    new.graph.node.extend(nodes)
    onnx.checker.check_model(new, full_check=True)
    onnx.save(new, path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "d.npz", image=images(200))
    return tmp_path


def kinds(path: Path) -> set[int]:
    return {t.data_type for t in onnx.load(path).graph.initializer if t.dims and t.data_type != TensorProto.INT64}


@each
def test_weights_are_read_as_float32(folder: Path, kind: str) -> None:
    net = load(halved(write_net(folder / "a.onnx", 1), KINDS[kind]))
    stored = {t.name: t for t in onnx.load(folder / "a.onnx").graph.initializer}
    assert net.stored == kind.upper() and net.dtypes["logits"] == np.float32
    assert len(net.params) == len(stored) == 6
    wanted = sorted(np.sort(read_floats(t), axis=None).tobytes() for t in stored.values())
    assert sorted(np.sort(p, axis=None).tobytes() for p in net.params.values()) == wanted


@each
@pytest.mark.parametrize("share", ["0", "0.5", "1"])
def test_the_result_holds_them_in_their_type(folder: Path, kind: str, share: str) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        halved(write_net(folder / f"{name}.onnx", seed), KINDS[kind])
    ran = run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "--share", share, "-o", "m.onnx", "--json")
    assert ran.code == 0, ran.err
    assert kinds(folder / "m.onnx") == {KINDS[kind]}
    onnx.checker.check_model(folder / "m.onnx", full_check=True)
    report = json.loads(ran.out)
    assert report["merged"]["bytes"] == (folder / "m.onnx").stat().st_size
    x, fused = images(9), outputs_of(folder / "m.onnx", images(9))
    if share == "0":
        for name in "ab":
            np.testing.assert_allclose(fused[f"{name}_logits"], outputs_of(folder / f"{name}.onnx", x)["logits"], atol=1e-5)
    assert run("split", "m.onnx", "--task", "b", "-o", "alone.onnx").code == 0
    np.testing.assert_allclose(outputs_of(folder / "alone.onnx", x)["logits"], fused["b_logits"], rtol=1e-5, atol=1e-6)


@each
def test_a_copy_gives_back_the_net(folder: Path, kind: str) -> None:
    halved(write_net(folder / "a.onnx", 1), KINDS[kind])
    merged = onnxzip.merge({"a": "a.onnx", "b": "a.onnx"}, images(200))
    assert all(t["fidelity"]["relative_error"] < 1e-5 for t in merged.report["tasks"].values())


def test_a_net_of_halves_and_one_of_float32_give_float32(folder: Path) -> None:
    halved(write_net(folder / "a.onnx", 1), TensorProto.FLOAT16)
    write_net(folder / "b.onnx", 2)
    assert run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx").code == 0
    assert kinds(folder / "m.onnx") == {TensorProto.FLOAT}


def test_a_retrained_result_keeps_the_type(folder: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        halved(write_net(folder / f"{name}.onnx", seed), TensorProto.FLOAT16)
    ran = run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx", "--retrain", "5")
    assert ran.code == 0, ran.err
    assert kinds(folder / "m.onnx") == {TensorProto.FLOAT16}
