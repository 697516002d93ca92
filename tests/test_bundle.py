"""bundle: small graphs that read one file of weights, each param in it once; the folder appears whole or not at all."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import MODELS, failed, images, outputs_of, run, snapshot, write_net
from onnx import ModelProto

import onnxzip
import onnxzip.taking_apart
from onnxzip.errors import UsageError, VerificationError
from onnxzip.exporting import staging
from onnxzip.exporting.bundling import PAGE, PAGED
from onnxzip.exporting.splitting import split_model

WIDTH = 64  # of nets whose largest params fill many pages


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two wide nets merged at share 0.5 to m.onnx."""
    for name, seed in (("a", 1), ("b", 2)):
        write_net(tmp_path / f"{name}.onnx", seed, width=WIDTH, classes=4 if name == "a" else 3)
    np.savez(tmp_path / "d.npz", x=images(100))
    monkeypatch.chdir(tmp_path)
    assert run("merge", "a.onnx", "b.onnx", "--share", "0.5", "--data", "d.npz", "-o", "m.onnx").code == 0
    return tmp_path


def external(model: ModelProto) -> dict[str, tuple[str, int, int]]:
    """Param -> (file, offset, length)."""
    found = {}
    for tensor in model.graph.initializer:
        entry = {e.key: e.value for e in tensor.external_data}
        if entry:
            found[tensor.name] = entry["location"], int(entry["offset"]), int(entry["length"])
    return found


def test_each_task_computes_what_it_computes_in_the_fused_net(folder: Path) -> None:
    assert run("bundle", "m.onnx", "-o", "parts").code == 0
    x = images(7, 9)
    together = outputs_of(folder / "m.onnx", x)
    for task in "ab":
        alone = outputs_of(folder / "parts" / f"{task}.onnx", x)
        np.testing.assert_allclose(alone["logits"], together[f"{task}_logits"], rtol=1e-5, atol=1e-5)
        onnx.checker.check_model(str(folder / "parts" / f"{task}.onnx"), full_check=True)
    assert sorted(p.name for p in (folder / "parts").iterdir()) == ["a.onnx", "b.onnx", "bundle.json", "weights.bin"]


def test_diff_says_that_the_fused_file_helps(folder: Path) -> None:
    """The graphs of a bundle do not tell where their channels come from."""
    assert run("bundle", "m.onnx", "-o", "parts").code == 0
    said = failed(3, "diff", "a.onnx", "parts/a.onnx", words=("parts/a.onnx", "the fused file that the bundle was made from"))
    assert "again" not in said


def test_every_param_lies_once_and_large_ones_on_a_page(folder: Path) -> None:
    run("bundle", "m.onnx", "-o", "parts")
    fused = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "m.onnx").graph.initializer}
    graphs = {t: onnx.load(folder / "parts" / f"{t}.onnx", load_external_data=False) for t in "ab"}
    places: dict[str, tuple[str, int, int]] = {}
    for model in graphs.values():
        for name, place in external(model).items():
            assert places.setdefault(name, place) == place
    weights = (folder / "parts" / "weights.bin").read_bytes()
    spans = sorted(places.values(), key=lambda p: p[1])
    assert all(a[1] + a[2] <= b[1] for a, b in pairwise(spans))
    assert spans[-1][1] + spans[-1][2] == len(weights)
    for name, (location, offset, length) in places.items():
        assert location == "weights.bin" and weights[offset : offset + length] == fused[name].tobytes()
        assert length < PAGED or offset % PAGE == 0
    assert sum(length >= PAGED for _, _, length in places.values()) >= 2
    shared = set(external(graphs["a"])) & set(external(graphs["b"]))
    assert shared and max(places[n][1] for n in shared) < min(places[n][1] for n in places if n not in shared)


@pytest.mark.parametrize("family", ["lenet5", "resnet", "mobilenet"])
def test_its_size(family: str, tmp_path: Path) -> None:
    """Two half-shared nets take the fused file's bytes and 5 % at most."""
    nets = {t: MODELS / f"{family}-fashion-{t}.onnx" for t in ("low", "high")}
    onnxzip.merge(nets, share=0.5, method="average").save(tmp_path / "m.onnx")
    report = onnxzip.bundle(tmp_path / "m.onnx", tmp_path / "parts")
    size = sum(p.stat().st_size for p in (tmp_path / "parts").iterdir())
    assert size == report["bytes"] <= 1.05 * (tmp_path / "m.onnx").stat().st_size
    manifest = json.loads((tmp_path / "parts" / "bundle.json").read_text())
    for task, entry in manifest["tasks"].items():
        assert entry["graph_bytes"] == (tmp_path / "parts" / f"{task}.onnx").stat().st_size
        assert entry["graph_bytes"] + entry["own_bytes"] < 0.8 * nets[task].stat().st_size


def test_what_it_says(folder: Path) -> None:
    ran = run("bundle", "m.onnx", "-o", "parts", "--json")
    report = json.loads(ran.out)
    assert ran.code == 0 and report["bytes"] == sum(p.stat().st_size for p in (folder / "parts").iterdir())
    tables = run("bundle", "m.onnx", "-o", "parts", "--force").out
    assert all(word in tables for word in ("a ", "b ", "own weights", "switch", f"{report['fused_bytes']:,}"))


