"""Nets that take one sample beside nets that take any number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from netfiles import originals_outputs, written

import onnxzip
from onnxzip.errors import UnsupportedError
from onnxzip.loading import load_all

SHAPED = """g (float[{n},2,3,4] x, float[24,6] w, float[6] b, float[6,{k}] v, int64[2] flat, int64[3] back) => (float[] y)
{{ f = Reshape(x, flat) m = MatMul(f, w) a = Add(m, b) r = Relu(a)
   t = Reshape(r, back) h = Tanh(t) u = Flatten(h) y = MatMul(u, v) }}"""


def net(folder: Path, n: str, k: int, back: list[int], seed: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    given = {"w": rng.standard_normal((24, 6)), "b": rng.standard_normal(6), "v": rng.standard_normal((6, k))}
    arrays = {name: a.astype(np.float32) for name, a in given.items()}
    return written(folder, SHAPED.format(n=n, k=k), flat=np.array([1 if n == "1" else -1, 24]), back=np.array(back), **arrays)


def test_one_sample_beside_any_number(tmp_path: Path) -> None:
    files = {"one": net(tmp_path / "a", "1", 3, [1, 2, 3], 1), "any": net(tmp_path / "b", "N", 4, [-1, 2, 3], 2)}
    assert [n.inputs[0].shape for n in load_all(files)] == [(-1, 2, 3, 4)] * 2
    x = np.random.default_rng(0).standard_normal((64, 2, 3, 4)).astype(np.float32)
    merged = onnxzip.merge(files, x, share=0.0)
    for task, file in files.items():
        assert merged.report["tasks"][task]["fidelity"]["relative_error"] < 1e-5
        assert originals_outputs(file, {"x": x[:1]})[0].shape[0] == 1
    assert all(space["shared"] for space in onnxzip.plan(files)["spaces"])


def test_one_sample_each_stays_one_sample(tmp_path: Path) -> None:
    files = {k: net(tmp_path / k, "1", 3, [1, 2, 3], seed) for seed, k in enumerate("ab")}
    x = np.random.default_rng(0).standard_normal((128, 2, 3, 4)).astype(np.float32)
    merged = onnxzip.merge(files, x)
    assert merged.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert max(t["fidelity"]["relative_error"] for t in merged.report["tasks"].values()) < 1


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("m = ReduceMax<axes=[0], keepdims=1>(x) d = Sub(x, m) y = MatMul(d, w)", "another for several samples"),
        ("s = Squeeze(x, axes) y = MatMul(s, w)", "cannot be made to"),
    ],
)
def test_nets_that_mix_their_samples_are_refused(body: str, word: str, tmp_path: Path) -> None:
    text = f"g (float[1,4] x, float[4,6] w, int64[1] axes) => (float[] y) {{ {body} }}"
    mixing = written(tmp_path, text, axes=np.array([0]))
    (tmp_path / "b").mkdir()
    free = written(tmp_path / "b", "g (float[N,4] x, float[4,6] w) => (float[N,6] y) { y = MatMul(x, w) }")
    with pytest.raises(UnsupportedError, match=word):
        load_all({"one": mixing, "any": free})
