"""Nets whose params lie beside them: mapped, not read; and fused nets that one file cannot hold. The limits are made small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from merging import images, write_net

import onnxzip
from onnxzip.errors import InvalidModelError, UnsupportedError, UsageError
from onnxzip.exporting import describing
from onnxzip.exporting import shelf as shelf_module
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
    monkeypatch.setattr(describing, "LARGEST_FILE", 2000)


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

    real = shelf_module.os.rename
    monkeypatch.setattr("onnxzip.exporting.staging.os.rename", rename)
    with pytest.raises(UsageError, match="No space left"):
        result.save(out, force=True)
    assert renames and data.read_bytes() == b"mine" and {p.name for p in tmp_path.iterdir()} == before


def test_a_fused_net_beyond_one_file_is_not_retrained(limited: None, files: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedError, match="cannot be retrained"):
        onnxzip.merge(files, images(128), retrain=3)


def test_params_that_are_cut_short(small: None, files: dict[str, Path]) -> None:
    weights = files["a"].with_name("a.bin")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InvalidModelError):
        onnxzip.plan(files)
