"""Weights of half types stay so: nets are merged in float32, and the result holds its weights in their type."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import images, outputs_of, run, write_net
from netfiles import written
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxzip
from onnxzip.exporting.stored import stored_model
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


def test_two_half_types_give_float32_and_this_is_told(folder: Path) -> None:
    halved(write_net(folder / "a.onnx", 1), TensorProto.FLOAT16)
    halved(write_net(folder / "b.onnx", 2), TensorProto.BFLOAT16)
    ran = run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "--share", "0", "-o", "m.onnx", "--report", "r.json")
    assert ran.code == 0 and kinds(folder / "m.onnx") == {TensorProto.FLOAT}
    told = "Weights are float32 in the fused file (float16 in a; bfloat16 in b). Convert or quantise it to make it smaller."
    assert told in " ".join(ran.out.split()) and told in " ".join(run("plan", "a.onnx", "b.onnx").out.split())
    types = json.loads((folder / "r.json").read_text())["stored"]
    assert types == {"merged": "float32", "tasks": {"a": "float16", "b": "bfloat16"}}


@each
def test_a_plan_counts_two_bytes_for_a_half(folder: Path, kind: str) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_net(folder / f"{name}.onnx", seed, width=64)
    bytes32 = onnxzip.plan({"a": "a.onnx", "b": "b.onnx"})["merged"]["bytes"]
    for name in "ab":
        halved(folder / f"{name}.onnx", KINDS[kind])
    planned = onnxzip.plan({"a": "a.onnx", "b": "b.onnx"})
    assert planned["merged"]["bytes"] == pytest.approx(bytes32 / 2, rel=0.02)
    assert planned["stored"]["merged"] == kind and "in the fused file" not in run("plan", "a.onnx", "b.onnx").out


def test_a_retrained_result_keeps_the_type(folder: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        halved(write_net(folder / f"{name}.onnx", seed), TensorProto.FLOAT16)
    ran = run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx", "--retrain", "5")
    assert ran.code == 0, ran.err
    assert kinds(folder / "m.onnx") == {TensorProto.FLOAT16}


def mixed(path: Path, seed: int, kind: int, *halves: str) -> Path:
    """A net of which some weights lie in a half type."""
    model = onnx.load(halved(write_net(path, seed), kind))
    for tensor in model.graph.initializer:
        if (name := tensor.name.removesuffix(".half")) not in halves:
            tensor.CopyFrom(numpy_helper.from_array(read_floats(tensor), tensor.name))
            cast = next(n for n in model.graph.node if n.output[0] == name)
            cast.op_type = "Identity"
            del cast.attribute[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@each
@pytest.mark.parametrize(("halves", "most"), [(("w2",), False), (("w0", "b0", "b1", "w2", "b2"), False), (("w1",), True)])
def test_the_type_is_that_of_most_weights(folder: Path, kind: str, halves: tuple[str, ...], most: bool) -> None:
    """w1 alone has more weights than all others together; one small half among float32 weights says nothing of the net."""
    for name, seed in (("a", 1), ("b", 2)):
        mixed(folder / f"{name}.onnx", seed, KINDS[kind], *halves)
    merged = onnxzip.merge({"a": "a.onnx", "b": "b.onnx"}, images(200), share=0.0)
    merged.save("m.onnx")
    assert kinds(folder / "m.onnx") == {KINDS[kind] if most else TensorProto.FLOAT}
    if not most:
        assert all(t["fidelity"]["relative_error"] < 1e-6 for t in merged.report["tasks"].values())


@each
def test_single_numbers_and_what_a_half_type_cannot_hold_stay_float32(tmp_path: Path, kind: str) -> None:
    """The epsilon of a norm would be zero, a mask minus infinity."""
    graph = """net (float[N,4] x, float[4] scale, float[4] mask, float[1] epsilon) => (float[N,4] y) {
        a = Relu (x) b = Mul (a, scale) c = Max (b, mask) d = Max (c, epsilon) y = Tanh (d)
    }"""
    masks = {"mask": np.array([0, 0, 0, np.finfo(np.float32).min], np.float32), "epsilon": np.array([1e-12], np.float32)}
    net = replace(load(written(tmp_path, graph, **masks)), stored=kind.upper())
    stored = {t.name: t.data_type for t in stored_model(net).graph.initializer}
    assert stored == {"scale": KINDS[kind], "mask": TensorProto.FLOAT, "epsilon": TensorProto.FLOAT}


def test_nan_stays_nan_in_bfloat16() -> None:
    """As a CUDA device writes it: all bits behind the sign are set, and rounding up would make it zero."""
    nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(read_floats(as_tensor(nan, TensorProto.BFLOAT16, "w"))).all()
