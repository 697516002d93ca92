"""Channels with neighbours keep their order: the bins of a spectrum that a convolution runs over, the channels of an LRN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from fusing import check_all_shared, check_tasks, check_valid, fuse, net_of, permuted
from netfiles import written
from onnx import ModelProto, numpy_helper

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.loading import load
from onnxzip.net import Net

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
LOCAL = """<ir_version: 8, opset_import: ["" : 17]>
local (float[n, 3, 8, 8] x) => (float[n, 5] y) {
    a = Conv<pads=[1, 1, 1, 1]>(x, w0, b0)
    b = Relu(a)
    c = LRN<size=3, alpha=2.0>(b)
    d = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(c)
    left = Conv(d, w1, b1)
    right = Conv<pads=[1, 1, 1, 1]>(d, w2, b2)
    e = Concat<axis=1>(left, right)
    f = LRN<size=5, alpha=2.0>(e)
    g = Conv(f, w3, b3)
    h = Relu(g)
    p = GlobalAveragePool(h)
    q = Flatten(p)
    y = Gemm(q, w4, b4)
}"""
LOCAL_SHAPES = {
    "w0": (6, 3, 3, 3), "b0": (6,), "w1": (4, 6, 1, 1), "b1": (4,), "w2": (6, 6, 3, 3), "b2": (6,), "w3": (8, 10, 1, 1),
    "b3": (8,), "w4": (8, 5), "b4": (5,),
}
JOINED = f"""<ir_version: 8, opset_import: ["" : 17]>
joined (float[n, 12, 20] x) => (float[n, 5] y) {{
    h0 = Conv<kernel_shape=[1]>(x, w0, b0)
    h1 = Conv<kernel_shape=[1]>(x, w3, b3)
    h = Concat<axis=1>(h0, h1)
    t = Transpose<perm=[0, 2, 1]>(h)
    shape = Constant<value_ints=[0, 1, 20, {2 * BINS}]>()
    v = Reshape(t, shape)
    c = Conv<kernel_shape=[3, 3]>(v, w1, b1)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm(f, w2, b2)
}}"""
JOINED_SHAPES = SHAPES | {"w3": (BINS, 12, 1), "b3": (BINS,)}
WINDOW = """<ir_version: 8, opset_import: ["" : 17]>
window (float[n, 3, 8, 8] x) => (float[n, 5] y) {
    a = Conv<pads=[1, 1, 1, 1]>(x, w0, b0)
    b = Relu(a)
    c = Conv<pads=[1, 1, 1, 1]>(b, w1, b1)
    d = GlobalAveragePool(c)
    three = Constant<value_ints=[3]>()
    e = Squeeze(d, three)
    f = Transpose<perm=[0, 2, 1]>(e)
    g = Conv<pads=[1, 1]>(f, w2)
    h = Transpose<perm=[0, 2, 1]>(g)
    i = Unsqueeze(h, three)
    j = Sigmoid(i)
    k = Mul(c, j)
    l = Relu(k)
    m = Conv(l, w3, b3)
    o = Relu(m)
    p = GlobalAveragePool(o)
    q = Flatten(p)
    y = Gemm(q, w4, b4)
}"""
WINDOW_SHAPES = {
    "w0": (6, 3, 3, 3), "b0": (6,), "w1": (8, 6, 3, 3), "b1": (8,), "w2": (1, 1, 3), "w3": (10, 8, 1, 1), "b3": (10,),
    "w4": (10, 5), "b4": (5,),
}
Shapes = dict[str, tuple[int, ...]]
layouts = pytest.mark.parametrize("layout", ["strands", "wide"])


def model_with(text: str, weights: dict[str, np.ndarray]) -> ModelProto:
    """A net from its text and its weights."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items())
    return model


