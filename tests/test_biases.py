"""A net whose layers have no biases merges with one whose layers have some, as a fused file has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fusing import check_all_shared, check_tasks, check_valid, fuse, net_of
from merging import images, run
from onnx import ModelProto, numpy_helper, parser

NET = """<ir_version: 8, opset_import: ["": 17]>
net (float[N, 1, 6, 6] image) => (float[N, 4] logits) {{
    a = Conv <pads = [1,1,1,1]> (image, w0{b0})
    b = Relu (a)
    c = Conv <group = 5, pads = [1,1,1,1]> (b, w1{b1})
    d = Relu (c)
    t = Transpose <perm = [0,2,3,1]> (d)
    e0 = MatMul (t, w2)
    {e}
    f = ReduceMean <axes = [1,2], keepdims = 0> (e)
    g = Gemm (f, w3{b3})
    h = Relu (g)
    logits = MatMul (h, w4)
}}"""
ADDED, BARE = "e1 = Add (e0, b2) e = Relu (e1)", "e = Relu (e0)"
SHAPES = {"w0": (5, 1, 3, 3), "w1": (5, 1, 3, 3), "w2": (5, 7), "w3": (7, 6), "w4": (6, 4)}
BIASES = {"b0": (5,), "b1": (5,), "b2": (7,), "b3": (6,)}


def model(seed: int, *biases: str) -> ModelProto:
    """A net with some biases; others that differ in these alone have the same weights."""
    rng = np.random.default_rng(seed)
    written = {b: f", {b}" if b in biases else "" for b in BIASES}
    made = parser.parse_model(NET.format(e=ADDED if "b2" in biases else BARE, **written))
    arrays = {n: rng.standard_normal(s) / np.sqrt(np.prod(s[1:]) if len(s) > 2 else s[0]) for n, s in SHAPES.items()}
    arrays |= {b: rng.standard_normal(BIASES[b]) for b in biases}
    made.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    return made


@pytest.mark.parametrize("biases", [("b0",), ("b1",), ("b2",), ("b3",), tuple(BIASES)], ids="+".join)
@pytest.mark.parametrize("first", [0, 1])
def test_nets_that_differ_in_biases_share_everything(biases: tuple[str, ...], first: int, tmp_path: Path) -> None:
    made = {"biased": model(1, *biases), "bare": model(2)}
    nets = [net_of(tmp_path, m, name) for name, m in list(made.items())[:: 1 - 2 * first]]
    fused = fuse(nets)
    check_all_shared(fused.plan)
    check_valid(fused, nets)
    check_tasks(fuse(nets, 0.0), nets, 1e-5)


def test_a_bias_of_zero_is_none(tmp_path: Path) -> None:
    zero = model(1, *BIASES)
    for tensor in zero.graph.initializer:
        if tensor.name in BIASES:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(BIASES[tensor.name], np.float32), tensor.name))
    nets = [net_of(tmp_path, zero, "zero"), net_of(tmp_path, model(1), "bare")]
    fused = fuse(nets)
    check_all_shared(fused.plan)
    check_tasks(fused, nets, 1e-5)
    assert all(fused.zipped.same[s.number] == s.shared for s in fused.plan.shared_spaces())


def test_a_fused_file_is_merged_with_a_third_net_that_has_no_biases(tmp_path: Path) -> None:
    for k, name in enumerate("abc"):
        (tmp_path / f"{name}.onnx").write_bytes(model(k).SerializeToString())
    np.savez(tmp_path / "d.npz", x=images(100))
    a, b, c, both, three = (tmp_path / f"{name}.onnx" for name in ("a", "b", "c", "ab", "abc"))
    data = ("--data", tmp_path / "d.npz")
    assert run("merge", f"p={a}", f"q={b}", *data, "-o", both).code == 0
    ran = run("merge", f"both={both}", f"r={c}", *data, "-o", three, "--json")
    report = json.loads(ran.out)
    assert ran.code == 0 and not report["refusals"]
    assert [s["shared"] for s in report["spaces"]] == [5, 7, 6]
    assert report["merged"]["params_ratio"] < 0.75
