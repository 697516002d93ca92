"""What stands at the ends of a net: a single channel, and outputs of whose channels nothing is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from architectures import Architecture, Maker, model_of
from fusing import check_tasks, check_valid, fuse, net_of
from onnx import numpy_helper, parser

from onnxzip.analysis import analyse
from onnxzip.errors import UnsupportedError
from onnxzip.net import Net

NET = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,8] x) => (float[{out}] y) <int64[1] last = {{-1}}, int64[3] image = {{-1,3,1}}> {{
    [first] h = Gemm<transB=1>(x, w0, b0) r = Relu(h) [second] g = Gemm<transB=1>(r, w1, b1) {end}
}}"""
IMAGES = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,3,6,6] x) => (float[N,4] y) {
    [first] h = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(h) [second] g = Conv(r, w1, b1) s = Relu(g)
    f = Flatten(s) [head] y = Gemm<transB=1>(f, w2, b2)
}"""
TWO_LAYERS = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,8] x) => ({out}) {{
    [first] h = Gemm<transB=1>(x, w0, b0) r = Relu(h) [second] g = Gemm<transB=1>(r, w1, b1) s = Relu(g)
    [head] y = Gemm<transB=1>(s, w2, b2)
}}"""
LAYOUTS = ("strands", "wide")


def filled(folder: Path, text: str, name: str, seed: int, **shapes: tuple[int, ...]) -> Net:
    """A net with random weights."""
    model, rng = parser.parse_model(text), np.random.default_rng(seed)
    for param, shape in shapes.items():
        array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), param))
    return net_of(folder, model, name)


def dense(folder: Path, name: str, seed: int, width: int, classes: int, end: str, out: str = "N,1") -> Net:
    text = NET.format(end=end, out=out)
    return filled(folder, text, name, seed, w0=(width, 8), b0=(width,), w1=(classes, width), b1=(classes,))


@pytest.mark.parametrize(
    ("end", "classes", "out"),
    [
        ("y = Sigmoid(g)", 1, "N,1"),
        ("y = Squeeze(g, last)", 1, "N"),
        ("s = Reshape(g, last) y = Tanh(s)", 1, "N"),
        ("y = ReduceMax<axes=[1]>(g)", 3, "N,1"),
        ("y = ReduceSum<keepdims=0>(g, last)", 3, "N"),
    ],
)
def test_what_makes_an_output_is_each_tasks_own(end: str, classes: int, out: str, tmp_path: Path) -> None:
    """Nothing that two tasks give away may be one and the same."""
    nets = [dense(tmp_path, t, k, 6, classes, end, out) for k, t in enumerate("ab")]
    fused = fuse(nets)
    assert [(s.name, s.shared) for s in fused.plan.shared_spaces()] == [("first", 6)]
    assert fused.plan.refusals == ()
    check_valid(fused, nets)


