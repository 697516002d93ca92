"""What a net ends in that cannot be analysed stands behind the fused net as behind its own; what is before it merges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from merging import entries, failed, fed, images, run
from onnx import GraphProto, ModelProto, numpy_helper, parser

import onnxzip
from onnxzip.errors import UnsupportedError, UsageError
from onnxzip.exporting.tally import Tally
from onnxzip.exporting.verifying import as_array
from onnxzip.inspection.differing import diff
from onnxzip.inspection.inspecting import inspect
from onnxzip.loading import load

IMPORTS = '"": 17, "ai.onnx.ml": 2, "com.microsoft": 1'
TRUNK = """[first] c = Conv <pads = [1,1,1,1]> (image, w0, b0) d = Relu (c)
[second] e = Conv <strides = [2,2]> (d, w1, b1) f = Relu (e)"""
LOGITS = "g = Flatten (f) [head] logits = Gemm <transB = 1> (g, w2, b2)"
BOXES = """[box] h = Conv (f, w3, b3) i = Reshape (h, four) boxes = Transpose <perm = [0,2,1]> (i)
[score] j = Conv (f, w4, b4) k = Sigmoid (j) scores = Reshape (k, two)"""
SHAPES = {
    "w0": (8, 1, 3, 3), "b0": (8,), "w1": (10, 8, 3, 3), "b1": (10,), "w2": (5, 40), "b2": (5,),
    "w3": (4, 10, 1, 1), "b3": (4,), "w4": (2, 10, 1, 1), "b4": (2,),
}
NUMBERS = {
    "four": np.array([0, 4, -1]), "two": np.array([0, 2, -1]), "most": np.array([3]), "overlap": np.array([0.5], np.float32),
    "least": np.array([0.4], np.float32), "last": np.array(2), "zero": np.array([0]), "all": np.array([-1]),
    "half": np.float32(0.5), "table": np.eye(5, dtype=np.float32),
    "names": np.array(["ant", "bee", "cat", "dog", "eel"], object),
}
FLOATS, ROWS = "float[N,5] logits", "float[M,5] found"
# name: (outputs, nodes of the tail)
ENDS: dict[str, tuple[str, str]] = {
    "NonZero": (f"{FLOATS}, int64[2,M] found", f"{LOGITS} p = Relu (logits) [odd] found = NonZero (p)"),
    "Compress": ("float[M] found", f"{LOGITS} m = Greater (logits, half) [odd] found = Compress (logits, m)"),
    "Unique": (f"float[M] found, {FLOATS}", f"{LOGITS} r = Round (logits) [odd] found = Unique (r)"),
    "NonMaxSuppression": (
        "float[M,4] found, int64[M,3] chosen",
        f"""{BOXES} [odd] chosen = NonMaxSuppression (boxes, scores, most, overlap, least) t = Gather <axis = 1> (chosen, last)
        n = Gather <axis = 0> (boxes, zero) o = Squeeze (n, zero) found = Gather (o, t)""",
    ),
    "Slice": (ROWS, f"""{LOGITS} m = ReduceMax <keepdims = 0> (logits) q = Abs (m) v = Ceil (q) u = Cast <to = 7> (v)
        s = Reshape (u, all) [odd] found = Slice (table, zero, s, zero)"""),
    "If": (ROWS, f"""{LOGITS} m = ReduceMean <keepdims = 0> (logits) z = Constant <value = float {{0}}> () o = Greater (m, z)
        [odd] found = If (o) <then_branch = yes () => (float[M,5] r) {{ r = Concat <axis = 0> (logits, table) }},
        else_branch = no () => (float[M,5] s) {{ s = Mul (logits, half) }}>"""),
    "Loop": ("float[M,N,5] found", f"""{LOGITS} m = ReduceMax <keepdims = 0> (logits) q = Abs (m) v = Ceil (q)
        n = Cast <to = 7> (v) t = Constant <value = bool {{1}}> () [odd] found = Loop (n, t) <body = body
        (int64 i, bool on) => (bool go, float[N,5] r) {{ go = Identity (on) r = Mul (logits, half) }}>"""),
    "ConcatFromSequence": (
        f"{FLOATS}, float[A,B] found",
        f"{LOGITS} [odd] q = SequenceConstruct (logits, table) found = ConcatFromSequence <axis = 0> (q)",
    ),
    "ai.onnx.ml.ArrayFeatureExtractor": ("string[N] found, float[N,5] y", f"""{LOGITS} y = Softmax (logits)
        a = ArgMax <axis = 1> (y) [odd] n = ai.onnx.ml.ArrayFeatureExtractor (names, a) found = Reshape (n, all)"""),
    "ai.onnx.ml.ZipMap": (
        "seq(map(int64,float)) found",
        f"{LOGITS} [odd] found = ai.onnx.ml.ZipMap <classlabels_int64s = [0,1,2,3,4]> (logits)",
    ),
    "com.microsoft.CDist": (
        "float[N,M] found", f'{LOGITS} [odd] found = com.microsoft.CDist <metric = "euclidean"> (logits, table)'
    ),
}


def model(end: str, seed: int, batch: str = "1", size: str = "6,6", trunk: str = TRUNK) -> ModelProto:
    """A convolutional net that ends in an operator."""
    ports, nodes = ENDS[end]
    ports = ports.replace("seq(map(int64,float))", "float[N]")
    text = f'<ir_version: 8, opset_import: [{IMPORTS}]> net (float[{batch},1,{size}] image) => ({ports}) {{ {trunk} {nodes} }}'
    made = parser.parse_model(re.sub(r"\bN\b", batch, text))
    if end == "ai.onnx.ml.ZipMap":
        pair = onnx.helper.make_map_type_proto(7, onnx.helper.make_tensor_type_proto(1, []))
        made.graph.output[0].CopyFrom(onnx.helper.make_value_info("found", onnx.helper.make_sequence_type_proto(pair)))
    rng = np.random.default_rng(seed)
    read = {v for node in made.graph.node for v in node.input} | {"logits", "half", "table"}
    for name, shape in SHAPES.items():
        array = np.asarray(rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:]))), np.float32)
        made.graph.initializer.extend([numpy_helper.from_array(array, name)] if name in read else [])
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), k) for k, a in NUMBERS.items() if k in read)
    onnx.checker.check_model(made)
    return made


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nets with one end, and data."""
    for seed, name in ((1, "a"), (2, "b")):
        onnx.save(model(request.param, seed), tmp_path / f"{name}.onnx")
    np.save(tmp_path / "d.npy", images(60))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TWO = {"a": "a.onnx", "b": "b.onnx"}
