"""Channels that become positions: the bins of a spectrum that a convolution runs over keep their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxzip

BINS = 24
TEXT = f"""<ir_version: 8, opset_import: ["" : 17]>
spectral (float[n, 12, 20] x) => (float[n, 5] y) {{
    h = Conv<kernel_shape=[1]>(x, w0, b0)
    s = Mul(h, h)
    t = Transpose<perm=[0, 2, 1]>(s)
    shape = Constant<value_ints=[0, 1, 20, {BINS}]>()
    v = Reshape(t, shape)
    c = Conv<kernel_shape=[3, 3]>(v, w1, b1)
    r = Relu(c)
    m = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)
    p = GlobalAveragePool(m)
    f = Flatten(p)
    y = Gemm(f, w2, b2)
}}"""
SHAPES = {"w0": (BINS, 12, 1), "b0": (BINS,), "w1": (8, 1, 3, 3), "b1": (8,), "w2": (8, 5), "b2": (5,)}


def nets(folder: Path, apart: float) -> dict[str, Path]:
    """A net, and the same with other noise of a given size in all its weights."""
    rng, files = np.random.default_rng(0), {}
    started = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    for task in ("one", "two"):
        model = onnx.parser.parse_model(TEXT)
        for name, weights in started.items():
            moved = weights + apart * rng.standard_normal(weights.shape)
            model.graph.initializer.append(numpy_helper.from_array(moved.astype(np.float32), name))
        files[task] = folder / f"{task}.onnx"
        onnx.save(model, files[task])
    return files


def samples(seed: int) -> np.ndarray:
    """Inputs whose twelve rows are unlike each other."""
    return (np.random.default_rng(seed).standard_normal((400, 12, 20)) * np.arange(1, 13)[:, None] / 6).astype(np.float32)


def errors(files: dict[str, Path], content: bytes) -> list[float]:
    """Relative error of each output, about its mean, on fresh samples."""
    def run(model: bytes | str, name: str) -> np.ndarray:
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        return np.asarray(session.run([name], {"x": samples(9)})[0])

    pairs = [(run(content, f"{t}_y"), run(str(f), "y")) for t, f in files.items()]
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b - b.mean(axis=0))) for a, b in pairs]


@pytest.mark.parametrize("method", ["zip", "permute", "rebasin", "zipit", "average"])
def test_siblings_keep_the_order_of_their_bins(tmp_path: Path, method: str) -> None:
    files = nets(tmp_path, 1e-3)
    merged = onnxzip.merge(files, samples(1), method=method)
    assert merged.report["merged"]["params_ratio"] < 0.6
    assert max(errors(files, merged.content)) < 0.02


@pytest.mark.parametrize("layout", ["strands", "wide"])
def test_bins_are_shared_all_or_not_at_all(tmp_path: Path, layout: str) -> None:
    files = nets(tmp_path, 1.0)
    shared = [onnxzip.plan(files, share=f, layout=layout)["spaces"][0]["shared"] for f in (0.0, 0.25, 1.0)]
    assert shared == [0, BINS, BINS]


def test_bins_that_are_not_shared_lose_nothing(tmp_path: Path) -> None:
    files = nets(tmp_path, 1.0)
    name = onnxzip.plan(files)["spaces"][0]["name"]
    merged = onnxzip.merge(files, samples(1), share={"*": 1.0, name: 0.0})
    assert max(errors(files, merged.content)) < 1e-4
