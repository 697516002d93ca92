"""States that come back as they went out: found, shared with their units, and taken from each task's own data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import MODELS, fed, run
from onnx import ModelProto, numpy_helper
from processes import MERGE, torchrun
from test_in_front import CHANNELS, LAYERS, STEPS, STREAM, UNITS, states, streaming
from test_retraining import At, Killed, kill

import onnxzip
from onnxzip import RetrainOptions
from onnxzip.analysis import analyse
from onnxzip.analysis.states import notes_on_states
from onnxzip.calibration.checking import Feed
from onnxzip.calibration.samples import Source, hand
from onnxzip.calibration.sources import collect
from onnxzip.calibration.states import Course
from onnxzip.config import DataOptions
from onnxzip.exporting.again import data_by_net, kept_tasks
from onnxzip.exporting.metadata import read_origins
from onnxzip.fusion.begins import Begins, noise_of
from onnxzip.loading import load_all
from onnxzip.net import Net
from onnxzip.peers import ALONE
from onnxzip.retraining.carried import Feedback
from onnxzip.retraining.module import TorchNet
from onnxzip.runtime import entries_of

Arrays = dict[str, np.ndarray]
WIDTH, GATES, EXACT = 12, 4, 1e-5


def with_weights(model: ModelProto, arrays: Mapping[str, np.ndarray]) -> ModelProto:
    """A model with other weights under the same names, or more of them."""
    new = ModelProto()
    new.CopyFrom(model)
    kept = [t for t in new.graph.initializer if t.name not in arrays]
    del new.graph.initializer[:]
    new.graph.initializer.extend([*kept, *(numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in arrays.items())])
    return new


def in_other_order(model: ModelProto, seed: int) -> ModelProto:
    """The streaming net with its channels and units in another order: the same outputs but for the order of its states."""
    w = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rng = np.random.default_rng(seed)
    inner, first, second = (rng.permutation(n) for n in (WIDTH, UNITS, UNITS))

    def rows(array: np.ndarray, order: np.ndarray) -> np.ndarray:
        parts = array.shape[1] // UNITS
        return array.reshape(1, parts, UNITS, -1)[:, :, order].reshape(array.shape)

    return with_weights(model, {
        "w0": w["w0"][:, inner], "b0": w["b0"][inner], "w2": w["w2"][second],
        "wi": rows(w["wi"], first)[..., inner], "wh": rows(w["wh"], first)[..., first], "wb": rows(w["wb"], first),
        "vi": rows(w["vi"], second)[..., first], "vh": rows(w["vh"], second)[..., second], "vb": rows(w["vb"], second),
    })


def near(model: ModelProto, seed: int) -> ModelProto:
    """The net with weights a thousandth off."""
    rng = np.random.default_rng(seed)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    return with_weights(model, {
        n: a * (1 + 1e-3 * rng.standard_normal(a.shape)).astype(np.float32) for n, a in arrays.items()
    })


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A net and the same one in another order, with data of their own."""
    monkeypatch.chdir(tmp_path)
    onnx.save(streaming(1), "a.onnx")
    onnx.save(in_other_order(streaming(1), 5), "b.onnx")
    np.savez("d.npz", **states(120))
    return {t: tmp_path / f"{t}.onnx" for t in "ab"}


def loaded(text: str, folder: Path) -> Net:
    onnx.save(streaming(1, text), folder / "n.onnx")
    return load_all({"n": folder / "n.onnx", "m": folder / "n.onnx"})[0]


