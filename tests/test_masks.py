"""Masks are no weights: retraining leaves them, and `to_torch` gives them no gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from netfiles import written
from onnx import numpy_helper

import onnxzip
from onnxzip.config import RetrainOptions

LAYERS = "n = MatMul (x, w) o = Add (n, b)"
ADDED = f"g (float[N,6] x, float[6,8] w, float[8] b, float[1,8] mask) => (float[N,8] y) {{ {LAYERS}%s y = Softmax (t) }}"
CHOSEN = f"""g (float[N,6] x, float[6,8] w, float[8] b, float[1] mask, float[8] bound) => (float[N,8] y) {{ {LAYERS}
    low = Less (o, bound) y = Where (low, mask, o) }}"""
PLAIN = f"g (float[N,6] x, float[6,8] w, float[8] b, float[1,8] mask) => (float[N,8] y) {{ {LAYERS}%s y = Identity (t) }}"
SUM, SHAPED = " t = Add (o, mask)", " s = Add (o, mask) z = Shape (o) t = Reshape (s, z)"
LOWEST = float(np.finfo(np.float32).min)


def with_last(value: float, others: float = 0.0) -> np.ndarray:
    return np.where(np.arange(8) < 6, others, value).astype(np.float32)[None]


def trained(file: Path) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in onnxzip.to_torch(file).params().items()}


@pytest.mark.parametrize(("text", "mask"), [
    (ADDED % SUM, with_last(-1e9)),
    (ADDED % SUM, with_last(LOWEST)),
    (ADDED % SUM, with_last(-1e4)),
    (ADDED % SUM, with_last(-np.inf)),
    (ADDED % SUM, with_last(-100.0)),
    (ADDED % SUM, with_last(-1e9, 0.3)),
    (ADDED % SHAPED, with_last(-1e9, 0.3)),
    (PLAIN % SUM, with_last(-1e9)),
    (CHOSEN, np.array([-1e4], np.float32)),
])
def test_masks_get_no_gradient(text: str, mask: np.ndarray, tmp_path: Path) -> None:
    found = trained(written(tmp_path, text, mask=mask))
    assert not found["mask"] and found["w"] and found["b"]


@pytest.mark.parametrize(("text", "mask"), [
    (ADDED % SUM, with_last(-3.0, 0.3)),
    (ADDED % SUM, with_last(-100.0, 0.3)),
    (ADDED % SUM, with_last(0.0)),
    (PLAIN % SUM, with_last(-100.0)),
    (PLAIN % SUM, with_last(2.5e5, 1e5)),
    (PLAIN % SUM, with_last(-2.5e5, -1e5)),
])
def test_other_params_do(text: str, mask: np.ndarray, tmp_path: Path) -> None:
    """Also of nets whose answers are large."""
    assert trained(written(tmp_path, text, mask=mask))["mask"]


@pytest.mark.parametrize("low", [-1e9, LOWEST])
def test_retraining_leaves_them(low: float, tmp_path: Path) -> None:
    """Hidden positions of an attention: the mask is the same in both nets and in the fused one."""
    text = """g (float[N,4,6] x, float[6,8] wq, float[6,8] wk, float[6,8] wv, float[8,3] w, float[4,4] mask)
        => (float[N,4,3] y) {
        q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv) t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t)
        m = Add (s, mask) p = Softmax <axis = -1> (m) a = MatMul (p, v) y = MatMul (a, w) }"""
    mask = np.where(np.tri(4) > 0, 0, low).astype(np.float32)
    files = {}
    for seed, task in enumerate("ab"):
        rng = np.random.default_rng(seed)
        given = {n: rng.standard_normal((6, 8)).astype(np.float32) / 2 for n in ("wq", "wk", "wv")}
        (tmp_path / task).mkdir()
        files[task] = written(
            tmp_path / task, text, mask=mask, w=rng.standard_normal((8, 3)).astype(np.float32), **given
        )
    x = np.random.default_rng(5).standard_normal((200, 4, 6)).astype(np.float32)
    onnxzip.merge(files, x[:40], device="cpu").save(tmp_path / "m.onnx")
    done = onnxzip.retrain(
        tmp_path / "m.onnx", files, x, steps=30, options=RetrainOptions(learning_rate=0.01), device="cpu"
    )
    assert done.report["retrain"]["kept_step"] > 0
    held = [numpy_helper.to_array(t) for t in done.model.graph.initializer]
    assert [a.tobytes() for a in held if a.size and a.dtype == np.float32 and a.min() < -1e3] == [mask.tobytes()]


def test_a_mask_is_still_a_parameter(tmp_path: Path) -> None:
    """Whoever wants to train it asks for it, and it goes back into the file."""
    module = onnxzip.to_torch(written(tmp_path, ADDED % SUM, mask=with_last(-1e9)))
    mask = module.params()["mask"].requires_grad_()
    with torch.no_grad():
        mask[0, 0] = -2.0
    onnxzip.from_torch(module, tmp_path / "t.onnx")
    model = onnx.load(tmp_path / "t.onnx")
    assert numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "mask"))[0, 0] == -2.0