every_end = pytest.mark.parametrize("folder", ENDS, indirect=True)
an_end = pytest.mark.parametrize("folder", ["NonMaxSuppression"], indirect=True)


def merged(folder: Path, nets: Mapping[str, Any], share: float, **options: Any) -> dict[str, Any]:
    """The report of a merge that is written to m.onnx."""
    found = onnxzip.merge(nets, folder / "d.npy", share=share, **options)
    found.save(folder / "m.onnx", force=True)
    onnx.checker.check_model(folder / "m.onnx", full_check=True)
    return found.report


def check_same(path: Path, task: str, original: Path, tolerance: float, name: str = "{task}_{output}") -> None:
    """A file computes for each sample what an original does."""
    for sample in images(20, 9):
        found, want = (fed(p, {"image": sample[None]}) for p in (path, original))
        for output, wanted in want.items():
            a, b = as_array(found[name.format(task=task, output=output)]), as_array(wanted)
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            if b.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
            else:
                assert np.array_equal(a, b)


@every_end
class TestEveryEnd:
    def test_the_trunk_before_it_is_shared_and_the_reason_given(self, folder: Path, request: pytest.FixtureRequest) -> None:
        report = onnxzip.plan({"a": "a.onnx", "b": "b.onnx"})
        assert [s["shared"] for s in report["spaces"]] == [8, 10]
        [why] = {r["why"] for r in report["refusals"] if r["where"] in ("a: odd", "b: odd")}
        assert why.endswith("it is kept as it is, with all that reads it")
        counted = request.node.callspec.params["folder"] in ("NonZero", "Compress", "Unique", "NonMaxSuppression", "Slice")
        assert ("how much it gives depends on the data" in why) == counted

    def test_it_is_there_once_for_each_task_and_valid(self, folder: Path) -> None:
        report = merged(folder, {"a": "a.onnx", "b": "b.onnx"}, 1.0)
        names = [p.name for p in onnx.load("a.onnx").graph.output]
        assert [p.name for p in onnx.load("m.onnx").graph.output] == [f"{t}_{n}" for t in "ab" for n in names]
        assert report["merged"]["params_ratio"] < 0.8
        planned = onnxzip.plan({"a": "a.onnx", "b": "b.onnx"})["merged"]["params"]
        assert report["merged"]["params"] == pytest.approx(planned, abs=1)  # a plan counts whole numbers, too

    def test_nothing_shared_leaves_the_originals(self, folder: Path) -> None:
        merged(folder, {"a": "a.onnx", "b": "b.onnx"}, 0.0)
        for task in "ab":
            check_same(folder / "m.onnx", task, folder / f"{task}.onnx", 1e-5)

    def test_a_net_with_itself_is_the_net(self, folder: Path) -> None:
        report = merged(folder, {"a": "a.onnx", "b": "a.onnx"}, 1.0)
        assert report["tasks"]["b"]["fidelity"]["relative_error"] < 1e-5
        assert report["tasks"]["b"]["fidelity"]["top1_agreement"] in (1.0, None)
        check_same(folder / "m.onnx", "b", folder / "a.onnx", 1e-5)

    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_a_task_alone_is_the_task_in_company(self, folder: Path, layout: str) -> None:
        merged(folder, {"a": "a.onnx", "b": "b.onnx"}, 0.5, layout=layout)
        assert run("split", "m.onnx", "--task", "b", "-o", "b2.onnx").code == 0
        onnx.checker.check_model("b2.onnx", full_check=True)
        assert [p.name for p in onnx.load("b2.onnx").graph.output] == [p.name for p in onnx.load("b.onnx").graph.output]
        check_same(folder / "m.onnx", "b", folder / "b2.onnx", 1e-5)
        assert run("verify", "b2.onnx", "--against", "b=b.onnx", "--data", "d.npy").code == 0
        assert run("bundle", "m.onnx", "-o", "bundle").code == 0
        check_same(folder / "bundle" / "b.onnx", "b", folder / "b2.onnx", 1e-5, "{output}")

    def test_it_can_be_looked_at(self, folder: Path) -> None:
        merged(folder, {"a": "a.onnx", "b": "b.onnx"}, 1.0)
        found = inspect("m.onnx")
        odd = [n for n in found["nodes"] if n["name"] in ("a.odd", "b.odd")]
        assert [n["owners"] for n in odd] == [["a"], ["b"]]
        assert [o["name"] for o in found["outputs"]] == [p.name for p in onnx.load("m.onnx").graph.output]
        assert sum(o["nodes"] for o in found["owners"]) == len(found["nodes"])
        assert [r["where"] for r in inspect("a.onnx")["refusals"]][-1] == "odd"
        assert diff("a.onnx", "m.onnx")["summary"]["missing"] == 0
        assert run("inspect", "m.onnx", "--html", "page.html").code == 0

    def test_it_can_be_merged_again(self, folder: Path) -> None:
        merged(folder, {"a": "a.onnx", "b": "b.onnx"}, 0.0)
        again = onnxzip.merge({"ab": "m.onnx", "c": "a.onnx"}, folder / "d.npy", share=0.0)
        again.save(folder / "abc.onnx")
        for task, original in (("a", "a"), ("b", "b"), ("c", "a")):
            check_same(folder / "abc.onnx", task, folder / f"{original}.onnx", 1e-5)