class TestFound:
    def test_layers_of_a_state(self, nets: dict[str, Path]) -> None:
        found = load_all(nets)[0].states
        assert [(s.input, s.outputs) for s in found] == [("h", ("hn",)), ("c", ("cn",))]
        for state in found:
            assert [at[:, 0].tolist() for at in state.orders.values()] == [list(range(UNITS)), list(range(UNITS, 2 * UNITS))]

    def test_both_states_in_one_input(self, tmp_path: Path) -> None:
        text = (
            STREAM.replace("float[2,{n},6] h, float[2,{n},6] c", "float[4,{n},6] h")
            .replace("float[2,{n},6] hn, float[2,{n},6] cn", "float[4,{n},6] hn")
            .replace("int64[2] both = {{1, 1}}", "int64[4] both = {{1, 1, 1, 1}}")
            .replace("h0, h1 = Split <axis = 0> (h, both)", "")
            .replace("c0, c1 = Split <axis = 0> (c, both)", "h0, c0, h1, c1 = Split <axis = 0> (h, both)")
            .replace("hn = Concat <axis = 0> (hn0, hn1)", "").replace("cn = Concat <axis = 0> (cn0, cn1)", "{last}")
        )
        ordered = text.replace("{last}", "hn = Concat <axis = 0> (hn0, cn0, hn1, cn1)")
        (state,) = loaded(ordered, tmp_path).states
        assert (state.input, state.outputs) == ("h", ("hn",))
        assert sorted(int(at[0, 0]) for at in state.orders.values()) == [0, UNITS, 2 * UNITS, 3 * UNITS]
        crossed = text.replace("{last}", "hn = Concat <axis = 0> (hn0, hn1, cn0, cn1)")
        assert loaded(crossed, tmp_path).states == ()

    @pytest.mark.parametrize(
        ("old", "new", "left"),
        [
            ("hn = Concat <axis = 0> (hn0, hn1)", "hn = Concat <axis = 0> (hn1, hn0)", "c"),  # not where it was
            ("hn = Concat <axis = 0> (hn0, hn1)", "hm = Concat <axis = 0> (hn0, hn1) hn = Neg (hm)", "c"),  # not as it was
            ("c0, c1 = Split <axis = 0> (c, both)", "cm = Neg (c) c0, c1 = Split <axis = 0> (cm, both)", "h"),
            ("y = MatMul (t, w2)", "z = MatMul (t, w2) k = ReduceMax <keepdims = 0> (h) y = Add (z, k)", "c"),
        ],
    )
    def test_none_where_the_caller_could_tell(self, tmp_path: Path, old: str, new: str, left: str) -> None:
        assert old in STREAM
        assert [s.input for s in loaded(STREAM.replace(old, new), tmp_path).states] == [left]

    def test_what_else_reads_the_last_states_reads_them_in_the_order_of_the_units(self, tmp_path: Path) -> None:
        text = (
            STREAM.replace("y = MatMul (t, w2)", "z = MatMul (t, w2) k = Unsqueeze (v, one) y = Add (z, k)")
            .replace("r = Squeeze (p, one)", "u = Squeeze (hn1, zero) v = MatMul (u, w2) r = Squeeze (p, one)")
            .replace("int64[1] one = {{1}}", "int64[1] one = {{1}}, int64[1] zero = {{0}}")
        )
        net = loaded(text, tmp_path)
        plan = analyse([replace(net, name=t) for t in "ab"])
        assert [s.input for s in net.states] == ["h", "c"]
        assert {s.name for s in plan.spaces.values() if s.shares_any} >= {"LSTM_8.input", "LSTM_10.input"}

    def test_a_fused_file_gives_them_back_for_each_task(self, nets: dict[str, Path]) -> None:
        onnxzip.merge(nets, "d.npz").save("ab.onnx")
        found = load_all({"ab": "ab.onnx", "b": nets["b"]})[0].states
        assert [(s.input, s.outputs) for s in found] == [("h", ("a_hn", "b_hn")), ("c", ("a_cn", "b_cn"))]


