"""split gives one task bit for bit; verify says how close a fused file is; a merge that fails its check writes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from merging import MODELS, entries, failed, images, outputs_of, run, snapshot, write_net
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import quantize_dynamic

import onnxzip
import onnxzip.pipeline
from onnxzip.errors import VerificationError
from onnxzip.exporting.splitting import split_model
from onnxzip.exporting.verifying import Evidence
from onnxzip.fusion.zipped import Zipped
from onnxzip.fusion.zipping import zip_nets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nets, data with labels for the first, and the two merged at share 0.5."""
    write_net(tmp_path / "a.onnx", 1)
    write_net(tmp_path / "b.onnx", 2, classes=3)
    np.savez(tmp_path / "d.npz", x=images(100), y=np.arange(100) % 3)
    monkeypatch.chdir(tmp_path)
    assert run("merge", "a.onnx", "b.onnx", "--share", "0.5", "--data", "d.npz", "-o", "m.onnx").code == 0
    return tmp_path


def owners_in_order(folder: Path, owners: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """Nodes of the fused file, each with its owners."""
    return [(n.name, owners[n.name]) for n in onnx.load(folder / "m.onnx").graph.node]


class TestSplit:
    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_a_task_alone_computes_what_it_computes_in_company(self, folder: Path, share: float, layout: str) -> None:
        run("merge", "a.onnx", "b.onnx", "--share", share, "--layout", layout, "--data", "d.npz", "-o", "m.onnx", "--force")
        x = images(20, 9)
        together = outputs_of(folder / "m.onnx", x)
        for task in "ab":
            assert run("split", "m.onnx", "--task", task, "-o", f"{task}2.onnx", "--force").code == 0
            alone = outputs_of(folder / f"{task}2.onnx", x)
            assert list(alone) == ["logits"]
            np.testing.assert_allclose(alone["logits"], together[f"{task}_logits"], rtol=1e-6, atol=1e-6)
            onnx.checker.check_model(onnx.load(folder / f"{task}2.onnx"), full_check=True)

    @pytest.mark.parametrize("family", ["lenet300", "lenet5", "vgg"])
    def test_sample_nets(self, family: str, tmp_path: Path) -> None:
        nets = {t: MODELS / f"{family}-fashion-{t}.onnx" for t in ("low", "high")}
        merged = onnxzip.merge(
            nets, {t: MODELS / "data" / f"fashion-{t}-calibration.npz" for t in nets}, share=0.5, samples=100
        )
        merged.save(tmp_path / "m.onnx")
        x = np.random.default_rng(0).random((16, 1, 28, 28), np.float32)
        together = outputs_of(merged.content, x)
        for task in nets:
            alone = onnxzip.split(tmp_path / "m.onnx", task).SerializeToString()
            np.testing.assert_allclose(outputs_of(alone, x)["logits"], together[f"{task}_logits"], rtol=1e-6, atol=1e-5)
            assert len(alone) < 1.02 * nets[task].stat().st_size

    def test_nothing_of_the_other_task_is_left(self, folder: Path) -> None:
        run("split", "m.onnx", "--task", "b", "-o", "b2.onnx")
        model, original = onnx.load(folder / "b2.onnx"), onnx.load(folder / "b.onnx")
        count = [sum(int(np.prod(t.dims)) for t in m.graph.initializer) for m in (model, original)]
        assert count[0] < count[1]
        assert {t.name for t in model.graph.initializer} <= {v for n in model.graph.node for v in n.input}
        owners = {n: tasks for tasks, nodes, _ in json.loads(entries(folder / "m.onnx")["onnxzip.owners"]) for n in nodes}
        assert [n.name for n in model.graph.node] == [n for n, tasks in owners_in_order(folder, owners) if "b" in tasks]
        assert [i.name for i in model.graph.input] == ["image"] and model.opset_import == original.opset_import

    def test_its_metadata(self, folder: Path) -> None:
        run("split", "m.onnx", "--task", "b", "-o", "b2.onnx")
        found = entries(folder / "b2.onnx")
        assert json.loads(found["onnxzip.tasks"]) == ["b"] and json.loads(found["onnxzip.split_from"]) == ["a", "b"]
        assert json.loads(found["onnxzip.sources"])["b"]["outputs"] == {"logits": "logits"}
        assert run("verify", "b2.onnx", "--against", "b=b.onnx", "--data", "d.npz").code == 0
        assert run("split", "b2.onnx", "--task", "b", "-o", "b3.onnx").code == 0
        assert outputs_of(folder / "b3.onnx", images(2)).keys() == {"logits"}

    def test_an_inner_value_that_has_the_output_s_name_makes_room(self, folder: Path) -> None:
        model = onnx.load(folder / "m.onnx")
        inner = next(n for n in model.graph.node if n.op_type == "Relu").output[0]
        want = outputs_of(folder / "m.onnx", images(3))["a_logits"]
        for node in model.graph.node:
            node.input[:] = ["logits" if v == inner else v for v in node.input]
            node.output[:] = ["logits" if v == inner else v for v in node.output]
        del model.graph.value_info[:]
        alone = split_model(model, "a", "m.onnx")
        np.testing.assert_allclose(outputs_of(alone.SerializeToString(), images(3))["logits"], want, rtol=1e-6)

    def test_what_cannot_be_split(self, folder: Path) -> None:
        before = snapshot(folder)
        failed(2, "split", "m.onnx", "--task", "c", "-o", "c.onnx", words=("'c'", "a, b"))
        failed(3, "split", "a.onnx", "--task", "a", "-o", "c.onnx", words=("a.onnx", "not made by onnxzip"))
        failed(3, "split", "none.onnx", "--task", "a", "-o", "c.onnx", words=("none.onnx", "no such file"))
        failed(2, "split", "m.onnx", "--task", "a", "-o", "a.onnx", words=("a.onnx", "--force"))
        failed(2, "split", "m.onnx", "--task", "a", "-o", "m.onnx", "--force", words=("read by this command",))
        assert snapshot(folder) == before

    def test_damaged_metadata(self, folder: Path) -> None:
        model = onnx.load(folder / "m.onnx")
        next(p for p in model.metadata_props if p.key == "onnxzip.sources").value = '{"a": {"source": 1}}'
        onnx.save(model, folder / "d.onnx")
        failed(3, "split", "d.onnx", "--task", "a", "-o", "c.onnx", words=("d.onnx", "damaged"))


class TestVerify:
    def test_its_figures(self, folder: Path) -> None:
        before = snapshot(folder)
        ran = run("verify", "m.onnx", "--against", "a.onnx", "--against", "b.onnx", "--data", "d.npz", "--json")
        assert ran.code == 0 and snapshot(folder) == before
        report = json.loads(ran.out)
        fused = outputs_of(folder / "m.onnx", images(100))
        for task in "ab":
            want, got = outputs_of(folder / f"{task}.onnx", images(100))["logits"], fused[f"{task}_logits"]
            entry = report["tasks"][task]
            assert entry["fidelity"]["samples"] == 100 and entry["same_source"]
            assert entry["fidelity"]["relative_error"] == pytest.approx(
                np.linalg.norm(got - want) / np.linalg.norm(want), rel=1e-3
            )
            assert entry["fidelity"]["top1_agreement"] == pytest.approx(np.mean(got.argmax(1) == want.argmax(1)))
            labels = np.arange(100) % 3
            assert entry["accuracy"]["before"] == pytest.approx(np.mean(want.argmax(1) == labels))
            assert entry["accuracy"]["after"] == pytest.approx(np.mean(got.argmax(1) == labels))

    def test_bounds(self, folder: Path) -> None:
        command = ("verify", "m.onnx", "--against", "a.onnx", "--data", "d.npz")
        ran = run(*command, "--tolerance", "1e-9")
        assert ran.code == 1 and "relative error" in ran.out and "above 1e-09" in ran.err
        failed(1, *command, "--min-agreement", "1", words=("top-1 agreement", "below 1"))
        failed(2, *command, "--min-agreement", "1.01", words=("--min-agreement 1.01", "above 1"))
        assert run(*command, "--tolerance", "10", "--min-agreement", "0").code == 0

    def test_a_bound_for_agreements_needs_classes(self, folder: Path) -> None:
        for name in "ab":
            model = onnx.load(f"{name}.onnx")
            model.graph.node.append(onnx.helper.make_node("Tanh", ["logits"], ["angles"]))
            model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["angles", "place"], ["map"]))
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "place"))
            shape = ["N", model.graph.output[0].type.tensor_type.shape.dim[1].dim_value, 1]
            model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("map", onnx.TensorProto.FLOAT, shape))
            onnx.save(model, f"{name}2.onnx")
        onnxzip.merge({"a": "a.onnx", "b2": "b2.onnx"}, images(64)).save("v.onnx")
        command = ("verify", "v.onnx", "--data", "d.npz", "--min-agreement", "0.1", "--against")
        assert run(*command, "a.onnx").code == 0
        words = ("--min-agreement 0.1 cannot be applied to task 'b2'", "--tolerance")
        failed(2, *command, "a.onnx", "--against", "b2.onnx", words=words)

    def test_some_tasks_and_noise(self, folder: Path) -> None:
        ran = run("verify", "m.onnx", "--against", "b.onnx")
        assert ran.code == 0 and ran.out.startswith("Compared on 1,000 samples of noise (seed 0)")
        assert [line.split()[0] for line in ran.out.splitlines() if "%" in line] == ["b"]

    def test_another_file_than_the_merged_one_is_told(self, folder: Path) -> None:
        write_net(folder / "c.onnx", 4)
        ran = run("verify", "m.onnx", "--against", "a=c.onnx", "--data", "d.npz", "--json")
        assert ran.code == 0 and "c.onnx" in ran.err and "byte for byte" in ran.err
        assert json.loads(ran.out)["tasks"]["a"]["same_source"] is False

    def test_outputs_that_are_not_finite(self, folder: Path) -> None:
        model = onnx.load(folder / "m.onnx")
        spoil(model, np.inf)
        onnx.save(model, folder / "bad.onnx")
        failed(1, "verify", "bad.onnx", "--against", "a.onnx", "--data", "d.npz", words=("'a'", "fused", "NaN or Inf"))

    def test_what_cannot_be_compared(self, folder: Path) -> None:
        data = ("--data", "d.npz")
        failed(2, "verify", "m.onnx", *data, words=("--against",))
        failed(2, "verify", "m.onnx", "--against", "c=a.onnx", *data, words=("'c'", "a, b"))
        failed(3, "verify", "a.onnx", "--against", "a.onnx", *data, words=("a.onnx", "not made by onnxzip"))
        failed(3, "verify", "m.onnx", "--against", "a=none.onnx", *data, words=("none.onnx",))
        failed(3, "verify", "m.onnx", "--against", "a=m.onnx", *data, words=("m.onnx", "no output 'logits'"))
        failed(3, "verify", "m.onnx", "--against", "a.onnx", "--data", "none.npz", words=("none.npz",))
        idle = ("--against", "a.onnx", "--data", "a=d.npz", "--data", "b=d.npz")
        said = failed(3, "verify", "m.onnx", *idle, words=("'b'", "take part here (a)", "leave them out"))
        assert "no such task" not in said
        failed(1, "verify", "m.onnx", "--against", "a=b.onnx", *data, words=("'a'", "'a_logits'", "[64, 4]", "[64, 3]"))


