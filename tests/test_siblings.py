"""Encoders that were trained apart from one start merge with little loss at share 1, without retraining."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import MODELS, fed
from onnx import numpy_helper
from zoo.siblings import frequent, last, moved, samples, saved, sibling, started

import onnxzip
from onnxzip.progress import Silent

LABELS = {"frequent": frequent, "last": last}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    start = started(16, 400, 1)
    nets = {task: sibling(start, label, 60, 3e-4, k) for k, (task, label) in enumerate(LABELS.items())}
    assert 0.001 < moved(*nets.values()) < 0.1
    folder = tmp_path_factory.mktemp("siblings")
    return {task: saved(net, folder / f"{task}.onnx") for task, net in nets.items()}


def errors(files: dict[str, Path], method: str) -> dict[str, float]:
    """Of the logits, relative to how far they are spread."""
    merged = onnxzip.merge(files, samples(400, 2), method=method)
    assert merged.report["merged"]["params_ratio"] < 0.51
    fused, fresh = fed(merged.content, samples(400, 3)), samples(400, 3)
    wanted = {task: fed(file, fresh)["out"] for task, file in files.items()}
    return {t: float(np.linalg.norm(fused[f"{t}_out"] - w) / np.linalg.norm(w - w.mean(axis=0))) for t, w in wanted.items()}


def test_little_is_lost(files: dict[str, Path]) -> None:
    found = {method: sum(errors(files, method).values()) / 2 for method in ("zip", "average")}
    assert found["zip"] < 0.15
    assert found["zip"] < 0.65 * found["average"]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A net, and one whose weights are off by a hundredth."""
    folder, rng = tmp_path_factory.mktemp("copies"), np.random.default_rng(0)
    other = onnx.load(MODELS / "lenet5-fashion.onnx")
    for tensor in other.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            off = array * (1 + 0.01 * rng.standard_normal(array.shape))
            tensor.CopyFrom(numpy_helper.from_array(off.astype(np.float32), tensor.name))
    onnx.save(other, folder / "other.onnx")
    return {"one": MODELS / "lenet5-fashion.onnx", "other": folder / "other.onnx"}


class TestNote:
    """Sharing a part of each space costs more than sharing all of it, where nets are akin."""

    def test_of_siblings_that_share_in_part(self, copies: dict[str, Path]) -> None:
        [note] = onnxzip.plan(copies, share=0.5)["notes"]
        assert re.search(r"the nets' weights are 1 % apart.* share 1\..* layout wide", note)
        told, data = Told(), MODELS / "data" / "fashion-calibration.npz"
        half = onnxzip.merge(copies, data, share=0.5, progress=told)
        assert note in told.notes
        assert spread(half, copies) > 10 * spread(onnxzip.merge(copies, data), copies)
        assert spread(half, copies) > 10 * spread(onnxzip.merge(copies, data, share=0.5, layout="wide"), copies)

    def test_not_where_all_is_shared_or_all_is_read(self, copies: dict[str, Path]) -> None:
        assert not any(onnxzip.plan(copies, share=share, layout=layout)["notes"] for share, layout in QUIET)

    def test_not_where_hardly_anything_is_shared_in_part(self, files: dict[str, Path]) -> None:
        assert onnxzip.plan(files, share=0.5)["notes"] == []  # streams, and what they add up, are shared wholly

    def test_not_of_strangers(self) -> None:
        strangers = {t: MODELS / f"lenet5-{t}.onnx" for t in ("fashion", "fashion-b")}
        assert onnxzip.plan(strangers, share=0.5)["notes"] == []


QUIET = (1.0, "strands"), (0.0, "strands"), (0.5, "wide")


class Told(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def spread(merged: onnxzip.Merged, files: dict[str, Path]) -> float:
    """Mean relative error of the tasks, as the report says."""
    return sum(merged.report["tasks"][task]["fidelity"]["relative_error"] for task in files) / len(files)
