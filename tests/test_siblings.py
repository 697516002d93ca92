"""Encoders that were trained apart from one start merge with little loss at share 1, without retraining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from merging import fed
from zoo.siblings import frequent, last, moved, samples, saved, sibling, started

import onnxzip

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
