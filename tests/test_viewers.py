"""The viewers in tools/, as commands on two sample nets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from merging import MODELS

import onnxzip

TOOLS = Path(__file__).parent.parent / "tools"
FILES = {t: MODELS / f"lenet5-fashion-{t}.onnx" for t in ("low", "high")}
DATA = {t: MODELS / "data" / f"fashion-{t}-calibration.npz" for t in FILES}


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half-shared LeNet-5."""
    pytest.importorskip("matplotlib", reason='matplotlib is not installed: pip install ".[tools]"')
    path = tmp_path_factory.mktemp("viewers") / "m.onnx"
    onnxzip.merge(FILES, DATA, share=0.5, samples=200).save(path)
    return path


def ran(script: str, fused: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A tool, as a process of its own."""
    command = [sys.executable, TOOLS / script, fused, *(f"{t}={f}" for t, f in FILES.items()), *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_channel_pairs(fused: Path, tmp_path: Path) -> None:
    for space, picture in (("*", "filters.svg"), ("/7*", "lines.png")):
        done = ran("channel_pairs.py", fused, "--space", space, "-o", tmp_path / picture)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / picture).stat().st_size > 2000
    text = (tmp_path / "filters.svg").read_text()
    assert all(word in text for word in ("low", "high", "fused", "/0/Conv"))
    assert "no space" in ran("channel_pairs.py", fused, "--space", "none", "-o", tmp_path / "x.svg").stderr


def test_correlation(fused: Path, tmp_path: Path) -> None:
    """The fused channel is nearer to each of its originals than these are to each other."""
    given = [a for t, f in DATA.items() for a in ("--data", f"{t}={f}")]
    done = ran("correlation.py", fused, *given, "--samples", 60, "-o", tmp_path / "c.svg")
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [(r[0], int(r[1])) for r in rows] == [("/0/Conv", 10), ("/3/Conv", 25), ("/7/Gemm", 80)]
    for _, _, before, *after in rows:
        assert all(float(before) < float(value) <= 1 for value in after)
    assert "<svg" in (tmp_path / "c.svg").read_text()
