"""Inputs that not all tasks have, or of which each has its own: masks, lengths, the states of streaming nets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import entries, failed, fed, run
from onnx import ModelProto, helper, numpy_helper, parser

import onnxzip
from onnxzip.calibration.checking import Feed, named
from onnxzip.errors import InvalidDataError, UnsupportedError, UsageError
from onnxzip.exporting.verifying import run_rows
from onnxzip.loading.inputs import Given, laid_inputs, names_of, partly_had
from onnxzip.net import Port
from onnxzip.runtime import open_file

F32 = np.dtype(np.float32)
UNITS, CHANNELS = 6, 8
SHARES = pytest.mark.parametrize("share", ["0", "0.5", "1"])
LAYOUTS = pytest.mark.parametrize("layout", ["strands", "wide"])
STREAM = """stream (float[1,T,8] x, float[1,1,6] h, float[1,1,6] c) => (float[1,T,3] y, float[1,1,6] hn, float[1,1,6] cn) {
    axis = Constant <value_ints = [1]> ()
    a = MatMul (x, w0)
    b = Add (a, b0)
    d = Relu (b)
    e = Transpose <perm = [1,0,2]> (d)
    q, hn, cn = LSTM <hidden_size = 6> (e, wi, wh, wb, , h, c)
    s = Squeeze (q, axis)
    t = Transpose <perm = [1,0,2]> (s)
    y = MatMul (t, w2)
}"""
MEAN = """mean (float[N,T,8] x) => (float[N,3] y) {
    a = MatMul (x, w0)
    b = Add (a, b0)
    d = Relu (b)
    p = ReduceMean <axes = [1], keepdims = 0> (d)
    e = Gemm (p, w1, b1)
    f = Relu (e)
    y = Gemm (f, w2, b2)
}"""
MASKED = """masked (float[N,T,8] x, float[N,T] mask) => (float[N,3] y) {
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    a = MatMul (x, w0)
    b = Add (a, b0)
    d = Relu (b)
    m = Unsqueeze (mask, two)
    g = Mul (d, m)
    s = ReduceSum <keepdims = 0> (g, one)
    n = ReduceSum <keepdims = 0> (m, one)
    p = Div (s, n)
    e = Gemm (p, w1, b1)
    f = Relu (e)
    y = Gemm (f, w2, b2)
}"""
BESIDE = """beside (float[N,8] x, float[N,4] aux) => (float[N,3] y) {
    a = Gemm (x, w0, b0)
    d = Relu (a)
    j = Concat <axis = 1> (d, aux)
    e = Gemm (j, w1, b1)
    f = Relu (e)
    y = Gemm (f, w2, b2)
}"""
PLAIN = """plain (float[N,8] x) => (float[N,3] y) {
    a = Gemm (x, w0, b0)
    d = Relu (a)
    e = Gemm (d, w1, b1)
    f = Relu (e)
    y = Gemm (f, w2, b2)
}"""
WEIGHTS = {"w0": (8, 12), "b0": (12,), "w1": (12, 10), "b1": (10,), "w2": (10, 3), "b2": (3,)}
RECURRENT = {"w0": (8, 12), "b0": (12,), "wi": (1, 24, 12), "wh": (1, 24, 6), "wb": (1, 48), "w2": (6, 3)}


def write(path: Path, text: str, seed: int, **shapes: tuple[int, ...]) -> Path:
    """A net of a text with weights of its own."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        scale = 1 / np.sqrt(shape[-2]) if len(shape) > 1 else 0.1
        model.graph.initializer.append(numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


def stream(path: Path, seed: int) -> Path:
    return write(path, STREAM, seed, **RECURRENT)


def plain(path: Path, text: str, seed: int) -> Path:
    return write(path, text, seed, **(WEIGHTS | ({"w1": (16, 10)} if text is BESIDE else {})))


def normal(count: int, *shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32)


def states(count: int, steps: int = 5) -> dict[str, np.ndarray]:
    """Samples of a stream: all of a step's inputs."""
    kept = {"h": 0.3 * normal(count, 1, UNITS, seed=4), "c": normal(count, 1, UNITS, seed=5)}
    return {"x": normal(count, steps, CHANNELS), **kept}


def masked(count: int, length: int) -> dict[str, np.ndarray]:
    mask = (np.arange(length) < np.random.default_rng(length).integers(1, length + 1, (count, 1))).astype(np.float32)
    return {"x": normal(count, length, CHANNELS), "mask": mask}


def dims(model: Path | ModelProto) -> dict[str, list[str | int]]:
    """Inputs of a file by name, and their axes."""
    model = onnx.load(model) if isinstance(model, Path) else model
    return {p.name: [d.dim_param or d.dim_value for d in p.type.tensor_type.shape.dim] for p in model.graph.input}


def check_interface(alone: ModelProto, original: Path) -> None:
    """A task that was taken out has the inputs and outputs of its original, and computes in any place of it."""
    before = onnx.load(original)
    assert dims(alone) == dims(before)
    assert [(p.name, p.type.tensor_type.elem_type) for p in (*alone.graph.input, *alone.graph.output)] == [
        (p.name, p.type.tensor_type.elem_type) for p in (*before.graph.input, *before.graph.output)
    ]


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three streaming nets and data, the first two merged with states of their own, nothing shared."""
    for k, name in enumerate("abc"):
        stream(tmp_path / f"{name}.onnx", k)
    np.savez(tmp_path / "d.npz", **states(120))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(share: str, layout: str = "strands", *more: str) -> None:
    command = ("merge", "a.onnx", "b.onnx", "--apart", "h", "--apart", "c", "--share", share, "--layout", layout)
    ran = run(*command, "--data", "d.npz", "-o", "m.onnx", "--force", *more)
    assert ran.code == 0, ran


class TestStreams:
    def test_a_shared_state_is_told(self, streams: Path) -> None:
        ran = run("plan", "a.onnx", "b.onnx", "--json")
        first, second = json.loads(ran.out)["notes"]
        assert "input 'h' is a state of units that all tasks share: begin with zeros, and feed back what output 'hn'" in first
        assert "input 'c' is a state of units that all tasks share" in second
        assert "Input 'h' is a state of units" in " ".join(run("plan", "a.onnx", "b.onnx").out.split())
        told = run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "one.onnx", "--share", "0")
        assert "looks like a state (output 'hn' has its shape), and feeds all tasks at once: --apart h" in told.err
        assert list(dims(streams / "one.onnx")) == ["x", "h", "c"]
        assert json.loads(run("plan", "a.onnx", "b.onnx", "--apart", "[hc]", "--json").out)["notes"] == []

    @SHARES
    @LAYOUTS
    def test_each_task_has_its_own(self, streams: Path, share: str, layout: str) -> None:
        merged(share, layout)
        own = [1, 1, UNITS]
        assert dims(streams / "m.onnx") == {"x": [1, "T", 8], "a_h": own, "a_c": own, "b_h": own, "b_c": own}
        ran = run("verify", "m.onnx", "--against", "a.onnx", "--against", "b.onnx", "--data", "d.npz", "--json")
        errors = {t: e["fidelity"]["relative_error"] for t, e in json.loads(ran.out)["tasks"].items()}
        assert all(error < (1e-5 if share == "0" else 0.5) for error in errors.values())
        for task in "ab":
            alone = onnxzip.split("m.onnx", task)
            check_interface(alone, streams / f"{task}.onnx")

    def test_it_streams(self, streams: Path) -> None:
        """Each task's states are fed back through the fused file, as through the original."""
        merged("0")
        x = normal(1, 7, CHANNELS, seed=8)
        zero = np.zeros((1, 1, UNITS), np.float32)
        now = {f"{t}_{s}": zero for t in "ab" for s in "hc"}
        alone = {t: {"h": zero, "c": zero} for t in "ab"}
        for step in range(x.shape[1]):
            found = fed(streams / "m.onnx", {"x": x[:, step : step + 1], **now})
            now = {f"{t}_{s}": found[f"{t}_{s}n"] for t in "ab" for s in "hc"}
            for t in "ab":
                want = fed(streams / f"{t}.onnx", {"x": x[:, step : step + 1], **alone[t]})
                alone[t] = {s: want[f"{s}n"] for s in "hc"}
                np.testing.assert_allclose(found[f"{t}_y"], want["y"], rtol=1e-4, atol=1e-5)

    def test_retraining(self, streams: Path) -> None:
        merged("1")
        teachers = ("--teacher", "a.onnx", "--teacher", "b.onnx")
        np.savez(streams / "e.npz", **states(120))
        for data in (("--data", "d.npz"), ("--data", "a=d.npz", "--data", "b=e.npz")):
            ran = run("retrain", "m.onnx", *teachers, *data, "-o", "r.onnx", "--steps", "6", "--force")
            assert ran.code == 0 and "not new" not in ran.err, ran
        assert dims(streams / "r.onnx") == dims(streams / "m.onnx")
        merged("1", "strands", "--retrain", "4")

    def test_shipped(self, streams: Path) -> None:
        merged("0.5")
        for target, name in (("onnx-mobile", "p.onnx"), ("ort", "p.ort")):
            for task in ((), ("--task", "b")):
                for data in (("--data", "d.npz"), ("--samples", "40")):
                    ran = run("export", "m.onnx", "--target", target, "-o", name, *task, *data, "--json", "--force")
                    assert ran.code == 0, ran
                    report = json.loads(ran.out)
                    assert all(e["max_error"] < 1e-5 for e in report["tasks"].values())
                    assert [t["name"] for t in report["inputs"]] == (
                        ["x", "h", "c"] if task else ["x", "a_h", "a_c", "b_h", "b_c"]
                    )

    def test_data_of_one_task_ship_all(self, streams: Path) -> None:
        """The tasks are compared one after the other; the inputs of those that a source is not for are fed with zeros."""
        merged("0.5")
        np.savez(streams / "e.npz", **states(60))
        command = ("export", "m.onnx", "--target", "onnx-mobile", "-o", "p.onnx")
        assert run(*command, "--data", "a=d.npz", "--data", "b=e.npz").code == 0
        assert run(*command, "--data", "a=d.npz", "--data", "b=e.npz", "--quantize", "--force").code == 0

    def test_bundled_and_looked_at(self, streams: Path) -> None:
        merged("0.5")
        assert run("bundle", "m.onnx", "-o", "parts").code == 0
        for task in "ab":
            assert list(dims(streams / "parts" / f"{task}.onnx")) == ["x", "h", "c"]
        assert run("inspect", "m.onnx", "--html", "page.html").code == 0
        assert run("diff", "a.onnx", "m.onnx").code == 0

    def test_a_module(self, streams: Path) -> None:
        torch = pytest.importorskip("torch")
        merged("0.5")
        axes = dims(streams / "m.onnx")
        feeds = {name: normal(1, *(4 if d == "T" else d for d in shape[1:])) for name, shape in axes.items()}
        found = onnxzip.to_torch("m.onnx")(**{name: torch.from_numpy(x) for name, x in feeds.items()})
        for name, want in fed(streams / "m.onnx", feeds).items():
            np.testing.assert_allclose(found[name].detach().numpy(), want, rtol=1e-4, atol=1e-5)

    def test_merged_again(self, streams: Path) -> None:
        """States of the tasks in a fused file stay theirs, and arrays may be called as in the first nets."""
        merged("0")
        assert partly_had(entries(streams / "m.onnx")) == {"a_h", "a_c", "b_h", "b_c"}
        for data in (("--data", "d.npz"), ("--data", "a=d.npz", "--data", "b=d.npz", "--data", "third=d.npz")):
            ran = run("merge", "both=m.onnx", "third=c.onnx", "--share", "0", *data, "-o", "n.onnx", "--force")
            assert ran.code == 0, ran
        assert list(dims(streams / "n.onnx")) == ["x", "a_h", "a_c", "b_h", "b_c", "h", "c"]
        against = [a for t, n in (("a", "a"), ("b", "b"), ("third", "c")) for a in ("--against", f"{t}={n}.onnx")]
        assert run("verify", "n.onnx", *against, "--data", "d.npz", "--tolerance", "1e-5").code == 0
        check_interface(onnxzip.split("n.onnx", "b"), streams / "b.onnx")
        check_interface(onnxzip.split("n.onnx", "third"), streams / "c.onnx")

    def test_options(self, streams: Path) -> None:
        failed(2, "plan", "a.onnx", "b.onnx", "--apart", "hh", words=("--apart hh", "did you mean 'h'", "x, h, c"))
        failed(3, "plan", "a.onnx", "b.onnx", "--apart", "*", words=("no input in common",))
        (streams / "c.yaml").write_text("apart: [h, c]\n")
        assert run("plan", "a.onnx", "b.onnx", "--config", "c.yaml").code == 0
        made = onnxzip.merge({"a": "a.onnx", "b": "b.onnx"}, "d.npz", apart=("h",), share=0)
        assert list(dims(onnx.load_from_string(made.content))) == ["x", "c", "a_h", "b_h"]


class TestMasks:
    def files(self, folder: Path, *texts: str) -> dict[str, Path]:
        return {t: plain(folder / f"{t}.onnx", text, k) for k, (t, text) in enumerate(zip("abc", texts, strict=False))}

    @SHARES
    @LAYOUTS
    def test_one_net_has_more(self, tmp_path: Path, share: str, layout: str) -> None:
        files = self.files(tmp_path, MEAN, MASKED)
        data = {"a": {"x": normal(90, 6, CHANNELS)}, "b": masked(90, 6)}
        made = onnxzip.merge(files, data, share=float(share), layout=layout)
        made.save(tmp_path / "m.onnx")
        assert dims(tmp_path / "m.onnx") == {"x": ["N", "T", 8], "mask": ["N", "T"]}
        assert made.report["sizes"][1] == {"input": "mask", "axis": 1, "name": "T", "sizes": {"b": 6}}
        assert all(t["fidelity"]["relative_error"] < (1e-5 if share == "0" else 0.8) for t in made.report["tasks"].values())
        assert share == "0" or made.report["spaces"][0]["shared"] > 0
        for task, file in files.items():
            check_interface(onnxzip.split(tmp_path / "m.onnx", task), file)
        longer = masked(3, 9)
        found, want = fed(tmp_path / "m.onnx", longer), fed(files["b"], longer)["y"]
        assert found["b_y"].shape == want.shape and (share != "0" or np.allclose(found["b_y"], want, rtol=1e-4, atol=1e-5))

    def test_the_first_net_has_more(self, tmp_path: Path) -> None:
        """Those that all have stand first, and what follows the batch is read from them."""
        before, after = "float[N,T,8] x, float[N,T] mask", "float[N,T] mask, float[N,T,8] x"
        files = self.files(tmp_path, MASKED.replace(before, after), MEAN)
        made = onnxzip.merge(files, {"": masked(90, 6)}, share=0)
        assert list(dims(onnx.load_from_string(made.content))) == ["x", "mask"]

    def test_data_of_two_sizes(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, MEAN, MASKED)
        data = {"a": {"x": normal(90, 5, CHANNELS)}, "b": masked(90, 7)}
        made = onnxzip.merge(files, data)
        made.save(tmp_path / "m.onnx")
        assert made.report["sizes"][0]["sizes"] == {"a": 5, "b": 7} and made.report["sizes"][1]["sizes"] == {"b": 7}
        onnxzip.verify(tmp_path / "m.onnx", files, data)
        onnxzip.retrain(tmp_path / "m.onnx", files, data, steps=4)

    def test_a_mask_whose_length_has_another_name(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, MEAN, MASKED.replace("float[N,T] mask", "float[N,S] mask"))
        for length in (6, 7):
            made = onnxzip.merge(files, {"a": {"x": normal(90, 6, CHANNELS)}, "b": masked(90, length)}, share=0.5)
            assert dims(onnx.load_from_string(made.content)) == {"x": ["N", "T", 8], "mask": ["N", "T"]}

    @SHARES
    def test_what_follows_a_length(self, tmp_path: Path, share: str) -> None:
        """A part of a table as long as the samples: no task reads the length off an input that is another's alone."""
        part = """hs = Shape (x)
    i0 = Constant <value_ints = [0]> ()
    i1 = Constant <value_ints = [1]> ()
    long = Gather (hs, i1)
    here = Slice (pos, i0, long)
    dd = Add (d, here)
"""
        first = MEAN.replace("p = ReduceMean", part + "    p = ReduceMean").replace("(d)\n    e", "(dd)\n    e")
        texts = {"a": first, "b": MASKED.replace("g = Mul (d", part + "    g = Mul (dd")}
        files = {t: write(tmp_path / f"{t}.onnx", text, ord(t), **WEIGHTS, pos=(64, 12)) for t, text in texts.items()}
        made = onnxzip.merge(files, {"a": {"x": normal(90, 6, CHANNELS)}, "b": masked(90, 6)}, share=float(share))
        made.save(tmp_path / "m.onnx")
        assert [entry["name"] for entry in made.report["sizes"]] == ["T", "T"]
        for task, file in files.items():
            alone = onnxzip.split(tmp_path / "m.onnx", task)
            check_interface(alone, file)
            feeds = {k: v for k, v in masked(4, 9).items() if k in dims(alone)}
            found, want = fed(alone.SerializeToString(), feeds)["y"], fed(file, feeds)["y"]
            assert share != "0" or np.allclose(found, want, rtol=1e-4, atol=1e-5)

    def test_two_of_three(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, MASKED, MEAN, MASKED)
        data = {"": masked(90, 6)}
        for apart, names in (((), ["x", "mask"]), (("mask",), ["x", "a_mask", "c_mask"])):
            for share in (0, 0.5):
                made = onnxzip.merge(files, data, share=share, apart=apart)
                made.save(tmp_path / "m.onnx", force=True)
                assert list(dims(tmp_path / "m.onnx")) == names
                if share == 0:
                    onnxzip.verify(tmp_path / "m.onnx", files, data, tolerance=1e-5)
                for task, file in files.items():
                    check_interface(onnxzip.split(tmp_path / "m.onnx", task), file)

    def test_merged_again_on_data_of_each(self, tmp_path: Path) -> None:
        """A fused net is fed as one: the masks that the data of one task lack, those of another lend."""
        files = self.files(tmp_path, MEAN, MASKED, MASKED)
        data = {"a": {"x": normal(60, 6, CHANNELS)}, "b": masked(90, 6), "c": masked(80, 6)}
        onnxzip.merge({t: files[t] for t in "ab"}, {t: data[t] for t in "ab"}, share=0).save(tmp_path / "ab.onnx")
        again = {"ab": tmp_path / "ab.onnx", "c": files["c"]}
        for share in (0, 0.5):
            onnxzip.merge(again, data, share=share).save(tmp_path / "m.onnx", force=True)
            assert list(dims(tmp_path / "m.onnx")) == ["x", "ab_mask", "c_mask"]
            onnxzip.verify(tmp_path / "m.onnx", files, data, tolerance=1e-5 if share == 0 else None)
        with pytest.raises(InvalidDataError, match="no array for input 'ab_mask'"):
            onnxzip.merge(again, data | {"b": data["a"]})

    def test_noise(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, PLAIN, BESIDE)
        assert onnxzip.merge(files, share=0).report["noise"] is not None

    @SHARES
    @LAYOUTS
    @pytest.mark.parametrize("texts", [(PLAIN, BESIDE), (BESIDE, BESIDE), (PLAIN, BESIDE, BESIDE)])
    @pytest.mark.parametrize("apart", [(), ("aux",)])
    def test_channels_beside_others(
        self, tmp_path: Path, share: str, layout: str, texts: tuple[str, ...], apart: tuple[str, ...]
    ) -> None:
        """Channels of an input of a task's own are joined with shared ones."""
        files = self.files(tmp_path, *texts)
        data = {"x": normal(90, CHANNELS), "aux": normal(90, 4, seed=9)}
        made = onnxzip.merge(files, {"": data}, share=float(share), layout=layout, apart=apart)
        made.save(tmp_path / "m.onnx")
        assert made.report["spaces"][0]["shared"] == {"0": 0, "0.5": 6, "1": 12}[share]
        assert all(t["fidelity"]["relative_error"] < (1e-5 if share == "0" else 0.8) for t in made.report["tasks"].values())
        for task, file in files.items():
            check_interface(onnxzip.split(tmp_path / "m.onnx", task), file)

    def test_a_param_that_is_called_so(self, tmp_path: Path) -> None:
        """A shared param has the name that the first net gives it, which may be that of an input of another task."""
        shapes = {k.replace("w0", "aux"): shape for k, shape in WEIGHTS.items()}
        files = {
            "a": write(tmp_path / "a.onnx", PLAIN.replace("w0", "aux"), 1, **shapes),
            "b": plain(tmp_path / "b.onnx", BESIDE, 2),
            "c": plain(tmp_path / "c.onnx", BESIDE, 3),
        }
        for apart in ((), ("aux",)):
            made = onnxzip.merge(files, {"": {"x": normal(90, CHANNELS), "aux": normal(90, 4, seed=9)}}, apart=apart)
            made.save(tmp_path / "m.onnx", force=True)
            params = {t.name for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
            assert ("aux" in params) == bool(apart)
            for task, file in files.items():
                check_interface(onnxzip.split(tmp_path / "m.onnx", task), file)

    def test_another_method(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, PLAIN, BESIDE)
        data = {"": {"x": normal(90, CHANNELS), "aux": normal(90, 4, seed=9)}}
        for method in ("mtz", "permute", "regmean"):
            assert onnxzip.merge(files, data, method=method).report["spaces"][0]["shared"] == 12

    def test_a_reason_is_given(self, tmp_path: Path) -> None:
        report = onnxzip.plan(self.files(tmp_path, BESIDE, BESIDE), apart="aux")
        assert any("reads 'b_aux', which not all have" in r["why"] for r in report["refusals"])


class TestNames:
    X, Z = Given("x", (-1, 8), F32), Given("z", (-1, 8), F32)
    MASK, WIDE = Given("mask", (-1, 0), F32), Given("mask", (-1, 4, 2), F32)

    def test_as_many_are_laid_by_name_or_place(self) -> None:
        assert laid_inputs({"a": [self.X, self.Z], "b": [self.Z, self.X]})["b"] == {"z": "z", "x": "x"}
        assert laid_inputs({"a": [self.X], "b": [self.Z]}) == {"a": {"x": "x"}, "b": {"x": "z"}}

    def test_others_by_name_shape_and_type(self) -> None:
        found = laid_inputs({"a": [self.X], "b": [self.MASK, self.X], "c": [self.X, self.WIDE]})
        assert found == {"a": {"x": "x"}, "b": {"b_mask": "mask", "x": "x"}, "c": {"x": "x", "c_mask": "mask"}}
        assert names_of(found) == ("x", "b_mask", "c_mask")
        same = laid_inputs({"a": [self.X], "b": [self.X, self.MASK], "c": [self.X, self.MASK]})
        assert names_of(same) == ("x", "mask")

    def test_taken_names(self) -> None:
        mine = Given("a_h", (-1, 3), F32)
        h = Given("h", (-1, 3), F32)
        found = laid_inputs({"a": [self.X, h], "b": [self.X, h], "c": [self.X, mine]}, ["h"])
        assert len(names_of(found)) == 4 and found["c"] == {"x": "x", "a_h": "a_h"} and found["b"] == {"x": "x", "b_h": "h"}

    def test_refusals(self) -> None:
        with pytest.raises(UnsupportedError, match="'a' has 1 inputs, 'b' has 2, and none of these agree"):
            laid_inputs({"a": [self.X], "b": [self.Z, self.MASK]})
        with pytest.raises(UnsupportedError, match="'a' has 1 inputs, 'b' has 2, and none"):
            laid_inputs({"a": [self.X], "b": [self.Z, self.MASK], "c": [self.X, self.MASK]})
        with pytest.raises(UsageError, match="--apart msk: fits no input; did you mean 'mask'"):
            laid_inputs({"a": [self.X], "b": [self.X, self.MASK]}, ["msk"])

    def test_inputs_of_a_fused_file_are_its_own(self) -> None:
        nets = {"ab": [self.X, self.MASK], "c": [self.X, self.MASK]}
        assert names_of(laid_inputs(nets, (), {"ab": {"mask"}})) == ("x", "ab_mask", "c_mask")

    def test_damaged_entries_say_nothing(self) -> None:
        assert partly_had({"onnxzip.tasks": '["a"]', "onnxzip.sources": "{}"}) == frozenset()


class TestFeeds:
    PORTS = tuple(Port(name, F32, (-1, 2)) for name in ("x", "a_h", "b_h"))
    FEEDS = (Feed(PORTS[:2], {"x": "x", "h": "a_h"}, None), Feed((PORTS[0], PORTS[2]), {"x": "x", "h": "b_h"}, None))

    def test_one_array_feeds_all_tasks(self) -> None:
        x, h = normal(4, 2), normal(4, 2, seed=1)
        found, _ = named({"x": x, "h": h}, self.FEEDS, "here")
        assert list(found) == ["x", "a_h", "b_h"] and found["a_h"] is h and found["b_h"] is h

    def test_a_task_by_its_name(self) -> None:
        x, h, other = normal(4, 2), normal(4, 2, seed=1), normal(4, 2, seed=2)
        for arrays in ({"x": x, "h": h, "b_h": other}, {"b_h": other, "h": h, "x": x}):
            found, _ = named(arrays, self.FEEDS, "here")
            assert found["a_h"] is h and found["b_h"] is other

    def test_one_is_missing(self) -> None:
        with pytest.raises(InvalidDataError, match="no array for input"):
            named({"x": normal(4, 2), "a_h": normal(4, 2)}, self.FEEDS, "here")

    def test_other_tasks_inputs_are_zeros(self, tmp_path: Path) -> None:
        """ONNX Runtime wants all inputs; those that the samples lack have the sizes that others have under the same name."""
        ports = [helper.make_tensor_value_info(n, k, ["N", "T"]) for n, k in (("x", 1), ("ids", 7))]
        made = [helper.make_tensor_value_info(n, k, ["N", "T"]) for n, k in (("y", 1), ("z", 7))]
        nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["ids"], ["z"])]
        graph = helper.make_graph(nodes, "two", ports, made)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "t.onnx")
        found = run_rows(open_file("two", tmp_path / "t.onnx", "cpu"), {"x": normal(3, 5)})
        assert found["z"].shape == (3, 5) and found["z"].dtype == np.int64 and not found["z"].any()
