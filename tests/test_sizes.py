"""Inputs of any size: nets are merged at the size of their data, and the fused file takes every size that they take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fusing import fuse, samples_for
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st
from merging import entries, failed, fed, run
from netfiles import ops, written
from onnx import ModelProto, numpy_helper, parser
from random_graphs import IMAGE as DRAWN
from random_graphs import STEPS, Step, grown
from sizing import check_at, fused_with_copy, input_dims, planned_with_copy

import onnxzip
from onnxzip.calibration.samples import Source
from onnxzip.errors import InvalidDataError, UnsupportedError, VerificationError
from onnxzip.exporting.trial import check_other_size
from onnxzip.inspection.differing import diff
from onnxzip.inspection.inspecting import inspect
from onnxzip.loading import load
from onnxzip.merged import Merged
from onnxzip.net import Axis, Port
from onnxzip.retraining.module import read_module
from onnxzip.runtime import Session, open_file, open_session
from onnxzip.shipping.preparing import prepare_net

TOKENS, LONGEST, WIDTH = 20, 24, 8
EXACT = 1e-5

# an encoder as exporters write it for any length: positions looked up by a slice, shapes computed, a mask that hides nothing
TEXT = """text (int64[N,S] x, float[20,8] words, float[24,8] places,
 float[8,8] wq, float[8] bq, float[8,8] wk, float[8] bk, float[8,8] wv, float[8] bv, float[8,8] wo, float[8] bo,
 float[8] gain, float[8] shift, float[8,12] up, float[12] bu, float[12,8] down, float[8] bd, float[8,%d] head, float[%d] bh)
 => (float[N,%d] logits)