COMMANDS = {
    "verify": ("--against", "a.onnx"),
    "split": ("--task", "a", "-o", "o.onnx"),
    "bundle": ("-o", "parts"),
    "export": ("--target", "ort", "-o", "o.ort"),
    "retrain": ("--teacher", "a.onnx", "--teacher", "b.onnx", "--steps", "2", "-o", "o.onnx"),
    "inspect": (),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_has_lost_an_output_is_refused(folder: Path, command: str) -> None:
    model = onnx.load(folder / "m.onnx")
    del model.graph.output[0]
    onnx.save(model, folder / "lost.onnx")
    failed(3, command, "lost.onnx", *COMMANDS[command], words=("lost.onnx", "lost the output 'a_logits'", "task 'a'"))
    assert run("verify", "lost.onnx", "--against", "b.onnx", "--data", "d.npz").code == 0


@pytest.mark.parametrize("command", [*COMMANDS, "diff", "merge"])
def test_a_file_of_a_newer_onnxzip_is_refused(folder: Path, command: str) -> None:
    model = onnx.load(folder / "m.onnx")
    next(p for p in model.metadata_props if p.key == "onnxzip.schema").value = "99"
    onnx.save(model, folder / "new.onnx")
    nets = {"diff": ("a.onnx", "new.onnx"), "merge": ("new.onnx", "c=a.onnx", "-o", "o.onnx")}
    arguments = nets.get(command) or ("new.onnx", *COMMANDS[command])
    failed(3, command, *arguments, words=("new", "schema 99", "newer onnxzip"))


class TestQuantised:
    """A fused file that ONNX Runtime's tools have made an int8 net of."""

    @pytest.fixture
    def quantised(self, folder: Path) -> str:
        quantize_dynamic(folder / "m.onnx", folder / "q.onnx")
        return "q.onnx"

    def test_it_is_verified(self, quantised: str) -> None:
        ran = run("verify", quantised, "--against", "a.onnx", "--against", "b.onnx", "--data", "d.npz", "--json")
        exact = run("verify", "m.onnx", "--against", "a.onnx", "--against", "b.onnx", "--data", "d.npz", "--json")
        assert ran.code == 0, ran.err
        for task, entry in json.loads(ran.out)["tasks"].items():
            want = json.loads(exact.out)["tasks"][task]["fidelity"]["relative_error"]
            assert 0 < abs(entry["fidelity"]["relative_error"] - want) < 0.05

    def test_its_tasks_are_taken_out(self, quantised: str, folder: Path) -> None:
        together = outputs_of(folder / quantised, images(8))
        assert run("split", quantised, "--task", "b", "-o", "b2.onnx").code == 0
        assert run("bundle", quantised, "-o", "parts").code == 0
        for file in ("b2.onnx", "parts/b.onnx"):
            np.testing.assert_array_equal(outputs_of(folder / file, images(8))["logits"], together["b_logits"])

    def test_it_cannot_be_worked_on(self, quantised: str) -> None:
        words = ("q.onnx", "is quantised", "Give the float file")
        for command in ("retrain", "export"):
            failed(3, command, quantised, *COMMANDS[command], words=words)
        failed(3, "merge", quantised, "c=a.onnx", "-o", "o.onnx", words=words)


def spoil(model: ModelProto, value: float) -> None:
    """Put a number among the weights of the first shared node."""
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def net_without_a_trunk(seed: int) -> ModelProto:
    """All there is of it is a head."""
    text = "net (float[N,1,6,6] image) => (float[N,3] logits) { f = Flatten (image) logits = Gemm <transB = 1> (f, w, b) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    rng = np.random.default_rng(seed)
    for name, shape in (("w", (3, 36)), ("b", (3,))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


class TestVerificationOfMerges:
    """A merge that went wrong inside must not leave a file."""

    @pytest.mark.parametrize(("share", "damage"), [("0.5", np.nan), ("0.5", np.inf), ("0", 1e3)])
    def test_damaged_weights(self, folder: Path, monkeypatch: pytest.MonkeyPatch, share: str, damage: float) -> None:
        def broken(*arguments: object, **named: object) -> Zipped:
            zipped = zip_nets(*arguments, **named)  # type: ignore[arg-type]
            name = next(n for n, a in zipped.params.items() if a.ndim == 4)
            array = np.array(zipped.params[name])
            array.flat[0] = damage
            return replace(zipped, params={**zipped.params, name: array})

        monkeypatch.setattr(onnxzip.pipeline, "zip_nets", broken)
        before = snapshot(folder)
        words = ("nothing is shared",) if share == "0" else ("NaN or Inf",)
        failed(
            1,
            "merge",
            "a.onnx",
            "b.onnx",
            "--share",
            share,
            "--data",
            "d.npz",
            "-o",
            "n.onnx",
            "--report",
            "r.json",
            words=words,
        )
        assert snapshot(folder) == before

    def test_a_task_beside_others_that_shares_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is its original in any merge; a difference is a fault, whatever the others share."""
        onnx.save(net_without_a_trunk(3), folder / "c.onnx")
        nets = {t: folder / f"{t}.onnx" for t in "abc"}
        assert onnxzip.merge(nets, images(60)).report["tasks"]["c"]["fidelity"]["relative_error"] < 1e-6
        compare = onnxzip.pipeline.compare

        def blurred(*arguments: Any) -> dict[str, Evidence]:
            return {t: replace(e, deviation=e.deviation + 1e-4) for t, e in compare(*arguments).items()}

        monkeypatch.setattr(onnxzip.pipeline, "compare", blurred)
        with pytest.raises(VerificationError, match="task 'c': nothing is shared"):
            onnxzip.merge(nets, images(60))

    def test_what_is_written_is_what_was_verified(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[bytes] = []
        real = onnxzip.pipeline.compare

        def watched(fused: bytes, *arguments: object) -> object:
            seen.append(fused)
            return real(fused, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(onnxzip.pipeline, "compare", watched)
        assert run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "n.onnx").code == 0
        assert seen == [(folder / "n.onnx").read_bytes()]


MANY_PORTS = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,1,6,6] {first}, float[N,5] {second}) => (float[N,{classes}] logits, float[N,8,6,6] features, float[N,12] hidden)
{{
    [stem] a = Conv <pads = [1,1,1,1]> ({first}, w0, b0)
    s = Relu (a)
    [deep] d = Conv <pads = [1,1,1,1]> (s, w1, b1)
    features = Relu (d)
    p = GlobalAveragePool (s)
    f = Flatten (p)
    [side] z = Gemm <transB = 1> ({second}, w2, b2)
    both = Concat <axis = 1> (f, z)
    [mix] m = Gemm <transB = 1> (both, w3, b3)
    hidden = Relu (m)
    [head] logits = Gemm <transB = 1> (hidden, w4, b4)
}}"""


def net_of_many_ports(path: Path, seed: int, classes: int, first: str, second: str) -> Path:
    """Two inputs, three outputs, one of which is read on."""
    model = onnx.parser.parse_model(MANY_PORTS.format(classes=classes, first=first, second=second))
    rng = np.random.default_rng(seed)
    shapes = ((8, 1, 3, 3), (8, 8, 3, 3), (6, 5), (12, 14), (classes, 12))
    for k, shape in enumerate(shapes):
        for name, size in ((f"w{k}", shape), (f"b{k}", shape[:1])):
            model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(size).astype(np.float32) / 3, name))
    onnx.save(model, path)
    return path