class TestExport:
    @every_end
    def test_other_runtimes_are_given_what_stands_before_it(self, folder: Path) -> None:
        merged(folder, TWO, 1.0)
        command = "export", "m.onnx", "--target", "onnx-mobile", "-o", "p.onnx", "--data", "d.npy"
        failed(3, *command, words=("--before-end", "--task"))
        assert not Path("p.onnx").exists()
        for options in ([], ["--task", "b"]):
            ran = run(*command, "--before-end", "--force", "--json", *options)
            assert all(task["max_error"] < 1e-5 for task in json.loads(ran.out)["tasks"].values()), ran
            origin = json.loads(entries(folder / "m.onnx")["onnxzip.sources"])["b"]
            loose = json.loads(entries(folder / "m.onnx")["onnxzip.tails"])["b"]
            wanted = {*origin["outputs"], *origin["before_tail"]} - {*loose}
            found = {p.name for p in onnx.load("p.onnx").graph.output}
            assert wanted == found if options else {f"{t}_{n}" for t in "ab" for n in wanted} == found


@an_end
class TestBesideOthers:
    def test_beside_a_net_without(self, folder: Path) -> None:
        onnx.save(model("Compress", 4), "c.onnx")
        plain = model("NonZero", 5)
        del plain.graph.node[-2:], plain.graph.output[1:]
        onnx.save(plain, "p.onnx")
        assert run("merge", "a.onnx", "p.onnx", "c.onnx", "--share", "0", "--data", "d.npy", "-o", "m.onnx").code == 0
        assert json.loads(entries(folder / "m.onnx")["onnxzip.tails"]) == {"a": ["found", "chosen"], "p": [], "c": ["found"]}
        for task in "apc":
            check_same(folder / "m.onnx", task, folder / f"{task}.onnx", 1e-5)
        assert run("export", "m.onnx", "--task", "p", "--target", "ort", "-o", "p.ort").code == 0
        assert run("split", "m.onnx", "--task", "p", "-o", "p2.onnx").code == 0
        assert "onnxzip.tails" not in entries(folder / "p2.onnx")

    def test_an_output_that_would_have_the_name_of_another(self, folder: Path) -> None:
        plain = model("NonZero", 5)
        del plain.graph.node[-2:], plain.graph.output[1:]
        plain.graph.node[-1].output[0] = plain.graph.output[0].name = "b_found"
        onnx.save(plain, "p.onnx")
        with pytest.raises(UsageError, match="'a_b_found'"):
            onnxzip.plan({"a": "p.onnx", "a_b": "a.onnx"})


