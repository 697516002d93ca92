"""export: what a target is handed, that a difference leaves nothing, and every runtime that can be had."""

from __future__ import annotations

import ast
import json
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import MODELS, failed, images, outputs_of, run, snapshot, write_net
from netfiles import originals_outputs, random_feeds, written
from onnx import ModelProto, numpy_helper, parser

import onnxzip
from onnxzip.errors import BackendMissingError, UnsupportedError
from onnxzip.loading import load
from onnxzip.runtime import at_older_opset, fixed_batch, to_model
from onnxzip.shipping.backends import backend_for
from onnxzip.shipping.records import names_file
from onnxzip.shipping.targets import known_targets

OWN = ("ort", "onnx-mobile")  # targets whose packages come with onnxzip
SHIPPING = Path(onnxzip.__file__).parent / "shipping"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nets merged at share 0.5 to m.onnx, and data."""
    write_net(tmp_path / "a.onnx", 1)
    write_net(tmp_path / "b.onnx", 2, classes=3)
    np.savez(tmp_path / "d.npz", x=images(100))
    monkeypatch.chdir(tmp_path)
    assert run("merge", "a.onnx", "b.onnx", "--share", "0.5", "--data", "d.npz", "-o", "m.onnx").code == 0
    return tmp_path


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without any packages."""
    place = tmp_path_factory.mktemp("bare")
    venv.create(place, with_pip=False)
    return place / "bin" / "python"


def ops_of(model: ModelProto) -> set[str]:
    return {n.op_type for n in model.graph.node}


def shape_of(port: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim]


class TestMobileOnnx:
    @pytest.mark.parametrize("share", ["0.5", "1"])
    def test_static_and_old_and_the_same(self, folder: Path, share: str) -> None:
        run("merge", "a.onnx", "b.onnx", "--share", share, "--data", "d.npz", "-o", "m.onnx", "--force")
        ran = run("export", "m.onnx", "--target", "onnx-mobile", "-o", "p.onnx", "--data", "d.npz", "--json")
        report, model = json.loads(ran.out), onnx.load(folder / "p.onnx")
        assert ran.code == 0 and model.opset_import[0].version == 13 and model.ir_version == 7
        assert [shape_of(p) for p in (*model.graph.input, *model.graph.output)] == [[1, 1, 6, 6], [1, 4], [1, 3]]
        assert not ops_of(model) & {"Gather", "Shape"}
        x = images(1, 3)
        together, alone = outputs_of(folder / "m.onnx", x), outputs_of(folder / "p.onnx", x)
        for task, entry in report["tasks"].items():
            np.testing.assert_allclose(alone[f"{task}_logits"], together[f"{task}_logits"], rtol=1e-4, atol=1e-5)
            assert entry["samples"] == 100 and entry["max_error"] < 1e-5 and entry["agreement"] == 1
        assert report["files"] == {"p.onnx": (folder / "p.onnx").stat().st_size} and report["noise"] is None

    def test_one_task_and_another_batch(self, folder: Path) -> None:
        command = ("export", "m.onnx", "--target", "onnx-mobile", "-o", "p.onnx", "--task", "b", "--static-batch", "4")
        assert run(*command, "--opset", "15").code == 0
        model = onnx.load(folder / "p.onnx")
        assert [p.name for p in model.graph.output] == ["logits"] and shape_of(model.graph.input[0])[0] == 4
        assert model.opset_import[0].version == 15
        want = outputs_of(folder / "m.onnx", images(4))["b_logits"]
        np.testing.assert_allclose(outputs_of(folder / "p.onnx", images(4))["logits"], want, rtol=1e-4, atol=1e-5)

    def test_noise_is_told(self, folder: Path) -> None:
        ran = run("export", "m.onnx", "--target", "onnx-mobile", "-o", "p.onnx", "--samples", "40")
        assert ran.out.startswith("Compared on 40 samples of noise (seed 0)")
        assert all(word in ran.out for word in ("p.onnx", "max error", "a ", "b ", f"{(folder / 'p.onnx').stat().st_size:,}"))

    def test_no_gather_in_sample_nets(self, tmp_path: Path) -> None:
        """Strands are joined and cut by Concat and Split; a static net computes no shapes."""
        for family in ("resnet", "mobilenet"):
            nets = {t: MODELS / f"{family}-fashion-{t}.onnx" for t in ("low", "high")}
            onnxzip.merge(nets, share=0.5, method="average").save(tmp_path / f"{family}.onnx")
            report = onnxzip.export(tmp_path / f"{family}.onnx", "onnx-mobile", tmp_path / f"{family}-p.onnx", samples=32)
            assert not ops_of(onnx.load(tmp_path / f"{family}-p.onnx")) & {"Gather", "Shape"}
            assert max(t["max_error"] for t in report["tasks"].values()) < 1e-4


