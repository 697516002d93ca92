"""Samples along another axis than the first: states of recurrent nodes as exporters write them, [layers, samples, units]."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fusing import check_tasks, fuse, permuted
from merging import entries, failed, fed, run
from onnx import ModelProto, helper, numpy_helper, parser

import onnxzip
from onnxzip.calibration.reading import in_front, read
from onnxzip.errors import InvalidDataError, InvalidModelError, UsageError
from onnxzip.exporting.metadata import read_origins
from onnxzip.inspection.differing import diff
from onnxzip.inspection.inspecting import inspect
from onnxzip.loading import load, load_all
from onnxzip.loading.dims import TASKS
from onnxzip.loading.faithful import read_faithfully
from onnxzip.loading.in_front import AXES, axes_of, with_samples_in_front
from onnxzip.net import Axis, Node, Port, in_file, order_in_file, order_in_front, place_in_file
from onnxzip.retraining.heads import heads_of
from onnxzip.runtime import entries_of, open_session, to_model

STEPS, CHANNELS, UNITS, LAYERS = 5, 8, 6, 2
EXACT = 1e-5
# two layers, as torch writes them; x has its samples in front, the states [2, samples, units] have not
STREAM = """stream (float[{n},{t},8] x, float[2,{n},6] h, float[2,{n},6] c)
 => (float[{n},{t},3] y, float[2,{n},6] hn, float[2,{n},6] cn)
