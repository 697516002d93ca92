"""Frames of calls before that layers go on from: found, shared with their channels, and made as the fused net would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import fed, run
from onnx import numpy_helper, parser
from onnxruntime.transformers.float16 import convert_float_to_float16
from processes import MERGE, torchrun

torch = pytest.importorskip("torch")

import carrying  # noqa: E402
from carrying import Arrays, Enhancer, Packed, Rolled, Tcn, apart, calls, exported, in_other_order, streamed  # noqa: E402

import onnxzip  # noqa: E402
from onnxzip.analysis import analyse  # noqa: E402
from onnxzip.analysis.states import notes_on_states  # noqa: E402
from onnxzip.exporting.metadata import read_origins  # noqa: E402
from onnxzip.exporting.returned import Returned, Units  # noqa: E402
from onnxzip.fusion.frames import Frames  # noqa: E402
from onnxzip.loading import load_all  # noqa: E402
from onnxzip.net import Net  # noqa: E402
from onnxzip.retraining.carried import Feedback  # noqa: E402
from onnxzip.runtime import entries_of  # noqa: E402

EXACT, WIDTH = 1e-5, carrying.WIDTH
NET = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,3,4] x, float[N,6,2] c) => (float[N,5,3] y, float[N,6,2] nc)
<int64[1] first = {0}, int64[1] last = {-2}, int64[1] end = {9}, int64[1] two = {2}> {
    a = Conv (x, w)
    z = Concat <axis = 2> (c, a)
    nc = Slice (z, last, end, two)
    r = Relu (z)
    y = Conv (r, v)
}"""


