"""Inputs that are one number for all samples (rates, temperatures, times): constants of the fused net, as user or data say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from merging import entries, failed, fed, run
from onnx import ModelProto, numpy_helper, parser

import onnxzip
from onnxzip.analysis import analyse_sized
from onnxzip.calibration.sources import Samples
from onnxzip.config import Options
from onnxzip.errors import InvalidDataError, UnsupportedError, UsageError
from onnxzip.exporting.job import job_of
from onnxzip.exporting.metadata import read_origins
from onnxzip.inspection.differing import diff
from onnxzip.inspection.inspecting import inspect
from onnxzip.loading import family, load_family
from onnxzip.pairs import fixes_of
from onnxzip.peers import differing

EXACT = 1e-5
DENSE = "a = Gemm <transB = 1> (x, w0, b0) c = Relu (a) p = Gemm <transB = 1> (c, w1, b1)"
WIDE = "e = Gemm <transB = 1> (x, v0, c0) g = Relu (e) q = Gemm <transB = 1> (g, v1, c1)"
# what is read beside x, and nodes
NETS = {
    "temperature": ("float s", f"{DENSE} y = Div (p, s)"),
    "rate": ("int64 s", f"""o = Equal (s, sixteen) y = If (o) <then_branch = low () => (float[N,3] p) {{ {DENSE} }},
        else_branch = high () => (float[N,3] q) {{ {WIDE} }}>"""),
    "flag": ("bool s", f"""{DENSE} [which] t = If (s) <then_branch = yes () => (float[N,3] r) {{ r = Sigmoid (p) }},
        else_branch = no () => (float[N,6] r2) {{ r2 = Concat <axis = 1> (p, p) }}> y = Tanh (t)"""),
    "time": ("float s", """f = Mul (s, freqs) i = Sin (f) j = Cos (f) k = Concat <axis = 0> (i, j) l = Reshape (k, row)
        m = Gemm <transB = 1> (l, v0, c0) n = Relu (m) o = Gemm <transB = 1> (n, u, c2)
        a = Gemm <transB = 1> (x, w0, b0) t = Add (a, o) c = Relu (t) y = Gemm <transB = 1> (c, w1, b1)"""),
}
SHAPES = {
    "w0": (10, 8), "b0": (10,), "w1": (3, 10), "b1": (3,), "v0": (14, 8), "c0": (14,), "v1": (3, 14), "c1": (3,),
    "u": (10, 14), "c2": (10,),
}
NUMBERS = {"sixteen": np.array(16000), "freqs": np.array([0.3, 1, 3, 9], np.float32), "row": np.array([1, 8])}
AT = {"temperature": 2.5, "rate": 16000, "flag": True, "time": 0.7}
OTHER = {"temperature": 0.5, "rate": 8000, "flag": False, "time": 3.0}
DTYPES = {"temperature": np.float32, "rate": np.int64, "flag": np.bool_, "time": np.float32}


def model(kind: str, seed: int, called: str = "s") -> ModelProto:
    """A net with an input without any axis."""
    port, nodes = NETS[kind]
    text = f'<ir_version: 8, opset_import: ["": 17]> {kind} (float[N,8] x, {port}) => (float[N,M] y) {{ {nodes} }}'
    made = parser.parse_model(text)
    made.graph.input[1].type.tensor_type.shape.SetInParent()
    rng = np.random.default_rng(seed)
    for name, shape in SHAPES.items():
        array = np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, numbers in NUMBERS.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(numbers), name))
    for node in made.graph.node:
        node.input[:] = [called if v == "s" else v for v in node.input]
    made.graph.input[1].name = called
    return made


def written(folder: Path, kind: str, called: Mapping[str, str] | None = None) -> dict[str, Path]:
    files = {}
    for seed, task in enumerate("ab"):
        files[task] = folder / f"{task}.onnx"
        onnx.save(model(kind, seed, (called or {}).get(task, "s")), files[task])
    return files


def samples(count: int = 80) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 8), np.float32)


def wanted(kind: str, file: Path, x: np.ndarray, number: float, called: str = "s") -> np.ndarray:
    """What an original says of samples at a number."""
    return fed(file, {"x": x, called: np.asarray(number, DTYPES[kind])})["y"]


def of(merged: onnxzip.Merged, x: np.ndarray) -> dict[str, np.ndarray]:
    return fed(merged.model.SerializeToString(), {"x": x})


def squares(outputs: Mapping[str, Any], teacher: Mapping[str, Any], labels: Any) -> Any:
    """A loss of the user's own."""
    return sum((outputs[name] - teacher[name]).square().mean() for name in teacher)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", NETS)