def test_an_output_that_is_an_input(folder: Path) -> None:
    for task in "ab":
        model = onnx.load(folder / f"{task}.onnx")
        model.graph.output.append(model.graph.input[0])
        onnx.save(model, folder / f"{task}.onnx")
    assert run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx", "--force").code == 0
    assert run("split", "m.onnx", "--task", "b", "-o", "b2.onnx").code == 0
    found = outputs_of(folder / "b2.onnx", images(3))
    assert list(found) == ["logits", "b_image"]
    np.testing.assert_array_equal(found["b_image"], images(3))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_several_inputs_and_outputs_under_other_names(tmp_path: Path, share: float) -> None:
    nets = {
        "a": net_of_many_ports(tmp_path / "a.onnx", 1, 3, "image", "side"),
        "b": net_of_many_ports(tmp_path / "b.onnx", 2, 4, "picture", "aside"),
    }
    rng = np.random.default_rng(0)
    x, side = images(100), rng.standard_normal((100, 5), np.float32)
    data = {"a": {"image": x, "side": side}, "b": {"picture": x, "aside": side, "y": np.arange(100) % 4}}
    merged = onnxzip.merge(nets, data, share=share)
    names = [o.name for o in merged.model.graph.output]
    assert names == [f"{t}_{o}" for t in "ab" for o in ("logits", "features", "hidden")]
    assert [i.name for i in merged.model.graph.input] == ["image", "side"]
    assert merged.report["tasks"]["a"]["accuracy"] is None and merged.report["tasks"]["b"]["accuracy"] is not None
    merged.save(tmp_path / "m.onnx")
    found = onnxzip.verify(tmp_path / "m.onnx", nets, {"image": x, "side": side})
    assert all(t["fidelity"]["relative_error"] < (1e-5 if share == 0 else 0.9) for t in found["tasks"].values())
    alone = onnxzip.split(tmp_path / "m.onnx", "b")
    assert [o.name for o in alone.graph.output] == ["logits", "features", "hidden"]
    onnx.checker.check_model(alone, full_check=True)