def loaded(text: str, folder: Path) -> Net:
    """A net of a text as it is merged."""
    model, rng = parser.parse_model(text), np.random.default_rng(1)
    for name, shape in (("w", (6, 3, 2)), ("v", (5, 6, 3))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    onnx.save(model, folder / "n.onnx")
    return load_all({"n": folder / "n.onnx", "m": folder / "n.onnx"})[0]


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A net, and the same one in another order."""
    monkeypatch.chdir(tmp_path)
    onnx.save(exported(Tcn, 1), "a.onnx")
    onnx.save(in_other_order(tmp_path / "a.onnx", 5), "b.onnx")
    return {t: tmp_path / f"{t}.onnx" for t in "ab"}


def of_two_starts(kind: type, folder: Path, samples: int = 200) -> tuple[dict[str, Path], dict[str, Arrays]]:
    """Two nets of different weights, with samples in the midst of streams of their own."""
    files, data = {t: folder / f"{t}.onnx" for t in "ab"}, {}
    for seed, (task, path) in enumerate(files.items()):
        onnx.save(exported(kind, seed), path)
        data[task] = {n: a for n, a in streamed(path, kind, samples, seed, 8)[-1].items() if n != "y"}
    return files, data


@pytest.fixture
def strangers(nets: dict[str, Path], tmp_path: Path) -> tuple[dict[str, Path], dict[str, Arrays]]:
    """Such nets, in place of those in another order."""
    return of_two_starts(Tcn, tmp_path)


class TestFound:
    def test_a_cache(self, tmp_path: Path) -> None:
        (state,) = loaded(NET, tmp_path).states
        assert (state.input, state.outputs) == ("c", ("nc",))
        assert [at.tolist() for at in state.orders.values()] == [[[2 * u, 2 * u + 1] for u in range(6)]]

    def test_all_outputs_that_say_the_same(self, tmp_path: Path) -> None:
        text = NET.replace("float[N,6,2] nc)", "float[N,6,2] nc, float[N,6,2] oc)")
        text = text.replace("r = Relu", "oc = Slice (z, last, end, two) r = Relu")
        assert [s.outputs for s in loaded(text, tmp_path).states] == [("nc", "oc")]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("(z, last, end, two)", "(r, last, end, two)"),  # not what was there
            ("z = Concat <axis = 2> (c, a)", "m = Neg (c) z = Concat <axis = 2> (m, a)"),  # read as something else
            ("r = Relu (z)", "t = ReduceMax <axes = [1, 2], keepdims = 1> (c) s = Add (z, t) r = Relu (s)"),  # told apart
            ("a = Conv (x, w)", "a = Concat <axis = 1> (x, x)"),  # what no layer has made
            ("nc = Slice (z, last, end, two)", "k = Slice (z, last, end, two) nc = Gather <axis = 1> (k, turned)"),
        ],
    )
    def test_none_where_the_caller_could_tell(self, tmp_path: Path, old: str, new: str) -> None:
        assert old in NET
        text = NET.replace(old, new)
        if "turned" in new:
            text = text.replace("<int64[1] first", "<int64[6] turned = {5, 4, 3, 2, 1, 0}, int64[1] first")
        assert loaded(text, tmp_path).states == ()

    @pytest.mark.parametrize(
        ("kind", "numbers"),
        [
            (carrying.OneCache, {"c": [(WIDTH, 4), (WIDTH, 4)]}),
            (Rolled, {"c1": [(WIDTH, 5)], "c2": [(WIDTH, 5)]}),
            (carrying.Beside, {"c": [(WIDTH, 4)]}),
            (Enhancer, {"e": [(8, 16), (8, 16)], "d": [(8, 8), (4, 16)], "h": [(10, 1)]}),
            (Packed, {"c": [(6, 8), (4, 12), (6, 8), (4, 12)], "h": [(5, 1), (5, 1)]}),
        ],
    )
    def test_units_and_their_numbers(self, kind: type, numbers: Mapping[str, list[tuple[int, int]]], tmp_path: Path) -> None:
        onnx.save(exported(kind, 1), tmp_path / "n.onnx")
        net = load_all(dict.fromkeys("nm", tmp_path / "n.onnx"))[0]
        assert {s.input: [at.shape for at in s.orders.values()] for s in net.states} == numbers
        for state in net.states:
            (port,) = (p for p in net.inputs if p.name == state.input)
            counted = np.bincount(np.concatenate([at.reshape(-1) for at in state.orders.values()]))
            assert len(counted) == np.prod(port.shape[1:]) and len(set(counted)) == 1


class TestReturned:
    def test_numbers_come_back_from_what_is_written(self) -> None:
        at = np.array([[0, 1, 2, 20, 21, 22, 40], [5, 6, 7, 25, 26, 27, 45], [10, 11, 12, 30, 31, 32, 50]])
        units = Units.of(at, np.array([2, 0, 1]))
        assert units.runs == [[0, 1, 3], [20, 1, 3], [40, 1, 1]] and units.stride == 5
        np.testing.assert_array_equal(units.numbers, at)

    def test_places_along_two_axes(self) -> None:
        grid = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # frames, channels, bins
        channels, bins = grid.transpose(1, 0, 2).reshape(3, -1), grid.transpose(2, 0, 1).reshape(4, -1)
        one, other = np.array([1, 2, 0]), np.array([3, 1, 0, 2])
        state = Returned(("nc",), 24, (Units.of(channels, one), Units.of(bins, other)))
        np.testing.assert_array_equal(state.places.reshape(grid.shape), grid[:, one][:, :, other])
        (group,) = state.groups
        np.testing.assert_array_equal(group, grid.reshape(2, -1))

    def test_behind_another(self) -> None:
        rng, at = np.random.default_rng(2), np.arange(12).reshape(4, 3)
        inner, outer = (Returned(("nc",), 12, (Units.of(at, rng.permutation(4)),)) for _ in range(2))
        np.testing.assert_array_equal(inner.behind(outer).places, inner.places[outer.places])
        assert inner.behind(None) is inner


class TestMerge:
    @pytest.mark.parametrize("dialect", ["torchscript", "dynamo"])
    @pytest.mark.parametrize("kind", carrying.KINDS)
    def test_a_net_and_itself_in_another_order(self, kind: type, dialect: str, tmp_path: Path) -> None:
        """Along streams that begin with zeros, on states that both share."""
        if dialect == "dynamo":
            pytest.importorskip("onnxscript")
        files = {t: tmp_path / f"{t}.onnx" for t in "ab"}
        onnx.save(exported(kind, 1, dialect), files["a"])
        onnx.save(in_other_order(files["a"], 5), files["b"])
        merged = onnxzip.merge(files, calls(kind, 60, 3))
        assert merged.report["merged"]["params_ratio"] < 0.56
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"]) and not merged.report["refusals"]
        assert all(t["fidelity"]["relative_error"] < EXACT for t in merged.report["tasks"].values())
        samples = 1 if kind is Packed else 3
        want = {t: streamed(path, kind, samples, 9) for t, path in files.items()}
        found = {t: streamed(merged.content, kind, samples, 9, prefix=f"{t}_") for t in files}
        assert max(apart(found[t], want[t]) for t in files) < EXACT
        for name in kind.shapes:
            np.testing.assert_array_equal(found["a"][-1][name], found["b"][-1][name])
            np.testing.assert_allclose(found["a"][-1][name], want["a"][-1][name], rtol=0, atol=1e-4)  # as the first net has it
        assert not any(n.op_type == "Gather" and "order" in n.name for n in onnx.load_from_string(merged.content).graph.node)

    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_apart_and_side_by_side(self, nets: dict[str, Path], layout: str) -> None:
        data, want = calls(Tcn, 60, 3), {t: streamed(path, Tcn, 3, 9) for t, path in nets.items()}
        beside = onnxzip.merge(nets, data, share=0, layout=layout)
        assert apart(streamed(beside.content, Tcn, 3, 9, prefix="a_"), want["a"]) < EXACT
        half = onnxzip.merge(nets, data, share=0.5, layout=layout)
        assert {s["shared"] == s["groups"] for s in half.report["spaces"]} == ({True, False} if layout == "wide" else {True})
        off = max(apart(streamed(half.content, Tcn, 3, 9, prefix=f"{t}_"), want[t]) for t in nets)
        assert off < (0.01 if layout == "wide" else EXACT)  # rows of one net that read channels of the other are fitted anew
        own = onnxzip.merge(nets, data, apart=["c1", "c2"])
        assert [p.name for p in onnx.load_from_string(own.content).graph.input][1:] == ["c0", "a_c1", "a_c2", "b_c1", "b_c2"]

    def test_told(self, nets: dict[str, Path]) -> None:
        raw, first, second = notes_on_states(analyse(load_all(nets)))
        assert "'c0'" in raw and "all tasks make the same of it" in raw
        for name, note in (("c1", first), ("c2", second)):
            assert f"input '{name}' is a state of units that all tasks share" in note and f"output 'n{name}'" in note
        notes = notes_on_states(analyse(load_all(nets), (("*", 1.0), ("/stem*", 0.0), ("/d*", 1.0))))
        assert all("--apart" in note for note in notes[1:])

    def test_three_nets_in_two_dialects(self, nets: dict[str, Path], tmp_path: Path) -> None:
        pytest.importorskip("onnxscript")
        onnx.save(exported(Tcn, 1, "dynamo"), "d.onnx")
        onnx.save(in_other_order(tmp_path / "d.onnx", 6), "c.onnx")
        files = {**nets, "c": tmp_path / "c.onnx"}
        merged = onnxzip.merge(files, calls(Tcn, 60, 3))
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"])
        found = {t: streamed(merged.content, Tcn, 3, 9, prefix=f"{t}_") for t in files}
        assert max(apart(found[t], streamed(path, Tcn, 3, 9)) for t, path in files.items()) < EXACT

    def test_of_float16(self, nets: dict[str, Path]) -> None:
        for path in nets.values():
            onnx.save(convert_float_to_float16(onnx.load(path)), path)
        half = {n: a.astype(np.float16) for n, a in calls(Tcn, 60, 3).items()}
        merged = onnxzip.merge(nets, half)
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"])
        assert max(t["fidelity"]["relative_error"] for t in merged.report["tasks"].values()) < 0.01
        ports = onnx.load_from_string(merged.content).graph
        assert {p.type.tensor_type.elem_type for p in (*ports.input, *ports.output)} == {onnx.TensorProto.FLOAT16}

    def test_any_number_of_frames(self, nets: dict[str, Path]) -> None:
        for path in nets.values():
            model = exported(Tcn, 1)
            for port in (model.graph.input[0], model.graph.output[0]):
                port.type.tensor_type.shape.dim[1].dim_param = "frames"
            onnx.save(model, path)
        merged = onnxzip.merge(nets, calls(Tcn, 60, 3))
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"])
        for frames in (1, 25):
            feeds = calls(Tcn, 3, 9) | {"x": np.random.default_rng(1).standard_normal((3, frames, 8), np.float32)}
            found, want = fed(merged.content, feeds), fed(nets["a"], feeds)
            for name, array in want.items():
                np.testing.assert_allclose(found[f"b_{name}"], array, rtol=0, atol=EXACT)

    def test_merged_again(self, nets: dict[str, Path], tmp_path: Path) -> None:
        """States of a fused net are shared further, and each task's data stand in its own order."""
        onnxzip.merge(nets, calls(Tcn, 60, 3)).save("ab.onnx")
        onnx.save(in_other_order(nets["a"], 6), "c.onnx")
        data = {t: calls(Tcn, 60, k) for k, t in enumerate("abc")}
        merged = onnxzip.merge({"ab": tmp_path / "ab.onnx", "c": tmp_path / "c.onnx"}, data)
        merged.save("abc.onnx")
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"])
        files = {**nets, "c": tmp_path / "c.onnx"}
        for task, path in files.items():
            assert apart(streamed(merged.content, Tcn, 3, 9, prefix=f"{task}_"), streamed(path, Tcn, 3, 9)) < EXACT
        found = onnxzip.verify("abc.onnx", files, data)["tasks"]
        assert max(t["fidelity"]["relative_error"] for t in found.values()) < EXACT
        origins = read_origins(entries_of(onnx.load("abc.onnx")), "abc")
        assert all(sorted(o.places["c1"]) == list(range(4 * WIDTH)) for o in origins.values())
        assert not np.array_equal(origins["b"].places["c1"], origins["c"].places["c1"])


class TestCommands:
    def test_all_of_them(self, strangers: tuple[dict[str, Path], dict[str, Arrays]]) -> None:
        for task, arrays in strangers[1].items():
            np.savez(f"{task}.npz", **arrays)
        both, data = ("a=a.onnx", "b=b.onnx"), ("--data", "a=a.npz", "--data", "b=b.npz")
        against = [x for pair in both for x in ("--against", pair)]
        assert run("merge", *both, *data, "-o", "m.onnx").code == 0
        assert run("verify", "m.onnx", *against, *data).code == 0
        for task in "ab":
            assert run("split", "m.onnx", "--task", task, "-o", f"s{task}.onnx").code == 0
            assert run("verify", f"s{task}.onnx", "--against", f"{task}={task}.onnx", "--data", f"{task}.npz").code == 0
            assert run("diff", f"{task}.onnx", "m.onnx").code == 0
        assert run("bundle", "m.onnx", "-o", "parts").code == 0
        assert run("inspect", "m.onnx").code == 0
        teachers = [x for pair in both for x in ("--teacher", pair)]
        assert run("retrain", "m.onnx", *teachers, *data, "-o", "t.onnx", "--steps", "3").code == 0
        assert run("verify", "t.onnx", *against, *data).code == 0

    def test_data_in_the_wrong_order_are_seen(self, nets: dict[str, Path]) -> None:
        """What the metadata say of states is what makes b's samples fit."""
        data = calls(Tcn, 60, 3)
        onnxzip.merge(nets, data).save("m.onnx")
        model = onnx.load("m.onnx")
        told = next(e for e in model.metadata_props if e.key == "onnxzip.sources")
        for units in read_origins(entries_of(model), "m")["b"].states["c1"].units:
            told.value = told.value.replace(str(units.order).replace(" ", ""), str(sorted(units.order)).replace(" ", ""))
        onnx.save(model, "wrong.onnx")
        found = [onnxzip.verify(f, nets, data)["tasks"]["b"]["fidelity"]["relative_error"] for f in ("m.onnx", "wrong.onnx")]
        assert found[0] < EXACT and found[1] > 1e-3


class TestBegun:
    def lost(self, folder: Path) -> float:
        """Mean square of what streams come apart by, over that of what is said."""
        files, data = of_two_starts(Rolled, folder, 600)
        merged = onnxzip.merge(files, data)
        assert all(s["shared"] == s["groups"] for s in merged.report["spaces"])
        parts = []
        for task, path in files.items():
            found, want = (
                np.stack([call["y"] for call in streamed(net, Rolled, 100, 9, 12, prefix)[4:]])
                for net, prefix in ((merged.content, f"{task}_"), (path, ""))
            )
            parts.append(float(np.square(found - want).mean() / want.var()))
        return float(np.mean(parts))

    def test_streams_lose_less_than_by_frames_of_the_originals(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.lost(tmp_path)
        monkeypatch.setattr(Frames, "_onward", lambda self, *_: None)
        assert found < 0.8 * self.lost(tmp_path)

    def test_several_processes_merge_to_the_same(
        self, strangers: tuple[dict[str, Path], dict[str, Arrays]], tmp_path: Path
    ) -> None:
        files, data = strangers
        onnxzip.merge(files, data).save("m.onnx")
        for task, arrays in data.items():
            np.savez(f"{task}.npz", **arrays)
        ran = torchrun(tmp_path, 2, *MERGE, "-o", "two.onnx")
        assert ran.code == 0, ran.err
        one, two = ({t.name: numpy_helper.to_array(t) for t in onnx.load(f).graph.initializer} for f in ("m.onnx", "two.onnx"))
        assert one.keys() == two.keys()
        for name, array in one.items():
            np.testing.assert_allclose(two[name], array, rtol=0, atol=1e-5)

    def test_retraining_goes_on_from_frames_of_its_own(
        self, strangers: tuple[dict[str, Path], dict[str, Arrays]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        onnxzip.merge(*strangers).save("m.onnx")
        looks, learn = list[float](), Feedback.learn

        def watched(self: Feedback, net: object) -> None:
            learn(self, net)  # type: ignore[arg-type]
            rows = np.arange(64)
            before = self.asked(self.pool.rows.take(rows))
            now = self.begun(before, rows)
            assert all(np.array_equal(now[name], before[name]) for name in ("x", "c0"))
            assert [at.shape for at in self.groups] == [(4, WIDTH), (4, WIDTH)]
            looks.append(max(float(np.abs(now[c] - before[c]).max()) for c in ("c1", "c2")))

        monkeypatch.setattr(Feedback, "learn", watched)
        report = onnxzip.retrain("m.onnx", *strangers, steps=4).report
        assert len(looks) >= 4 and min(looks) > 1e-3  # two tasks, at the start and at the end, at least
        assert all(t["end"]["loss"] <= t["start"]["loss"] for t in report["retrain"]["tasks"].values())