class TestOrtFormat:
    def test_its_files(self, folder: Path) -> None:
        before = snapshot(folder)
        ran = run("export", "m.onnx", "--target", "ort", "-o", "p.ort", "--json")
        assert ran.code == 0 and list(json.loads(ran.out)["files"]) == [
            "p.required_operators.config", "p.usability.txt", "p.ort"
        ]
        assert set(snapshot(folder)) - set(before) == set(json.loads(ran.out)["files"]) and not list(folder.glob(".*"))
        assert (folder / "p.ort").read_bytes()[4:8] == b"ORTM"
        operators, usability = ((folder / f"p.{n}").read_text() for n in ("required_operators.config", "usability.txt"))
        assert "Gemm" in operators and "NNAPI" in usability and "CoreML" in usability
        assert str(folder.parent) not in operators and str(folder.parent) not in usability
        session = outputs_of(folder / "p.ort", images(5))
        for name, want in outputs_of(folder / "m.onnx", images(5)).items():
            np.testing.assert_allclose(session[name], want, rtol=1e-4, atol=1e-5)

    def test_files_are_not_replaced_without_force(self, folder: Path) -> None:
        (folder / "p.usability.txt").write_text("mine")
        failed(2, "export", "m.onnx", "--target", "ort", "-o", "p.ort", words=("p.usability.txt", "--force"))
        assert not (folder / "p.ort").exists() and (folder / "p.usability.txt").read_text() == "mine"
        assert run("export", "m.onnx", "--target", "ort", "-o", "p.ort", "--force").code == 0
        assert (folder / "p.usability.txt").read_text() != "mine"


class TestQuantize:
    def test_int8(self, folder: Path) -> None:
        write_net(folder / "a.onnx", 1, width=32)
        write_net(folder / "b.onnx", 2, width=32)
        run("merge", "a.onnx", "b.onnx", "--share", "0.5", "--data", "d.npz", "-o", "m.onnx", "--force")
        ran = run("export", "m.onnx", "--target", "onnx-mobile", "-o", "q.onnx", "--quantize", "--data", "d.npz", "--json")
        report = json.loads(ran.out)
        assert ran.code == 0 and report["quantized"]
        assert (folder / "q.onnx").stat().st_size < 0.5 * (folder / "m.onnx").stat().st_size
        kinds = {t.data_type for t in onnx.load(folder / "q.onnx").graph.initializer if len(t.dims) > 1}
        assert kinds == {onnx.TensorProto.INT8}
        for entry in report["tasks"].values():
            assert entry["samples"] == 20 and 1e-4 < entry["relative_error"] < 0.1 and entry["agreement"] >= 0.75

    def test_a_difference_is_code_1_and_leaves_no_file(self, folder: Path) -> None:
        before = snapshot(folder)
        command = ("export", "m.onnx", "--target", "onnx-mobile", "-o", "q.onnx", "--quantize", "--data", "d.npz")
        failed(1, *command, "--tolerance", "1e-6", words=("onnx-mobile", "'a", "off by", "Nothing was written"))
        assert snapshot(folder) == before and not list(folder.glob(".*"))

    def test_what_cannot_be_quantised(self, folder: Path) -> None:
        failed(2, "export", "m.onnx", "--target", "ort", "-o", "q.ort", "--quantize", words=("--data",))
        command = ("export", "m.onnx", "--target", "ncnn", "-o", "q.param", "--quantize", "--data", "d.npz")
        failed(2, *command, words=("ncnn", "openvino"))


