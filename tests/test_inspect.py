"""inspect and diff: figures that an independent count confirms, on merged files, on files of older versions, on any net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from architectures import ARCHITECTURES, TOKENS, Architecture, model_of
from merging import MODELS, failed, images, run, write_net
from netfiles import written
from onnx import helper, numpy_helper

import onnxzip
from onnxzip.exporting.traces import read_trace
from onnxzip.inspection.differing import diff
from onnxzip.inspection.inspecting import inspect

FILES = {t: MODELS / f"lenet5-fashion-{t}.onnx" for t in ("low", "high")}
NEW_ENTRIES = ("onnxzip.trace", "onnxzip.refusals")
EXACT = 1e-6


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Half-shared LeNet-5 with its report."""
    path = tmp_path_factory.mktemp("inspect") / "m.onnx"
    data = {t: MODELS / "data" / f"fashion-{t}-calibration.npz" for t in FILES}
    merged = onnxzip.merge(FILES, data, share=0.5, samples=300)
    merged.save(path)
    return path, dict(merged.report)


def params_by_task(model: onnx.ModelProto, outputs: dict[str, str]) -> dict[str, set[str]]:
    """Initializers that each task's output is computed from, found on the file itself."""
    made = {v: n for n in model.graph.node for v in n.output}
    stored = {t.name for t in model.graph.initializer}
    found = {}
    for task, output in outputs.items():
        stack, seen = [output], set[str]()
        while stack:
            value = stack.pop()
            if value not in seen:
                seen.add(value)
                stack.extend(made[value].input if value in made else ())
        found[task] = seen & stored
    return found


def samples_for(architecture: Architecture) -> dict[str, np.ndarray]:
    """A few inputs of a family."""
    rng = np.random.default_rng(4)
    drawn = {n: rng.standard_normal((40, *shape)).astype(np.float32) for n, shape in architecture.inputs.items()}
    return {n: rng.integers(0, TOKENS, x.shape) if n in architecture.integers else x for n, x in drawn.items()}


