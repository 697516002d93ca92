"""Rows that are looked up sample by sample: the token at which each text ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from netfiles import loaded, written

from onnxzip.errors import UnsupportedError

NET = """g (float[N,4,3] x, int64[N,4] xids) => (float[N,3] y)
<int64 none = {{0}}, int64 one = {{1}}, int64 four = {{4}}, int64[1] last = {{-1}}, int64[2] flat = {{-1,3}}>
{{
    shape = Shape(xids)
    batch = Gather<axis=0>(shape, none)
    samples = Range(none, batch, one)
    end = ArgMax<axis=-1, keepdims=0>(xids)
    {way}
}}"""
PAIRS = """a = Unsqueeze(samples, last)
    b = Unsqueeze(end, last)
    at = Concat<axis=-1>(a, b)
    y = GatherND(x, at)"""
PLACES = """start = Mul(samples, four)
    at = Add(end, start)
    all = Reshape(x, flat)
    y = Gather<axis=0>(all, at)"""


@pytest.mark.parametrize("way", [PAIRS, PLACES], ids=["pairs", "places"])
def test_the_same_rows_for_any_number_of_samples(way: str, tmp_path: Path) -> None:
    net = loaded(written(tmp_path, NET.format(way=way), 17), batches=(1, 5))
    (lookup,) = (n for n in net.nodes if n.op == "GatherND")
    assert lookup.attrs["batch_dims"] == 1 and not net.params


@pytest.mark.parametrize("way", [PAIRS, PLACES], ids=["pairs", "places"])
def test_rows_of_other_samples_are_refused(way: str, tmp_path: Path) -> None:
    turned = "top = Sub(batch, one) turned = Sub(top, samples) " + way.replace("(samples,", "(turned,")
    text = NET.format(way=turned)
    with pytest.raises(UnsupportedError, match="depends on the batch size"):
        loaded(written(tmp_path, text, 17))