def test_the_oldest_opset_that_holds_the_net(tmp_path: Path) -> None:
    """HardSwish is an operator since 14: with --opset 13 its net is refused, without it is written at 14."""
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[N,3,6,6] x) => (float[N,2] y) {
        a = Conv (x, w) b = HardSwish (a) c = GlobalAveragePool (b) d = Flatten (c) y = MatMul (d, v) }"""
    for name in "ab":
        made, rng = parser.parse_model(text), np.random.default_rng(ord(name))
        arrays = {"w": rng.standard_normal((8, 3, 3, 3), np.float32), "v": rng.standard_normal((8, 2), np.float32)}
        made.graph.initializer.extend(numpy_helper.from_array(a, k) for k, a in arrays.items())
        onnx.save(made, tmp_path / f"{name}.onnx")
    x = np.random.default_rng(0).standard_normal((40, 3, 6, 6), np.float32)
    onnxzip.merge({t: tmp_path / f"{t}.onnx" for t in "ab"}, x).save(tmp_path / "m.onnx")
    onnxzip.export(tmp_path / "m.onnx", "onnx-mobile", tmp_path / "p.onnx", x)
    assert onnx.load(tmp_path / "p.onnx").opset_import[0].version == 14
    with pytest.raises(UnsupportedError, match=r"HardSwish.* does not exist in opset 13. Use --opset 14"):
        onnxzip.export(tmp_path / "m.onnx", "onnx-mobile", tmp_path / "q.onnx", x, opset=13)


class TestRefusals:
    def test_usage(self, folder: Path) -> None:
        before = snapshot(folder)
        failed(2, "export", "m.onnx", "--target", "nccn", "-o", "p.param", words=("'nccn'", "ncnn", "openvino"))
        failed(2, "export", "m.onnx", "--target", "ort", "-o", "p.onnx", words=("p.ort",))
        failed(2, "export", "m.onnx", "--target", "ort", "-o", "p.ort", "--task", "c", words=("'c'", "a, b"))
        failed(2, "export", "m.onnx", "--target", "ort", "-o", "p.ort", "--static-batch", "0", words=("--static-batch",))
        failed(2, "export", "m.onnx", "--target", "ncnn", "-o", "p.param", "--static-batch", "2", words=("ncnn", "1 sample"))
        failed(2, "export", "m.onnx", "--target", "tflite", "-o", "p.tflite", "--opset", "13", words=("--opset",))
        failed(2, "export", "m.onnx", "--target", "ort", "-o", "none/p.ort", words=("does not exist",))
        failed(2, "export", "m.onnx", "--target", "ort", "-o", "p.ort", "--python", "none/python", words=("none/python",))
        failed(3, "export", "a.onnx", "--target", "ort", "-o", "p.ort", words=("a.onnx", "not made by onnxzip"))
        failed(3, "export", "m.onnx", "--target", "onnx-mobile", "-o", "p.onnx", "--opset", "12", words=("13 is the oldest",))
        failed(3, "export", "m.onnx", "--target", "ort", "-o", "p.ort", "--data", "a=none.npz", words=("b",))
        assert snapshot(folder) == before

    @pytest.mark.parametrize("target", [t for t in known_targets().values() if t.name not in OWN], ids=lambda t: t.name)
    def test_a_missing_backend_is_code_4(self, folder: Path, bare_python: Path, target: object) -> None:
        found = known_targets()[getattr(target, "name")]  # noqa: B009
        output = f"p{found.suffix}"
        command = ("export", "m.onnx", "--target", found.name, "-o", output, "--python", bare_python)
        text = failed(4, *command, words=(found.name, found.packages[-1], f"onnxzip[{found.extra}]", "--python"))
        assert f"ONNXZIP_PYTHON_{found.name.upper()}" in text and not (folder / output).exists()

    def test_the_environment_names_a_python(self, bare_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ONNXZIP_PYTHON_ONNX_MOBILE", str(bare_python))
        with pytest.raises(BackendMissingError, match="onnxruntime"):
            backend_for(known_targets()["onnx-mobile"])
        assert backend_for(known_targets()["onnx-mobile"], Path(sys.executable)).versions

    def test_a_conversion_that_fails_says_why(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last line of what the worker said; nothing is left."""
        real, before = onnxzip.shipping.shipment._handed, snapshot(folder)  # type: ignore[attr-defined]

        def truncated(*given: object) -> object:
            job = real(*given)
            job.source.write_bytes(job.source.read_bytes()[:100])
            return job

        monkeypatch.setattr("onnxzip.shipping.shipment._handed", truncated)
        failed(3, "export", "m.onnx", "--target", "ort", "-o", "p.ort", words=("target ort", "cannot convert", "onnxruntime"))
        assert snapshot(folder) == before and not list(folder.glob(".*"))