class TestMerge:
    def test_at_share_0_each_task_is_its_original_at_the_number(self, kind: str, tmp_path: Path) -> None:
        files, x = written(tmp_path, kind), samples()
        for number in (AT[kind], OTHER[kind]):
            merged = onnxzip.merge(files, {"x": x, "s": np.array(number)}, share=0)
            assert [p.name for p in merged.model.graph.input] == ["x"]
            found = of(merged, x[:9])
            for task, file in files.items():
                np.testing.assert_allclose(found[f"{task}_y"], wanted(kind, file, x[:9], number), rtol=EXACT, atol=EXACT)
                assert merged.report["tasks"][task]["fixed"] == {"s": pytest.approx(number)}

    def test_user_and_data_say_the_same(self, kind: str, tmp_path: Path) -> None:
        files, x = written(tmp_path, kind), samples()
        told = onnxzip.merge(files, {"x": x, "s": np.array(AT[kind])})
        given = onnxzip.merge(files, {"x": x}, fix={"s": AT[kind]})
        assert {t: space["shared"] for t, space in enumerate(told.report["spaces"])}[0] == 10
        for name, array in of(told, x[:9]).items():
            np.testing.assert_array_equal(array, of(given, x[:9])[name])

    def test_a_permuted_copy_gives_back_the_net(self, kind: str, tmp_path: Path) -> None:
        files, x = written(tmp_path, kind), samples()
        moved, order = model(kind, 0), np.random.default_rng(1).permutation(10)
        for tensor in moved.graph.initializer:
            axis = {"w0": 0, "b0": 0, "w1": 1, "u": 0, "c2": 0}.get(tensor.name)
            if axis is not None:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).take(order, axis), tensor.name))
        onnx.save(moved, files["b"])
        merged = onnxzip.merge(files, {"x": x}, fix={"s": AT[kind]})
        found, want = of(merged, x[:9]), wanted(kind, files["a"], x[:9], AT[kind])
        for task in files:
            np.testing.assert_allclose(found[f"{task}_y"], want, rtol=1e-3, atol=1e-4)

    def test_plan_needs_the_user(self, kind: str, tmp_path: Path) -> None:
        files = written(tmp_path, kind)
        failed(3, "plan", *files.values(), words=("'s' of 'a' is one number for all samples", "--fix s=NUMBER"))
        ran = run("plan", *files.values(), "--fix", f"s={str(AT[kind]).lower()}")
        assert ran.code == 0, ran
        assert f"Input s is fixed at {AT[kind]} (a, b)" in ran.out
        assert onnxzip.plan(files, fix={"s": AT[kind]})["tasks"]["b"]["fixed"] == {"s": AT[kind]}

    def test_verify_retrain_split_bundle_diff_inspect(self, kind: str, tmp_path: Path) -> None:
        """Whoever runs an original runs it at the number, whether data hold it or not."""
        files, x = written(tmp_path, kind), samples(200)
        onnxzip.merge(files, {"x": x}, fix={"s": AT[kind]}, share=0).save("m.onnx")
        for data in ({"x": x}, {"x": x, "s": np.full(len(x), AT[kind])}):
            report = onnxzip.verify("m.onnx", files, data)
            assert all(e["fidelity"]["relative_error"] < EXACT for e in report["tasks"].values())
            assert report["tasks"]["a"]["fixed"] == {"s": pytest.approx(AT[kind])}
        with pytest.raises(InvalidDataError, match=f"'s' is not {AT[kind]} throughout"):
            onnxzip.verify("m.onnx", files, {"x": x, "s": np.array(OTHER[kind])})
        teaching = onnxzip.RetrainOptions(batch=16)
        done = onnxzip.retrain("m.onnx", files, {"x": x, "s": np.array(AT[kind])}, steps=12, options=teaching)
        assert all(e["fidelity"]["relative_error"] < EXACT for e in done.report["tasks"].values())
        onnx.save(onnxzip.split("m.onnx", "b"), "b2.onnx")
        onnxzip.bundle("m.onnx", "bundle")
        for file in ("b2.onnx", "bundle/b.onnx"):
            report = onnxzip.verify(file, {"b": files["b"]}, {"x": x})
            assert report["tasks"]["b"]["fidelity"]["relative_error"] < EXACT
        found = diff(files["a"], "m.onnx")
        assert found["original"]["fixed"] == {"s": pytest.approx(AT[kind])}
        assert all(n["change"] in (0, None) for n in found["nodes"])
        assert inspect("m.onnx")["tasks"]["a"]["fixed"] == {"s": pytest.approx(AT[kind])}