<int64[1] none = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] eight = {8},
 int64[1,24] numbers = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23}, float zero = {0.0}, float low = {-9.0}>
{
    shape = Shape(x)
    length = Gather<axis=0>(shape, one)
    samples = Gather<axis=0>(shape, none)
    some = Slice(numbers, none, length, one)
    word = Gather(words, x)
    place = Gather(places, some)
    e = Add(word, place)
    cut = Concat<axis=0>(samples, length, two, four)
    q = MatMul(e, wq)
    qb = Add(q, bq)
    qs = Reshape(qb, cut)
    qh = Transpose<perm=[0,2,1,3]>(qs)
    k = MatMul(e, wk)
    kb = Add(k, bk)
    ks = Reshape(kb, cut)
    kh = Transpose<perm=[0,2,3,1]>(ks)
    v = MatMul(e, wv)
    vb = Add(v, bv)
    vs = Reshape(vb, cut)
    vh = Transpose<perm=[0,2,1,3]>(vs)
    scores = MatMul(qh, kh)
    all = ConstantOfShape<value = int64[1] {1}>(length)
    hidden = Equal(all, none)
    masked = Where(hidden, low, zero)
    open = Add(scores, masked)
    chances = Softmax<axis=-1>(open)
    mixed = MatMul(chances, vh)
    back = Transpose<perm=[0,2,1,3]>(mixed)
    joint = Concat<axis=0>(samples, length, eight)
    flat = Reshape(back, joint)
    o = MatMul(flat, wo)
    ob = Add(o, bo)
    stream = Add(ob, e)
    norm = LayerNormalization(stream, gain, shift)
    u = MatMul(norm, up)
    ub = Add(u, bu)
    r = Relu(ub)
    d = MatMul(r, down)
    db = Add(d, bd)
    last = Add(db, norm)
    mean = ReduceMean<axes=[1], keepdims=0>(last)
    h = MatMul(mean, head)
    logits = Add(h, bh)
}"""
# one weight has a size of the input in it
FIXED = """fixed (float[N,3,L] x, float[6,3,3] w, float[6,7] p, float[2,6] h) => (float[N,2] y) {
    a = Conv<pads=[1,1]>(x, w)
    b = Add(a, p)
    c = Relu(b)
    d = ReduceMean<axes=[2], keepdims=0>(c)
    y = Gemm<transB=1>(d, h)
}"""
BELIEVED = """believed (float[N,S,4] x, float[28,6] w, float[6,2] h) => (float[N,2] y)
<int64[1] first = {0}, int64[1] width = {28}> {
    shape = Shape(x)
    batch = Gather<axis=0>(shape, first)
    wanted = Concat<axis=0>(batch, width)
    a = Reshape(x, wanted)
    b = MatMul(a, w)
    c = Relu(b)
    y = MatMul(c, h)
}"""
# every token sees those before it, the nearer ones more: tables made for the length
CAUSAL = """causal (float[N,S,4] x, float[4,6] w, float[6,6] v, float[6,2] h) => (float[N,2] y)
<int64[1] one = {1}, int64 none = {0}, int64 step = {%d}, float tenth = {0.1}> {
    shape = Shape(x)
    length = Gather<axis=0>(shape, one)
    number = Squeeze(length)
    places = Range(none, number, step)
    rows = Unsqueeze(places, one)
    distance = Sub(rows, places)
    float = Cast<to=1>(distance)
    far = Mul(float, tenth)
    near = Exp(far)
    square = Concat<axis=0>(length, length)
    ones = ConstantOfShape<value = float[1] {0.1}>(square)
    triangle = Trilu<upper=0>(ones)
    whole = Expand(near, square)
    before = Mul(whole, triangle)
    a = MatMul(x, w)
    b = Relu(a)
    c = MatMul(before, b)
    d = MatMul(c, v)
    e = Relu(d)
    f = ReduceMean<axes=[1], keepdims=0>(e)
    y = MatMul(f, h)
}"""
IMAGE = """image (float[N,3,{size}] x, float[6,3,3,3] w, float[6] b, float[6,6,3,3] v, float[{classes},6] h)
 => (float[N,{classes}] y) {{
    a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w, b)
    r = Relu(a)
    c = Conv<pads=[1,1,1,1], strides=[2,2]>(r, v)
    s = Relu(c)
    {head}
    y = Gemm<transB=1>(f, h)
}}"""
POOLED = "p = GlobalAveragePool(s) f = Flatten(p)"
LATERAL = """lateral (float[N,3,H,W] x, float[6,3,3,3] w, float[6,6,3,3] v, float[6,6,1,1] u, float[2,6,1,1] h)
 => (float[N,2,A,B] y) <int64[1] none = {0}, int64[1] two = {2}, int64[1] four = {4}> {
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)
    fine = Relu(a)
    b = Conv<pads=[1,1,1,1], strides=[2,2]>(fine, v)
    coarse = Relu(b)
    side = Conv(fine, u)
    shape = Shape(side)
    size = Slice(shape, two, four)
    whole = Shape(coarse)
    first = Slice(whole, none, two)
    target = Concat<axis=0>(first, size)
    wide = Resize<mode="nearest">(coarse, , , target)
    sum = Add(wide, side)
    y = Conv(sum, h)
}"""


def text(folder: Path, seed: int = 0, classes: int = 3) -> Path:
    """The encoder with random weights, in a folder of its own."""
    rng = np.random.default_rng(seed)
    place = folder / f"text{seed}"
    place.mkdir()
    path = written(place, TEXT % (classes, classes, classes), 17)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim:
            tensor.CopyFrom(numpy_helper.from_array(0.5 * rng.standard_normal(array.shape).astype(np.float32), tensor.name))
    onnx.save(model, path)
    return path


def sentences(count: int, length: int, seed: int = 3) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).integers(0, TOKENS, (count, length))}


def pictures(count: int, *shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(sum(shape)).standard_normal((count, *shape), np.float32)}


def image(folder: Path, name: str, size: str = "H,W", head: str = POOLED, classes: int = 2) -> Path:
    place = folder / name
    place.mkdir()
    return written(place, IMAGE.format(size=size, head=head, classes=classes), 17)


class TestText:
    def test_takes_every_length(self, tmp_path: Path) -> None:
        """Law 4 at lengths that the merge has not seen, the table's whole length among them."""
        path = text(tmp_path)
        fused = fused_with_copy(path, sentences(60, 9), {"S": 9})
        assert not fused.plan.refusals and input_dims(fused) == {"x": ["N", "S"]}
        assert all(s.shared == max(s.sizes.values()) for s in fused.plan.shared_spaces())
        for length in (1, 5, 9, LONGEST):
            check_at(fused, path, sentences(4, length), EXACT)

    def test_half_of_it_shared(self, tmp_path: Path) -> None:
        path = text(tmp_path)
        fused = fused_with_copy(path, sentences(60, 9), {"S": 9}, 0.5)
        check_at(fused, path, sentences(4, 13), 1e-3)

    def test_is_fitted_as_well_as_one_of_fixed_length(self, tmp_path: Path) -> None:
        """Not the same: rows of the table of positions that the data do not reach are matched, too."""
        files = {t: text(tmp_path, k) for k, t in enumerate("ab")}
        data = sentences(60, 9)
        merged = onnxzip.merge(files, data, seed=0)
        fixed = {}
        for task, path in files.items():
            model = onnx.load(path)
            model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 9
            fixed[task] = path.with_name("fixed.onnx")
            onnx.save(model, fixed[task])
        again = onnxzip.merge(fixed, data, seed=0)
        for task, told in merged.report["tasks"].items():
            error = again.report["tasks"][task]["fidelity"]["relative_error"]
            assert 0.01 < told["fidelity"]["relative_error"] < 1.25 * error

    def test_without_data_a_plan_tells_its_length(self, tmp_path: Path) -> None:
        files = {t: text(tmp_path, k) for k, t in enumerate("ab")}
        report = onnxzip.plan(files)
        assert report["sizes"] == [{"input": "x", "axis": 1, "name": "S", "sizes": {"a": 16, "b": 16}}]
        assert not report["refusals"] and report["spaces"]

    def test_data_of_two_lengths_in_one_task(self, tmp_path: Path) -> None:
        files = {t: text(tmp_path, k) for k, t in enumerate("ab")}
        with pytest.raises(InvalidDataError, match="shape"):
            onnxzip.merge(files, {"a": sentences(40, 9), "b": {"x": np.zeros((40, 9, 2), np.int64)}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path], Merged]:
    """Two nets merged on sentences of two lengths, from iterables."""
    folder = tmp_path_factory.mktemp("lengths")
    files = {"short": text(folder, 1), "long": text(folder, 2, 4)}
    data = {"short": [sentences(20, 6, k) for k in range(3)], "long": [sentences(20, 15, k) for k in range(3)]}
    merged = onnxzip.merge(files, data, share=0.5)
    merged.save(folder / "both.onnx")
    for name, length in (("short", 6), ("long", 15), ("other", 11)):
        np.savez(folder / f"{name}.npz", **sentences(40, length, 9))
    return folder, files, merged