def test_a_bundle_is_replaced_only_by_force_and_nothing_else_ever(folder: Path) -> None:
    run("bundle", "m.onnx", "-o", "parts")
    before = snapshot(folder)
    failed(2, "bundle", "m.onnx", "-o", "parts", words=("parts", "--force"))
    (folder / "mine").mkdir()
    failed(2, "bundle", "m.onnx", "-o", "mine", "--force", words=("mine", "bundle.json"))
    failed(2, "bundle", "m.onnx", "-o", ".", "--force", words=("no bundle", "d.npz"))
    failed(2, "bundle", "m.onnx", "-o", "a.onnx", "--force", words=("a.onnx", "is a file"))
    failed(2, "bundle", "m.onnx", "-o", "none/parts", words=("does not exist",))
    failed(3, "bundle", "a.onnx", "-o", "new", words=("not made by onnxzip",))
    (folder / "mine").rmdir()
    assert snapshot(folder) == before and not list(folder.glob(".*"))
    run("merge", "a.onnx", "b.onnx", "--share", "1", "--data", "d.npz", "-o", "m.onnx", "--force")
    assert run("bundle", "m.onnx", "-o", "parts", "--force").code == 0
    assert (folder / "parts" / "weights.bin").stat().st_size < 0.9 * onnx.load(folder / "a.onnx").ByteSize() * 2
    assert snapshot(folder / "parts") != {k.removeprefix("parts/"): v for k, v in before.items() if k.startswith("parts/")}


def test_a_difference_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that computes something else, here because one of its params is another, is not written."""

    def spoilt(model: ModelProto, task: str, where: str) -> ModelProto:
        alone = split_model(model, task, where)
        if task == "b":
            last = max(alone.graph.initializer, key=lambda t: len(t.raw_data))
            last.raw_data = (1.001 * np.frombuffer(last.raw_data, np.float32)).tobytes()
        return alone

    monkeypatch.setattr("onnxzip.exporting.bundling.split_model", spoilt)
    monkeypatch.setattr("onnxzip.taking_apart.split_model", spoilt)
    failed(1, "bundle", "m.onnx", "-o", "parts", words=("'b'", "'b_logits'", "off by"))
    failed(1, "split", "m.onnx", "--task", "b", "-o", "b2.onnx", words=("'b'", "'b_logits'", "off by"))
    assert not (folder / "parts").exists() and not (folder / "b2.onnx").exists() and not list(folder.glob(".*"))


def test_what_was_there_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second of two files cannot be moved, the first is as it was."""
    for name in ("one", "two"):
        (tmp_path / name).write_text("old")
    real = staging.os.rename

    def refuse(old: Path, new: Path) -> None:
        if Path(new).name == "two" and Path(old).read_text() == "new":
            raise OSError(28, "No space left on device")
        real(old, new)

    monkeypatch.setattr(staging.os, "rename", refuse)
    with pytest.raises(UsageError, match="No space left"), staging.staged(tmp_path / "one") as stage:
        staging.write_all(stage, {"one": b"new", "two": b"new"})
        staging.put({stage / "one": tmp_path / "one", stage / "two": tmp_path / "two"})
    assert [(tmp_path / n).read_text() for n in ("one", "two")] == ["old", "old"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_nothing_is_compared_loosely() -> None:
    from onnxzip.exporting.trial import check_alike, error_of

    y = np.array([[1.0, -4.0]], np.float32)
    assert error_of(y, y) == 0 and error_of(y + 0.04, y) == pytest.approx(0.01) and error_of(y * np.nan, y) == np.inf
    for found in ({}, {"y": y[:, :1]}, {"y": y * np.nan}, {"y": y + 0.001}):
        with pytest.raises(VerificationError, match="'y'"):
            check_alike("it", found, {"y": y})


def test_a_task_of_a_bundle_is_retrained_and_split(folder: Path) -> None:
    """What it reads of the file of weights is written, and counted, with it. Means of weights leave steps much to mend."""
    run("merge", "a.onnx", "b.onnx", "--share", "0.5", "--method", "mtz", "--data", "d.npz", "-o", "m.onnx", "--force")
    run("bundle", "m.onnx", "-o", "parts")
    graph = folder / "parts" / "a.onnx"
    mine = graph.stat().st_size + sum(length for _, _, length in external(onnx.load(graph, load_external_data=False)).values())
    ran = run("split", graph, "--task", "a", "-o", "a2.onnx")
    assert ran.code == 0 and f" of {mine:,} bytes" in ran.out
    assert run("bundle", graph, "-o", "again", "--json").out.count(f'"fused_bytes": {mine}') == 1
    ran = run("retrain", graph, "--teacher", "a=a.onnx", "--data", "d.npz", "--steps", 20, "-o", "better.onnx", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["retrain"]["kept_step"] > 0
    assert not external(onnx.load(folder / "better.onnx", load_external_data=False))
    want, before, after = (outputs_of(Path(f), images(50, 9))["logits"] for f in ("a.onnx", graph, "better.onnx"))
    assert np.linalg.norm(after - want) < np.linalg.norm(before - want)