class TestBranches:
    def test_the_other_branch_is_gone(self, tmp_path: Path) -> None:
        files = written(tmp_path, "rate")
        for number, width in ((16000, 10), (8000, 14)):
            merged = onnxzip.merge(files, {"x": samples()}, fix={"s": number})
            assert "If" not in {n.op_type for n in merged.model.graph.node}
            assert [(s["shared"], s["groups"]) for s in merged.report["spaces"]] == [(width, width)]

    def test_what_is_cut_off_at_a_number_merges_as_if_it_had_never_been_there(self, tmp_path: Path) -> None:
        """The branches of `flag` have two shapes: only one of them, chosen, can be looked into."""
        files = written(tmp_path, "flag")
        report = onnxzip.plan(files, fix={"s": True})
        assert report["refusals"] == [] and report["tasks"]["a"]["macs"] == 8 * 10 + 10 * 3

    def test_ends_that_are_kept_read_it(self, tmp_path: Path) -> None:
        """A threshold of what is found, in an end that nobody looks into."""
        text = f"""<ir_version: 8, opset_import: ["": 17]> net (float[N,8] x, float s) => (float[N,3] z, int64[2,M] y) {{
            {DENSE} z = Sigmoid (p) o = Greater (z, s) y = NonZero (o) }}"""
        for seed, task in enumerate("ab"):
            made = model("temperature", seed)
            whole = parser.parse_model(text)
            whole.graph.initializer.extend(made.graph.initializer)
            onnx.save(whole, tmp_path / f"{task}.onnx")
        files, x = {t: tmp_path / f"{t}.onnx" for t in "ab"}, samples()
        merged = onnxzip.merge(files, {"x": x}, fix={"s": 0.6}, share=0)
        merged.save("m.onnx")
        found = of(merged, x[:9])
        for task, file in files.items():
            np.testing.assert_array_equal(found[f"{task}_y"], wanted("temperature", file, x[:9], 0.6))
        report = onnxzip.retrain("m.onnx", files, {"x": x}, steps=4, options=onnxzip.RetrainOptions(batch=16)).report
        assert report["tasks"]["a"]["fidelity"]["relative_error"] < EXACT