class TestMerged:
    def test_it_agrees_with_the_report_of_the_merge(self, lenet: tuple[Path, dict[str, Any]]) -> None:
        found, report = inspect(lenet[0]), lenet[1]
        assert found["schema_version"] == 1 and found["kind"] == "merged"
        for key in ("params", "bytes", "macs"):
            assert found["file"][key] == report["merged"][key]
            assert {t: e["original"][key] for t, e in found["tasks"].items()} == {t: report["tasks"][t][key] for t in FILES}
        for mine, theirs in zip(found["spaces"], report["spaces"], strict=True):
            assert {k: mine[k] for k in ("name", "channels", "shared", "groups")} == {
                k: theirs[k] for k in ("name", "channels", "shared", "groups")
            }
            assert mine["error"] == pytest.approx(theirs["error"], rel=1e-3)
            assert mine["damping"] == pytest.approx(theirs["damping"], rel=1e-3)
        assert found["refusals"] == report["refusals"]

    def test_owners_and_switches_are_counted_on_the_file(self, lenet: tuple[Path, dict[str, Any]]) -> None:
        found, model = inspect(lenet[0]), onnx.load(lenet[0])
        needed = params_by_task(model, {t: f"{t}_logits" for t in FILES})
        size = {t.name: len(t.raw_data) for t in model.graph.initializer}
        for switch in found["switches"]:
            wanted = needed[switch["to"]]
            assert switch["bytes"] == sum(size[p] for p in wanted - needed[switch["from"]])
            assert switch["of"] == sum(size[p] for p in wanted)
        both = next(o for o in found["owners"] if len(o["tasks"]) == 2)
        assert both["bytes"] == sum(size[p] for p in needed["low"] & needed["high"])
        assert sum(o["macs"] for o in found["owners"]) == found["file"]["macs"] == sum(n["macs"] for n in found["nodes"])
        assert sum(n["params"] for n in found["nodes"]) == found["file"]["params"]
        assert {s["bytes"] for s in found["switches"]} != {0}

    def test_a_task_alone_costs_what_split_writes(self, lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        found = inspect(lenet[0])
        for task in FILES:
            path = tmp_path / f"{task}.onnx"
            path.write_bytes(onnxzip.split(lenet[0], task).SerializeToString(deterministic=True))
            alone = inspect(path)
            assert found["tasks"][task]["alone"] == {k: alone["file"][k] for k in ("params", "bytes", "macs")}
            assert list(alone["tasks"]) == [task] and alone["switches"] == []
            assert all(n["owners"] == [task] and n["share"] == 0 for n in alone["nodes"])

    def test_channels_of_nodes(self, lenet: tuple[Path, dict[str, Any]]) -> None:
        for node in inspect(lenet[0])["nodes"]:
            assert sum(r["channels"] for r in node["rows"]) == (0 if node["op"] == "Concat" else node["channels"]) or (
                node["op"] == "Flatten"
            )
            assert node["share"] == (1.0 if len(node["owners"]) == 2 else 0.0)
            assert (node["error"] is not None) <= (node["op"] in ("Conv", "Gemm"))

    def test_pairs_are_the_rows_that_were_made(self, lenet: tuple[Path, dict[str, Any]]) -> None:
        """A shared first-layer filter lies between the two that it was made from: nearer to them than to the others."""
        first = inspect(lenet[0])["spaces"][0]
        weights = {t: numpy_helper.to_array(onnx.load(p).graph.initializer[0]).reshape(20, -1) for t, p in FILES.items()}
        fused = next(t for t in onnx.load(lenet[0]).graph.initializer if list(t.dims) == [10, 1, 5, 5])
        shared = numpy_helper.to_array(fused).reshape(10, -1)
        assert len(first["pairs"]) == 10
        assert [p["cost"] for p in first["pairs"]] == sorted(p["cost"] for p in first["pairs"])
        for row, pair in zip(shared, first["pairs"], strict=True):
            centre = np.mean([weights[t][c] for t, c in pair["channels"].items()], axis=0)
            alike = np.corrcoef(row, centre)[0, 1]
            assert alike > 0.5, pair

    def test_the_method_that_counts_no_costs_tells_none(self, tmp_path: Path) -> None:
        files = {t: write_net(tmp_path / f"{t}.onnx", k) for k, t in enumerate("ab")}
        onnxzip.merge(files, images(50), method="average").save(tmp_path / "m.onnx")
        assert all(space["pairs"] == [] for space in inspect(tmp_path / "m.onnx")["spaces"])

    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_three_tasks(self, tmp_path: Path, layout: str) -> None:
        files = {t: write_net(tmp_path / f"{t}.onnx", k, width=6 + 2 * k) for k, t in enumerate("abc")}
        onnxzip.merge(files, images(120), share=0.5, layout=layout).save(tmp_path / "m.onnx")
        found = inspect(tmp_path / "m.onnx")
        assert len(found["switches"]) == 6 and ["a", "b", "c"] in [o["tasks"] for o in found["owners"]]
        for space in found["spaces"]:
            width = {"first": 1, "second": 2}[space["name"]]
            assert space["channels"] == {t: width * (6 + 2 * k) for k, t in enumerate("abc")}
        for task in "abc":
            assert diff(files[task], tmp_path / "m.onnx", task)["summary"]["missing"] == 0

    def test_files_of_schema_1_are_read(self, lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        model = onnx.load(lenet[0])
        entries = {p.key: p.value for p in model.metadata_props if p.key not in NEW_ENTRIES}
        sources = json.loads(entries["onnxzip.sources"])
        for source in sources.values():
            for key in ("params", "bytes", "macs"):
                del source[key]
        helper.set_model_props(model, entries | {"onnxzip.sources": json.dumps(sources), "onnxzip.schema": "1"})
        onnx.save(model, tmp_path / "old.onnx")
        old, new = inspect(tmp_path / "old.onnx"), inspect(lenet[0])
        assert old["owners"] == new["owners"] and old["switches"] == new["switches"]
        assert [(s["name"], s["channels"], s["shared"]) for s in old["spaces"]] == [
            (s["name"], s["channels"], s["shared"]) for s in new["spaces"]
        ]
        assert all(t["original"] is None for t in old["tasks"].values())
        assert run("inspect", tmp_path / "old.onnx").code == 0
        failed(3, "diff", FILES["low"], tmp_path / "old.onnx", words=("old.onnx", "merge the nets again"))

    def test_damaged_metadata(self, lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        model = onnx.load(lenet[0])
        for key, value in (("onnxzip.trace", "AAAA"), ("onnxzip.spaces", "[1]"), ("onnxzip.refusals", "{")):
            helper.set_model_props(model, {p.key: p.value for p in onnx.load(lenet[0]).metadata_props} | {key: value})
            onnx.save(model, tmp_path / "bad.onnx")
            failed(3, "inspect", tmp_path / "bad.onnx", words=("bad.onnx", "damaged"))


class TestAnyNet:
    def test_a_residual_net(self) -> None:
        found = inspect(MODELS / "resnet-digits.onnx")
        plan = onnxzip.plan({"a": MODELS / "resnet-digits.onnx", "b": MODELS / "resnet-digits.onnx"})
        assert found["kind"] == "net" and found["refusals"] == []
        free = [s for s in found["spaces"] if s["pinned"] is None]
        assert {s["name"]: s["channels"] for s in free} == {s["name"]: s["channels"]["a"] for s in plan["spaces"]}
        assert found["file"]["macs"] == plan["tasks"]["a"]["macs"] == sum(n["macs"] for n in found["nodes"])
        (pinned,) = (s for s in found["spaces"] if s["pinned"] is not None)
        assert pinned["pinned"] == "an output of the net"

    @pytest.mark.parametrize("name", sorted(ARCHITECTURES))
    def test_every_family(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "n.onnx").write_bytes(model_of(ARCHITECTURES[name], 1).SerializeToString())
        ran = run("inspect", tmp_path / "n.onnx", "--json")
        found = json.loads(ran.out)
        assert ran.code == 0 and found["spaces"] and all(n["line"] or n["refused"] for n in found["nodes"])
        assert run("inspect", tmp_path / "n.onnx").code == 0

    def test_refusals_are_told(self, tmp_path: Path) -> None:
        (tmp_path / "n.onnx").write_bytes(model_of(ARCHITECTURES["unknown_operator"], 1).SerializeToString())
        found = inspect(tmp_path / "n.onnx")
        assert found["refusals"] and "not registered" in found["refusals"][0]["why"]
        (first, *_) = found["refusals"]
        assert [n["refused"] for n in found["nodes"] if n["name"] == first["where"]] == [first["why"]]
        assert "Not coupled" in run("inspect", tmp_path / "n.onnx").out

    def test_what_no_output_needs_is_told(self, tmp_path: Path) -> None:
        model = onnx.load(write_net(tmp_path / "n.onnx", 1))
        model.graph.node.append(helper.make_node("Gemm", ["d", "idle"], ["nowhere"], "idle"))
        model.graph.initializer.append(numpy_helper.from_array(np.ones((16, 2), np.float32), "idle"))
        onnx.save(model, tmp_path / "i.onnx")
        assert inspect(tmp_path / "n.onnx")["unused"] == {"nodes": 0, "params": 0, "bytes": 0}
        found = inspect(tmp_path / "i.onnx")["unused"]
        assert (found["nodes"], found["params"]) == (1, 32) and found["bytes"] >= 128
        assert "No output needs 1 of its nodes and 32 of its params" in run("inspect", tmp_path / "i.onnx").out

    def test_weights_of_half_types_count_half(self, tmp_path: Path) -> None:
        files = {}
        for seed, task in enumerate("ab"):
            model = onnx.load(write_net(tmp_path / f"{task}.onnx", seed))
            for tensor in list(model.graph.initializer):
                array = numpy_helper.to_array(tensor).astype(np.float16)
                tensor.CopyFrom(numpy_helper.from_array(array, f"{tensor.name}.half"))
                wide = tensor.name.removesuffix(".half")
                model.graph.node.insert(0, helper.make_node("Cast", [tensor.name], [wide], f"{wide}.cast", to=1))
            files[task] = tmp_path / f"{task}16.onnx"
            onnx.save(model, files[task])
        onnxzip.merge(files, images(80), share=0.5).save(tmp_path / "m.onnx")
        found = inspect(tmp_path / "m.onnx")
        assert sum(n["bytes"] for n in found["nodes"]) == 2 * sum(n["params"] for n in found["nodes"])
        assert all(s["bytes"] < s["of"] for s in found["switches"])

    def test_half_types(self, tmp_path: Path) -> None:
        model = onnx.load(write_net(tmp_path / "n.onnx", 1))
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        for port in (*model.graph.input, *model.graph.output):
            port.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        onnx.save(model, tmp_path / "half.onnx")
        whole, half = inspect(tmp_path / "n.onnx"), inspect(tmp_path / "half.onnx")
        assert half["file"]["params"] == whole["file"]["params"]
        for mine, theirs in zip(half["spaces"], whole["spaces"], strict=True):
            assert (mine["name"], mine["channels"], mine["pinned"]) == (theirs["name"], theirs["channels"], theirs["pinned"])
        ops = [n["op"] for n in half["nodes"]]
        assert ops == ["Cast", *(n["op"] for n in whole["nodes"]), "Cast"]  # the ports are float16, what is between is not

    def test_bad_files(self, tmp_path: Path) -> None:
        (tmp_path / "t.onnx").write_bytes(b"no")
        failed(3, "inspect", tmp_path / "none.onnx", words=("none.onnx",))
        failed(3, "inspect", tmp_path / "t.onnx", words=("t.onnx",))


class TestDiff:
    @pytest.mark.parametrize("name", sorted(ARCHITECTURES))
    def test_nothing_shared_is_nothing_changed(self, name: str, tmp_path: Path) -> None:
        """Channels are followed through every kind of node: all params of the original are found again, in their places."""
        files = {}
        for seed, task in enumerate("ab"):
            files[task] = tmp_path / f"{task}.onnx"
            files[task].write_bytes(model_of(ARCHITECTURES[name], seed).SerializeToString())
        onnxzip.merge(files, samples_for(ARCHITECTURES[name]), share=0, method="average").save(tmp_path / "m.onnx")
        for task, file in files.items():
            found = diff(file, tmp_path / "m.onnx", task)
            assert found["summary"]["change"] < EXACT and found["summary"]["dropped"] == 0
            gone = [n["op"] for n in found["nodes"] if not n["fused"]]
            assert found["summary"]["missing"] == len(gone) and set(gone) <= {"Pad"}  # a convolution pads itself
            assert all(n["why"] is None for n in found["nodes"] if n["op"] not in gone)

    @pytest.mark.parametrize("family", ["resnet", "mobilenet"])
    def test_a_net_with_itself_is_found_again(self, family: str, tmp_path: Path) -> None:
        file = MODELS / f"{family}-digits.onnx"
        onnxzip.merge({"a": file, "b": file}, samples=60).save(tmp_path / "m.onnx")
        found = diff(file, tmp_path / "m.onnx", "b")
        assert found["summary"]["change"] < 1e-3 and found["summary"]["dropped"] == 0
        assert all(n["channels"]["own"] == 0 for n in found["nodes"][:-1] if n["channels"])

    @pytest.mark.parametrize("name", ["lenet", "resnet", "preactivation", "scaled"])
    def test_tasks_of_a_file_that_is_merged_again_are_followed_to_their_originals(self, name: str, tmp_path: Path) -> None:
        files = {}
        for seed, task in enumerate("abc"):
            files[task] = tmp_path / f"{task}.onnx"
            files[task].write_bytes(model_of(ARCHITECTURES[name], seed).SerializeToString())
        two = {t: files[t] for t in "ab"}
        for share, bound in ((0.0, EXACT), (0.5, np.inf)):
            onnxzip.merge(two, share=share, method="average", samples=32).save(tmp_path / "ab.onnx", force=True)
            again = {"ab": tmp_path / "ab.onnx", "c": files["c"]}
            onnxzip.merge(again, share=0, method="average", samples=32).save(tmp_path / "abc.onnx", force=True)
            assert list(inspect(tmp_path / "abc.onnx")["tasks"]) == ["a", "b", "c"]
            for task, file in files.items():
                found = diff(file, tmp_path / "abc.onnx", task)["summary"]
                before = diff(file, tmp_path / "ab.onnx", task)["summary"] if task in two else {"change": 0.0, "dropped": 0.0}
                assert found["missing"] == 0 and found["change"] == pytest.approx(before["change"], abs=EXACT)
                assert found["dropped"] == pytest.approx(before["dropped"], abs=EXACT) and found["change"] < bound

    def test_one_changed_weight_is_told(self, tmp_path: Path) -> None:
        files = {t: write_net(tmp_path / f"{t}.onnx", k) for k, t in enumerate("ab")}
        onnxzip.merge(files, share=0, samples=32).save(tmp_path / "m.onnx")
        model = onnx.load(files["a"])
        tensor = next(t for t in model.graph.initializer if t.name == "w1")
        array = numpy_helper.to_array(tensor).copy()
        size = np.sqrt(np.square(array).sum() + np.square(numpy_helper.to_array(model.graph.initializer[3])).sum())
        array[3, 5] += 1
        tensor.CopyFrom(numpy_helper.from_array(array, "w1"))
        onnx.save(model, tmp_path / "a2.onnx")
        found = diff(tmp_path / "a2.onnx", tmp_path / "m.onnx", "a")
        changes = {n["name"]: n["change"] for n in found["nodes"] if n["change"]}
        assert not found["original"]["same_source"] and set(changes) == {"second"}
        assert changes["second"] == pytest.approx(1 / size, rel=0.1)

    def test_infinities_that_stay_are_no_change(self, tmp_path: Path) -> None:
        """A mask of -inf in attention, which is its own in a net that shares half."""
        text = """g (float[N,4,8] x, float[8,12] w, float[12,12] q, float[12,12] k, float[4,4] mask, float[12,5] v)
            => (float[] y) { m = MatMul (x, w) h = Relu (m) a = MatMul (h, q) b = MatMul (h, k)
            t = Transpose <perm = [0, 2, 1]> (b) s = MatMul (a, t) u = Add (s, mask) p = Softmax <axis = -1> (u)
            o = MatMul (p, h) y = MatMul (o, v) }"""
        mask, files = np.triu(np.full((4, 4), -np.inf, np.float32), 1), {}
        for seed, task in enumerate("ab"):
            (tmp_path / task).mkdir()
            rng, shapes = np.random.default_rng(seed), {"w": (8, 12), "q": (12, 12), "k": (12, 12), "v": (12, 5)}
            files[task] = written(tmp_path / task, text, mask=mask, **{
                n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()
            })
        x = np.random.default_rng(2).standard_normal((100, 4, 8)).astype(np.float32)
        for share, least, most in ((0, 0, EXACT), (0.5, 0.1, 3)):
            onnxzip.merge(files, x, share=share).save(tmp_path / "m.onnx", force=True)
            found = diff(files["a"], tmp_path / "m.onnx", "a")
            assert least <= found["summary"]["change"] <= most and found["summary"]["dropped"] <= 1
            assert [n["change"] for n in found["nodes"] if n["op"] == "Add"] == [0.0]

    def test_a_file_with_nan_has_numbers_for_what_is_left(self, lenet: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        model = onnx.load(lenet[0])
        tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
        array = numpy_helper.to_array(tensor).copy()
        array.flat[0] = np.nan
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(model, tmp_path / "nan.onnx")
        ran = run("diff", FILES["low"], tmp_path / "nan.onnx", "--json")
        report = json.loads(ran.out)
        assert ran.code == 0 and report["summary"]["change"] is None and report["summary"]["dropped"] > 0
        assert [n["op"] for n in report["nodes"] if n["dropped"] is not None and n["change"] is None] == ["Conv"]
        table = run("diff", FILES["low"], tmp_path / "nan.onnx").out
        assert "changed by -," in " ".join(table.split()) and "nan %" not in table

    def test_layout_wide_has_foreign_weights_and_drops_none(self, tmp_path: Path) -> None:
        files = {t: write_net(tmp_path / f"{t}.onnx", k) for k, t in enumerate("ab")}
        onnxzip.merge(files, images(200), share=0.5, layout="wide").save(tmp_path / "w.onnx")
        onnxzip.merge(files, images(200), share=0.5).save(tmp_path / "s.onnx")
        wide, strands = (diff(files["a"], tmp_path / f"{k}.onnx") for k in "ws")
        second = [next(n for n in d["nodes"] if n["name"] == "second") for d in (wide, strands)]
        assert second[0]["foreign"] > 0 == second[0]["dropped"] and second[1]["dropped"] > 0 == second[1]["foreign"]
        assert second[0]["channels"] == second[1]["channels"] | {"moved": second[0]["channels"]["moved"]}

    def test_the_command(self, lenet: tuple[Path, dict[str, Any]]) -> None:
        ran = run("diff", FILES["low"], lenet[0], "--json")
        report = json.loads(ran.out)
        assert ran.code == 0 and report == diff(FILES["low"], lenet[0], "low") and report["schema_version"] == 1
        table = run("diff", FILES["low"], lenet[0], "--task", "low")
        assert table.code == 0 and "/3/Conv" in table.out and "change of params" in table.out
        failed(2, "diff", FILES["low"], lenet[0], "--task", "none", words=("none", "low, high"))
        failed(2, "diff", MODELS / "lenet5-digits.onnx", lenet[0], words=("lenet5-digits", "--task"))
        failed(3, "diff", FILES["low"], FILES["high"], words=("was not made by onnxzip",))
        other = MODELS / "lenet5-digits.onnx"
        failed(3, "diff", other, lenet[0], "--task", "low", words=(f"{other}: has", "fashion-low.onnx) had"))
        failed(3, "diff", "none.onnx", lenet[0], words=("none.onnx: no such file",))


class TestNotesOnNodes:
    @pytest.mark.parametrize("ir_version", [8, 10])
    def test_every_node_says_who_needs_it(self, tmp_path: Path, ir_version: int) -> None:
        files = {t: write_net(tmp_path / f"{t}.onnx", k) for k, t in enumerate("ab")}
        for path in files.values():
            model = onnx.load(path)
            model.ir_version = ir_version
            onnx.save(model, path)
        onnxzip.merge(files, images(100), share=0.5).save(tmp_path / "m.onnx")
        for model in (onnx.load(tmp_path / "m.onnx"), onnxzip.split(tmp_path / "m.onnx", "a")):
            onnx.checker.check_model(model, full_check=True)
            tasks = json.loads({p.key: p.value for p in model.metadata_props}["onnxzip.tasks"])
            for node in model.graph.node:
                notes = {p.key: p.value for p in node.metadata_props} if ir_version == 10 else dict(
                    note.split(": ") for note in node.doc_string.split("; ")
                )
                owners = notes["onnxzip.owners"].split(", ")
                assert owners == (tasks if node.name.startswith("a_b_") else [node.name[0]])
                assert float(notes["onnxzip.share"]) == (len(owners) > 1)

    def test_the_trace_is_small(self, lenet: tuple[Path, dict[str, Any]]) -> None:
        model = onnx.load(lenet[0])
        entries = {p.key: p.value for p in model.metadata_props}
        assert len(entries["onnxzip.trace"]) < 0.01 * lenet[0].stat().st_size
        trace = read_trace(entries, "m")
        assert set(trace.nodes) == {n.name for n in model.graph.node}
        for space, strands in trace.match.items():
            for task in FILES:
                channels = np.concatenate([s.index[task] for s in strands if task in s.index])
                assert sorted(channels[channels >= 0]) == list(range(len(channels[channels >= 0]))), space