class TestLengthsOfTheirOwn:
    def test_each_is_compared_at_its_own(self, made: tuple[Path, dict[str, Path], Merged]) -> None:
        folder, _, merged = made
        assert merged.report["sizes"][0]["sizes"] == {"short": 6, "long": 15}
        assert merged.report["samples"] == {"short": 54, "long": 54}
        assert entries(folder / "both.onnx")["onnxzip.sizes"] == '{"short":[["x",1,6]],"long":[["x",1,15]]}'

    def test_verify_takes_any(self, made: tuple[Path, dict[str, Path], Merged]) -> None:
        folder, files, _ = made
        for data in (("short=short.npz", "long=long.npz"), ("other.npz",)):
            given = [part for d in data for part in ("--data", d.replace("=", f"={folder}/") if "=" in d else folder / d)]
            ran = run("verify", folder / "both.onnx", "--against", f"short={files['short']}", "--against",
                      f"long={files['long']}", *given, "--json")
            assert ran.code == 0, ran.err

    def test_split_and_inspect(self, made: tuple[Path, dict[str, Path], Merged]) -> None:
        folder, files, _ = made
        alone = folder / "alone.onnx"
        assert run("split", folder / "both.onnx", "--task", "long", "-o", alone, "--force").code == 0
        x = sentences(5, 19)
        together, apart = fed(folder / "both.onnx", x), fed(alone, x)
        np.testing.assert_allclose(apart["logits"], together["long_logits"], rtol=0, atol=1e-5)
        assert load(alone).inputs[0].shape == (-1, 15)
        assert inspect(folder / "both.onnx")["sizes"] == [{"input": "x", "axis": 1, "name": "S", "size": 6}]
        assert "has no number; what is told here is for 6" in " ".join(run("inspect", folder / "both.onnx").out.split())
        assert diff(files["short"], folder / "both.onnx", "short")["nodes"]

    def test_latencies_are_measured_at_that_size(self, made: tuple[Path, dict[str, Path], Merged], tmp_path: Path) -> None:
        """A length of 1 is none that these nets are used at, and others may not even run at it."""
        folder, files, _ = made
        asked: list[tuple[int, ...]] = []

        def timed(session: Session, feeds: dict[str, np.ndarray]) -> list[float]:
            asked.append(feeds["x"].shape)
            return [1.0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("onnxzip.inspection.latency._times", timed)
            given = [part for task, file in files.items() for part in ("--against", f"{task}={file}")]
            assert run("inspect", folder / "both.onnx", "--html", tmp_path / "page.html", *given).code == 0
        assert asked == 5 * [(1, 6)]

    def test_is_shipped_at_the_size_of_its_data(self, made: tuple[Path, dict[str, Path], Merged]) -> None:
        """Of a task alone that is its own, of all together the first one's."""
        folder, _, _ = made
        for task, length in (("long", 15), (None, 6)):
            prepared = prepare_net(folder / "both.onnx", task, None, None)
            assert prepared.inputs[0].shape == (-1, length)
            assert {feed.ports[0].shape for feed in prepared.feeds.values()} == {(-1, length)}

    def test_retrained_on_both(self, made: tuple[Path, dict[str, Path], Merged]) -> None:
        folder, files, _ = made
        data = {"short": sentences(64, 6), "long": sentences(64, 15)}
        done = onnxzip.retrain(folder / "both.onnx", files, data, steps=12)
        assert done.report["retrain"]["steps"] == 12
        x = sentences(3, 20)
        assert set(fed(done.content, x)) == {"short_logits", "long_logits"}

    def test_a_module_follows_the_length(self, made: tuple[Path, dict[str, Path], Merged]) -> None:
        import torch

        folder, _, _ = made
        module = read_module(folder / "both.onnx")
        for length in (6, 11, 24):
            x = sentences(3, length)
            found = module(torch.tensor(x["x"]))
            for name, want in fed(folder / "both.onnx", x).items():
                np.testing.assert_allclose(found[name].detach().numpy(), want, rtol=0, atol=1e-5)

    def test_merged_again(self, made: tuple[Path, dict[str, Path], Merged]) -> None:
        folder, _, _ = made
        again = onnxzip.merge({"two": folder / "both.onnx", "third": text(folder, 3)}, sentences(50, 10))
        assert again.report["sizes"][0]["sizes"] == {"two": 10, "third": 10}
        assert set(fed(again.content, sentences(2, 21))) == {"short_logits", "long_logits", "third_logits"}


class TestImages:
    def test_take_every_size(self, tmp_path: Path) -> None:
        """Windows that pad as much as they need have no pads of one size."""
        path = image(tmp_path, "a")
        fused = fused_with_copy(path, pictures(60, 3, 16, 16), {"H": 16, "W": 16})
        assert not fused.plan.refusals and input_dims(fused) == {"x": ["N", 3, "H", "W"]}
        for size in ((16, 16), (17, 30), (9, 64)):
            check_at(fused, path, pictures(3, 3, *size), EXACT)

    def test_a_size_taken_from_a_value_aside(self, tmp_path: Path) -> None:
        """Half of an odd size is rounded: what the file measures is the value itself, not a part of the input."""
        path = written(tmp_path, LATERAL, 17)
        fused = fused_with_copy(path, pictures(60, 3, 16, 16), {"H": 16, "W": 16})
        assert not fused.plan.refusals and fused.plan.sizes.numbers
        for size in ((16, 16), (19, 26), (41, 8)):
            check_at(fused, path, pictures(3, 3, *size), EXACT)

    def test_one_net_for_one_size_and_one_for_any(self, tmp_path: Path) -> None:
        files = {"any": image(tmp_path, "any"), "one": image(tmp_path, "one", "24,24", classes=4)}
        merged = onnxzip.merge(files, {"any": pictures(40, 3, 32, 20)["x"], "one": pictures(40, 3, 24, 24)["x"]})
        assert [e["sizes"] for e in merged.report["sizes"]] == [{"any": 32, "one": 24}, {"any": 20, "one": 24}]


class TestTwoSizes:
    def test_the_fused_net_takes_either(self, tmp_path: Path) -> None:
        files = {"small": image(tmp_path, "small", "16,16"), "large": image(tmp_path, "large", "24,24", classes=5)}
        data = {"small": pictures(60, 3, 16, 16)["x"], "large": pictures(60, 3, 24, 24)["x"]}
        report = onnxzip.plan(files)
        assert [e["sizes"] for e in report["sizes"]] == [{"small": 16, "large": 24}] * 2 and not report["refusals"]
        merged = onnxzip.merge(files, data, share=0.0)
        for task, told in merged.report["tasks"].items():
            assert told["fidelity"]["relative_error"] < EXACT, task
        for task, path in files.items():
            want, found = fed(path, {"x": data[task][:5]})["y"], fed(merged.content, {"x": data[task][:5]})[f"{task}_y"]
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)

    def test_shared_channels_serve_both(self, tmp_path: Path) -> None:
        """The same trunk at two sizes: what is shared is exact at both."""
        files = {"small": image(tmp_path, "small", "16,16"), "large": image(tmp_path, "large", "24,32")}
        merged = onnxzip.merge(files, {"small": pictures(60, 3, 16, 16)["x"], "large": pictures(60, 3, 24, 32)["x"]})
        assert all(s["shared"] == 6 for s in merged.report["spaces"])
        for told in merged.report["tasks"].values():
            assert told["fidelity"]["relative_error"] < EXACT

    def test_verify_on_data_of_the_other_size(self, tmp_path: Path) -> None:
        files = {"small": image(tmp_path, "small", "16,16"), "large": image(tmp_path, "large", "24,24")}
        data = {"small": pictures(40, 3, 16, 16)["x"], "large": pictures(40, 3, 24, 24)["x"]}
        onnxzip.merge(files, data).save(tmp_path / "both.onnx")
        np.savez(tmp_path / "x.npz", x=data["small"])
        against = [part for t, path in files.items() for part in ("--against", f"{t}={path}")]
        words = ("large", "[3, 24, 24]", "[3, 16, 16]", "--data NAME=FILE")
        failed(3, "verify", tmp_path / "both.onnx", *against, "--data", tmp_path / "x.npz", words=words)

    @pytest.mark.parametrize("method", ["mtz", "average", "permute", "regmean", "zipit"])
    def test_other_methods_see_both_sizes(self, method: str, tmp_path: Path) -> None:
        files = {"small": image(tmp_path, "small", "16,16"), "large": image(tmp_path, "large", "24,32")}
        data = {"small": pictures(40, 3, 16, 16)["x"], "large": pictures(40, 3, 24, 32)["x"]}
        merged = onnxzip.merge(files, data, method=method)
        assert all(np.isfinite(t["fidelity"]["relative_error"]) for t in merged.report["tasks"].values())

    def test_a_head_that_flattens_is_for_one(self, tmp_path: Path) -> None:
        flat = "p = Flatten(s) f = Gemm<transB=1>(p, m)"
        nets = {}
        for name, size, columns in (("small", "16,16", 96), ("large", "24,24", 216)):
            place = tmp_path / name
            place.mkdir()
            graph = IMAGE.format(size=size, head=flat, classes=2).replace("float[2,6]", f"float[6,{columns}] m, float[2,6]")
            nets[name] = written(place, graph, 17)
        words = ("different size", "axis 2 of input 'x'", "contradict")
        failed(3, "plan", *(f"{t}={p}" for t, p in nets.items()), words=words)

    def test_data_of_the_other_size(self, tmp_path: Path) -> None:
        """The original takes its own size alone, whatever the fused net takes."""
        files = {"small": image(tmp_path, "small", "16,16"), "large": image(tmp_path, "large", "24,24")}
        with pytest.raises(InvalidDataError, match="'small': axis 2 of input 'x' is 24, the net takes 16 only"):
            onnxzip.merge(files, pictures(40, 3, 24, 24)["x"])