def drawn(shapes: Shapes, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights of moderate size."""
    return {name: rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:]))) for name, shape in shapes.items()}


def nets(folder: Path, apart: float) -> dict[str, Path]:
    """A net, and the same with other noise of a given size in all its weights."""
    rng, files = np.random.default_rng(0), {}
    started = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    for task in ("one", "two"):
        moved = {name: weights + apart * rng.standard_normal(weights.shape) for name, weights in started.items()}
        files[task] = folder / f"{task}.onnx"
        onnx.save(model_with(TEXT, moved), files[task])
    return files


def local_nets(folder: Path, text: str, shapes: Shapes, seeds: dict[str, int]) -> list[Net]:
    """Nets in canonical form, each with weights from a seed."""
    return [net_of(folder, model_with(text, drawn(shapes, np.random.default_rng(s))), t) for t, s in seeds.items()]


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


@layouts
def test_bins_are_shared_all_or_not_at_all(tmp_path: Path, layout: str) -> None:
    files = nets(tmp_path, 1.0)
    shared = [onnxzip.plan(files, share=f, layout=layout)["spaces"][0]["shared"] for f in (0.0, 0.25, 1.0)]
    assert shared == [0, BINS, BINS]


def test_bins_that_are_not_shared_lose_nothing(tmp_path: Path) -> None:
    files = nets(tmp_path, 1.0)
    name = onnxzip.plan(files)["spaces"][0]["name"]
    merged = onnxzip.merge(files, samples(1), share={"*": 1.0, name: 0.0})
    assert max(errors(files, merged.content)) < 1e-4


@layouts
def test_a_net_with_local_response_is_found_again_in_a_copy_of_it(tmp_path: Path, layout: str) -> None:
    a, b = local_nets(tmp_path, LOCAL, LOCAL_SHAPES, {"a": 1, "b": 1})
    copy = permuted(b, 5)
    moved = {name for name, array in b.params.items() if not np.array_equal(array, copy.params[name])}
    assert moved == {"w3", "b3", "w4"}  # what no LRN reads is in another order
    fused = fuse([a, copy], 1.0, layout)
    check_all_shared(fused.plan)
    check_tasks(fused, [a, b], 1e-4)


@layouts
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_unlike_nets_share_all_channels_of_a_local_response(tmp_path: Path, layout: str, share: float) -> None:
    made = local_nets(tmp_path, LOCAL, LOCAL_SHAPES, {"one": 1, "two": 2})
    fused = fuse(made, share, layout)
    check_valid(fused, made)
    assert [s.shared for s in fused.plan.shared_spaces()] == [6, 4, 6, round(8 * share)]
    assert sum(n.op == "LRN" for n in fused.net.nodes) == 2


@layouts
def test_a_local_response_over_parts_that_are_not_shared_alike_runs_for_each_task(tmp_path: Path, layout: str) -> None:
    made = local_nets(tmp_path, LOCAL, LOCAL_SHAPES, {"one": 1, "two": 1})
    right = fuse(made).plan.shared_spaces()[2].name
    fused = fuse(made, [("*", 1.0), (right, 0.0)], layout)
    check_tasks(fused, made, 1e-4)
    assert [s.shared for s in fused.plan.shared_spaces()] == [6, 4, 0, 0]
    assert sum(n.op == "LRN" for n in fused.net.nodes) == 3


def test_each_net_has_as_many_channels_of_a_local_response_that_follow_it(tmp_path: Path) -> None:
    fused = fuse(local_nets(tmp_path, LOCAL, LOCAL_SHAPES, {"one": 1, "two": 2}))
    for space in fused.plan.shared_spaces():
        members = fused.zipped.members[space.number, space.strands[0].key]
        assert {t: int(leads.sum()) for t, leads in members.leads.items()} == dict.fromkeys(space.sizes, space.shared // 2)
        if space.ordered:
            assert all(i.tolist() == list(range(space.shared)) for i in members.index.values())


def test_nets_of_different_width_keep_the_channels_of_a_local_response_apart(tmp_path: Path) -> None:
    wider = LOCAL_SHAPES | {"w1": (5, 6, 1, 1), "b1": (5,), "w3": (8, 11, 1, 1)}
    made = [*local_nets(tmp_path, LOCAL, LOCAL_SHAPES, {"one": 1}), *local_nets(tmp_path, LOCAL, wider, {"two": 2})]
    fused = fuse(made)
    check_valid(fused, made)
    left, right = fused.plan.shared_spaces()[1:3]
    assert (left.shared, right.shared) == (0, 6)
    assert [r.where for r in fused.plan.refusals if "keep their order" in r.why] == [left.name]


@layouts
def test_bins_beside_others_are_shared_as_these_are(tmp_path: Path, layout: str) -> None:
    made = local_nets(tmp_path, JOINED, JOINED_SHAPES, {"one": 1, "two": 2})
    first = fuse(made, 1.0, layout)
    check_valid(first, made)
    bins = [s.name for s in first.plan.shared_spaces()][:2]
    assert [s.shared for s in first.plan.shared_spaces()] == [BINS, BINS, 8]
    for name in bins:
        fused = fuse(made, [("*", 1.0), (name, 0.0)], layout)
        check_valid(fused, made)
        assert [s.shared for s in fused.plan.shared_spaces()] == [0, 0, 0]
        assert any("takes neighbours together" in r.why for r in fused.plan.refusals)


@layouts
def test_a_window_along_channels_is_found_again_in_a_copy_of_the_net(tmp_path: Path, layout: str) -> None:
    """Efficient channel attention: the gated channels keep their order, those before and behind them need not."""
    a, b = local_nets(tmp_path, WINDOW, WINDOW_SHAPES, {"a": 1, "b": 1})
    copy = permuted(b, 5)
    assert {name for name, array in b.params.items() if not np.array_equal(array, copy.params[name])} >= {"w0", "w3", "w4"}
    np.testing.assert_array_equal(b.params["b1"], copy.params["b1"])
    fused = fuse([a, copy], 1.0, layout)
    check_all_shared(fused.plan)
    check_tasks(fused, [a, b], 1e-4)


@layouts
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_unlike_nets_share_all_channels_that_a_window_runs_along(tmp_path: Path, layout: str, share: float) -> None:
    made = local_nets(tmp_path, WINDOW, WINDOW_SHAPES, {"one": 1, "two": 2, "three": 3})
    fused = fuse(made, share, layout)
    check_valid(fused, made)
    found = {s.name: s for s in fused.plan.shared_spaces()}
    gated = next(s for s in found.values() if s.ordered)
    assert gated.shared == (8 if share else 0)
    window = next(s for s in found.values() if s.sizes["one"] == 1)
    assert window.shared == (1 if share else 0)


@layouts
@pytest.mark.parametrize("apart", ["window", "gated"])
def test_a_window_is_shared_as_its_channels_are(tmp_path: Path, layout: str, apart: str) -> None:
    made = local_nets(tmp_path, WINDOW, WINDOW_SHAPES, {"one": 1, "two": 2})
    spaces = analyse(made).shared_spaces()
    name = next(s.name for s in spaces if (s.sizes["one"] == 1 if apart == "window" else s.ordered))
    fused = fuse(made, [("*", 1.0), (name, 0.0)], layout)
    check_valid(fused, made)
    assert [s.shared for s in fused.plan.shared_spaces() if s.ordered or s.sizes["one"] == 1] == [0, 0]


@layouts
def test_nets_of_different_width_keep_a_window_and_its_channels_apart(tmp_path: Path, layout: str) -> None:
    wider = WINDOW_SHAPES | {"w1": (9, 6, 3, 3), "b1": (9,), "w3": (10, 9, 1, 1)}
    made = [*local_nets(tmp_path, WINDOW, WINDOW_SHAPES, {"one": 1}), *local_nets(tmp_path, WINDOW, wider, {"two": 2})]
    fused = fuse(made, 1.0, layout)
    check_valid(fused, made)
    assert fused.plan.shared_spaces()[0].shared == 6
    assert any("keep their order" in r.why for r in fused.plan.refusals)


@pytest.mark.parametrize("layout", ["strands", "wide"])
def test_windows_along_shared_channels_make_channels_that_are_not(layout: str, tmp_path: Path) -> None:
    """Few numbers of a forecast, from which the rest are interpolated: they are shared, the forecast is each task's own."""
    graph = """g (float[N,6] x, float[8,6] w, float[3,8] few, float[6,8] many, float[3] scales, int64[1] one)
        => (float[N,6] y) { a = Gemm<transB = 1>(x, w) h = Relu(a) f = Gemm<transB = 1>(h, few) u = Unsqueeze(f, one)
        i = Resize<mode = "linear">(u, , scales) s = Squeeze(i, one) m = Gemm<transB = 1>(h, many) y = Add(s, m) }"""
    rng = np.random.default_rng(0)
    nets = []
    for task in ("a", "b"):
        given = {k: rng.standard_normal(s).astype(np.float32) for k, s in (("w", (8, 6)), ("few", (3, 8)), ("many", (6, 8)))}
        path = written(tmp_path, graph, scales=np.array([1, 1, 2], np.float32), one=np.array([1]), **given)
        nets.append(load(path, task))
    for share in (1.0, 0.5):
        check_valid(fuse(nets, share, layout), nets)
    copy = permuted(nets[0], 5, "b")
    check_tasks(fuse([nets[0], copy], 1.0, layout), [nets[0], copy], 1e-4)
