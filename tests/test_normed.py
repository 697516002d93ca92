"""Norms in front of the first layer: their gains and shifts, along channels of the input, are those of the layers behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fusing import check_all_shared, check_tasks, check_valid, fuse, permuted
from netfiles import check_same, ops, written

from onnxzip.analysis import analyse
from onnxzip.loading import load
from onnxzip.net import Net

NORMS = {
    "one node": "n = LayerNormalization<axis = -1>(x, g, h)",
    "no shift": "n = LayerNormalization<axis = -1>(x, g)",
    "root mean square": "n = RMSNormalization<axis = -1>(x, g)",
    "spelled out": """m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) e = Sqrt(v) u = Div(d, e)
        k = Mul(u, g) n = Add(k, h)""",
}
LAYERS = "a = MatMul(n, w) b = MatMul(n, w2) z = Mul(a, b)"


def net(folder: Path, seed: int, norm: str, layers: str = LAYERS) -> Net:
    graph = f"""g (float[N,4,6] x, float[6] g, float[6] h, float[6,8] w, float[6,8] w2, float[8,3] v2, int64[1] last)
    => (float[N,4,3] y) {{ {norm} {layers} r = Relu(z) y = MatMul(r, v2) }}"""
    rng, shapes = np.random.default_rng(seed), {"g": (6,), "h": (6,), "w": (6, 8), "w2": (6, 8), "v2": (8, 3)}
    given = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    path = written(folder, graph, opset=23, ir_version=10, last=np.array([-1]), **given)
    found = load(path, f"net{seed}")
    check_same(path, found)
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_go_into_the_layers_behind(norm: str, tmp_path: Path) -> None:
    nets = [net(tmp_path, seed, NORMS[norm]) for seed in (1, 2)]
    fused = fuse(nets, 1.0)
    check_all_shared(fused.plan)
    for share in (1.0, 0.5):
        check_valid(fuse(nets, share), nets)
    check_tasks(fuse(nets, 0.0), nets, 1e-5)
    copy = permuted(nets[0], 5, "copy")
    check_tasks(fuse([nets[0], copy], 1.0), [nets[0], copy], 1e-4)


@pytest.mark.parametrize("layers", ["a = MatMul(n, w) o = MatMul(x, w2) s = Add(n, x) c = MatMul(s, w2) z = Add(a, c)"])
def test_stay_where_something_else_reads_the_norm(layers: str, tmp_path: Path) -> None:
    found = net(tmp_path, 1, NORMS["one node"], layers)
    assert ops(found)[0] == "LayerNormalization" and not (found.params[str(found.nodes[0].inputs[1])] == 1).all()


def test_of_features_stay(tmp_path: Path) -> None:
    """A norm behind a layer has gains along channels that are matched."""
    graph = """g (float[N,4,6] x, float[6,8] w, float[8] w3, float[8,5] w2) => (float[N,4,5] y) {
        f = MatMul(x, w) n = LayerNormalization<axis = -1>(f, w3) y = MatMul(n, w2) }"""
    rng = np.random.default_rng(0)
    shapes = {"w": (6, 8), "w3": (8,), "w2": (8, 5)}
    given = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    found = load(written(tmp_path, graph, opset=17, **given), "a")
    assert np.array_equal(found.params[str(found.nodes[1].inputs[1])], given["w3"])
    check_all_shared(analyse([found, permuted(found, 5, "b")]))