<int64[1] one = {{1}}, int64[2] both = {{1, 1}}> {{
    a = MatMul (x, w0)
    b = Add (a, b0)
    d = Relu (b)
    e = Transpose <perm = [1,0,2]> (d)
    h0, h1 = Split <axis = 0> (h, both)
    c0, c1 = Split <axis = 0> (c, both)
    q, hn0, cn0 = LSTM <hidden_size = 6> (e, wi, wh, wb, , h0, c0)
    s = Squeeze (q, one)
    p, hn1, cn1 = LSTM <hidden_size = 6> (s, vi, vh, vb, , h1, c1)
    r = Squeeze (p, one)
    hn = Concat <axis = 0> (hn0, hn1)
    cn = Concat <axis = 0> (cn0, cn1)
    t = Transpose <perm = [1,0,2]> (r)
    y = MatMul (t, w2)
}}"""
# the same with its steps in front, so that all ports have their samples second
STEPS_FIRST = (
    STREAM.replace("float[{n},{t},", "float[{t},{n},")
    .replace("e = Transpose <perm = [1,0,2]> (d)", "e = Identity (d)")
    .replace("t = Transpose <perm = [1,0,2]> (r)", "t = Identity (r)")
)
# the same with all samples in front: what the file computes inside of the merge
TWIN = (
    STREAM.replace("float[2,{n},6]", "float[{n},2,6]").replace("(h, both)", "(hf, both)").replace("(c, both)", "(cf, both)")
    .replace("    a = ", "    hf = Transpose <perm = [1,0,2]> (h)\n    cf = Transpose <perm = [1,0,2]> (c)\n    a = ")
    .replace("hn = Concat <axis = 0> (hn0, hn1)", "hb = Concat <axis = 0> (hn0, hn1) hn = Transpose <perm = [1,0,2]> (hb)")
    .replace("cn = Concat <axis = 0> (cn0, cn1)", "cb = Concat <axis = 0> (cn0, cn1) cn = Transpose <perm = [1,0,2]> (cb)")
)
WEIGHTS = {
    "w0": (8, 12), "b0": (12,), "wi": (1, 24, 12), "wh": (1, 24, 6), "wb": (1, 48), "vi": (1, 24, 6), "vh": (1, 24, 6),
    "vb": (1, 48), "w2": (6, 3),
}
Arrays = dict[str, np.ndarray]


def streaming(seed: int, text: str = STREAM, n: object = "N", t: object = STEPS) -> ModelProto:
    """A net of a text with weights of its own."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text.format(n=n, t=t)}')
    rng = np.random.default_rng(seed)
    for name, shape in WEIGHTS.items():
        array = (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def states(count: int, steps: int = STEPS, seed: int = 3) -> Arrays:
    """Samples in the order of the net's own axes."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((count, steps, CHANNELS), np.float32),
        "h": 0.3 * rng.standard_normal((LAYERS, count, UNITS), np.float32),
        "c": rng.standard_normal((LAYERS, count, UNITS), np.float32),
    }


def by_steps(samples: Mapping[str, np.ndarray]) -> Arrays:
    return {**samples, "x": np.moveaxis(samples["x"], 1, 0)}


def own(samples: Mapping[str, np.ndarray]) -> Arrays:
    """What a fused file of `a` and `b` with states of their own is fed with."""
    return {"x": samples["x"], **{f"{t}_{s}": samples[s] for t in "ab" for s in "hc"}}


def dims(model: ModelProto) -> dict[str, list[str | int]]:
    ports = (*model.graph.input, *model.graph.output)
    return {p.name: [d.dim_param or d.dim_value for d in p.type.tensor_type.shape.dim] for p in ports}


def written(folder: Path, **models: ModelProto) -> dict[str, Path]:
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in models}


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    np.savez(tmp_path / "d.npz", **states(120))
    monkeypatch.chdir(tmp_path)
    return written(tmp_path, a=streaming(1), b=streaming(2))


def model_of(ports: str, nodes: str, outputs: str = "float[] y") -> ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({ports}) => ({outputs}) {{ {nodes} }}')


TURNED = "Transpose <perm = [1,0,2]>"
LSTM = "y, u, v = LSTM <hidden_size = 6> (e, w, r, , , {h}, {c})"
PARAMS = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in (("w", (1, 24, 8)), ("r", (1, 24, 6)))]


class TestWhichAxis:
    """`axes_of`: what a file tells by the names of its sizes, and by its recurrent nodes."""

    @pytest.mark.parametrize(
        ("ports", "nodes", "want"),
        [
            # traced into recurrent nodes, whatever the sizes are called
            ("float[N,5,8] x, float[1,N,6] h, float[1,N,6] c", f"e = {TURNED} (x) {LSTM}", {"h": 1, "c": 1}),
            ("float[a,5,8] x, float[1,b,6] h, float[1,d,6] c", f"e = {TURNED} (x) {LSTM}", {"h": 1, "c": 1}),
            ("float[1,5,8] x, float[1,1,6] h, float[1,1,6] c", f"e = {TURNED} (x) {LSTM}", {"h": 1, "c": 1}),
            ("float[5,N,8] e, float[1,N,6] h, float[1,N,6] c", LSTM, {"e": 1, "h": 1, "c": 1}),
            ("float[T,N,8] e, float[1,N,6] h, float[1,N,6] c", LSTM, {"e": 1, "h": 1, "c": 1}),
            ("float[5,1,8] e, float[1,1,6] h, float[1,1,6] c", LSTM, {"e": 1, "h": 1, "c": 1}),
            # states that the net itself brings behind their layers stay as they are
            (
                "float[N,5,8] x, float[N,1,6] s, float[N,1,6] z",
                f"e = {TURNED} (x) h = {TURNED} (s) c = {TURNED} (z) {LSTM}",
                {},
            ),
            # one sample that a Squeeze takes away: the steps are no samples, the channel of 1 is none
            (
                "float[1,1,5,8] x, float[1,1,6] h, float[1,1,6] c",
                f"s = Squeeze (x, zero) e = {TURNED} (s) {LSTM}",
                {"h": 1, "c": 1},
            ),
            # without states it may be the samples that are taken for steps
            ("float[1,N,8] e", "y = LSTM <hidden_size = 6> (e, w, r)", {}),
            # by name, without a recurrent node
            ("float[N,6] x, float[2,N,6] h", "s = ReduceSum <keepdims = 0> (h, zero) y = Add (x, s)", {"h": 1}),
            ("float[N,S,6] x, float[1,S,6] h", "y = Add (x, h)", {}),
            ("float[N,S,6] x, float[S,6] h", "y = Add (x, h)", {}),
            # nobody says: the only axis that can be meant
            ("float[?,6] x, float[2,?,6] h", "s = ReduceSum <keepdims = 0> (h, zero) y = Add (x, s)", {"h": 1}),
            ("float[?,?,6] x, float[1,?,?,6] h", "y = Add (x, h)", {}),
        ],
    )
    def test_found(self, ports: str, nodes: str, want: dict[str, int]) -> None:
        model = model_of(ports.replace("?", "unnamed"), nodes.format(h="h", c="c"))
        for dim in (d for p in model.graph.input for d in p.type.tensor_type.shape.dim if d.dim_param == "unnamed"):
            dim.Clear()
        model.graph.initializer.extend([*PARAMS, numpy_helper.from_array(np.zeros(1, np.int64), "zero")])
        assert axes_of(model) == want

    def test_a_layer_is_seen_through_what_deals_states_out(self) -> None:
        assert axes_of(streaming(1)) == {"h": 1, "c": 1}
        assert axes_of(streaming(1, n=1)) == {"h": 1, "c": 1}
        assert axes_of(streaming(1, STEPS_FIRST)) == {"x": 1, "h": 1, "c": 1}
        assert axes_of(streaming(1, TWIN)) == {}

    def test_a_net_without_such_inputs_is_left_alone(self) -> None:
        model = streaming(1, TWIN)
        assert with_samples_in_front(model, axes_of(model)) is model

    def test_a_fused_file_tells(self) -> None:
        model = streaming(1)
        helper.set_model_props(model, {TASKS: "[]"})
        assert axes_of(model) == {}
        helper.set_model_props(model, {TASKS: "[]", AXES: '{"h":1,"hn":1}'})
        assert axes_of(model) == {"h": 1, "hn": 1}

    @pytest.mark.parametrize("entry", ['{"h"', "[1]", '{"h":3}', '{"h":-1}', '{"h":"far"}'])
    def test_a_damaged_entry(self, entry: str) -> None:
        model = streaming(1)
        helper.set_model_props(model, {TASKS: "[]", AXES: entry})
        with pytest.raises(InvalidModelError, match=f"entry {AXES} is damaged"):
            axes_of(model)


class TestLoading:
    def test_samples_are_in_front(self, nets: dict[str, Path]) -> None:
        net = load(nets["a"])
        assert {p.name: (p.shape, p.axis) for p in (*net.inputs, *net.outputs)} == {
            "x": ((-1, 5, 8), 0), "h": ((-1, 2, 6), 1), "c": ((-1, 2, 6), 1),
            "y": ((-1, 5, 3), 0), "hn": ((-1, 2, 6), 1), "cn": ((-1, 2, 6), 1),
        }
        samples = states(7)
        front = {**samples, **{s: np.moveaxis(samples[s], 1, 0) for s in "hc"}}
        found, want = open_session(net, "cpu", 1).run(front), fed(nets["a"], samples)
        np.testing.assert_allclose(found["y"], want["y"], rtol=0, atol=EXACT)
        np.testing.assert_allclose(found["hn"], np.moveaxis(want["hn"], 1, 0), rtol=0, atol=EXACT)

    def test_and_where_they_were_in_the_file(self, nets: dict[str, Path]) -> None:
        net = load(nets["a"])
        back = in_file(net)
        assert [p.shape for p in back.inputs] == [(-1, 5, 8), (2, -1, 6), (2, -1, 6)] and back.axes == {}
        before, behind = (Counter(n.op for n in some.nodes) for some in (net, back))
        assert before - behind == Counter(Transpose=4) and not behind - before
        for name, found in open_session(back, "cpu", 1).run(states(7)).items():
            np.testing.assert_allclose(found, fed(nets["a"], states(7))[name], rtol=0, atol=EXACT)

    def test_ports_that_are_read_and_made_otherwise_get_a_transpose(self, nets: dict[str, Path]) -> None:
        """An input that is read in front, too, and outputs that something else reads, or that are made in front."""
        net = load(nets["a"])
        float32 = np.dtype(np.float32)
        more = {"twice": ("Add", ("h", "h")), "seen": ("Relu", ("hn",))}
        nodes = tuple(Node(name, op, inputs, (name,)) for name, (op, inputs) in more.items())
        ports = (Port("twice", float32, (-1, 2, 6), 1), Port("seen", float32, (-1, 2, 6)))
        whole = replace(
            net, nodes=(*net.nodes, *nodes), outputs=(*net.outputs, *ports),
            shapes={**net.shapes, **{p.name: p.shape for p in ports}},
            dtypes={**net.dtypes, **dict.fromkeys(more, float32)},
        )
        onnx.checker.check_model(to_model(in_file(whole)), full_check=True)
        samples, found = states(7), open_session(in_file(whole), "cpu", 1).run(states(7))
        want = fed(nets["a"], samples)
        np.testing.assert_array_equal(found["twice"], 2 * samples["h"])
        np.testing.assert_allclose(found["hn"], want["hn"], rtol=0, atol=EXACT)
        np.testing.assert_allclose(found["seen"], np.moveaxis(want["hn"], 1, 0).clip(0), rtol=0, atol=EXACT)

    @pytest.mark.parametrize("axis", [0, 1, 2, 3])
    def test_orders(self, axis: int) -> None:
        x = np.arange(120).reshape(2, 3, 4, 5)
        there = x.transpose(order_in_file(4, axis))
        np.testing.assert_array_equal(there, np.moveaxis(x, 0, axis))
        np.testing.assert_array_equal(there.transpose(order_in_front(4, axis)), x)
        assert order_in_file(0, 0) == order_in_front(0, 0) == ()
        assert all(there.shape[place_in_file(Axis("x", k), axis).dim] == x.shape[k] for k in range(4))

    @pytest.mark.parametrize("text", [STREAM, STEPS_FIRST])
    def test_one_sample_is_freed(self, text: str, tmp_path: Path) -> None:
        """For a merge with a net that takes any number, in the places that recurrent nodes tell."""
        net = load_all(written(tmp_path, a=streaming(1, text, n=1), b=streaming(2)))[0]
        assert {p.name: (p.shape[0], p.axis) for p in (*net.inputs, *net.outputs)} == {
            **dict.fromkeys(["h", "c", "hn", "cn"], (-1, 1)), **dict.fromkeys("xy", (-1, 0 if text == STREAM else 1)),
        }

    def test_a_shape_with_the_one_sample_behind_the_steps_is_freed(self, tmp_path: Path) -> None:
        """As torch's newer exporter writes what follows a recurrent node: Reshape to [steps, 1, units]."""
        text = STREAM.replace("s = Squeeze (q, one)", "s = Reshape (q, flat)").replace(
            "int64[1] one", "int64[3] flat = {{5, 1, 6}}, int64[1] one"
        )
        files = written(tmp_path, a=streaming(1, text, n=1), b=streaming(2))
        merged = onnxzip.merge(files, states(60), share=0, apart=["h", "c"])
        assert merged.report["tasks"]["a"]["fidelity"]["relative_error"] < EXACT
        assert dims(onnx.load_from_string(merged.content))["a_h"] == [2, "N", 6]


class TestLaws:
    @pytest.mark.parametrize(("text", "n"), [(STREAM, "N"), (STEPS_FIRST, "N"), (STREAM, 1)])
    @pytest.mark.parametrize("apart", [(), ("h", "c")])
    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_with_itself(self, text: str, n: object, apart: tuple[str, ...], share: float, tmp_path: Path) -> None:
        """Bit for bit, in the file's own order of axes, and without a node more than both have together."""
        model = streaming(1, text, n=n)
        samples = states(60) if text == STREAM else by_steps(states(60))
        merged = onnxzip.merge(written(tmp_path, a=model, b=model), samples, share=share, apart=apart)
        few = {k: v.take([0] if n == 1 else range(4), 0 if (k, text) == ("x", STREAM) else 1) for k, v in samples.items()}
        fused = onnx.load_from_string(merged.content)
        found = fed(merged.content, own(few) if apart else few)
        for name, want in fed(model.SerializeToString(), few).items():
            for task in "ab":
                np.testing.assert_array_equal(found[f"{task}_{name}"], want)
        assert Counter(node.op_type for node in fused.graph.node)["Transpose"] <= 2 * str(model.graph).count('"Transpose"')

    @pytest.mark.parametrize("text", [STREAM, STEPS_FIRST])
    def test_with_a_permuted_copy(self, text: str, tmp_path: Path) -> None:
        """Units whose states come from outside have a fixed order, and nodes of each task; all else is found again."""
        net = load(written(tmp_path, a=streaming(1, text))["a"])
        other = permuted(net, 5, "b")
        assert not np.array_equal(other.params["w0"], net.params["w0"])
        fused = fuse([net, other])
        check_tasks(fused, [net, other], 1e-6)
        assert [(s.shared, set(s.sizes.values())) for s in fused.plan.shared_spaces()] == [(12, {12})]
        assert {r.why for r in fused.plan.refusals} == {"its channels are those of an input of the net"}

    @pytest.mark.parametrize("share", [0.5, 1.0])
    def test_as_its_twin_with_samples_in_front(self, share: float, tmp_path: Path) -> None:
        """The same params to the last bit, and the same errors."""
        samples = states(80)
        front = {**samples, **{s: np.moveaxis(samples[s], 1, 0) for s in "hc"}}
        found = []
        for text, data in ((STREAM, samples), (TWIN, front), (STEPS_FIRST, by_steps(samples))):
            files = written(tmp_path, a=streaming(1, text), b=streaming(2, text))
            found.append(onnxzip.merge(files, data, share=share, apart=["h", "c"]))
        params = [
            {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(m.content).graph.initializer if t.name in WEIGHTS}
            for m in found
        ]
        errors = [[e["fidelity"]["relative_error"] for e in m.report["tasks"].values()] for m in found]
        assert errors[0] == pytest.approx(errors[1], rel=1e-4) and errors[0] == pytest.approx(errors[2], rel=1e-3)
        assert params[0].keys() == params[1].keys()
        for name, array in params[0].items():
            np.testing.assert_array_equal(array, params[1][name])


class TestMerge:
    @pytest.mark.parametrize(("share", "layout"), [(0.0, "strands"), (0.5, "strands"), (1.0, "strands"), (0.5, "wide")])
    def test_whole_way(self, share: float, layout: str, nets: dict[str, Path]) -> None:
        command = ("merge", "a.onnx", "b.onnx", "--apart", "[hc]", "--share", share, "--layout", layout, "--data", "d.npz")
        assert run(*command, "-o", "m.onnx").code == 0
        own_shape = [2, "N", 6]
        assert dims(onnx.load("m.onnx")) == {
            "x": ["N", 5, 8], "a_h": own_shape, "a_c": own_shape, "b_h": own_shape, "b_c": own_shape,
            "a_y": ["N", 5, 3], "a_hn": own_shape, "a_cn": own_shape, "b_y": ["N", 5, 3], "b_hn": own_shape, "b_cn": own_shape,
        }
        ran = run("verify", "m.onnx", "--against", "a.onnx", "--against", "b.onnx", "--data", "d.npz", "--json")
        for entry in json.loads(ran.out)["tasks"].values():
            assert entry["fidelity"]["relative_error"] < (EXACT if share == 0 else 0.5)
        found = fed(Path("m.onnx"), own(states(4)))
        for task, path in nets.items():
            alone = onnxzip.split("m.onnx", task)
            assert dims(alone) == dims(onnx.load(path))
            for name, got in fed(alone.SerializeToString(), states(4)).items():
                np.testing.assert_allclose(got, found[f"{task}_{name}"], rtol=0, atol=EXACT)
        assert run("bundle", "m.onnx", "-o", "parts").code == 0
        assert dims(onnx.load("parts/b.onnx", load_external_data=False)) == dims(onnx.load("b.onnx"))

    @pytest.mark.parametrize("n", ["N", 1])
    def test_it_streams(self, n: object, tmp_path: Path) -> None:
        """Each task's states are fed back through the fused file, as through the original."""
        files = written(tmp_path, a=streaming(1, n=n, t="T"), b=streaming(2, n=n, t="T"))
        merged = onnxzip.merge(files, states(60), share=0, apart=["h", "c"])
        samples = states(1, steps=6, seed=9)
        alone, now = {t: {s: samples[s] for s in "hc"} for t in "ab"}, own(samples)
        for step in range(6):
            x = samples["x"][:, step : step + 1]
            found = fed(merged.content, {**now, "x": x})
            now = {f"{t}_{s}": found[f"{t}_{s}n"] for t in "ab" for s in "hc"}
            for t, path in files.items():
                want = fed(path, {"x": x, **alone[t]})
                alone[t] = {s: want[f"{s}n"] for s in "hc"}
                np.testing.assert_allclose(found[f"{t}_y"], want["y"], rtol=0, atol=EXACT)

    @pytest.mark.parametrize("n", ["N", 1])
    def test_retraining(self, n: object, tmp_path: Path) -> None:
        """States teach, too: they are fed back."""
        files = written(tmp_path, a=streaming(1, n=n), b=streaming(2, n=n))
        onnxzip.merge(files, states(150), apart=["h", "c"]).save(tmp_path / "m.onnx")
        done = onnxzip.retrain(tmp_path / "m.onnx", files, states(150), steps=6)
        model = onnx.load_from_string(done.content)
        assert dims(model) == dims(onnx.load(tmp_path / "m.onnx"))
        heads = heads_of(read_faithfully(done.content).net, read_origins(entries_of(model), "m"), {})
        assert {(h.task, h.name) for h in heads} == {(t, o) for t in "ab" for o in ("y", "hn", "cn")}
        both = onnxzip.merge(files, states(150), apart=["h", "c"], retrain=4)
        assert both.report["retrain"]["steps"] <= 4

    def test_shipped_and_looked_at(self, nets: dict[str, Path]) -> None:
        assert run("merge", "a.onnx", "b.onnx", "--apart", "[hc]", "--data", "d.npz", "-o", "m.onnx").code == 0
        for target, name in (("onnx-mobile", "p.onnx"), ("ort", "p.ort")):
            for task in ((), ("--task", "b")):
                ran = run("export", "m.onnx", "--target", target, "-o", name, *task, "--data", "d.npz", "--json", "--force")
                assert ran.code == 0, ran
                report = json.loads(ran.out)
                assert all(e["max_error"] < EXACT for e in report["tasks"].values())
                behind = {tuple(t["shape"]) for t in report["inputs"] if t["axis"] == 1}
                assert behind == {(2, -1 if target == "ort" else 1, 6)}
        assert run("inspect", "m.onnx", "--html", "page.html", "--against", "a.onnx").code == 0
        report = inspect("m.onnx")
        assert [p["shape"] for p in report["inputs"]] == [["N", 5, 8], *4 * [[2, "N", 6]]]
        turns = {n.name for n in onnx.load("m.onnx").graph.node if n.op_type == "Transpose"}
        assert {n["name"] for n in report["nodes"] if n["op"] == "Transpose"} == turns
        assert report["sizes"] == []
        assert {n["op"] for n in diff("a.onnx", "m.onnx")["nodes"]} >= {"LSTM", "MatMul"}

    def test_a_module_takes_what_the_file_takes(self, nets: dict[str, Path]) -> None:
        torch = pytest.importorskip("torch")
        onnxzip.merge(nets, states(60), apart=["h", "c"]).save("m.onnx")
        module = onnxzip.to_torch("m.onnx")
        assert {p.name: p.shape for p in module.inputs}["b_c"] == (2, -1, 6)
        feeds = own(states(4))
        found = module(**{name: torch.from_numpy(x) for name, x in feeds.items()})
        for name, want in fed(Path("m.onnx"), feeds).items():
            np.testing.assert_allclose(found[name].detach().numpy(), want, rtol=0, atol=EXACT)
        with pytest.raises(UsageError, match=r"'a_h' takes the shape \[2, any, 6\], was given \[3, 4, 6\]"):
            module(**{name: torch.from_numpy(x) for name, x in {**feeds, "a_h": np.zeros((3, 4, 6), np.float32)}.items()})

    def test_merged_again(self, nets: dict[str, Path], tmp_path: Path) -> None:
        third = written(tmp_path, third=streaming(3))["third"]
        onnxzip.merge(nets, states(60), share=0, apart=["h", "c"]).save("m.onnx")
        onnxzip.merge({"both": "m.onnx", "third": third}, states(60), share=0, apart=["h", "c"]).save("n.onnx")
        assert dims(onnx.load("n.onnx"))["a_h"] == dims(onnx.load("n.onnx"))["h"] == [2, "N", 6]
        report = onnxzip.verify("n.onnx", {**nets, "third": third}, states(60))
        assert all(e["fidelity"]["relative_error"] < EXACT for e in report["tasks"].values())

    def test_nets_with_samples_in_different_places(self, tmp_path: Path) -> None:
        """The fused file has the first net's order; outputs are each net's own. The last net takes one sample, others any."""
        files = written(tmp_path, a=streaming(1), b=streaming(2, TWIN), d=streaming(3, STEPS_FIRST, n=1))
        merged = onnxzip.merge(files, states(60), share=0)
        merged.save(tmp_path / "m.onnx")
        shapes = dims(onnx.load(tmp_path / "m.onnx"))
        assert (shapes["h"], shapes["a_hn"], shapes["b_hn"], shapes["d_y"]) == (
            [2, "N", 6], [2, "N", 6], ["N", 2, 6], [5, "N", 3],
        )
        report = onnxzip.verify(tmp_path / "m.onnx", files, states(60))
        assert all(e["fidelity"]["relative_error"] < EXACT for e in report["tasks"].values())

    def test_any_number_of_steps(self, tmp_path: Path) -> None:
        """Sizes are told by the axes of the file, wherever these stand inside."""
        files = written(tmp_path, a=streaming(1, STEPS_FIRST, t="T"), b=streaming(2, STEPS_FIRST, t="T"))
        merged = onnxzip.merge(files, by_steps(states(60)), share=0)
        assert [(e["input"], e["axis"], e["name"]) for e in merged.report["sizes"]] == [("x", 0, "T")]
        merged.save(tmp_path / "m.onnx")
        assert [(e["input"], e["axis"]) for e in inspect(tmp_path / "m.onnx")["sizes"]] == [("x", 0)]
        samples = by_steps(states(4, steps=9))
        found = fed(tmp_path / "m.onnx", samples)
        for task, path in files.items():
            for name, want in fed(path, samples).items():
                np.testing.assert_allclose(found[f"{task}_{name}"], want, rtol=0, atol=EXACT)
        assert all(n["change"] in (0, None) for n in diff(files["a"], tmp_path / "m.onnx")["nodes"])

    def test_told_what_to_do(self, tmp_path: Path) -> None:
        text = STREAM.replace("(float[{n}", "(int64 rate, float[{n}")
        files = written(tmp_path, a=streaming(1, text), b=streaming(2, text), d=streaming(1, n=1))
        failed(3, "plan", files["a"], files["b"], words=("'rate' of 'a' is one number for all samples", "--fix a:rate"))
        model = onnx.load(files["d"])
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
        onnx.save(model, files["d"])
        command = "plan", files["d"], f"again={files['d']}"
        failed(3, *command, words=("input 'h' has the shape [2, 1, 6]", "a dynamic axis of one name in both"))


class TestData:
    """Arrays have the axes of the inputs, samples in the place of the batch."""

    def same(self, found: Mapping[str, np.ndarray], count: int = 20) -> None:
        want = states(count)
        for name, array in found.items():
            np.testing.assert_array_equal(array, want[name] if name == "x" else np.moveaxis(want[name], 1, 0))

    def test_in_the_order_of_the_net(self) -> None:
        self.same(read(states(20), 100, axes={"h": 1, "c": 1}))

    def test_with_samples_in_front(self) -> None:
        front = {name: a if name == "x" else np.moveaxis(a, 1, 0) for name, a in states(20).items()}
        self.same(read(front, 100, axes={"h": 1, "c": 1}))

    def test_as_many_samples_as_layers_are_in_the_order_of_the_net(self) -> None:
        self.same(read(states(2), 100, axes={"h": 1, "c": 1}), 2)

    def test_batches(self) -> None:
        whole, cuts = states(20), [(0, 9), (9, 18), (18, 20)]
        batches = [{n: a[:, i:k] if n != "x" else a[i:k] for n, a in whole.items()} for i, k in cuts]
        self.same(read(iter(batches), 100, axes={"h": 1, "c": 1}))

    def test_batches_with_samples_in_front(self) -> None:
        """The last one has as many samples as there are layers: the first tells how it is meant."""
        whole, cuts = states(20), [(0, 9), (9, 18), (18, 20)]
        batches = [{n: np.moveaxis(a, 1, 0)[i:k] if n != "x" else a[i:k] for n, a in whole.items()} for i, k in cuts]
        self.same(read(iter(batches), 100, axes={"h": 1, "c": 1}))

    def test_a_single_array(self) -> None:
        x = np.zeros((5, 7, 3))
        assert in_front({"x": x}, {"x": 1})["x"].shape == (7, 5, 3)

    def test_files(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", **states(20))
        self.same(read(tmp_path / "d.npz", 100, axes={"h": 1, "c": 1}))

    def test_of_any_size_from_batches(self, tmp_path: Path) -> None:
        """They are read before the nets are loaded, and not turned again."""
        files = written(tmp_path, a=streaming(1, STEPS_FIRST, t="T"), b=streaming(2, STEPS_FIRST, t="T"))
        batches = [by_steps(states(20, seed=k)) for k in range(3)]
        merged = onnxzip.merge(files, batches, share=0)
        assert merged.report["tasks"]["a"]["fidelity"]["relative_error"] < EXACT

    def test_what_does_not_fit(self, nets: dict[str, Path]) -> None:
        samples = states(60)
        with pytest.raises(InvalidDataError, match=r"input 'h' takes samples of shape \[2, 6\], these have \[1, 6\]"):
            onnxzip.merge(nets, {**samples, "h": samples["h"][:1]})
        with pytest.raises(InvalidDataError, match="numbers of samples differ"):
            onnxzip.merge(nets, {**samples, "h": samples["h"][:, :50]})


def test_recurrent_nodes_are_shipped_whole(nets: dict[str, Path]) -> None:
    """With the weights of their inputs, not with a product in front and the identity for weights."""
    onnxzip.merge(nets, states(60), apart=["h", "c"]).save("m.onnx")
    onnxzip.export("m.onnx", "onnx-mobile", "p.onnx", states(60))
    kept = [[t for t in onnx.load(f).graph.initializer if len(t.dims) == 3] for f in ("m.onnx", "p.onnx")]
    assert [sorted(tuple(t.dims) for t in some) for some in kept] == 2 * [sorted(tuple(t.dims) for t in kept[0])]


def test_a_fused_file_has_an_entry(nets: dict[str, Path]) -> None:
    onnxzip.merge(nets, states(60), apart=["h", "c"]).save("m.onnx")
    names = [f"{t}_{s}" for t in "ab" for s in ("h", "c", "hn", "cn")]
    assert json.loads(entries(Path("m.onnx"))[AXES]) == dict.fromkeys(names, 1)
    onnx.save(onnxzip.split("m.onnx", "b"), "b2.onnx")
    assert json.loads(entries(Path("b2.onnx"))[AXES]) == dict.fromkeys(["h", "c", "hn", "cn"], 1)
    assert dims(onnx.load("b2.onnx")) == dims(onnx.load("b.onnx"))


def test_nets_that_were_read_before_are_as_they_were(tmp_path: Path) -> None:
    """No net without such inputs is changed: outputs with their samples elsewhere stay as they are."""
    net = load(written(tmp_path, a=streaming(1, TWIN))["a"])
    assert net.axes == {} and in_file(net).nodes == net.nodes
