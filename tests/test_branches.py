"""An If that becomes a Where computes what it did, whatever the condition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from netfiles import ops, originals_outputs, written

from onnxzip.loading import load
from onnxzip.runtime import open_session

CHOICE = """g (float[1,5] x, float[3,5] w, float[3,5] v) => (float[1,3] y) <float limit = {{0.0}}>
{{ s = ReduceSum<keepdims={keep}>(x) c = Greater(s, limit) [choice] y = If(c)
    <then_branch = t () => (float[1,3] a) <float two = {{2.0}}> {{ h = Gemm<transB=1>(x, w) a = Mul(h, two) }},
     else_branch = f () => (float[1,{second}] b) {{ h = Gemm<transB=1>(x, {other}) b = Relu(h) }}> }}"""


@pytest.mark.parametrize("keep", [0, 1])
def test_both_branches_are_computed_and_one_is_chosen(keep: int, tmp_path: Path) -> None:
    path = written(tmp_path, CHOICE.format(keep=keep, second=3, other="v"))
    net = load(path)
    assert "If" not in ops(net) and ops(net).count("Gemm") == 2 and "Where" in ops(net)
    session = open_session(net, "cpu", 1)
    x = np.random.default_rng(0).standard_normal((1, 5)).astype(np.float32)
    found = []
    for feeds in ({"x": x - x.mean() + 1}, {"x": x - x.mean() - 1}):
        (want,) = originals_outputs(path, feeds)
        found.append(want)
        np.testing.assert_allclose(session.run(feeds)["y"], want, rtol=1e-5)
    assert not np.allclose(*found)


def test_branches_of_other_shapes_stay_control_flow(tmp_path: Path) -> None:
    """Where needs both: which shape comes out is not known before it runs."""
    text = """g (float[1,5] x) => (float[1,M] y) <float limit = {0.0}, int64[1] a = {0}, int64[1] e = {3}, int64[1] k = {1}>
    { s = ReduceSum<keepdims=0>(x) c = Greater(s, limit)
      [choice] y = If(c) <then_branch = t () => (float[1,5] p) { p = Relu(x) },
                          else_branch = f () => (float[1,3] q) { q = Slice(x, a, e, k) }> }"""
    net = load(written(tmp_path, text))
    assert "Where" not in ops(net)
    assert net.tail is not None
    assert [name for name, _ in net.tail.begins] == ["choice"]