class TestMerge:
    @pytest.mark.parametrize("layout", ["strands", "wide"])
    @pytest.mark.parametrize("share", [1.0, 0.0])
    def test_a_net_and_itself_in_another_order(self, nets: dict[str, Path], share: float, layout: str) -> None:
        merged = onnxzip.merge(nets, states(120), share=share, layout=layout)
        sizes = {"MatMul_2": WIDTH, "LSTM_8.input": UNITS, "LSTM_10.input": UNITS}
        assert {s["name"]: (s["shared"], s["groups"]) for s in merged.report["spaces"]} == {
            name: (size, size) if share else (0, 2 * size) for name, size in sizes.items()
        }
        assert all(t["fidelity"]["relative_error"] < EXACT for t in merged.report["tasks"].values())
        # both go through streams, on their own states and on the one that they share
        rng = np.random.default_rng(8)
        shared, alone = {s: np.zeros((LAYERS, 3, UNITS), np.float32) for s in "hc"}, {}
        for _ in range(6):
            x = rng.standard_normal((3, STEPS, CHANNELS), np.float32)
            found = fed(merged.content, {"x": x, **shared})
            for task, path in nets.items():
                want = fed(path, {"x": x, **alone.get(task, {s: np.zeros((LAYERS, 3, UNITS), np.float32) for s in "hc"})})
                alone[task] = {s: want[f"{s}n"] for s in "hc"}
                if share or task == "a":
                    np.testing.assert_allclose(found[f"{task}_y"], want["y"], rtol=0, atol=EXACT)
            shared = {s: found[f"a_{s}n"] for s in "hc"}
            np.testing.assert_allclose(shared["h"], alone["a"]["h"], rtol=0, atol=EXACT)  # in the order of the first net
            if share:
                np.testing.assert_array_equal(shared["h"], found["b_hn"])

    def test_the_file_has_no_trace_of_orders(self, nets: dict[str, Path]) -> None:
        merged = onnxzip.merge(nets, states(120))
        model = onnx.load_from_string(merged.content)
        assert not any(n.op_type == "Gather" for n in model.graph.node)
        assert not any("order" in t.name for t in model.graph.initializer)
        assert sum(n.op_type == "LSTM" for n in model.graph.node) == LAYERS
        origins = read_origins(entries_of(model), "m")
        places = {t: {name: at.tolist() for name, at in o.places.items()} for t, o in origins.items()}
        assert places["a"]["h"] == places["a"]["cn"] == list(range(2 * UNITS))
        assert sorted(places["b"]["h"]) == list(range(2 * UNITS)) != places["b"]["h"]
        assert {known["h"] == known["hn"] for known in places.values()} == {True}

    def test_seeds_differ_and_all_is_shared(self, nets: dict[str, Path]) -> None:
        onnx.save(streaming(2), nets["b"])
        merged = onnxzip.merge(nets, states(200))
        assert merged.report["merged"]["params_ratio"] < 0.52
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"])

    def test_three_nets_of_which_two_are_as_wide(self, nets: dict[str, Path], tmp_path: Path) -> None:
        onnx.save(in_other_order(streaming(1), 6), "c.onnx")
        merged = onnxzip.merge({**nets, "c": tmp_path / "c.onnx"}, states(120))
        assert all(t["fidelity"]["relative_error"] < EXACT for t in merged.report["tasks"].values())
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"])

    def test_apart_leaves_states_and_their_layers_to_each(self, nets: dict[str, Path]) -> None:
        merged = onnxzip.merge(nets, states(120), apart=["h", "c"])
        assert {s["name"]: s["shared"] for s in merged.report["spaces"]} == {"MatMul_2": WIDTH}
        assert all(t["fidelity"]["relative_error"] < EXACT for t in merged.report["tasks"].values())
        assert any("which nothing of the others corresponds to" in r["why"] for r in merged.report["refusals"])

    def test_the_method_of_the_paper(self, nets: dict[str, Path]) -> None:
        merged = onnxzip.merge(nets, states(120), method="mtz")
        assert all(t["fidelity"]["relative_error"] < EXACT for t in merged.report["tasks"].values())

    def test_told(self, nets: dict[str, Path]) -> None:
        plan = analyse(load_all(nets))
        notes = notes_on_states(plan)
        assert len(notes) == 2 and all("units that all tasks share: begin with zeros" in n for n in notes)
        assert "output 'hn'" in notes[0] and "stands as in 'a'" not in notes[0] and "stand as in 'a'" in notes[0]
        for shares in ((("*", 0.0),), (("*", 1.0), ("LSTM_10*", 0.0))):  # of one of two layers is not enough
            assert all("--apart" in n for n in notes_on_states(analyse(load_all(nets), shares)))