@pytest.mark.parametrize("widths", [(1, 16), (16, 1), (1, 1), (1, 4, 9)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_of_one_channel_corresponds_to_a_wide_one(widths: tuple[int, ...], layout: str, tmp_path: Path) -> None:
    nets = [dense(tmp_path, f"t{k}", k, w, 1, "y = Sigmoid(g)") for k, w in enumerate(widths)]
    fused = fuse(nets, 1.0, layout)
    check_valid(fused, nets)
    assert [s.shared for s in fused.plan.shared_spaces()] == [1]
    assert fused.plan.refusals == ()
    check_tasks(fuse(nets, 0.0, layout), nets, 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_channel_that_vanishes_in_a_product_of_axes_is_alone(layout: str, tmp_path: Path) -> None:
    """No other one can lie beside it in what a node takes for its positions alone."""
    first, head = {"w0": (5, 3, 3, 3), "b0": (5,)}, {"b2": (4,)}
    shapes = [first | {"w1": (w, 5, 1, 1), "b1": (w,), "w2": (4, 36 * w)} | head for w in (1, 3)]
    nets = [filled(tmp_path, IMAGES, f"t{k}", k, **some) for k, some in enumerate(shapes)]
    fused = fuse(nets, 1.0, layout)
    check_valid(fused, nets)
    assert any("'t0' alone" in r.why for r in fused.plan.refusals) == (layout == "wide")


def published(folder: Path, name: str, seed: int, out: str) -> Net:
    """A net that gives away some of its values."""
    shapes = {"w0": (6, 8), "b0": (6,), "w1": (6, 6), "b1": (6,), "w2": (3, 6), "b2": (3,)}
    return filled(folder, TWO_LAYERS.format(out=out), name, seed, **shapes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hidden_layer_that_is_an_output_is_reported(layout: str, tmp_path: Path) -> None:
    nets = [published(tmp_path, "a", 1, "float[N,3] y, float[N,6] s"), published(tmp_path, "b", 2, "float[N,3] y")]
    plan = analyse(nets, layout=layout)
    assert [(s.name, s.shared) for s in plan.shared_spaces()] == [("first", 6)]
    assert ("a: second", "an output of the net") in {(r.where, r.why) for r in plan.refusals}


@pytest.mark.parametrize("second", ["float[N,3] y", "float[N,3] y, float[N,6] r"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nets_that_could_share_but_cannot_are_refused_with_the_cause(second: str, layout: str, tmp_path: Path) -> None:
    """The cause comes before what follows from it: what reads each task's own cannot be shared."""
    nets = [published(tmp_path, "a", 1, "float[N,3] y, float[N,6] r"), published(tmp_path, "b", 2, second)]
    told = r"a, b share nothing \(a: first(, b: first)?: an output of the net.*second: all that"
    with pytest.raises(UnsupportedError, match=told) as caught:
        analyse(nets, layout=layout)
    assert caught.value.exit_code == 3
    for shares in (0.0, [("*", 1.0), ("second", 0.0)]):  # who asks for less has it
        check_tasks(fuse(nets, shares, layout), nets, 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nets_without_anything_alike_stand_side_by_side_where_nothing_is_asked_for(layout: str, tmp_path: Path) -> None:
    first = dense(tmp_path, "a", 1, 6, 3, "y = Sigmoid(g)", "N,3")
    other = filled(tmp_path, NET.format(end="y = Tanh(x)", out="N,8"), "b", 2, w0=(6, 8), b0=(6,), w1=(3, 6), b1=(3,))
    for shares in ((), 1.0, [("*", 0.0), ("*", 0.5)]):
        with pytest.raises(UnsupportedError, match="share nothing"):
            fuse([first, other], shares, layout)
    check_tasks(fuse([first, other], 0.0, layout), [first, other], 1e-5)


def test_the_one_score_of_each_of_a_layers_boxes(tmp_path: Path) -> None:
    """Joined with the boxes' corners, it is no channel that all tasks could be given."""

    def build(m: Maker, width: int, classes: int) -> str:
        x = m.relu(m.conv("image", (width, 3, 3, 3), strides=[4, 4]))
        found = [(m.conv(x, (2 * n, width, 1, 1)), n) for n in (4, 1)]
        rows = [m.op("Reshape", m.op("Transpose", v, perm=[0, 2, 3, 1]), m.ints(0, 18, n)) for v, n in found]
        return m.op("Concat", *rows, axis=2)

    nets = [net_of(tmp_path, model_of(Architecture(build), seed), name) for seed, name in ((1, "a"), (2, "b"))]
    for share in (1.0, 0.0):
        fused = fuse(nets, share)
        assert not fused.plan.refusals
        check_valid(fused, nets)


def test_a_pixel_shuffle_makes_a_head_that_is_no_refusal(tmp_path: Path) -> None:
    """What becomes positions of the output keeps its order as the output's channels do."""

    def build(m: Maker, width: int, classes: int) -> str:
        x = m.relu(m.conv("image", (width, 3, 3, 3)))
        return m.op("DepthToSpace", m.conv(x, (12, width, 3, 3)), blocksize=2, mode="CRD")

    nets = [net_of(tmp_path, model_of(Architecture(build), seed), name) for seed, name in ((1, "a"), (2, "b"))]
    fused = fuse(nets)
    assert [s.shared for s in fused.plan.shared_spaces()] == [4] and not fused.plan.refusals
    check_valid(fused, nets)