@pytest.mark.parametrize("target", OWN)
def test_samples_lie_where_an_output_has_them(target: str, tmp_path: Path) -> None:
    """Behind the steps of a sequence, and as several rows each."""
    text = """g (float[N,7,5] x, float[5,8] w, float[8,3] v, float[5,8] k, int64[2] rows) => (float[7,N,3] y, float[] z)
        { t = Transpose<perm = [1,0,2]>(x) h = MatMul(t, w) r = Relu(h) y = MatMul(r, v)
          u = MatMul(x, k) z = Reshape(u, rows) }"""
    nets = {}
    for seed, task in enumerate("ab"):
        folder = tmp_path / task
        folder.mkdir()
        rng = np.random.default_rng(seed)
        params = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("w", (5, 8)), ("v", (8, 3)))}
        nets[task] = written(folder, text, rows=np.array([-1, 8]), **params)
    x = np.random.default_rng(7).standard_normal((33, 7, 5)).astype(np.float32)
    onnxzip.merge(nets, x).save(tmp_path / "m.onnx")
    for batch in (1, 4):
        output = tmp_path / f"{batch}{'.ort' if target == 'ort' else '.onnx'}"
        done = onnxzip.export(tmp_path / "m.onnx", target, output, x, static_batch=batch)
        assert all(t["samples"] == 33 and t["max_error"] <= 1e-4 for t in done["tasks"].values())


class TestOpset:
    def test_axes_become_an_attribute_again(self, tmp_path: Path) -> None:
        graph = "n (float[N,2,3] x) => (float[N,1,3] y) <int64[1] axes = {1}> { y = ReduceMean <keepdims = 1> (x, axes) }"
        net = load(written(tmp_path, graph, opset=18))
        older = to_model(at_older_opset(net, 13, "net"))
        assert len(older.graph.node[0].input) == 1 and older.ir_version == 7
        onnx.checker.check_model(older, full_check=True)
        feeds = random_feeds(net, 3)
        np.testing.assert_array_equal(originals_outputs(older, feeds), originals_outputs(to_model(net), feeds))

    def test_a_bias_of_rows_is_written_as_a_sum(self, tmp_path: Path) -> None:
        graph = "n (float[N,4,5] x, float[5,3] w, float[3] b) => (float[N,4,3] y) { m = MatMul(x, w) y = Add(m, b) }"
        net = load(written(tmp_path, graph, opset=18))
        assert [(n.op, len(n.inputs)) for n in net.nodes] == [("MatMul", 3)]
        older = to_model(at_older_opset(net, 13, "net"))
        assert [n.op_type for n in older.graph.node] == ["MatMul", "Add"]

    def test_what_an_older_opset_cannot_say(self, tmp_path: Path) -> None:
        ones = "<float[4] s = {1,1,1,1}>"
        graph = f"n (float[N,4] x) => (float[N,4] y) {ones} {{ [norm] y = LayerNormalization <axis = -1> (x, s) }}"
        with pytest.raises(UnsupportedError, match=r"'norm' \(LayerNormalization\) does not exist.* 13. Use --opset 17"):
            at_older_opset(load(written(tmp_path, graph, opset=17)), 13, "net")
        pool = "AveragePool <kernel_shape = [2], dilations = [2], strides = [1]> (x)"
        net = load(written(tmp_path, f"n (float[N,4,9] x) => (float[N,4,7] y) {{ [pool] y = {pool} }}", opset=19))
        with pytest.raises(UnsupportedError, match=r"'pool' .*dilations = .*cannot say"):
            at_older_opset(net, 13, "net")