class TestTooSmall:
    def test_data_that_leave_nothing_of_a_feature_map(self, tmp_path: Path) -> None:
        text = """<ir_version: 8, opset_import: ["": 17]> net (float[N,1,H,W] x) => (float[N,2] y) {
            a = Conv (x, w) b = Relu (a) c = Conv <strides = [2,2]> (b, v) d = GlobalAveragePool (c) y = Flatten (d) }"""
        for name in "ab":
            made, rng = parser.parse_model(text), np.random.default_rng(ord(name))
            for key, shape in (("w", (4, 1, 3, 3)), ("v", (2, 4, 3, 3))):
                made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), key))
            onnx.save(made, tmp_path / f"{name}.onnx")
        nets, rng = {t: tmp_path / f"{t}.onnx" for t in "ab"}, np.random.default_rng(0)
        with pytest.raises(UnsupportedError, match=r"'a' would have the shape \[2, 4, 0, 7\]: an input of this size"):
            onnxzip.merge(nets, rng.standard_normal((40, 1, 2, 9), np.float32))
        assert onnxzip.merge(nets, rng.standard_normal((40, 1, 9, 9), np.float32)).report["sizes"]


class TestComputedConstants:
    def test_are_computed_for_every_length(self, tmp_path: Path) -> None:
        path = written(tmp_path, CAUSAL % 1, 17)
        fused = fused_with_copy(path, {"x": pictures(60, 9, 4)["x"]}, {"S": 9})
        assert input_dims(fused) == {"x": ["N", "S", 4]} and not fused.plan.refusals
        for length in (9, 3, 40):
            check_at(fused, path, {"x": pictures(3, length, 4)["x"]}, EXACT)