class TestWhoSays:
    def test_each_task_its_own(self, tmp_path: Path) -> None:
        files, x = written(tmp_path, "temperature", {"b": "t"}), samples()
        for fix in ({"s": 2, "t": 0.5}, {"a:s": 2, "b:t": 0.5}, {"s": 7, "t": 0.5, "a:s": 2}):
            merged = onnxzip.merge(files, {"x": x}, fix=fix, share=0)
            for task, called, number in (("a", "s", 2), ("b", "t", 0.5)):
                want = wanted("temperature", files[task], x, number, called)
                np.testing.assert_allclose(of(merged, x)[f"{task}_y"], want, rtol=EXACT, atol=EXACT)
        assert [(k, v["fixed"]) for k, v in merged.report["tasks"].items()] == [("a", {"s": 2.0}), ("b", {"t": 0.5})]

    def test_data_of_each_task(self, tmp_path: Path) -> None:
        files, x = written(tmp_path, "rate"), samples()
        for task, number in (("a", 16000), ("b", 8000)):
            np.savez(tmp_path / f"{task}.npz", x=x, s=np.array(number))
        ran = run("merge", *files.values(), "--data", "a=a.npz", "--data", "b=b.npz", "-o", "m.onnx", "--share", 0)
        assert ran.code == 0, ran
        assert "Input s is fixed at 16000 (a)" in ran.out and "Input s is fixed at 8000 (b)" in ran.out
        found = fed(tmp_path / "m.onnx", {"x": x})
        for task, number in (("a", 16000), ("b", 8000)):
            np.testing.assert_allclose(found[f"{task}_y"], wanted("rate", files[task], x, number), rtol=EXACT, atol=EXACT)

    @pytest.mark.parametrize("form", ["one a sample", "number", "batches", "loose batches"])
    def test_forms_of_data(self, tmp_path: Path, form: str) -> None:
        files, x = written(tmp_path, "rate"), samples()

        def batches(number: Any) -> Iterator[dict[str, Any]]:
            for start in range(0, len(x), 16):
                yield {"x": x[start : start + 16], "s": number}

        data = {
            "one a sample": {"x": x, "s": np.full(len(x), 16000)}, "number": {"x": x, "s": 16000},
            "batches": batches(np.array(16000)), "loose batches": list(batches(16000)),
        }
        merged = onnxzip.merge(files, data[form], share=0)
        np.testing.assert_allclose(of(merged, x)["a_y"], wanted("rate", files["a"], x, 16000), rtol=EXACT, atol=EXACT)

    def test_one_array_is_enough_beside_it(self, tmp_path: Path) -> None:
        """Noise, and an array without a name: the input that is left is the only one."""
        files = written(tmp_path, "time")
        np.save(tmp_path / "x.npy", samples())
        for data in (None, samples(), tmp_path / "x.npy"):
            report = onnxzip.merge(files, data, fix={"s": 0.7}).report
            assert report["spaces"][0]["shared"] == 10 and (report["noise"] is None) == (data is not None)

    def test_an_input_with_axes_of_one_on_demand(self, tmp_path: Path) -> None:
        files, x = written(tmp_path, "temperature"), samples()
        for task, file in files.items():
            made = model("temperature", "ab".index(task))
            made.graph.input[1].type.tensor_type.shape.dim.add().dim_value = 1
            onnx.save(made, file)
        with pytest.raises(UnsupportedError, match=r"input 's' has the shape \[1\]"):
            onnxzip.merge(files, {"x": x, "s": np.ones(1)})
        merged = onnxzip.merge(files, {"x": x}, fix={"s": 2.5}, share=0)
        want = fed(files["a"], {"x": x, "s": np.array([2.5], np.float32)})["y"]
        np.testing.assert_allclose(of(merged, x)["a_y"], want, rtol=EXACT, atol=EXACT)

    def test_merged_again(self, tmp_path: Path) -> None:
        files, x = written(tmp_path, "rate"), samples()
        onnx.save(model("rate", 5), tmp_path / "c.onnx")
        onnxzip.merge(files, {"x": x}, fix={"s": 16000}, share=0).save("m.onnx")
        both = {"both": tmp_path / "m.onnx", "c": tmp_path / "c.onnx"}
        onnxzip.merge(both, {"x": x, "s": np.array(16000)}, share=0).save("n.onnx")
        origins = read_origins(entries(tmp_path / "n.onnx"), "n.onnx")
        assert {t: o.fixed for t, o in origins.items()} == {t: {"s": 16000} for t in "abc"}
        report = onnxzip.verify("n.onnx", {**files, "c": both["c"]}, {"x": x})
        assert all(e["fidelity"]["relative_error"] < EXACT for e in report["tasks"].values())
        with pytest.raises(InvalidDataError, match="'s' is not 16000 throughout"):
            onnxzip.merge(both, {"a": {"x": x, "s": np.array(8000)}, "": {"x": x}}, fix={"c:s": 16000})

    def test_retrained_in_one_go(self, tmp_path: Path) -> None:
        files, x = written(tmp_path, "rate"), samples(200)
        for options in (None, onnxzip.RetrainOptions(loss=squares)):
            merged = onnxzip.merge(files, {"x": x, "s": np.array(8000)}, retrain=12, retrain_options=options)
            start, end = (merged.report["retrain"]["tasks"]["a"][k]["loss"] for k in ("start", "end"))
            assert end <= start

    def test_the_page_measures_originals_at_it(self, tmp_path: Path) -> None:
        files = written(tmp_path, "flag")
        onnxzip.merge(files, {"x": samples()}, fix={"s": False}).save("m.onnx")
        against = (a for task, file in files.items() for a in ("--against", f"{task}={file}"))
        ran = run("inspect", "m.onnx", "--html", "p.html", *against)
        assert ran.code == 0, ran
        assert "Input s is fixed at False (a, b)" in ran.out

    def test_from_a_file_of_options(self, tmp_path: Path) -> None:
        files = written(tmp_path, "rate")
        (tmp_path / "c.yaml").write_text("fix: {s: 16000, 'b:s': 8000}\n")
        ran = run("plan", *files.values(), "--config", "c.yaml", "--json")
        assert {t: e["fixed"] for t, e in json.loads(ran.out)["tasks"].items()} == {"a": {"s": 16000}, "b": {"s": 8000}}