class TestRetraining:
    """What a tail reads teaches its task; the tail itself is left out meanwhile."""

    @pytest.mark.parametrize("folder", [end for end in ENDS if end != "Slice"], indirect=True)
    def test_only_params_change_and_the_task_comes_closer(self, folder: Path) -> None:
        np.save("d.npy", images(400))
        merged(folder, TWO, 1.0, samples=40)
        done = onnxzip.retrain("m.onnx", TWO, "d.npy", steps=30)
        done.save("r.onnx")
        before, after = onnx.load("m.onnx"), onnx.load("r.onnx")
        assert done.report["retrain"]["kept_step"] > 0 and before.graph.initializer != after.graph.initializer
        assert all(t["end"]["loss"] < t["start"]["loss"] for t in done.report["retrain"]["tasks"].values())
        assert distance("r.onnx") < distance("m.onnx")
        del before.graph.initializer[:], after.graph.initializer[:]
        assert before == after

    @pytest.mark.parametrize("folder", ["NonZero"], indirect=True)
    def test_merged_again_and_taken_apart(self, folder: Path) -> None:
        onnxzip.merge(TWO, "d.npy", retrain=4).save("ab.onnx")
        onnx.save(model("NonZero", 3), "c.onnx")
        onnxzip.merge({"ab": "ab.onnx", "c": "c.onnx"}, "d.npy", retrain=4).save("m.onnx")
        sources = json.loads(entries(folder / "m.onnx")["onnxzip.sources"])
        assert {t: list(o["before_tail"]) for t, o in sources.items()} == {t: ["p"] for t in "abc"}
        made = {v for n in onnx.load("m.onnx").graph.node for v in n.output}
        assert all(set(o["before_tail"].values()) <= made for o in sources.values())
        assert onnxzip.retrain("m.onnx", {**TWO, "c": "c.onnx"}, "d.npy", steps=4).report["retrain"]["steps"] == 4
        onnx.save(onnxzip.split("m.onnx", "b"), "s.onnx")
        assert onnxzip.retrain("s.onnx", {"b": "b.onnx"}, "d.npy", steps=4).report["retrain"]["steps"] == 4

    @an_end
    def test_losses_of_the_user_are_given_what_it_reads(self, folder: Path) -> None:
        told = []

        def loss(mine: Mapping[str, Any], theirs: Mapping[str, Any], labels: object) -> Any:
            told.append((sorted(mine), sorted(theirs)))
            return (mine["scores"] - theirs["scores"]).square().mean()

        options = onnxzip.RetrainOptions(loss=loss)
        onnxzip.merge(TWO, "d.npy", retrain=2, retrain_options=options)
        assert set(map(str, told)) == {str((["boxes", "o", "scores"],) * 2)}

    @pytest.mark.parametrize("folder", ["Slice"], indirect=True)
    def test_whole_numbers_do_not_teach(self, folder: Path) -> None:
        def unread() -> Iterator[np.ndarray]:
            raise AssertionError
            yield

        with pytest.raises(UnsupportedError, match=r"task 'a': none of its outputs are floating-point .*'a_s' int64"):
            onnxzip.merge(TWO, unread(), retrain=10)
        merged(folder, TWO, 1.0)
        with pytest.raises(UnsupportedError, match=r"task 'a': none of its outputs .*all come from an end that is kept"):
            onnxzip.retrain("m.onnx", TWO, unread(), steps=10)