class TestCommands:
    def test_all_of_them(self, nets: dict[str, Path]) -> None:
        assert run("merge", "a=a.onnx", "b=b.onnx", "--data", "d.npz", "-o", "m.onnx").code == 0
        both = ("a=a.onnx", "b=b.onnx")
        against = [x for pair in both for x in ("--against", pair)]
        assert run("verify", "m.onnx", *against, "--data", "d.npz").code == 0
        for task in "ab":
            assert run("split", "m.onnx", "--task", task, "-o", f"s{task}.onnx").code == 0
            assert run("verify", f"s{task}.onnx", "--against", f"{task}={task}.onnx", "--data", "d.npz").code == 0
            assert run("diff", f"{task}.onnx", "m.onnx").code == 0
        assert run("bundle", "m.onnx", "-o", "parts").code == 0
        assert run("inspect", "m.onnx").code == 0
        teachers = [x for pair in both for x in ("--teacher", pair)]
        assert run("retrain", "m.onnx", *teachers, "--data", "d.npz", "-o", "t.onnx", "--steps", "3").code == 0

    def test_merged_again(self, nets: dict[str, Path], tmp_path: Path) -> None:
        """Each task's data stand in its own order, also inside of a net that holds several."""
        onnxzip.merge(nets, "d.npz").save("ab.onnx")
        onnx.save(near(streaming(1), 3), "c.onnx")
        data = {t: states(120, seed=k) for k, t in enumerate("abc")}
        merged = onnxzip.merge({"ab": tmp_path / "ab.onnx", "c": tmp_path / "c.onnx"}, data)
        merged.save("abc.onnx")
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"])
        found = onnxzip.verify("abc.onnx", nets, {t: data[t] for t in nets})["tasks"]
        assert max(t["fidelity"]["relative_error"] for t in found.values()) < 0.02
        before = {t: o.states for t, o in read_origins(entries_of(onnx.load("ab.onnx")), "ab").items()}
        assert {t: o.states for t, o in read_origins(entries_of(onnx.load("abc.onnx")), "abc").items() if t != "c"} == before

    def test_samples_inside_of_a_net_are_put_in_its_order(self, nets: dict[str, Path]) -> None:
        onnxzip.merge(nets, "d.npz").save("ab.onnx")
        kept = kept_tasks({"ab": entries_of(onnx.load("ab.onnx"))})
        items = {
            t: {n: np.moveaxis(x, 1, 0) if n in "hc" else x for n, x in states(40, seed=k).items()} for k, t in enumerate("ab")
        }
        ports = {p.name: p._replace(axis=0) for p in load_all({"ab": "ab.onnx", "b": nets["b"]})[0].inputs}
        feed = Feed(tuple(ports.values()), {}, None, inside=({n: n for n in ports},) * 2)
        given = collect(data_by_net(items, kept), {"ab": feed}, DataOptions(), np.random.default_rng(0), print)
        found = given.pools[0].rows.take(np.arange(80))
        for task, part in (("a", slice(0, 40)), ("b", slice(40, 80))):
            for name, want in kept["ab"][task].asked(items[task]).items():
                np.testing.assert_array_equal(found[name][part], want)

    def test_data_in_the_wrong_order_are_seen(self, nets: dict[str, Path]) -> None:
        """What the metadata say of states is what makes b's samples fit."""
        onnxzip.merge(nets, "d.npz").save("m.onnx")
        model = onnx.load("m.onnx")
        told = next(e for e in model.metadata_props if e.key == "onnxzip.sources")
        for units in read_origins(entries_of(model), "m")["b"].states["h"].units:
            told.value = told.value.replace(str(units.order).replace(" ", ""), str(sorted(units.order)).replace(" ", ""))
        onnx.save(model, "wrong.onnx")
        found = [onnxzip.verify(f, nets, "d.npz")["tasks"]["b"]["fidelity"] for f in ("m.onnx", "wrong.onnx")]
        assert found[0]["relative_error"] < EXACT and found[1]["relative_error"] > 1e-3

    def test_near_nets(self, nets: dict[str, Path]) -> None:
        onnx.save(near(streaming(1), 3), nets["b"])
        report = onnxzip.merge(nets, states(120), retrain=3).report
        assert report["retrain"]["steps"] == 3
        assert max(t["fidelity"]["relative_error"] for t in report["tasks"].values()) < 0.02


def streams(path: Path, seed: int, calls: int = 4, steps: int = STEPS) -> Arrays:
    """Samples in the midst of streams: what a net has read at the last of some calls, on its own states."""
    rng, now = np.random.default_rng(seed), {s: np.zeros((LAYERS, 200, UNITS), np.float32) for s in "hc"}
    for _ in range(calls):
        read = {"x": rng.standard_normal((200, steps, CHANNELS), np.float32), **now}
        found = fed(path, read)
        now = {s: found[f"{s}n"] for s in "hc"}
    return read