class TestFixedInTruth:
    def test_a_constant_of_one_size_is_refused_and_kept(self, tmp_path: Path) -> None:
        """Places are counted in steps of three: no sum of ones."""
        text = CAUSAL.replace("number = Squeeze(length)", "short = Squeeze(length) number = Mul(short, step)") % 3
        path = written(tmp_path, text, 17)
        fused = fused_with_copy(path, {"x": pictures(60, 9, 4)["x"]}, {"S": 9})
        assert input_dims(fused) == {"x": ["N", 9, 4]}
        [refusal] = fused.plan.refusals
        assert "axis 1 of input 'x'" in refusal.where
        assert "keeps its size, 9" in refusal.why and "made for one size" in refusal.why
        check_at(fused, path, {"x": pictures(3, 9, 4)["x"]}, EXACT)

    def test_a_weight_of_one_size_without_data(self, tmp_path: Path) -> None:
        path = written(tmp_path, FIXED, 17)
        failed(3, "plan", f"a={path}", f"b={path}", words=("no number for axis 2 of input 'x'", "--data", "128"))

    def test_and_with_data(self, tmp_path: Path) -> None:
        fused = fused_with_copy(written(tmp_path, FIXED, 17), pictures(60, 3, 7), {"L": 7})
        assert input_dims(fused) == {"x": ["N", 3, 7]} and "keeps its size, 7" in fused.plan.refusals[-1].why

    def test_a_reshape_to_one_size(self, tmp_path: Path) -> None:
        """As torch traces an attention: onnx believes that it gives so many entries whatever it reads."""
        path = written(tmp_path, BELIEVED, 17)
        failed(3, "plan", f"a={path}", f"b={path}", words=("no number for axis 1 of input 'x'", "--data", "128"))
        fused = fused_with_copy(path, pictures(60, 7, 4), {"S": 7})
        assert input_dims(fused) == {"x": ["N", 7, 4]} and "keeps its size, 7" in fused.plan.refusals[-1].why


