"""Which outputs tell classes, and what becomes of outputs that are no rows of samples: in reports, labels, retraining."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import failed, images, outputs_of, run
from onnx import numpy_helper, parser

from onnxzip.errors import VerificationError
from onnxzip.exporting.metadata import read_origins
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.originals import classes_in
from onnxzip.exporting.report import evidence_entry
from onnxzip.exporting.shown import shown
from onnxzip.exporting.tally import Tally
from onnxzip.exporting.trial import check_alike
from onnxzip.exporting.verifying import Evidence
from onnxzip.inspection.tables import verify_tables
from onnxzip.loading.weights import nodes_of
from onnxzip.net import rows_per_sample, within_one
from onnxzip.retraining.heads import heads_of
from onnxzip.retraining.module import read_module
from onnxzip.runtime import entries_of

INNER = """<ir_version: 8, opset_import: ["": 17]> n (float[N,1,6,6] image) => ({outputs})
<float[8,36] w0, float[8] b0, float[5,8] w1, float[5] b1, float[8,8] w2, float[8,8] w3> {{
  f = Flatten <axis = 1> (image)
  h = Gemm <transB = 1> (f, w0, b0)
  i = Relu (h)
  g = Gemm <transB = 1> (i, w2)
  r = Relu (g)
  s = Gemm <transB = 1> (r, w1, b1)
  {nodes}
}}"""
EMBEDDING = "two = Constant <value_float = 2.0> () embedding = Mul (r, two)"
THREE = "three = Constant <value = int64[1] {3}> ()"
ROWS = "two = Gemm <transB = 1> (r, w3) shape = Constant <value = int64[2] {-1, 4}> () y = Reshape (two, shape)"
PICK = "k = ArgMax <axis = 1, keepdims = 0> (s)"
COUNT = 160


def write(path: Path, outputs: str, nodes: str, seed: int) -> None:
    """A small net of three layers whose last values are `r` (8 channels) and `s` (5 classes)."""
    model = parser.parse_model(INNER.format(outputs=outputs, nodes=nodes))
    rng = np.random.default_rng(seed)
    del model.graph.initializer[:]
    for name, shape in (("w0", (8, 36)), ("b0", (8,)), ("w1", (5, 8)), ("b1", (5,)), ("w2", (8, 8)), ("w3", (8, 8))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 2, name))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def pair(outputs: str, nodes: str) -> None:
    """Nets a and b in the current folder, and data for both labelled with what a says."""
    for seed, name in ((1, "a"), (2, "b")):
        write(Path(f"{name}.onnx"), outputs, nodes, seed)
    write(Path("truth.onnx"), "float[N,5] s", "", 1)
    truth = outputs_of(Path("truth.onnx"), images(COUNT))["s"].argmax(axis=1)
    np.savez("d.npz", x=images(COUNT), y=truth)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(*more: str) -> tuple[dict[str, dict], str]:
    """What the report of a merge of a and b says of the tasks, and what it notes."""
    ran = run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx", "--force", "--device", "cpu", "--json", *more)
    assert ran.code == 0, ran.err
    return json.loads(ran.out)["tasks"], ran.err


class TestChoice:
    def labelled(self, outputs: str, nodes: str, given: dict[str, str] | None = None) -> tuple[str | None, tuple[str, ...]]:
        model = parser.parse_model(INNER.format(outputs=outputs, nodes=nodes))
        names = {o.name: o.name for o in model.graph.output}
        found = classes_in(model, {"a": (Path("a"), Origin("", "", {"image": "image"}, names))}, given or {})["a"]
        return found.labelled, found.scores

    @pytest.mark.parametrize(
        ("outputs", "nodes", "labelled", "scores"),
        [
            ("float[N,8] embedding, float[N,5] y", f"{EMBEDDING} y = Gemm <transB = 1> (embedding, w1, b1)", "y", ["y"]),
            ("float[N,5] y, float[N,3] v", f"{THREE} y = Identity (s) v, j = TopK (y, three)", "y", ["y"]),
            ("float[N,5] p, float[N,5] y", "y = Identity (s) p = Softmax <axis = 1> (y)", "p", ["p", "y"]),
            ("float[N,5] s, float[N,8] e, int64[N] k", f"e = Gemm <transB = 1> (f, w0) {PICK}", "s", ["s", "e"]),
            ("float[N,8] embedding, float[N,5] y", f"{EMBEDDING} y = Identity (s)", "y", ["y"]),
            ("float[N,8] e, int64[N] k", "e = Neg (g) t = Neg (e) k = ArgMax <axis = 1, keepdims = 0> (t)", "k", []),
            ("float[N,8] e, float[N,5] t", "e = Gemm <transB = 1> (f, w0) t = Tanh (s)", "e", ["e", "t"]),
            ("float[N,5] scores, float[N,8] e", "scores = Neg (s) e = Gemm <transB = 1> (f, w0)", "scores", ["scores", "e"]),
            ("float[N,5] u, float[N,8] e", "u = Neg (s) e = Gemm <transB = 1> (f, w0)", "e", ["u", "e"]),
            ("float[N,8] e", "l = ReduceL2 <axes = [1]> (g) m = Clip (l, two) e = Div (g, m)", None, []),
            ("float[N,8] e", "l = ReduceSumSquare <axes = [1]> (g) m = Sqrt (l) o = Reciprocal (m) e = Mul (g, o)", None, []),
            ("float[N,8] e", "e = LpNormalization <axis = 1> (g)", None, []),
            ("float[N,5] y", "e = LpNormalization <axis = 1> (g) y = Gemm <transB = 1> (e, w1, b1)", "y", ["y"]),
            ("float[N,8] p", "x = Exp (g) l = ReduceSum <keepdims = 1> (x, one) p = Div (x, l)", "p", ["p"]),
            ("float[M,4] y", ROWS, None, []),
            ("float[5,N] y", "y = Transpose (s)", None, []),
        ],
    )
    def test_the_graph_tells(self, outputs: str, nodes: str, labelled: str | None, scores: list[str]) -> None:
        assert self.labelled(outputs, nodes) == (labelled, tuple(scores))

    def test_the_user_tells(self) -> None:
        outputs, nodes = "float[N,8] e, float[N,5] p", "e = Gemm <transB = 1> (f, w0) p = Softmax <axis = 1> (s)"
        assert self.labelled(outputs, nodes, {"e": "logits"}) == ("e", ("e", "p"))
        assert self.labelled(outputs, nodes, {"p": "values"}) == ("e", ("e",))

    @pytest.mark.parametrize(
        ("shape", "batch", "rows"),
        [
            ((-1, 4), -1, 1), ((-9, 4), -1, 9), ((4, -1), -1, 0), ((), -1, 0), ((1, 4), -1, 0), ((-1, -1), -1, 0),
            ((36, 4), 4, 9), ((6, 4), 4, 0),
        ],
    )
    def test_rows_of_a_sample(self, shape: tuple[int, ...], batch: int, rows: int) -> None:
        assert rows_per_sample(shape, batch) == rows


class TestLabels:
    OUTPUTS, NODES = "float[N,8] embedding, float[N,5] logits", f"{EMBEDDING} logits = Identity (s)"

    def test_an_embedding_is_not_judged(self) -> None:
        pair(self.OUTPUTS, self.NODES)
        tasks, _ = merged("--share", "0")
        assert tasks["a"]["accuracy"] == {"before": 1.0, "after": 1.0}
        report = json.loads(run("verify", "m.onnx", "--against", "a.onnx", "--data", "d.npz", "--json").out)
        assert report["tasks"]["a"]["accuracy"] == {"before": 1.0, "after": 1.0}

    def test_training_with_labels_leaves_it_alone(self) -> None:
        pair(self.OUTPUTS, self.NODES)
        origin = Origin("", "", {"image": "image"}, {"embedding": "embedding", "logits": "logits"})
        heads = heads_of(read_module(Path("a.onnx").read_bytes()).reading.net, {"a": origin}, {})
        assert [(h.name, h.kind, h.labelled) for h in heads] == [("embedding", "values", False), ("logits", "logits", True)]

    def test_several_are_told(self) -> None:
        pair("float[N,5] u, float[N,5] v", "u = Neg (s) v = Identity (s)")
        tasks, notes = merged("--share", "0")
        assert tasks["a"]["accuracy"]["before"] == 1.0 and "'v', the last of 'u', 'v'" in " ".join(notes.split())
        tasks, notes = merged("--share", "0", "--head", "a_v=values", "--head", "b_u=logits")
        assert tasks["a"]["accuracy"]["before"] < 1 and "the last of" not in notes

    def test_class_numbers(self) -> None:
        pair("int64[N] k", "k = ArgMax <axis = 1, keepdims = 0> (s)")
        tasks, _ = merged()
        a = tasks["a"]
        assert a["accuracy"]["before"] == 1.0 and a["accuracy"]["after"] == a["fidelity"]["top1_agreement"] < 1
        assert a["fidelity"]["relative_error"] == pytest.approx(1 - a["fidelity"]["top1_agreement"])

    @pytest.mark.parametrize("outputs", ["int64[N] k", "int64[N] k, float[N,5] s"])
    def test_what_classes_are_picked_from_teaches(self, outputs: str) -> None:
        """It is no output, before and after; where floats are outputs, they teach alone."""
        pair(outputs, "k = ArgMax <axis = 1, keepdims = 0> (s)")
        run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "--samples", "40", "-o", "m.onnx")
        command = "retrain", "m.onnx", "--teacher", "a.onnx", "--teacher", "b.onnx", "--data", "d.npz", "-o", "r.onnx"
        report = json.loads(run(*command, "--steps", "60", "--learning-rate", "0.01", "--device", "cpu", "--json").out)
        done = report["retrain"]
        assert all(task["end"]["loss"] < task["start"]["loss"] for task in done["tasks"].values())
        before, after = (onnx.load(f"{name}.onnx") for name in "mr")
        assert list(before.graph.output) == list(after.graph.output) and list(before.graph.node) == list(after.graph.node)
        assert before.metadata_props == after.metadata_props and before.graph.initializer != after.graph.initializer
        content = Path("m.onnx").read_bytes()
        originals = {t: (Path(f"{t}.onnx"), o) for t, o in read_origins(entries_of(before), "m.onnx").items()}
        says, teaching = shown(content, originals)
        whole = "s" in outputs.split(",")[-1]
        assert (says == content) == whole and all(isinstance(file, Path) == whole for file, _ in teaching.values())

    def test_labels_and_losses_know_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pair("int64[N] k", "k = ArgMax <axis = 1, keepdims = 0> (s)")
        (tmp_path / "scoring.py").write_text("def of(y, t, labels):\n    return (y['s'] - t['s']).square().mean()\n")
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        for options in (["--label-weight", "0.5"], ["--loss", "scoring:of"]):
            tasks, notes = merged("--retrain", "8", *options)
            assert tasks["a"]["accuracy"]["after"] > 0.2 and "do not train" not in notes

    def test_places_of_the_largest(self) -> None:
        """Of a TopK: equal or not, whatever the numbers are."""
        pair("float[N,3] v, int64[N,3] j", f"{THREE} v, j = TopK (s, three)")
        found = {t: outputs_of(Path(f"{t}.onnx"), images(COUNT)) for t in "ab"}
        run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "d.npz")
        fused = outputs_of(Path("m.onnx"), images(COUNT))
        report = json.loads(run("verify", "m.onnx", "--against", "a.onnx", "--data", "d.npz", "--json").out)
        fidelity = report["tasks"]["a"]["fidelity"]
        v, j = found["a"]["v"], found["a"]["j"]
        assert fidelity["top1_agreement"] == pytest.approx((fused["a_j"] == j).mean())
        assert fidelity["relative_error"] == pytest.approx(np.linalg.norm(fused["a_v"] - v) / np.linalg.norm(v))

    def test_class_numbers_beside_others(self) -> None:
        pair("float[N,5] s, int64[N] k", "k = ArgMax <axis = 1, keepdims = 0> (s)")
        beside = merged()[0]["a"]["fidelity"]
        pair("float[N,5] s", "")
        assert beside == merged()[0]["a"]["fidelity"]


class TestShapes:
    def test_a_single_number(self) -> None:
        pair("float[N,5] s, float mean", "mean = ReduceMean <keepdims = 0> (s)")
        tasks, notes = merged("--retrain", "8")
        assert tasks["a"]["fidelity"]["samples"] == 32 and "'a_mean' does not teach" in notes

    def test_rows_of_samples(self) -> None:
        pair("float[M,4] y", ROWS)
        tasks, notes = merged()
        assert tasks["a"]["fidelity"]["samples"] == 16 and tasks["a"]["fidelity"]["top1_agreement"] is None
        assert tasks["a"]["accuracy"] is None and "no output of classes" in " ".join(notes.split())
        found = []
        for memory in ("1G", "0"):
            ran = run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "r.onnx", "--force", "--device", "cpu", "--json",
                      "--retrain", "40", "--learning-rate", "0.01", "--memory", memory)
            found.append(json.loads(ran.out)["retrain"]["tasks"])
        assert found[0] == found[1]
        for task in found[0].values():
            assert task["end"]["loss"] < task["start"]["loss"] and task["end"]["top1_agreement"] is None

    def test_rows_in_another_order_do_not_teach(self) -> None:
        split = "shape = Constant <value = int64[3] {-1, 2, 4}> () t = Reshape (r, shape) u = Transpose <perm = [1, 0, 2]> (t)"
        flat = "flat = Constant <value = int64[2] {-1, 4}> () y = Reshape (u, flat) z = Gemm <transB = 1> (r, w1)"
        pair("float[M,4] y, float[N,5] z", f"{split} {flat}")
        _, notes = merged("--retrain", "8")
        assert "'a_y' does not teach" in notes and "'a_z'" not in notes

    @pytest.mark.parametrize(("outputs", "nodes"), [
        ("float[5,N] y", "y = Transpose (s)"), ("float[1,5] y", "y = ReduceMean <axes = [0]> (s)"),
    ])
    def test_without_rows_nothing_teaches(self, outputs: str, nodes: str) -> None:
        pair(outputs, nodes)
        found = merged()[0]["a"]["fidelity"]
        assert found["samples"] == 16 and found["top1_agreement"] is None and found["relative_error"] > 0
        command = "merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "r.onnx", "--retrain", "4"
        failed(3, *command, words=("'a'", "'a_y'", "nothing can teach"))
        assert not Path("r.onnx").exists() and "zip" not in run(*command).err.split()


class TestSmallNumbers:
    """What a Sigmoid makes is rounded as numbers near 1 are, however small it is."""

    def test_deviations(self) -> None:
        tally, (found, wanted) = Tally(), np.array([[1e-7, 3e-7], [2e-7, 1e-7]])
        tally.add(found, wanted)
        assert tally.relative_error > 0.5 and tally.deviation(0.0) == tally.relative_error
        assert tally.deviation(0.1) == pytest.approx(np.linalg.norm(found - wanted) / (0.1 * np.sqrt(2)))
        assert check_alike("it", {"y": found}, {"y": wanted}, bounded=["y"])["y"] == pytest.approx(2e-6)
        with pytest.raises(VerificationError, match="'y' is off by"):
            check_alike("it", {"y": found}, {"y": wanted})
        with pytest.raises(VerificationError, match="'y' is off by"):
            check_alike("it", {"y": found + 1e-4}, {"y": wanted}, bounded=["y"])

    @pytest.mark.parametrize("deviation, said", [(1e-6, True), (0.1, False)])
    def test_the_table_says_where_an_error_is_one_of_numbers_near_0(self, deviation: float, said: bool) -> None:
        evidence = evidence_entry(Evidence(9, 0.4, None, None, None, deviation))
        report = {"noise": None, "samples": {"a": 9}, "tasks": {"a": evidence | {"fixed": {}}}}
        text = " ".join(" ".join(map(str, verify_tables(report))).split())
        assert ("a: the relative error is one of numbers near 0" in text) == said == (f"{deviation:.3g}." in text)
        assert evidence["fidelity"]["relative_error"] == 0.4

    @pytest.mark.parametrize("nodes, bounded", [
        ("y = Sigmoid (s)", True), ("r = Softmax (s) y = Identity (r)", True), ("y = Relu (s)", False), ("y = Neg (s)", False),
    ])
    def test_which_outputs(self, nodes: str, bounded: bool) -> None:
        graph = parser.parse_graph(f"g (float[N,2] s) => (float[N,2] y) {{ {nodes} }}")
        assert within_one(nodes_of(graph), ["y"]) == (["y"] if bounded else [])

    @pytest.mark.parametrize("size, files", [("8,8", 1), ("H,W", 2)])
    def test_a_detector_that_sees_nothing_merges(self, size: str, files: int, tmp_path: Path) -> None:
        text = f"""<ir_version: 8, opset_import: ["": 17]> net (float[N,1,{size}] x) => (float[N,1,{size}] y) {{
            a = Conv <pads = [1,1,1,1]> (x, w) n = BatchNormalization (a, g, zero, zero, g) b = Relu (n)
            c = Conv (b, v, bias) y = Sigmoid (c) }}"""
        rng = np.random.default_rng(0)
        for name in "ab":
            made = parser.parse_model(text)
            arrays = {"w": rng.standard_normal((8, 1, 3, 3)), "v": rng.standard_normal((1, 8, 1, 1))}
            arrays |= {"bias": np.array([-16.0]), "g": rng.uniform(0.5, 1.5, 8), "zero": np.zeros(8)}
            made.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), k) for k, a in arrays.items())
            onnx.save(made, tmp_path / f"{name}.onnx")
        nets, x = {t: tmp_path / f"{t}.onnx" for t in "ab"}, rng.standard_normal((60, 1, 8, 8), np.float32)
        np.savez(tmp_path / "d.npz", x=x / 10)
        files_of = [f"{t}={path}" for t, path in nets.items()]
        done = run("merge", *files_of, "--data", tmp_path / "d.npz", "--share", "0", "--json", "-o", tmp_path / "m.onnx")
        report = json.loads(done.out)
        assert len(report["sizes"]) == 2 * (files - 1)
        assert all(t["fidelity"]["deviation"] < 1e-5 for t in report["tasks"].values())