class TestRetraining:
    @pytest.fixture
    def merged(self, nets: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Arrays]]:
        """Two nets of different weights with samples of their own streams, merged as `m.onnx`."""
        onnx.save(streaming(2), nets["b"])
        data = {t: streams(path, seed) for seed, (t, path) in enumerate(nets.items())}
        onnxzip.merge(nets, data).save("m.onnx")
        return nets, data

    def test_going_on_gives_the_same_bytes(self, merged: tuple[dict[str, Path], dict[str, Arrays]], tmp_path: Path) -> None:
        options = {"batch": 16, "learning_rate": 0.01, "unvaried": True}
        straight = onnxzip.retrain("m.onnx", *merged, steps=20, options=RetrainOptions(**options)).content
        assert straight != (tmp_path / "m.onnx").read_bytes()
        options |= {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 4}
        with pytest.raises(Killed):
            onnxzip.retrain("m.onnx", *merged, steps=20, options=RetrainOptions(**options), progress=At(13, kill))
        options |= {"resume": True}
        assert onnxzip.retrain("m.onnx", *merged, steps=20, options=RetrainOptions(**options)).content == straight

    def test_several_processes_merge_to_the_same(
        self, merged: tuple[dict[str, Path], dict[str, Arrays]], tmp_path: Path
    ) -> None:
        for task, arrays in merged[1].items():
            np.savez(tmp_path / f"{task}.npz", **arrays)
        ran = torchrun(tmp_path, 2, *MERGE, "-o", "two.onnx")
        assert ran.code == 0, ran.err
        one, two = ({t.name: numpy_helper.to_array(t) for t in onnx.load(f).graph.initializer} for f in ("m.onnx", "two.onnx"))
        assert one.keys() == two.keys()
        for name, array in one.items():
            np.testing.assert_allclose(two[name], array, rtol=0, atol=1e-6)

    def test_it_goes_on_from_states_of_its_own(
        self, merged: tuple[dict[str, Path], dict[str, Arrays]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files, data = merged
        looks: list[float] = []
        learn = Feedback.learn

        def watched(self: Feedback, net: TorchNet) -> None:
            learn(self, net)
            rows = np.arange(64)
            before = self.asked(self.pool.rows.take(rows))
            now = self.begun(before, rows)
            assert {*now} == {"x", "h", "c"} and np.array_equal(now["x"], before["x"])
            looks.append(max(float(np.abs(now[s] - before[s]).max()) for s in "hc"))

        monkeypatch.setattr(Feedback, "learn", watched)
        report = onnxzip.retrain("m.onnx", files, data, steps=6).report
        assert len(looks) >= 4 and min(looks) > 1e-3  # two tasks, at the start and at the end, at least
        assert all(t["end"]["loss"] <= t["start"]["loss"] for t in report["retrain"]["tasks"].values())

    @pytest.mark.parametrize(("other", "learns"), [("far", False), ("near", True)])
    def test_single_steps_teach_near_nets_alone(self, nets: dict[str, Path], other: str, learns: bool) -> None:
        one = STREAM.replace("float[{n},{t},", "float[{n},1,")
        models = streaming(1, one), near(streaming(1, one), 3) if other == "near" else streaming(2, one)
        for path, model in zip(nets.values(), models, strict=True):
            onnx.save(model, path)
        for seed, (task, path) in enumerate(nets.items()):
            np.savez(f"{task}.npz", **streams(path, seed, steps=1))
        ran = run("merge", "a=a.onnx", "b=b.onnx", "--data", "a=a.npz", "--data", "b=b.npz", "-o", "m.onnx", "--retrain", "3",
                  "--report", "r.json")
        assert ran.code == 0 and ("have too few steps" in ran.err) is not learns
        assert json.loads(Path("r.json").read_text())["retrain"]["steps"] == (3 if learns else 0)

    def test_states_that_no_net_ends_with_are_told_of(self, nets: dict[str, Path]) -> None:
        onnx.save(streaming(2), nets["b"])
        ran = run("merge", "a=a.onnx", "b=b.onnx", "--data", "d.npz", "-o", "m.onnx", "--retrain", "3")
        assert ran.code == 0 and "ends with no such 'h' and 'c' as samples begin with" in ran.err
        begun = {**states(120), **{s: np.zeros((LAYERS, 120, UNITS), np.float32) for s in "hc"}}
        np.savez("z.npz", **begun)
        ran = run("merge", "a=a.onnx", "b=b.onnx", "--data", "z.npz", "-o", "z.onnx", "--retrain", "3")
        assert ran.code == 0 and "ends with no such" not in ran.err


class TestBegins:
    def begun(self, count: int = 400, units: int = 3, noise: float = 0.1) -> tuple[Begins, np.ndarray, list[np.ndarray]]:
        """Fused states that are a linear map of the original's, and noise."""
        rng = np.random.default_rng(4)
        before, after = (rng.standard_normal((count, 2), np.float32) for _ in range(2))
        before[::4] = 0
        matrix = rng.standard_normal((2, units)).astype(np.float32)
        begins = Begins("n", np.arange(3), Source(("a",), {"x": before}, {}), 1, ALONE)
        for part in (slice(0, 200), slice(200, count)):
            begins.add(Course(np.zeros(0), np.zeros(0), (before[part],), (after[part],)), [np.zeros((200, units), np.float32)])
        ends = after @ matrix + 0.5 + noise * rng.standard_normal((count, units), np.float32)
        begins.learn([[ends[:200]], [ends[200:]]], 0)
        return begins, before @ matrix + 0.5, [n[0] for n in begins.now]

    def test_as_the_fused_node_would_have_ended(self) -> None:
        begins, want, now = self.begun()
        zero = ~begins.before[0].any(axis=1)
        found = np.concatenate(now)
        assert zero.any() and not now[0][zero].any()
        left = (found - want)[np.concatenate([b.any(axis=1) for b in begins.before])]
        assert 0.07 < left.std() < 0.13 and np.abs(left.mean(axis=0)).max() < 0.05

    def test_no_noise_where_nothing_is_left(self) -> None:
        begins, want, now = self.begun(noise=0.0)
        some = np.concatenate([b.any(axis=1) for b in begins.before])
        np.testing.assert_allclose(np.concatenate(now)[some], want[some], rtol=0, atol=5e-3)

    def test_the_noise_is_that_of_the_sample(self) -> None:
        whole = noise_of(np.arange(300), 40, 4, [1])
        assert abs(whole.std() - 1) < 0.1 and len(np.unique(whole)) == whole.size
        mine = hand(300, 1, 2)
        np.testing.assert_array_equal(noise_of(mine, 40, 4, [1]), whole[mine])

    @pytest.mark.parametrize(("scale", "want"), [(1.0, True), (3.0, False)])
    def test_states_that_no_net_ends_with_are_given_up(self, scale: float, want: bool) -> None:
        rng = np.random.default_rng(2)
        before, after = scale * rng.standard_normal((200, 3), np.float32), rng.standard_normal((200, 3), np.float32)
        begins = Begins("n", np.arange(3), Source(("a",), {"x": before}, {}), 1, ALONE, [before], [after], [[before]])
        assert begins.come_back() is want
        assert bool(begins.before) is want


class TestSampleNets:
    """LSTMs of `models/` that read images 7 rows a call."""

    @pytest.fixture(autouse=True)
    def tools(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lets the tools be imported as they import each other."""
        monkeypatch.syspath_prepend(str(MODELS.parent / "tools"))

    def chunked(self, task: str, folder: Path) -> Path:
        import streams

        onnx.save(streams.streaming(MODELS / f"lstm-{task}.onnx", 7), folder / f"{task}.onnx")
        return folder / f"{task}.onnx"

    def streamed(self, net: Path | bytes, images: np.ndarray, prefix: str = "") -> tuple[np.ndarray, list[Arrays]]:
        """What a net says of whole images, on its own states; and what each call has read."""
        now: Arrays = {s: np.zeros((1, len(images), 64), np.float32) for s in "hc"}
        calls: list[Arrays] = []
        found: Arrays = {}
        for k in range(0, 28, 7):
            calls.append({"x": images[:, k : k + 7], **now})
            found = fed(net, calls[-1])
            now = {s: found[f"{prefix}{s}n"] for s in "hc"}
        return found[f"{prefix}y"], calls

    def lost(self, folder: Path) -> float:
        """Mean increase of test error of two tasks, in points."""
        tasks = ("fashion", "digits")
        files, data = {t: self.chunked(t, folder) for t in tasks}, {}
        for task, path in files.items():
            images = np.load(MODELS / "data" / f"{task}-calibration.npz")["x"].reshape(-1, 28, 28).astype(np.float32) / 255
            _, calls = self.streamed(path, images)
            which = np.random.default_rng(0).integers(0, len(calls), len(images))
            data[task] = {
                name: np.stack([calls[k][name].take(n, axis) for n, k in enumerate(which)], axis)
                for name, axis in (("x", 0), ("h", 1), ("c", 1))
            }
        merged = onnxzip.merge(files, data)
        more = []
        for task, path in files.items():
            test = np.load(MODELS / "data" / f"{task}-test.npz")
            images, labels = test["x"].reshape(-1, 28, 28).astype(np.float32) / 255, test["y"]
            own, fused = self.streamed(path, images)[0], self.streamed(merged.content, images, f"{task}_")[0]
            more.append((own.argmax(1) == labels).mean() - (fused.argmax(1) == labels).mean())
        return 100 * float(np.mean(more))

    def test_streams_lose_little(self, tmp_path: Path) -> None:
        assert self.lost(tmp_path) < 9

    def test_beginning_with_the_originals_states_they_lose_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Begins, "learn", lambda self, ends, k: None)
        assert self.lost(tmp_path) > 15