class TestFixedBatch:
    @pytest.mark.parametrize(
        "graph",
        [
            "n (float[N,4,3] x) => (float[M,6] y) <int64[2] s = {-1,6}> { y = Reshape (x, s) }",
            "n (float[N,3] x) => (float[M,3] y) <int64[1] a = {1}, int64[2] s = {-1,3}, int64[3] t = {1,2,3}> "
            "{ u = Unsqueeze (x, a) v = Expand (u, t) y = Reshape (v, s) }",
            "n (float[N,2,4,4] x) => (float[N,2,8,8] y) <float[4] s = {1.0,1.0,2.0,2.0}> { y = Resize (x, , s) }",
        ],
    )
    def test_shapes_are_numbers_and_outputs_equal(self, graph: str, tmp_path: Path) -> None:
        net = load(written(tmp_path, graph))
        fixed = to_model(fixed_batch(net, 3))
        assert not ops_of(fixed) & {"Shape", "Gather"}
        assert all(isinstance(d, int) and d > 0 for p in (*fixed.graph.input, *fixed.graph.output) for d in shape_of(p))
        feeds = random_feeds(net, 3)
        np.testing.assert_array_equal(originals_outputs(fixed, feeds), originals_outputs(tmp_path / "net.onnx", feeds))


class TestDoctor:
    def test_it_tells_what_is_there_and_how_to_get_the_rest(self, bare_python: Path) -> None:
        report = json.loads(run("doctor", "--json").out)
        assert set(report["targets"]) == set(known_targets())
        assert all(report["targets"][name]["usable"] for name in OWN)
        assert "CPUExecutionProvider" in report["onnxruntime"]["providers"]
        other = json.loads(run("doctor", "--json", "--python", bare_python).out)["targets"]
        assert not any(t["usable"] for t in other.values())
        for name, target in other.items():
            assert target["missing"] == list(known_targets()[name].packages)
            assert name in OWN or f"onnxzip[{known_targets()[name].extra}]" in target["how"]

    def test_its_tables(self) -> None:
        ran = run("doctor")
        assert ran.code == 0 and all(word in ran.out for word in (*known_targets(), "ONNX Runtime", "torch", "CUDA"))

    def test_two_builds_of_onnx_runtime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxzip.shipping.doctor.installed_builds", lambda: ["onnxruntime", "onnxruntime-gpu"])
        assert "overwrite each other" in run("doctor").out


def test_any_python_can_load_a_target() -> None:
    """At import the modules of targets and what they stand on need numpy and the standard library alone."""
    for path in (*SHIPPING.glob("targets/*.py"), SHIPPING / "records.py", SHIPPING / "worker.py", SHIPPING / "__init__.py"):
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                allowed = name.startswith(("onnxzip.shipping.records", "onnxzip.shipping.targets", "numpy", "__future__"))
                assert allowed or name.split(".")[0] in sys.stdlib_module_names, (path, name)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("name", [t for t in known_targets() if t not in OWN])
def test_runtimes_of_others(name: str, share: float, tmp_path: Path) -> None:
    """A fused sample net in the target's own runtime, where one can be found."""
    target = known_targets()[name]
    try:
        backend_for(target)
    except BackendMissingError as error:
        pytest.skip(str(error))
    nets = {t: MODELS / f"mobilenet-fashion-{t}.onnx" for t in ("low", "high")}
    onnxzip.merge(nets, share=share, method="average").save(tmp_path / "m.onnx")
    output = tmp_path / f"p{target.suffix}"
    report = onnxzip.export(tmp_path / "m.onnx", name, output, samples=32)
    assert set(report["tasks"]) == {"low", "high"} and all(Path(p).exists() for p in report["files"])
    for entry in report["tasks"].values():
        assert entry["samples"] == 32 and entry["max_error"] < target.tolerance and entry["agreement"] == 1
    if target.renames:
        names = json.loads(names_file(output).read_text())
        assert [e["net"] for e in names["inputs"]] == ["image"]
        assert [e["net"] for e in names["outputs"]] == ["low_logits", "high_logits"]
        assert names["batch_axis"] is (name != "ncnn") and len({e["runtime"] for e in names["outputs"]}) == 2
