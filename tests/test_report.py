"""The report: every key of the contract, and figures that an independent count confirms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from merging import MODELS, images, outputs_of, write_net
from onnx import numpy_helper

import onnxzip
from onnxzip.loading import load
from onnxzip.net import macs
from onnxzip.progress import Stages

TASKS = {"low": "lenet5-fashion-low.onnx", "high": "lenet5-fashion-high.onnx"}


@pytest.fixture(scope="module")
def merged() -> onnxzip.Merged:
    """LeNet-5 for two halves of the garments; labels for one of them."""
    data = {"low": MODELS / "data" / "fashion-low-test.npz", "high": MODELS / "data" / "fashion-high-calibration.npz"}
    return onnxzip.merge({t: MODELS / f for t, f in TASKS.items()}, data, share=0.5, samples=500, seed=3)


def test_the_contract(merged: onnxzip.Merged) -> None:
    report = merged.report
    assert report["schema_version"] == 1
    for task, name in TASKS.items():
        entry = report["tasks"][task]
        assert {"source", "sha256", "params", "bytes", "macs", "fidelity", "accuracy"} <= set(entry)
        assert entry["bytes"] == (MODELS / name).stat().st_size and {"relative_error", "top1_agreement"} <= set(
            entry["fidelity"]
        )
    assert {f"{k}{r}" for k in ("params", "bytes", "macs") for r in ("", "_ratio")} == set(report["merged"])
    for space in report["spaces"]:
        assert {"name", "channels", "shared", "groups", "error", "damping"} == set(space)
        n = space["channels"]["low"]
        assert space["channels"] == {"low": n, "high": n} and space["shared"] == round(n / 2)
        assert space["groups"] == 2 * n - round(n / 2) and space["error"] >= 0 and space["damping"] > 0
    assert set(report["seconds"]) == {"load", "analyse", "data", "sweep", "zip", "verify", "total"}
    assert sum(v for k, v in report["seconds"].items() if k != "total") <= report["seconds"]["total"]
    assert report["peak_rss_bytes"] > 50e6 and report["retrain"] is None and report["refusals"] == []
    assert report["noise"] is None and len(report["scaled_uint8"]) == 2 and report["samples"] == {"low": 500, "high": 500}
    json.dumps(report, allow_nan=False)


def test_sizes_are_those_of_the_files(merged: onnxzip.Merged) -> None:
    total = 0
    for task, name in TASKS.items():
        model = onnx.load(MODELS / name)
        params = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
        assert merged.report["tasks"][task]["params"] == params
        total += params
    fused = sum(int(np.prod(t.dims)) for t in merged.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert merged.report["merged"]["params"] == fused and merged.report["merged"]["params_ratio"] == fused / total
    assert merged.report["merged"]["bytes"] == len(merged.content)


def test_fidelity_and_accuracy_are_what_the_files_compute(merged: onnxzip.Merged) -> None:
    """All samples that were used are known by the seed; the report speaks of those that the zip has not seen."""
    held, labels = _unseen(MODELS / "data" / "fashion-low-test.npz", 500)
    want = outputs_of(MODELS / TASKS["low"], held)["logits"]
    got = outputs_of(merged.content, held)["low_logits"]
    entry = merged.report["tasks"]["low"]
    assert entry["fidelity"]["relative_error"] == pytest.approx(np.linalg.norm(got - want) / np.linalg.norm(want), rel=1e-3)
    assert entry["fidelity"]["top1_agreement"] == pytest.approx(np.mean(got.argmax(1) == want.argmax(1)))
    assert entry["accuracy"] == {"before": np.mean(want.argmax(1) == labels), "after": np.mean(got.argmax(1) == labels)}
    assert merged.report["tasks"]["high"]["accuracy"] is None


@pytest.mark.parametrize("samples", [500, 1000])
def test_fidelity_is_that_of_samples_never_seen(samples: int) -> None:
    """Dense layers on few samples fit those that they have seen much better; with 1,000 given and asked for, some are kept."""
    files = {t: MODELS / f for t, f in TASKS.items()}
    data = {t: MODELS / "data" / f"fashion-{t}-calibration.npz" for t in TASKS}
    merged = onnxzip.merge(files, data, samples=samples, seed=3)
    for task in TASKS:
        with np.load(MODELS / "data" / f"fashion-{task}-test.npz") as test:
            x = test["x"].astype(np.float32) / np.float32(255)
        want, got = outputs_of(files[task], x)["logits"], outputs_of(merged.content, x)[f"{task}_logits"]
        told = merged.report["tasks"][task]["fidelity"]
        assert told["samples"] == (500 if samples == 500 else 100)
        assert told["relative_error"] > 0.8 * np.linalg.norm(got - want) / np.linalg.norm(want)


def _unseen(path: Path, samples: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as data:
        order = np.random.default_rng(3).permutation(len(data["x"]))[samples:][-500:]
        return data["x"][order].astype(np.float32) / np.float32(255), data["y"][order]


def test_multiply_accumulates() -> None:
    lenet = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 160 + 160 * 5
    assert macs(load(MODELS / TASKS["low"])) == lenet


@pytest.mark.parametrize(
    ("body", "shapes", "count"),
    [
        ("y = Conv <group = 4, pads = [1,1,1,1]> (x, w)", {"x": "4,5,5", "y": "8,5,5", "w": (8, 1, 3, 3)}, 8 * 25 * 9),
        ("y = ConvTranspose <strides = [2,2]> (x, w)", {"x": "4,5,5", "y": "6,10,10", "w": (4, 6, 2, 2)}, 4 * 25 * 6 * 4),
        ("y = MatMul (x, w)", {"x": "7,5", "y": "7,3", "w": (5, 3)}, 7 * 5 * 3),
        ("y = Gemm (x, w)", {"x": "5", "y": "3", "w": (5, 3)}, 15),
        ("y = Mul (x, w)", {"x": "5", "y": "5", "w": (5,)}, 0),
    ],
)
def test_multiply_accumulates_of_one_node(tmp_path: Path, body: str, shapes: dict[str, Any], count: int) -> None:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N,{shapes["x"]}] x) => (float[N,{shapes["y"]}] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.full(shapes["w"], 2, np.float32), "w"))
    onnx.save(model, tmp_path / "n.onnx")
    assert macs(load(tmp_path / "n.onnx")) == count


@pytest.mark.parametrize(
    ("body", "x", "y", "params", "count"),
    [
        ('y = Einsum <equation = "n...ij,jk->n...ik"> (x, w)', "3,7,5", "3,7,2", {"w": (5, 2)}, 3 * 7 * 5 * 2),
        ('t = Einsum <equation = "nij->nji"> (x) y = Mul (t, w)', "7,5", "5,7", {"w": (7,)}, 0),
        ("y = Attention (x, x, x)", "2,7,5", "2,7,5", {}, 2 * (2 * 7 * 5) * 7),
        ("t = Transpose <perm = [1,0,2]> (x) u, y = LSTM <hidden_size = 3> (t, w, r)", "7,5", "",
         {"w": (1, 12, 5), "r": (1, 12, 3)}, 7 * 12 * (5 + 3)),
        ("t = Transpose <perm = [1,0,2]> (x) , z = GRU <hidden_size = 3> (t, w, r) y = Squeeze (z, a)", "7,5", "3",
         {"w": (1, 9, 5), "r": (1, 9, 3)}, 7 * 9 * (5 + 3)),
    ],
)
def test_multiply_accumulates_of_products_of_other_kinds(
    tmp_path: Path, body: str, x: str, y: str, params: dict[str, tuple[int, ...]], count: int
) -> None:
    output = f"float[N,{y}] y" if y else "float[1,N,3] y"
    head = f'<ir_version: 10, opset_import: ["": 23]> g (float[N,{x}] x) => ({output})'
    model = onnx.parser.parse_model(f"{head} <int64[1] a = {{0}}> {{ {body} }}")
    for name, shape in params.items():
        model.graph.initializer.append(numpy_helper.from_array(np.full(shape, 2, np.float32), name))
    onnx.save(model, tmp_path / "n.onnx")
    assert macs(load(tmp_path / "n.onnx")) == count


def test_external_data_count_as_bytes_of_the_source(tmp_path: Path) -> None:
    model = onnx.load(write_net(tmp_path / "a.onnx", 1))
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=100)
    entry = onnxzip.plan({"a": tmp_path / "a.onnx", "e": tmp_path / "e.onnx"})["tasks"]["e"]
    assert entry["bytes"] == sum((tmp_path / n).stat().st_size for n in ("e.onnx", "e.bin"))
    assert entry["params"] == onnxzip.plan({"a": tmp_path / "a.onnx", "b": tmp_path / "a.onnx"})["tasks"]["a"]["params"]


def test_the_file_describes_itself(merged: onnxzip.Merged) -> None:
    entries = {p.key: p.value for p in merged.model.metadata_props}
    assert entries["onnxzip.version"] == onnxzip.__version__ and json.loads(entries["onnxzip.tasks"]) == ["low", "high"]
    sources = json.loads(entries["onnxzip.sources"])
    for task, name in TASKS.items():
        assert sources[task]["source"] == name and sources[task]["outputs"] == {"logits": f"{task}_logits"}
        assert sources[task]["sha256"] == merged.report["tasks"][task]["sha256"]
    graph = merged.model.graph
    owners = json.loads(entries["onnxzip.owners"])
    assert sorted(n for _, nodes, _ in owners for n in nodes) == sorted(n.name for n in graph.node)
    assert sorted(p for _, _, params in owners for p in params) == sorted(t.name for t in graph.initializer)
    assert {tuple(tasks) for tasks, _, _ in owners} == {("low", "high"), ("low",), ("high",)}
    assert json.loads(entries["onnxzip.shares"]) == [["*", 0.5]]


def test_python_result(merged: onnxzip.Merged, tmp_path: Path) -> None:
    merged.save(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == merged.content
    with pytest.raises(onnxzip.UsageError, match="--force"):
        merged.save(tmp_path / "m.onnx")
    merged.save(tmp_path / "m.onnx", force=True)
    merged.save_report(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == merged.report
    onnx.checker.check_model(merged.model, full_check=True)


class Log:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []
        self.notes: list[str] = []

    def begin(self, stage: str, total: int) -> None:
        self.stages.append([stage, total, 0])

    def advance(self, parts: int) -> None:
        self.stages[-1][2] += parts

    def detail(self, text: str) -> None:
        raise AssertionError("only retraining has details")

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_progress_reaches_the_total_of_every_stage(tmp_path: Path) -> None:
    log = Log()
    nets = {n: write_net(tmp_path / f"{n}.onnx", k) for k, n in enumerate("abc")}
    onnxzip.merge(nets, {"a": images(50), "b": images(60, 1), "c": images(70, 2)}, progress=log)
    assert [s[0] for s in log.stages] == ["load", "analyse", "data", "sweep", "zip", "verify"]
    done = {name: (total, parts) for name, total, parts in log.stages if name in ("sweep", "zip", "verify")}
    assert done == {"sweep": (162, 162), "zip": (3, 3), "verify": (18, 18)}


def test_stages_measure_what_fails_not(tmp_path: Path) -> None:
    stages = Stages(Log())
    with stages.stage("one", 2) as tick:
        tick(2)
    with stages.stage("one"):
        pass
    assert set(stages.measured()) == {"one", "total"} and stages.measured()["total"] >= stages.seconds["one"] > 0
