"""Slice and Split along the batch: the net takes the same part for any number of samples, or is refused by the node's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from fusing import check_all_shared, check_close, fuse, outputs, permuted, samples_for
from netfiles import loaded, ops, originals_outputs, written

from onnxzip.errors import UnsupportedError
from onnxzip.fusion.assembling import output_name
from onnxzip.loading import load

NUMBERS: Mapping[str, list[int]] = {"o": [0], "i": [1], "k": [2], "m": [-1], "end": [2**63 - 1]}
BATCH = "h = Shape (x) n = Slice (h, o, i) t = Add (n, n) u = Sub (o, n)"
TWINS = "c = Concat <axis = 0> (x, xz) e = MatMul (c, w)"
INPUTS = "float[N,6] x, float[N,6] xz, float[6,5] w"


def file(folder: Path, text: str, opset: int = 13, inputs: str = INPUTS) -> Path:
    numbers = "".join(f", int64[1] {name}" for name in NUMBERS)
    graph = f"g ({inputs}{numbers}) => (float[] y) {{ {text} }}"
    return written(folder, graph, opset, **{name: np.array(v) for name, v in NUMBERS.items()})


HALVES = {
    "to n, from n": "a = Slice (e, o, n, o) b = Slice (e, n, end, o)",
    "to n, n to 2n": "a = Slice (e, o, n, o) b = Slice (e, n, t, o)",
    "from the end": "a = Slice (e, o, u, o) b = Slice (e, u, end, o)",
    "of parts of their channels": """ni = Concat <axis = 0> (n, i) ok = Concat <axis = 0> (o, i) nk = Concat <axis = 0> (n, k)
        oo = Concat <axis = 0> (o, o) te = Concat <axis = 0> (t, m) a = Slice (e, oo, ni) a1 = Slice (e, nk, te, ok)
        b = ReduceSum (a1, i)""",
}


@pytest.mark.parametrize("cuts", HALVES.values(), ids=HALVES)
def test_halves_of_a_batch_of_pairs(cuts: str, tmp_path: Path) -> None:
    net = loaded(file(tmp_path, f"{BATCH} {TWINS} {cuts} y = Sub (a, b)"), (1, 2, 5))
    assert all(node.attrs["ends"][0] in (1, 2) for node in net.nodes if node.op == "Slice")


def test_the_middle_of_three(tmp_path: Path) -> None:
    text = f"{BATCH} c = Concat <axis = 0> (x, xz, x) e = MatMul (c, w) y = Slice (e, n, t)"
    assert loaded(file(tmp_path, text), (1, 2, 5)).nodes[-2].attrs["starts"] == (1,)


@pytest.mark.parametrize(
    ("split", "opset"), [("Split <axis = 0> (e, q)", 13), ("Split <axis = -2, num_outputs = 2> (e)", 18)]
)
def test_a_split_into_halves(split: str, opset: int, tmp_path: Path) -> None:
    text = f"{BATCH} {TWINS} q = Concat <axis = 0> (n, n) a, b = {split} y = Sub (a, b)"
    net = loaded(file(tmp_path, text, opset), (1, 2, 5))
    assert ops(net)[-5:] == ["Reshape", "Split", "Squeeze", "Squeeze", "Sub"]


def test_a_split_into_unequal_parts(tmp_path: Path) -> None:
    text = f"""{BATCH} {TWINS} f = Concat <axis = 0> (e, e) v = Add (t, n) q = Concat <axis = 0> (n, v)
        y, b = Split <axis = 0> (f, q)"""
    assert loaded(file(tmp_path, text), (1, 2, 5)).nodes[-2].attrs["split"] == (1, 3)


@pytest.mark.parametrize("cut", ["Slice (r, o, n, o)", "Slice (r, on, ni)", "Slice (r, u, end)"])
def test_a_slice_of_the_whole_batch(cut: str, tmp_path: Path) -> None:
    text = f"{BATCH} on = Concat <axis = 0> (o, o) ni = Concat <axis = 0> (n, k) r = Relu (x) y = {cut}"
    net = loaded(file(tmp_path, text, inputs="float[N,6] x"), (1, 2, 5))
    assert net.nodes[-1].attrs["ends"][0] == NUMBERS["end"][0]


@pytest.mark.parametrize(
    ("text", "node"),
    [
        (f"{TWINS} s = Add (n, i) y = Slice (e, i, s)", "Slice"),
        (f"{TWINS} y = Slice (e, n, o, o, m)", "Slice"),
        (f"{TWINS} p = ReduceSum (e, o) s = Add (n, n) y = Slice (e, o, n, i)", "Slice"),
        (f"{TWINS} y, j = TopK <axis = 0> (e, n)", "TopK"),
        (f"{TWINS} p = Concat <axis = 0> (n, o, o, o) y = Pad (e, p)", "Pad"),
    ],
)
def test_other_cuts_are_refused_by_name(text: str, node: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=rf"node '{node}_\d+' \({node}\)"):
        load(file(tmp_path, f"{BATCH} {text}"))


def test_nets_of_pairs_merge(tmp_path: Path) -> None:
    halves = HALVES["to n, from n"].replace("(e, ", "(r, ")
    path = file(
        tmp_path, f"{BATCH} {TWINS} r = Relu (e) {halves} d = Sub (a, b) y = MatMul (d, v)", inputs=f"{INPUTS}, float[5,3] v"
    )
    nets = [load(path, "a"), permuted(load(path, "b"), 5)]
    fused = fuse(nets)
    check_all_shared(fused.plan)
    feeds = samples_for(nets[0], 5, 8)
    found = outputs(fused.net, feeds)
    for net in nets:
        check_close(found[output_name(net.name, "y")], originals_outputs(path, feeds)[0], 1e-4)
