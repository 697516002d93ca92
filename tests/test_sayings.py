"""What the nets' files say of themselves: kept where all agree, else by task, and given back by split and bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import failed, images, run, write_net
from onnx import ModelProto, helper, numpy_helper

import onnxzip

LABELS = {"a": "cat,dog,cow,hen", "b": "red,green,blue,grey", "c": "one,two,three,four"}


def write(path: Path, seed: int, entries: Mapping[str, str], batch: str = "N", **fields: str | int) -> Path:
    """A small net that says this of itself."""
    model = onnx.load(write_net(path, seed, batch=batch))
    helper.set_model_props(model, dict(entries))
    for name, value in fields.items():
        setattr(model, name, value)
    onnx.save(model, path)
    return path


def said(model: ModelProto | Path) -> dict[str, str]:
    """The entries that are not onnxzip's."""
    proto = onnx.load(model) if isinstance(model, Path) else model
    return {p.key: p.value for p in proto.metadata_props if not p.key.startswith("onnxzip.")}


def fields(model: ModelProto | Path) -> tuple[str, str, int]:
    proto = onnx.load(model) if isinstance(model, Path) else model
    return proto.doc_string, proto.domain, proto.model_version


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Three nets with a licence in common, labels of their own, and what two of them say or one alone."""
    monkeypatch.chdir(tmp_path)
    own = {"a": {"b.labels": "of another", "mean": "0.5"}, "b": {"mean": "0.5"}, "c": {}}
    texts = {"a": "animals", "b": "colours", "c": ""}
    return {
        t: write(
            tmp_path / f"{t}.onnx", k, {"license": "MIT", "labels": LABELS[t], **own[t]},
            doc_string=texts[t], domain="com.me", model_version=k + 1,
        )
        for k, t in enumerate("abc")
    }


def check_back(nets: Mapping[str, Path], fused: Path) -> None:
    """Each task taken out says what its original says."""
    assert run("bundle", fused, "-o", "parts", "--force").code == 0
    for task, original in nets.items():
        alone = onnxzip.split(fused, task)
        for model in (alone, onnx.load(f"parts/{task}.onnx", load_external_data=False)):
            assert said(model) == said(original) and fields(model) == fields(original)


def test_each_task_says_what_its_original_said(nets: dict[str, Path], tmp_path: Path) -> None:
    merged = onnxzip.merge({t: nets[t] for t in "ab"}, images(100))
    merged.save(tmp_path / "ab.onnx")
    assert said(merged.model) == {
        "license": "MIT", "mean": "0.5", "a.labels": LABELS["a"], "_b.labels": LABELS["b"], "a.b.labels": "of another",
        "a.doc_string": "animals", "b.doc_string": "colours", "a.model_version": "1", "b.model_version": "2",
    }
    assert fields(merged.model) == ("", "com.me", 0)
    check_back({t: nets[t] for t in "ab"}, tmp_path / "ab.onnx")


def test_after_a_second_merge_and_retraining(nets: dict[str, Path], tmp_path: Path) -> None:
    onnxzip.merge({t: nets[t] for t in "ab"}, images(100)).save(tmp_path / "ab.onnx")
    merged = onnxzip.merge({"ab": tmp_path / "ab.onnx", "c": nets["c"]}, images(100))
    merged.save(tmp_path / "abc.onnx")
    assert said(merged.model)["license"] == "MIT" and fields(merged.model) == ("", "com.me", 0)
    assert [said(merged.model).get(f"{t}.mean") for t in "abc"] == ["0.5", "0.5", None]
    check_back(nets, tmp_path / "abc.onnx")
    onnxzip.retrain(tmp_path / "abc.onnx", nets, images(100), steps=3).save(tmp_path / "better.onnx")
    check_back(nets, tmp_path / "better.onnx")


def test_what_all_say_stays(tmp_path: Path) -> None:
    words = {"doc_string": "of both", "domain": "com.me", "model_version": 7}
    files = {t: write(tmp_path / f"{t}.onnx", k, {"labels": "x,y"}, **words) for k, t in enumerate("ab")}
    model = onnxzip.merge(files, images(100)).model
    assert said(model) == {"labels": "x,y"} and fields(model) == ("of both", "com.me", 7)


def test_a_task_whose_name_would_make_its_entries_onnxzip_s(nets: dict[str, Path], tmp_path: Path) -> None:
    onnxzip.merge({"onnxzip": nets["a"], "onnxzip.b": nets["b"]}, images(100)).save(tmp_path / "m.onnx")
    check_back({"onnxzip": nets["a"], "onnxzip.b": nets["b"]}, tmp_path / "m.onnx")


def test_a_version_that_is_no_number_is_damage(nets: dict[str, Path], tmp_path: Path) -> None:
    model = onnxzip.merge({t: nets[t] for t in "ab"}, images(100)).model
    next(p for p in model.metadata_props if p.key == "b.model_version").value = "two"
    onnx.save(model, tmp_path / "m.onnx")
    failed(3, "split", "m.onnx", "--task", "b", "-o", "o.onnx", words=("m.onnx", "'b.model_version'", "'two'"))


@pytest.mark.parametrize(
    ("batches", "name"), [(("batch", "batch"), "batch"), (("batch", "n"), "N"), (("batch", "1"), "batch"), (("1", "1"), 1)]
)
def test_the_batch_keeps_its_name(tmp_path: Path, batches: tuple[str, str], name: str | int) -> None:
    files = {t: write(tmp_path / f"{t}.onnx", k, {}, batch=batches[k]) for k, t in enumerate("ab")}
    onnxzip.merge(files, images(100)).save(tmp_path / "m.onnx")
    models = onnx.load(tmp_path / "m.onnx"), onnxzip.split(tmp_path / "m.onnx", "b")
    for port in (p for m in models for p in (*m.graph.input, *m.graph.output)):
        dim = port.type.tensor_type.shape.dim[0]
        assert (dim.dim_param or dim.dim_value) == name


@pytest.mark.parametrize(
    ("axes", "dims"),
    [("batch,1,N,M", ["batch", 1, "N", "M"]), ("H,1,,", ["H", 1, "H_2", "W"]), ("N,1,N,M", ["N", 1, "N_2", "M"])],
)
def test_free_axes_beside_it(tmp_path: Path, axes: str, dims: list[str | int]) -> None:
    """An axis may have a name that is only usual for the batch, and none that the batch has."""
    first, second, *sides = axes.split(",")
    for seed, task in enumerate("ab"):
        text = """<ir_version: 8, opset_import: ["": 17]> net (float[A,1,B,C] image) => (float[A,3] logits) {
            c = Conv <pads = [1,1,1,1]> (image, w) d = Relu (c)
            p = GlobalAveragePool (d) f = Flatten (p) logits = MatMul (f, v) }"""
        model = onnx.parser.parse_model(text)
        rng = np.random.default_rng(seed)
        for name, size in (("w", (8, 1, 3, 3)), ("v", (8, 3))):
            model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(size).astype(np.float32), name))
        for dim, axis in zip(model.graph.input[0].type.tensor_type.shape.dim, (first, second, *sides), strict=True):
            if not axis.isdigit():
                dim.dim_param = axis
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = first
        onnx.save(model, tmp_path / f"{task}.onnx")
    model = onnxzip.merge({t: tmp_path / f"{t}.onnx" for t in "ab"}, images(100)).model
    onnx.checker.check_model(model, full_check=True)
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == dims
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == first


def test_docs_of_graph_and_ports(tmp_path: Path) -> None:
    """Each output keeps its own, the input that of the first net; the graph's is a saying as others are. Merged again, too."""
    files = {}
    for k, t in enumerate("abc"):
        model = onnx.load(write(tmp_path / f"{t}.onnx", k, {}))
        model.graph.doc_string = "all" if t == "c" else f"graph {t}"
        model.graph.input[0].doc_string, model.graph.output[0].doc_string = f"input {t}", f"output {t}"
        files[t] = tmp_path / f"{t}.onnx"
        onnx.save(model, files[t])

    def docs(model: ModelProto) -> list[str]:
        return [model.graph.doc_string, *(p.doc_string for p in (*model.graph.input, *model.graph.output))]

    merged = onnxzip.merge({t: files[t] for t in "ab"}, images(100))
    merged.save(tmp_path / "ab.onnx")
    assert docs(merged.model) == ["", "input a", "output a", "output b"]
    assert docs(onnxzip.split(tmp_path / "ab.onnx", "b")) == ["graph b", "input a", "output b"]
    again = onnxzip.merge({"c": files["c"], "ab": tmp_path / "ab.onnx"}, images(100)).model
    assert docs(again) == ["", "input c", "output c", "output a", "output b"]