class TestRefusals:
    def test_nobody_says_it(self, tmp_path: Path) -> None:
        files, x = written(tmp_path, "rate"), samples()
        np.savez("d.npz", x=x)
        for data in ([], ["--data", "d.npz"]):
            words = ("input 's' of 'a' is one number for all samples", "--fix s=NUMBER", "data that hold it as 's'")
            failed(3, "merge", *files.values(), *data, "-o", "m.onnx", words=words)
        failed(3, "plan", *files.values(), "--fix", "a:s=16000", words=("input 's' of 'b'", "--fix b:s=NUMBER"))

    def test_samples_differ(self, tmp_path: Path) -> None:
        files, x = written(tmp_path, "rate"), samples()
        data = {"x": x, "s": np.where(np.arange(len(x)) < 40, 16000, 8000)}
        with pytest.raises(InvalidDataError, match="data for 'a': 's' runs from 8000 to 16000"):
            onnxzip.merge(files, data)
        with pytest.raises(InvalidDataError, match="'s' is not 16000 throughout, at which it is fixed for 'a'"):
            onnxzip.merge(files, data, fix={"s": 16000})

    def test_data_of_another_kind(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidDataError, match=r"'s' is 0.5, and the net's input int64"):
            onnxzip.merge(written(tmp_path, "rate"), {"x": samples(), "s": np.array(0.5)})

    @pytest.mark.parametrize(
        ("fix", "words"),
        [
            ("ss=1", "no input of a, b is called 'ss'; did you mean 's'? (inputs: x, s)"),
            ("a:sr=1", "no input of a is called 'sr'; did you mean 's'?"),
            ("s=0.5", "input 's' of 'a' is int64"),
            ("s=99999999999999999999", "input 's' of 'a' is int64"),
            ("x=1", "input 'x' of 'a' has the shape [N, 8]"),
            ("s=fast", "fast is not a finite number"),
            ("s=nan", "nan is not a finite number"),
            ("s", "'s' names no input. Write INPUT=NUMBER"),
            ("=3", "nothing stands before '='"),
        ],
    )
    def test_what_cannot_be_fixed(self, tmp_path: Path, fix: str, words: str) -> None:
        failed(2, "plan", *written(tmp_path, "rate").values(), "--fix", fix, words=(words,))

    def test_jobs_of_other_numbers_are_others(self, tmp_path: Path) -> None:
        """Numbers that data say are among what all processes of a merge must agree on."""
        files, nobody = written(tmp_path, "rate"), Samples((), False, ())
        nets = family(files)
        jobs = []
        for number in (16000, 8000):
            at = nets.fixed_at({t: {"s": number} for t in files})
            plan = analyse_sized(load_family(at), Options().plan.share, "strands")
            jobs.append(job_of(plan, files, nobody, Options()))
        assert differing(*jobs).startswith("fixed inputs of a: {'s': 16000} here, {'s': 8000} there")

    def test_flags_and_floats(self, tmp_path: Path) -> None:
        for kind, number in (("flag", 2), ("temperature", 1e39)):
            with pytest.raises(UsageError, match=f"input 's' of 'a' is {np.dtype(DTYPES[kind])}"):
                onnxzip.plan(written(tmp_path, kind), fix={"s": number})

    def test_another_original(self, tmp_path: Path) -> None:
        """One that has no such input is not the net."""
        files = written(tmp_path, "temperature")
        onnxzip.merge(files, {"x": samples()}, fix={"s": 2.5}).save("m.onnx")
        onnx.save(model("temperature", 0, "t"), tmp_path / "t.onnx")
        words = "has no input 's'", "not the net that task 'a' was made from"
        failed(3, "verify", "m.onnx", "--against", "a=t.onnx", words=words)


@pytest.mark.parametrize(
    ("raw", "fixes"),
    [
        ("s=16000", (("s", 16000),)), (["s=1", "b:s=0.5"], (("s", 1), ("b:s", 0.5))), ({"s": np.int64(3)}, (("s", 3),)),
        ({"x:0": np.array(2.5)}, (("x:0", 2.5),)), ("s=true", (("s", True),)), ({"s": False}, (("s", False),)), ((), ()),
        ((("s", 16000),), (("s", 16000),)), ("a=b=1e3", (("a=b", 1000.0),)),
    ],
)
def test_fixes(raw: object, fixes: tuple[tuple[str, float], ...]) -> None:
    found = fixes_of(raw)
    assert found == fixes and [type(v) for _, v in found] == [type(v) for _, v in fixes]