def distance(fused: str) -> float:
    """How far what the tails read is from what those of the originals read, on samples that nothing has seen."""
    sources = json.loads(entries(Path(fused))["onnxzip.sources"])
    total = 0.0
    for task, origin in sources.items():
        mine, theirs = inside(fused, origin["before_tail"].values()), inside(f"{task}.onnx", origin["before_tail"])
        total += sum(float(np.square(np.subtract(a, b, dtype=np.float64)).mean()) for a, b in zip(mine, theirs, strict=True))
    return total


def inside(path: str, names: Iterable[str]) -> list[np.ndarray]:
    """Values of a net for many samples, one by one."""
    wanted, whole = list(names), onnx.load(path)
    have = {p.name for p in whole.graph.output}
    whole.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in wanted if n not in have)
    session = ort.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(wanted, {"image": sample[None]}) for sample in images(100, 11)]
    return [np.stack(arrays) for arrays in zip(*found, strict=True)]


class TestHowItIsWritten:
    def test_many_texts_stay_in_the_graphs_of_a_bundle(self, tmp_path: Path) -> None:
        for seed, name in ((1, "a"), (2, "b")):
            made = model("ai.onnx.ml.ArrayFeatureExtractor", seed)
            names = next(t for t in made.graph.initializer if t.name == "names")
            names.CopyFrom(numpy_helper.from_array(np.array([f"{name}{k}" for k in range(100)], object), "names"))
            onnx.save(made, tmp_path / f"{name}.onnx")
        np.save(tmp_path / "d.npy", images(60))
        merged(tmp_path, {t: tmp_path / f"{t}.onnx" for t in "ab"}, 0.0)
        assert run("bundle", tmp_path / "m.onnx", "-o", tmp_path / "bundle").code == 0
        check_same(tmp_path / "bundle" / "b.onnx", "b", tmp_path / "b.onnx", 1e-5, "{output}")

    def test_params_in_another_file_are_held(self, tmp_path: Path) -> None:
        for seed, name in ((1, "a"), (2, "b")):
            made = model("com.microsoft.CDist", seed)
            table = next(t for t in made.graph.initializer if t.name == "table")
            table.CopyFrom(numpy_helper.from_array(np.eye(60_000, 5, dtype=np.float32) + seed, "table"))
            onnx.save(made, tmp_path / f"{name}.onnx", save_as_external_data=True, location=f"{name}.data")
        np.save(tmp_path / "d.npy", images(60))
        report = merged(tmp_path, {t: tmp_path / f"{t}.onnx" for t in "ab"}, 0.0)
        assert report["merged"]["params"] > 600_000
        check_same(tmp_path / "m.onnx", "b", tmp_path / "b.onnx", 1e-5)

    def test_inputs_of_other_names(self, tmp_path: Path) -> None:
        """The end reads the shape of its own net's input, which the fused net calls as the first net does."""
        last = parser.parse_graph(
            """g (float[1] a) => (float[1] b)
            { s = Shape (image) t = Cast <to = 1> (s) u = Gather (t, two) scaled = Mul (found, u) }"""
        )
        for seed, name in ((1, "a"), (2, "b")):
            made = model("Compress", seed)
            made.graph.node.extend(last.node)
            made.graph.initializer.append(numpy_helper.from_array(np.array([2]), "two"))
            made.graph.output[0].name = "scaled"
            onnx.save(made, tmp_path / f"{name}.onnx")
        other = onnx.load(tmp_path / "b.onnx")
        other.graph.input[0].name = "picture"
        for node in other.graph.node:
            node.input[:] = ["picture" if v == "image" else v for v in node.input]
        onnx.save(other, tmp_path / "b.onnx")
        np.save(tmp_path / "d.npy", images(60))
        merged(tmp_path, {t: tmp_path / f"{t}.onnx" for t in "ab"}, 0.0)
        x = images(1, 3)
        found, want = fed(tmp_path / "m.onnx", {"image": x}), fed(tmp_path / "b.onnx", {"picture": x})
        np.testing.assert_allclose(found["b_scaled"], want["scaled"], rtol=1e-5, atol=1e-5)