class TestRandomNets:
    def test_take_the_sizes_that_their_files_take(self, tmp_path: Path) -> None:
        """Law 4 of random nets at other sizes, of those that take any; the others keep theirs, and say why."""
        free = 0

        @seed(0)
        @settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 63)), min_size=1, max_size=6))
        def law(steps: list[Step]) -> None:
            nonlocal free
            model, used = grown(steps, len(steps))
            note(f"steps {used}")
            path = tmp_path / "net.onnx"
            onnx.save(_of_any_size(model), path)
            try:
                sizes = dict(zip("HW", DRAWN[1:], strict=True))
                fused = fused_with_copy(path, {"image": pictures(40, *DRAWN)["x"]}, sizes)
            except UnsupportedError as error:
                assert "share nothing" in str(error)
                return
            free += bool(fused.plan.others)
            assert fused.plan.others or any("keeps its size" in r.why for r in fused.plan.refusals)
            for other in fused.plan.others:
                check_at(fused, path, {"image": pictures(3, *other.nets["a"].inputs[0].shape[1:])["x"]}, 1e-3)

        law()
        assert free >= 10


def _of_any_size(model: ModelProto) -> ModelProto:
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "HW", strict=True):
        dim.Clear()
        dim.dim_param = name
    return model


class TestTrial:
    def test_a_net_that_computes_something_else_is_found(self, tmp_path: Path) -> None:
        """What stands for a number must be right at another size, not only at that of the data."""
        right, wrong = (parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,2,S] x) => (float[N,2,T] y) <int64[1] three = {{3}}, int64[1] two = {{2}}> {{
            shape = Shape(x)
            size = Gather<axis=0>(shape, two)
            y = Slice(x, three, {end}, two)
        }}""") for end in ("size", "four"))
        wrong.graph.initializer.append(numpy_helper.from_array(np.array([4]), "four"))
        sessions = [open_file("net", m.SerializeToString(), "cpu", 1) for m in (right, wrong)]
        port = Port("x", np.dtype(np.float32), (-1, 2, 4))
        check_other_size(sessions[1], sessions[0], [port], ())
        with pytest.raises(VerificationError, match="another size"):
            check_other_size(sessions[1], sessions[0], [port._replace(shape=(-1, 2, 6))], ())


class TestLoading:
    def test_a_table_is_read_in_part(self, tmp_path: Path) -> None:
        plan = planned_with_copy(text(tmp_path), {"S": 9})
        net = plan.nets["a"]
        [node] = [n for n in net.nodes if n.op == "Slice"]
        assert net.params[str(node.inputs[0])].shape == (1, LONGEST, WIDTH) and node.attrs["ends"] == (9,)
        assert Axis("x", 1) in plan.sizes.axes

    def test_alone_at_a_usual_length(self, tmp_path: Path) -> None:
        net = load(text(tmp_path))
        assert net.inputs[0].shape == (-1, 16) and "Shape" not in ops(net)
        x = sentences(3, 16)
        [found] = open_session(net, "cpu", 1).run(x).values()
        np.testing.assert_allclose(found, fed(tmp_path / "text0" / "net.onnx", x)["logits"], rtol=0, atol=1e-5)

    def test_one_length_needs_no_other(self, tmp_path: Path) -> None:
        """A net whose sizes are all numbers is loaded once, and measures nothing."""
        path = image(tmp_path, "a", "16,16")
        nets = [load(path, t) for t in "ab"]
        fused = fuse(nets, sources=[Source(("a", "b"), samples_for(nets[0]), {})])
        assert not fused.net.sizes.axes and not fused.net.sizes.numbers
