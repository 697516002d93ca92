"""Nets whose params lie beside them: mapped, not read; and fused nets that one file cannot hold. The limits are made small."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from merging import failed, images, snapshot, write_net
from merging import run as ran
from onnx import ModelProto, TensorProto, numpy_helper

import onnxzip
from onnxzip.errors import InvalidModelError, UnsupportedError, UsageError
from onnxzip.exporting import shelf as shelf_module
from onnxzip.exporting.shelf import PAGE
from onnxzip.exporting.splitting import split_model
from onnxzip.loading import load, mapped
from onnxzip.runtime import lending, session


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is treated apart because it is large, from a few bytes on."""
    monkeypatch.setattr(mapped, "SMALLEST", 64)
    monkeypatch.setattr(lending, "COPIED_BYTES", 0)
    monkeypatch.setattr(lending, "LENT_BYTES", 64)
    monkeypatch.setattr(shelf_module, "SMALLEST", 64)


@pytest.fixture
def limited(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ONNX file holds hardly anything."""
    monkeypatch.setattr("onnxzip.loading.beside.LARGEST_FILE", 2000)


def beside(folder: Path, name: str, seed: int) -> Path:
    """A net with its params in a file of their own."""
    path = write_net(folder / f"{name}.onnx", seed)
    model = onnx.load(path)
    path.unlink()
    onnx.save_model(model, path, save_as_external_data=True, location=f"{name}.bin", size_threshold=0)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {name: beside(tmp_path, name, seed) for seed, name in enumerate("ab")}


def run(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    found = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in found.get_outputs()], found.run(None, {found.get_inputs()[0].name: x}), strict=True))


def test_params_beside_are_mapped_and_the_same(small: None, files: dict[str, Path]) -> None:
    net = load(files["a"])
    large = [a for a in net.params.values() if a.nbytes >= 64]
    assert large and all(mapped.is_mapped(a) for a in large)
    x = images(7)
    wanted = run(files["a"], x)
    for name, got in session.open_session(net, "cpu", 1).run({net.inputs[0].name: x}).items():
        np.testing.assert_allclose(got, wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_mapped_nets_merge_as_others_do(share: float, small: None, files: dict[str, Path], tmp_path: Path) -> None:
    inside = {t: tmp_path / f"{t}-whole.onnx" for t in files}
    for task, path in files.items():
        onnx.save(onnx.load(path), inside[task])
    ours, theirs = (onnxzip.merge(f, images(64), share=share, seed=1) for f in (files, inside))
    for task in files:
        a, b = (m.report["tasks"][task]["fidelity"]["relative_error"] for m in (ours, theirs))
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)


def test_a_fused_net_beyond_one_file_is_two_files(limited: None, files: dict[str, Path], tmp_path: Path) -> None:
    result = onnxzip.merge(files, images(64))
    out = tmp_path / "both.onnx"
    result.save(out)
    data = tmp_path / "both.onnx.data"
    assert out.stat().st_size < 4_000 < data.stat().st_size
    assert result.report["merged"]["bytes"] == len(result.content) + data.stat().st_size
    onnx.checker.check_model(str(out), full_check=True)
    verified = onnxzip.verify(out, files, images(20, 9))
    for task, path in files.items():
        want = run(path, images(20, 9))
        got = run(out, images(20, 9))
        for name, y in want.items():
            error = np.linalg.norm(got[f"{task}_{name}"] - y) / np.linalg.norm(y)
            assert error == pytest.approx(verified["tasks"][task]["fidelity"]["relative_error"], rel=1e-3)


def test_both_files_or_none(limited: None, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = onnxzip.merge(files, images(64))
    out, data = tmp_path / "both.onnx", tmp_path / "both.onnx.data"
    data.write_bytes(b"mine")
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="exists already"):
        result.save(out)
    renames = []

    def rename(a: Path, b: Path) -> None:
        renames.append(b)
        if Path(b) == out:
            raise OSError(28, "No space left on device")
        real(a, b)

    real = os.rename
    monkeypatch.setattr("onnxzip.exporting.staging.os.rename", rename)
    with pytest.raises(UsageError, match="No space left"):
        result.save(out, force=True)
    assert renames and data.read_bytes() == b"mine" and {p.name for p in tmp_path.iterdir()} == before


def test_a_fused_net_beyond_one_file_is_not_retrained(limited: None, files: dict[str, Path]) -> None:
    def unread() -> Iterator[np.ndarray]:
        pytest.fail("data are read before it is refused")
        yield images(1)

    with pytest.raises(UnsupportedError, match="cannot be retrained"):
        onnxzip.merge(files, unread(), retrain=3)


def test_params_that_are_cut_short(small: None, files: dict[str, Path]) -> None:
    weights = files["a"].with_name("a.bin")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InvalidModelError):
        onnxzip.plan(files)


class TestTakenApart:
    """Commands on a fused net that is two files."""

    @pytest.fixture
    def fused(self, limited: None, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        onnxzip.merge(files, images(64), share=0.5).save(tmp_path / "both.onnx")
        monkeypatch.chdir(tmp_path)
        return tmp_path / "both.onnx"

    @pytest.fixture
    def one_file(self, fused: Path) -> Path:
        """The same net with everything inside."""
        onnx.save(onnx.load(fused), whole := fused.with_name("one.onnx"))
        return whole

    @pytest.fixture
    def unread(self, fused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody reads large params into memory."""
        real = mapped.load_external_data_for_tensor

        def load_small(tensor: TensorProto, folder: str) -> None:
            assert 4 * np.prod(tensor.dims) < mapped.SMALLEST, tensor.name
            real(tensor, folder)

        monkeypatch.setattr(mapped, "load_external_data_for_tensor", load_small)
        monkeypatch.setattr(onnx, "load_external_data_for_model", lambda *_: pytest.fail("all params are read"))

    def check(self, alone: Path, fused: Path, task: str) -> None:
        """A task alone computes what it computes in the fused net, to the bit."""
        onnx.checker.check_model(str(alone), full_check=True)
        got, want = run(alone, images(9, 3)), run(fused, images(9, 3))
        np.testing.assert_array_equal(got["logits"], want[f"{task}_logits"])

    def test_a_task_that_fits_becomes_one_file(self, fused: Path, unread: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxzip.loading.beside.LARGEST_FILE", 20_000)
        for task in "ab":
            assert f"task {task}" in ran("split", fused, "--task", task, "-o", f"{task}2.onnx").out
            assert not Path(f"{task}2.onnx.data").exists()
            assert not any(t.external_data for t in onnx.load(f"{task}2.onnx", load_external_data=False).graph.initializer)
            self.check(Path(f"{task}2.onnx"), fused, task)

    def test_what_is_written_is_what_is_returned(self, fused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxzip.loading.beside.LARGEST_FILE", 20_000)
        assert ran("split", fused, "--task", "a", "-o", "a2.onnx").code == 0
        written, given = onnx.load("a2.onnx"), onnxzip.split(fused, "a")
        for model in (written, given):
            tensors = sorted(model.graph.initializer, key=lambda t: t.name)
            del model.graph.initializer[:]
            for tensor in tensors:
                model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        assert written == given

    def test_a_task_beyond_one_file_becomes_two(self, fused: Path, unread: None) -> None:
        ran("split", fused, "--task", "b", "-o", "b2.onnx")
        graph, data = Path("b2.onnx"), Path("b2.onnx.data")
        inner = onnx.load(graph, load_external_data=False).graph.initializer
        assert {e.value for t in inner for e in t.external_data if e.key == "location"} == {data.name}
        assert data.stat().st_size < Path("both.onnx.data").stat().st_size
        self.check(graph, fused, "b")
        with pytest.raises(UnsupportedError, match=r"onnxzip split .*both\.onnx --task b"):
            onnxzip.split(fused, "b")

    def test_what_is_in_the_way_stays(self, fused: Path) -> None:
        data = Path("b2.onnx.data")
        data.write_bytes(b"mine")
        before = snapshot(fused.parent)
        failed(2, "split", fused, "--task", "b", "-o", "b2.onnx", words=("b2.onnx.data", "exists already", "--force"))
        (fused.parent / "b3.onnx.data").symlink_to("both.onnx.data")
        failed(2, "split", fused, "--task", "b", "-o", "b3.onnx", "--force", words=("b3.onnx.data", "is read by this command"))
        (fused.parent / "b3.onnx.data").unlink()
        assert snapshot(fused.parent) == before
        assert ran("split", fused, "--task", "b", "-o", "b2.onnx", "--force").code == 0
        self.check(Path("b2.onnx"), fused, "b")

    def test_another_computation_is_not_written(self, fused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoilt(model: ModelProto, task: str, where: str) -> ModelProto:
            alone = split_model(model, task, where)
            largest = max(alone.graph.initializer, key=lambda t: np.prod(t.dims))
            next(e for e in largest.external_data if e.key == "offset").value = "0"
            return alone

        monkeypatch.setattr("onnxzip.taking_apart.split_model", spoilt)
        before = snapshot(fused.parent)
        failed(1, "split", fused, "--task", "b", "-o", "b2.onnx", words=("'b'", "off by"))
        assert snapshot(fused.parent) == before

    def test_a_bundle_is_that_of_one_file(self, fused: Path, one_file: Path, unread: None) -> None:
        for path in (fused, one_file):
            assert ran("bundle", path, "-o", path.stem).code == 0
        assert snapshot(Path("both")) == snapshot(Path("one"))

    def test_looking_finds_what_it_finds_in_one_file(
        self, fused: Path, one_file: Path, files: dict[str, Path], unread: None
    ) -> None:
        inspected, differing = (
            [json.loads(ran(*command, path, *rest, "--json").out) for path in (fused, one_file)]
            for command, rest in ((("inspect",), ()), (("diff", files["a"]), ("--task", "a")))
        )
        for found in inspected:
            assert abs(found["file"].pop("bytes") - one_file.stat().st_size) < PAGE * len(found["nodes"])
            for key in ("source", "sha256"):
                found["file"].pop(key)
            for task in found["tasks"].values():
                assert 5_000 < task["alone"].pop("bytes") < one_file.stat().st_size
        for found in differing:
            found.pop("fused")
        assert inspected[0] == inspected[1] and differing[0] == differing[1]
        assert ran("inspect", fused, "--html", "page.html").code == 0 and "b alone" in Path("page.html").read_text()

    def test_a_further_net_is_merged(self, fused: Path, files: dict[str, Path], tmp_path: Path) -> None:
        nets = {**files, "c": beside(tmp_path, "c", 7)}
        merged = onnxzip.merge({"both": fused, "c": nets["c"]}, images(64))
        merged.save("three.onnx")
        assert Path("three.onnx.data").stat().st_size > 2_000
        told = onnxzip.verify("three.onnx", nets, images(20, 9))["tasks"]
        assert list(told) == ["a", "b", "c"] and all(t["fidelity"]["relative_error"] < 1 for t in told.values())
        assert ran("split", "three.onnx", "--task", "c", "-o", "c2.onnx").code == 0
        self.check(Path("c2.onnx"), Path("three.onnx"), "c")

    def test_what_needs_one_file_says_so(self, fused: Path, files: dict[str, Path], unread: None) -> None:
        teachers = [f"--teacher={t}={p}" for t, p in files.items()]
        np.save("x.npy", images(20))
        words = ("both.onnx", "2 GB", "`split`")
        failed(3, "retrain", fused, *teachers, "--data", "x.npy", "--steps", "2", "-o", "r.onnx", words=words)
        failed(3, "export", fused, "--target", "onnx-mobile", "-o", "e.onnx", words=words)
        with pytest.raises(UnsupportedError, match=r"both\.onnx: .* 2 GB .* `split` off a task"):
            onnxzip.to_torch(fused)
        assert not Path("r.onnx").exists() and not Path("e.onnx").exists()