class TestBatchesAndSizes:
    def test_any_number_of_samples(self, tmp_path: Path) -> None:
        for seed, name in ((1, "a"), (2, "b")):
            onnx.save(model("Compress", seed, "N"), tmp_path / f"{name}.onnx")
        np.save(tmp_path / "d.npy", images(60))
        nets = {t: tmp_path / f"{t}.onnx" for t in "ab"}
        assert merged(tmp_path, nets, 0.0)["tasks"]["a"]["fidelity"]["samples"] == 6
        found, want = (fed(tmp_path / p, {"image": images(7, 3)}) for p in ("m.onnx", "b.onnx"))
        np.testing.assert_allclose(found["b_found"], want["found"], rtol=1e-5, atol=1e-5)

    def test_one_sample_at_a_time_with_any_number(self, tmp_path: Path) -> None:
        onnx.save(model("NonZero", 1, "N"), tmp_path / "a.onnx")
        onnx.save(model("NonMaxSuppression", 2), tmp_path / "b.onnx")
        with pytest.raises(UnsupportedError, match="cannot be made to: what begins with node 'odd' is kept as it is"):
            onnxzip.plan({"a": tmp_path / "a.onnx", "b": tmp_path / "b.onnx"})

    @pytest.mark.parametrize("read, sizes", [("image", 2), ("f", 0)])
    def test_any_size_where_nothing_else_follows_it(self, read: str, sizes: int, tmp_path: Path) -> None:
        outputs, nodes = ENDS["NonMaxSuppression"]
        ENDS["sized"] = (
            outputs.replace("[M,4] found", "[M] wide"),
            f"""{nodes} s = Shape ({read}) w = Gather (s, last) u = Sub (w, w) v = Gather <axis = 1> (found, u)
            x = Cast <to = 1> (w) wide = Mul (v, x)""",
        )
        try:
            for seed, name in ((1, "a"), (2, "b")):
                onnx.save(model("sized", seed, size="H,W"), tmp_path / f"{name}.onnx")
        finally:
            del ENDS["sized"]
        np.save(tmp_path / "d.npy", np.random.default_rng(0).standard_normal((40, 1, 16, 12), np.float32))
        nets = {t: tmp_path / f"{t}.onnx" for t in "ab"}
        report = merged(tmp_path, nets, 0.0)
        assert len(report["sizes"]) == sizes
        assert any("made for one size of the input" in r["why"] for r in report["refusals"]) == (not sizes)
        assert [s["shared"] for s in onnxzip.plan(nets)["spaces"]] == [8, 10]
        other = (22, 30) if sizes else (16, 12)
        feeds = {"image": np.random.default_rng(1).standard_normal((1, 1, *other), np.float32)}
        found, want = (fed(tmp_path / p, feeds) for p in ("m.onnx", "a.onnx"))
        np.testing.assert_allclose(found["a_wide"], want["wide"], rtol=1e-5, atol=1e-5)


