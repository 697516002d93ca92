"""Params that say the same of every channel, written once for several nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from architectures import Architecture, Maker, model_of
from fusing import check_tasks, check_valid, fuse, net_of, permuted

import onnxzip
from onnxzip.inspection.differing import diff


def generator(m: Maker, w: int, classes: int) -> str:
    """Residual blocks whose norms have no weights: one scale of ones and one bias of zeros for all of them."""
    scale, bias = m.param(np.ones(w, np.float32)), m.param(np.zeros(w, np.float32))

    def normed(x: str, inputs: int) -> str:
        return m.op("InstanceNormalization", m.conv(x, (w, inputs, 3, 3)), scale, bias)

    x = m.relu(normed("image", 3))
    for _ in range(2):
        x = m.op("Add", x, normed(m.relu(normed(x, w)), w))
    return m.conv(x, (3, w, 3, 3))


FAMILY = Architecture(generator, {"image": (3, 8, 8)})


def test_layers_of_one_width_are_matched_each_for_itself(tmp_path: Path) -> None:
    nets = [net_of(tmp_path, model_of(FAMILY, seed, 6), name) for seed, name in ((1, "a"), (2, "b"))]
    fused = fuse(nets, 1.0)
    check_valid(fused, nets)
    assert [s.shared for s in fused.plan.shared_spaces()] == [6, 6, 6]
    check_tasks(fuse(nets, 0.0), nets, 1e-5)
    nets[1] = permuted(nets[0], 5, "b")
    check_tasks(fuse(nets, 1.0), nets, 1e-4)


def test_diff_knows_them(tmp_path: Path) -> None:
    files = {task: tmp_path / f"{task}.onnx" for task in ("a", "b")}
    for seed, file in enumerate(files.values()):
        file.write_bytes(model_of(FAMILY, seed, 6).SerializeToString())
    onnxzip.merge(files, np.random.default_rng(0).random((50, 3, 8, 8), np.float32)).save(tmp_path / "both.onnx")
    nodes = diff(files["a"], tmp_path / "both.onnx", "a")["nodes"]
    assert [n["change"] for n in nodes if n["op"] == "InstanceNormalization"] == [0.0] * 5