@pytest.mark.parametrize("shape", ["", "1", "1,3"])
def test_an_input_that_is_not_fed_sample_by_sample(tmp_path: Path, shape: str) -> None:
    """Beside inputs for any number of samples, a first axis of 1 is no batch."""
    for seed, task in enumerate("ab"):
        text = f"""<ir_version: 8, opset_import: ["": 17]> net (float[N,6] image, float{f"[{shape}]" if shape else ""} t)
            => (float[N,3] logits) {{
            c = Gemm <transB = 1> (image, w) d = Relu (c) h = Gemm <transB = 1> (d, v) logits = Div (h, t) }}"""
        model = onnx.parser.parse_model(text)
        model.graph.input[1].type.tensor_type.shape.SetInParent()
        rng = np.random.default_rng(seed)
        for name, size in (("w", (5, 6)), ("v", (3, 5))):
            model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(size).astype(np.float32), name))
        onnx.save(model, tmp_path / f"{task}.onnx")
    nets = [tmp_path / f"{task}.onnx" for task in "ab"]
    several = f"shape [{shape.replace(',', ', ')}]", "batch"
    words = ("input 't'", *(several if shape else ("one number for all samples", "--fix t=NUMBER")))
    failed(3, "merge", *nets, "-o", tmp_path / "m.onnx", words=words)