class TestWhere:
    def test_what_follows_from_shapes_alone_is_no_end(self, tmp_path: Path) -> None:
        made = model("NonZero", 1)
        nodes = parser.parse_graph("g (int64[1] n) => (int64[1,5] t) { o = Expand (one, five) t = NonZero (o) }").node
        del made.graph.node[-2:], made.graph.output[1:]
        last = parser.parse_graph("g (float[1] a) => (float[1] b) { u = Cast <to = 1> (t) sums = Add (logits, u) }").node
        made.graph.node.extend([*nodes, *last])
        made.graph.initializer.extend(numpy_helper.from_array(np.array(a), k) for k, a in (("five", [5]), ("one", 1)))
        made.graph.output[0].name = "sums"
        onnx.save(made, tmp_path / "a.onnx")
        net = load(tmp_path / "a.onnx")
        assert net.tail is None
        assert net.ends == ("sums",)

    @pytest.mark.parametrize("end", ["NonMaxSuppression", "ai.onnx.ml.ZipMap"])
    def test_behind_operators_whose_shapes_onnx_does_not_infer(self, end: str, tmp_path: Path) -> None:
        norm = TRUNK.replace("f = Relu (e)", "ee = MeanVarianceNormalization (e) f = Relu (ee)")
        for seed, name in ((1, "a"), (2, "b")):
            onnx.save(model(end, seed, trunk=norm), tmp_path / f"{name}.onnx")
        report = onnxzip.plan({"a": tmp_path / "a.onnx", "b": tmp_path / "b.onnx"})
        assert [s["shared"] for s in report["spaces"]] == [8, 10]

    def test_a_net_of_nothing_else_is_refused(self, tmp_path: Path) -> None:
        text = f"<ir_version: 8, opset_import: [{IMPORTS}]> net (float[N,5] x) => (int64[2,M] y) {{ [odd] y = NonZero (x) }}"
        onnx.save(parser.parse_model(text), tmp_path / "a.onnx")
        with pytest.raises(UnsupportedError, match="nothing stands before node 'odd': operator NonZero"):
            load(tmp_path / "a.onnx")

    def test_it_reads_the_net_and_its_input_under_their_names(self, tmp_path: Path) -> None:
        onnx.save(model("NonMaxSuppression", 1), tmp_path / "a.onnx")
        net = load(tmp_path / "a.onnx")
        assert net.tail is not None
        assert net.tail.begins[0][0] == "odd"
        assert net.tail.made == net.made == ("found", "chosen")
        assert {v for read in net.tail.reads.values() for v in read} <= {p.name for p in net.outputs}
        assert "NonMaxSuppression" in {n.op_type for n in GraphProto.FromString(net.tail.content).node}
        assert "NonMaxSuppression" not in {n.op for n in net.nodes}

    def test_versions_of_a_domain_must_be_one(self, tmp_path: Path) -> None:
        for seed, name in ((1, "a"), (2, "b")):
            made = model("ai.onnx.ml.ArrayFeatureExtractor", seed)
            made.opset_import[1].version = seed
            onnx.save(made, tmp_path / f"{name}.onnx")
        with pytest.raises(UnsupportedError, match=r"'a' has operators of ai.onnx.ml 1, 'b' of ai.onnx.ml 2"):
            onnxzip.plan({"a": tmp_path / "a.onnx", "b": tmp_path / "b.onnx"})


class TestTally:
    def test_samples_of_another_size_count_as_wrong(self) -> None:
        tally = Tally()
        tally.add_loose(np.ones((2, 4), np.float32), np.ones((2, 4), np.float32))
        tally.add_loose(np.ones((3, 4), np.float32), np.ones((2, 4), np.float32))
        assert tally.agreement == 0.5
        assert tally.relative_error == pytest.approx(np.sqrt(12 / 20))
        tally = Tally()
        tally.add_loose(np.ones(3, np.float32), np.zeros(0, np.float32))
        assert tally.relative_error == 1

    def test_whole_numbers_and_texts_agree_or_do_not(self) -> None:
        tally = Tally()
        for a, b in (([1, 2], [1, 2]), ([1, 2], [2, 1]), ([1], [1, 2]), (["x"], ["x"])):
            tally.add_loose(np.array(a), np.array(b))
        assert (tally.agreement, tally.relative_error) == (0.5, 0.0)
