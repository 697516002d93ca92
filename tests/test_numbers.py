"""Single numbers that act on channels, others in each net: the trunk goes on through them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fusing import check_all_shared, check_tasks, check_valid, fuse, net_of, permuted
from merging import fed
from onnx import ModelProto, numpy_helper, parser

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.inspection.differing import diff
from onnxzip.net import Net

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
numbers (float[n, 3, 8, 8] image) => (float[n, 5] y) {
    a = Conv<pads = [1, 1, 1, 1]>(image, w0, b0)
    b = PRelu(a, slope)
    c = Conv<pads = [1, 1, 1, 1]>(b, w1, b1)
    d = Relu(c)
    bs = Mul(p, b)
    ds = Div(d, q)
    e = Add(bs, ds)
    f = Sub(e, r)
    half = Mul(f, h)
    g = Relu(half)
    i = Conv(g, w2, b2)
    j = Relu(i)
    k = GlobalAveragePool(j)
    l = Flatten(k)
    y = Gemm<transB = 1>(l, w3, b3)
}"""
SHAPES: dict[str, tuple[int, ...]] = {
    "w0": (6, 3, 3, 3), "b0": (6,), "w1": (6, 6, 3, 3), "b1": (6,), "w2": (8, 6, 3, 3), "b2": (8,), "w3": (5, 8), "b3": (5,),
}
NUMBERS = ("slope", "p", "q", "r")
every_layout = pytest.mark.parametrize("layout", ["strands", "wide"])


def model(seed: int, numbers: dict[str, float] | None = None, shape: tuple[int, ...] = ()) -> ModelProto:
    """A net with numbers of its own, and a half that all nets have."""
    made, rng = parser.parse_model(TEXT), np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(s) / np.sqrt(max(1, np.prod(s[1:]))) for name, s in SHAPES.items()}
    drawn = {name: rng.uniform(0.3, 1.3) for name in NUMBERS} | (numbers or {})
    arrays |= {name: np.full(shape, value) for name, value in drawn.items()} | {"h": np.full(shape, 0.5)}
    made.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items())
    return made


def nets(folder: Path, *seeds: int) -> list[Net]:
    return [net_of(folder, model(s), f"net{s}") for s in seeds]


def test_nets_that_differ_in_numbers_share_everything(tmp_path: Path) -> None:
    check_all_shared(analyse(nets(tmp_path, 1, 2)))
    check_all_shared(analyse(nets(tmp_path, 1, 2, 3)))


@every_layout
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_merge(tmp_path: Path, layout: str, share: float) -> None:
    made = nets(tmp_path, 1, 2, 3)
    fused = fuse(made, share, layout)
    check_valid(fused, made)
    if not share:
        check_tasks(fused, made, 1e-5)


@every_layout
def test_shared_channels_have_the_mean_and_own_ones_their_own(tmp_path: Path, layout: str) -> None:
    fused = fuse(nets(tmp_path, 1, 2), 0.5, layout)
    want = {name: [numpy_helper.to_array(t).item() for s in (1, 2) for t in model(s).graph.initializer if t.name == name]
            for name in NUMBERS}
    for name, (one, two) in want.items():
        found = np.concatenate([a.ravel() for v, a in fused.net.params.items() if v == name or v.endswith(f"_{name}")])
        np.testing.assert_allclose(sorted(found), sorted([one] * 3 + [two] * 3 + [(one + two) / 2] * 3), rtol=1e-5)


def test_a_number_that_is_the_same_in_all_nets_stays_one(tmp_path: Path) -> None:
    fused = fuse(nets(tmp_path, 1, 2))
    assert fused.net.params["h"].size == 1
    same = fuse([net_of(tmp_path, model(1), name) for name in "ab"])
    assert all(same.net.params[name].size == 1 for name in NUMBERS)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_a_net_is_found_again_in_a_copy_of_it(tmp_path: Path, shape: tuple[int, ...]) -> None:
    a, b = (net_of(tmp_path, model(1, shape=shape), name) for name in "ab")
    fused = fuse([a, permuted(b, 5)])
    check_all_shared(fused.plan)
    check_tasks(fused, [a, b], 1e-4)


def test_numbers_of_values_without_channels_part_the_nets(tmp_path: Path) -> None:
    """A temperature on what has lost its channels is one value for all tasks: each keeps its own."""
    text = TEXT.replace("k = GlobalAveragePool(j)", "m = ReduceMean<axes = [1]>(j)\n    s = Mul(m, t)\n    u = Mul(j, s)\n"
                        "    k = GlobalAveragePool(u)")
    made = []
    for seed in (1, 2):
        net = parser.parse_model(text)
        net.graph.initializer.extend(model(seed).graph.initializer)
        net.graph.initializer.append(numpy_helper.from_array(np.float32(seed + 1), "t"))
        made.append(net_of(tmp_path, net, f"net{seed}"))
    plan = analyse(made)
    assert [s.shared for s in plan.shared_spaces()] == [6, 8]
    assert any("Mul [] has other params than in 'net1', and none are fitted for Mul" in r.why for r in plan.refusals)
    check_valid(fuse(made), made)


def test_the_file_tells_what_has_become_of_them(tmp_path: Path) -> None:
    files = {}
    for seed in (1, 2):
        files[f"net{seed}"] = tmp_path / f"net{seed}.onnx"
        onnx.save(model(seed), files[f"net{seed}"])
    x = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
    merged = onnxzip.merge(files, x, share=0.0)
    merged.save(tmp_path / "both.onnx")
    found = fed(tmp_path / "both.onnx", {"image": x})
    for task, file in files.items():
        np.testing.assert_allclose(found[f"{task}_y"], fed(file, {"image": x})["y"], rtol=1e-4, atol=1e-5)
        changed = diff(file, tmp_path / "both.onnx")
        assert changed["summary"]["change"] == 0
        assert {n["change"] for n in changed["nodes"] if n["op"] in ("PRelu", "Mul", "Div", "Sub")} == {0}
