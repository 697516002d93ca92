"""What nets do to their input before the first layer: folded where that is exact, else left, and the reason is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusing import check_tasks, fuse, permuted
from netfiles import check_same, ops, written

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.errors import UnsupportedError
from onnxzip.exporting.report import macs_before
from onnxzip.inspection.differing import diff
from onnxzip.loading import load, load_all
from onnxzip.net import Net, macs

PADDED, BARE = "pads=[1,1,1,1]", "pads=[0,0,0,0]"
CONV = """g (float[N,3,6,6] x, float[{mean}] mean, float[1,3,1,1] std, float[4,3,3,3] w, float[4] b, float[4,2] v)
=> (float[] y) {{ {body} h = Conv<{pads}>(d, w, b) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v) }}"""
MEANS = {"scalar": "1", "channel": "3,1,1"}


def net(folder: Path, seed: int, body: str, pads: str, mean: str = "scalar") -> Net:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = [int(d) for d in MEANS[mean].split(",")]
    given = {"mean": rng.uniform(0.2, 0.8, shape), "std": rng.uniform(0.2, 0.4, (1, 3, 1, 1))}
    arrays = {k: a.astype(np.float32) for k, a in given.items()}
    path = written(folder, CONV.format(body=body, pads=pads, mean=MEANS[mean]), **arrays)
    found = load(path, f"net{seed}")
    check_same(path, found)
    return found


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("body", ["c = Sub(x, mean) d = Div(c, std)", "c = Sub(mean, x) d = Mul(std, c)", "d = Add(mean, x)"])
def test_shift_and_scale_go_into_an_unpadded_convolution(body: str, mean: str, tmp_path: Path) -> None:
    nets = [net(tmp_path / str(k), k, body, BARE, mean) for k in (1, 2)]
    assert ops(nets[0])[0] == "Conv"
    assert [s.shared for s in analyse(nets).shared_spaces()] == [4]


def test_a_scale_goes_into_a_padded_convolution(tmp_path: Path) -> None:
    nets = [net(tmp_path / str(k), k, "d = Div(x, std)", PADDED) for k in (1, 2)]
    assert ops(nets[0])[0] == "Conv" and [s.shared for s in analyse(nets).shared_spaces()] == [4]


def test_a_shift_before_padding_is_refused_with_the_reason(tmp_path: Path) -> None:
    nets = [net(tmp_path / str(k), k, "c = Sub(x, mean) d = Div(c, std)", PADDED) for k in (1, 2)]
    assert ops(nets[0])[:2] == ["Sub", "Div"]
    with pytest.raises(UnsupportedError, match=r"its constants are others than in 'net1'; a first layer that pads"):
        analyse(nets)


def test_equal_constants_are_no_obstacle(tmp_path: Path) -> None:
    nets = [net(tmp_path / str(k), 1, "c = Sub(x, mean) d = Div(c, std)", PADDED) for k in (1, 2)]
    second = Net(**{**{f: getattr(nets[1], f) for f in nets[1].__dataclass_fields__}, "name": "other"})
    assert [s.shared for s in analyse([nets[0], second]).shared_spaces()] == [4]


@pytest.mark.parametrize("step", ["d = Sub(x, n)", "d = Conv<pads=[1,1,1,1],group=3>(x, k)"])
def test_equal_constants_are_none_beside_features(step: str, tmp_path: Path) -> None:
    """Numbers along channels that no weights make, and that all nets have: these channels are joined with features."""
    text = f"""g (float[N,3,6,6] x, float[3,1,1] n, float[3,1,3,3] k, float[4,3,3,3] w, float[5,7,3,3] u, float[5,2] v)
    => (float[N,2] y) {{ {step} h = Conv<pads=[1,1,1,1]>(d, w) r = Relu(h) c = Concat<axis=1>(r, d)
    g = Conv<pads=[1,1,1,1]>(c, u) s = Relu(g) p = GlobalAveragePool(s) f = Flatten(p) y = MatMul(f, v) }}"""
    first = load(written(tmp_path, text), "a")
    again, moved = replace(first, name="b"), permuted(first, 5, "b")
    for nets, share in (((first, again), 1.0), ((first, moved), 1.0), ((first, moved), 0.0)):
        fused = fuse(nets, share)
        check_tasks(fused, nets, 1e-4)
        assert [s.shared for s in fused.plan.shared_spaces()] == ([4, 5] if share else [0, 0]) and not fused.plan.refusals


def test_into_a_matrix_product(tmp_path: Path) -> None:
    text = """g (float[N,5] x, float[5] mean, float[1] std, float[5,4] w, float[4] b, float[4,2] v) => (float[N,2] y)
    { c = Sub(x, mean) d = Div(c, std) h = MatMul(d, w) a = Add(h, b) r = Relu(a) y = MatMul(r, v) }"""
    path = written(tmp_path, text)
    found = load(path)
    check_same(path, found)
    assert ops(found) == ["Gemm", "Relu", "Gemm"]


def test_an_input_that_something_else_reads_stays(tmp_path: Path) -> None:
    text = """g (float[N,5] x, float[5] mean, float[5,4] w) => (float[N,4] y, float[N,5] z)
    { c = Sub(x, mean) y = MatMul(c, w) z = Relu(c) }"""
    path = written(tmp_path, text)
    found = load(path)
    check_same(path, found)
    assert ops(found)[0] == "Sub"


NORM = "d = BatchNormalization(x, gain, bias, mean, var)"
STATISTICS = "float[{c}] gain, float[{c}] bias, float[{c}] mean, float[{c}] var"
NORMED = {
    "Gemm": """g (float[N,5] x, %s, float[5,4] w, float[4] b, float[4,2] v) => (float[N,2] y)
    { %s m = MatMul(d, w) h = Add(m, b) r = Relu(h) y = MatMul(r, v) }""",
    "line": """g (float[N,5,9] x, %s, float[4,5,3] w, float[4,2] v) => (float[N,2] y)
    { %s h = Conv<pads=[0,0]>(d, w) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v) }""",
    "image": """g (float[N,5,6,6] x, %s, float[4,5,3,3] w, float[4] b, float[4,2] v) => (float[N,2] y)
    { %s h = Conv<pads=[0,0,0,0]>(d, w, b) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v) }""",
}


def normed(folder: Path, seed: int, text: str, channels: int = 5, shifts: float = 1.0) -> Net:
    """A net with a BatchNormalization of statistics of its own."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    gain, variance, bias, mean = (rng.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(4))
    given = {"gain": gain, "var": variance, "bias": shifts * bias, "mean": shifts * mean}
    path = written(folder, text % (STATISTICS.format(c=channels), NORM), **given)
    found = load(path, f"net{seed}")
    check_same(path, found)
    return found


class TestBatchNormalization:
    @pytest.mark.parametrize("first", NORMED)
    def test_goes_into_the_layer_behind_it(self, first: str, tmp_path: Path) -> None:
        nets = [normed(tmp_path / str(k), k, NORMED[first]) for k in (1, 2)]
        assert ops(nets[0])[0] == ("Gemm" if first == "Gemm" else "Conv")
        assert [s.shared for s in analyse(nets).shared_spaces()] == [4]

    def test_together_with_other_maps(self, tmp_path: Path) -> None:
        text = """g (float[N,5] x1, %s, float[5,4] w) => (float[N,4] y) <float two = {2.0}>
        { x = Mul(x1, two) %s y = MatMul(d, w) }"""
        assert ops(normed(tmp_path, 1, text)) == ["Gemm"]

    @pytest.mark.parametrize("shifts", [0.0, 1.0])
    def test_before_padding_where_it_does_not_shift(self, shifts: float, tmp_path: Path) -> None:
        text = NORMED["image"].replace("pads=[0,0,0,0]", "pads=[1,1,1,1]")
        nets = [normed(tmp_path / str(k), k, text, shifts=shifts) for k in (1, 2)]
        if shifts:
            assert ops(nets[0])[0] == "BatchNormalization"
            with pytest.raises(UnsupportedError, match=r"its constants are others than in 'net1'; a first layer that pads"):
                analyse(nets)
        else:
            assert ops(nets[0])[0] == "Conv" and [s.shared for s in analyse(nets).shared_spaces()] == [4]

    def test_of_channels_that_no_layer_reads_as_channels_stays(self, tmp_path: Path) -> None:
        text = "g (float[N,5,4] x, %s, float[4,3] w) => (float[N,5,3] y) { %s y = MatMul(d, w) }"
        assert ops(normed(tmp_path, 1, text))[0] == "BatchNormalization"


class TestJoined:
    """An input that is normalised and joined with others, as the numbers of a table are with its categories."""

    BESIDE = """g (float[N,5] x, float[N,3] x2, %s, float[{both},4] w, float[4] b, float[4,2] v) => (float[N,2] y)
    {{ %s j = Concat<axis={axis}>({joined}) m = MatMul(j, w) h = Add(m, b) r = Relu(h) y = MatMul(r, v) }}"""

    @pytest.mark.parametrize("joined", ["d, x2", "x2, d"])
    def test_goes_into_the_layer_behind_both(self, joined: str, tmp_path: Path) -> None:
        text = self.BESIDE.format(both=8, axis=-1, joined=joined)
        nets = [normed(tmp_path / str(k), k, text) for k in (1, 2)]
        assert ops(nets[0])[:2] == ["Concat", "Gemm"]
        assert [s.shared for s in analyse(nets).shared_spaces()] == [4]

    def test_so_does_one_of_each(self, tmp_path: Path) -> None:
        text = self.BESIDE.format(both=8, axis=1, joined="d, e").replace("j = ", "c = Mul(x2, three) e = Sub(c, three) j = ")
        nets = [normed(tmp_path / str(k), k, text.replace("float[4,2] v", "float[4,2] v, float[3] three")) for k in (1, 2)]
        assert ops(nets[0])[:2] == ["Concat", "Gemm"]
        assert [s.shared for s in analyse(nets).shared_spaces()] == [4]

    def test_twice_it_stays(self, tmp_path: Path) -> None:
        text = self.BESIDE.format(both=13, axis=1, joined="d, x2, d")
        assert ops(normed(tmp_path, 1, text))[0] == "BatchNormalization"

    def test_along_another_axis_it_stays(self, tmp_path: Path) -> None:
        text = """g (float[N,2,5] x, float[N,3,5] x2, float[5] mean, float[5,4] w) => (float[N,5,4] y)
        { d = Sub(x, mean) j = Concat<axis=1>(d, x2) y = MatMul(j, w) }"""
        path = written(tmp_path, text)
        found = load(path)
        check_same(path, found)
        assert ops(found)[0] == "Sub"


TURNED = """g (float[N,6,6,3] x, float[3] mean, float std, float[4,3,3,3] w, float[4] b, float[4,2] v) => (float[N,2] y)
{{ {body} t = Transpose<perm=[0,3,1,2]>(d) h = Conv<{pads}>(t, w, b) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p)
y = MatMul(f, v) }}"""


class TestChannelsLast:
    """As Keras has them: the maps stand before the Transpose, the layer behind it."""

    def net(self, folder: Path, name: str, body: str, pads: str) -> Net:
        (folder / name).mkdir()
        path = written(folder / name, TURNED.format(body=body, pads=pads))
        found = load(path, name)
        check_same(path, found)
        return found

    @pytest.mark.parametrize(
        ("body", "pads"),
        [("c = Sub(x, mean) d = Div(c, std)", BARE), ("c = Mul(std, x) d = Sub(mean, c)", BARE), ("d = Div(x, mean)", PADDED)],
    )
    def test_folds_into_the_layer_behind(self, body: str, pads: str, tmp_path: Path) -> None:
        nets = [self.net(tmp_path, "a", body, pads), self.net(tmp_path, "b", "d = Mul(x, std)", pads)]
        assert [ops(n)[:2] for n in nets] == [["Transpose", "Conv"]] * 2
        assert [s.shared for s in analyse(nets).shared_spaces()] == [4]

    @pytest.mark.parametrize("body", ["d = Sub(x, mean)", "c = Relu(x) d = Mul(c, std)"])
    def test_stays_where_it_does_not_fold(self, body: str, tmp_path: Path) -> None:
        found = self.net(tmp_path, "a", body, PADDED)
        assert ops(found)[: body.count("=") + 1][-1] == "Transpose"


BEFORE = ("c = Sub(x, mean) d = Div(c, std)", "c = Mul(x, std) d = Add(c, mean)", "d = Mul(x, std)", "d = Identity(x)")
PLACED = """scales = Constant<value = float[4] {{1.0, 1.0, 1.5, 1.5}}>() three = Constant<value = int64[1] {{2}}>()
none = Constant<value = int64[1] {{-9}}>() one = Constant<value = int64[1] {{1}}>() back = Constant<value = int64[1] {{-1}}>()
x = """


class TestLevelled:
    """Shifts before padding: where the nets of a merge differ in them, all read a channel of ones, too."""

    def files(self, folder: Path, bodies: Sequence[str], text: str = CONV) -> dict[str, Path]:
        found = {}
        for k, body in enumerate(bodies):
            (folder / f"net{k}").mkdir()
            shape, rng = (3,) if text == TURNED else (3, 1, 1), np.random.default_rng(k)
            mean = rng.uniform(0.2, 0.8, shape).astype(np.float32)
            found[f"net{k}"] = written(folder / f"net{k}", text.format(body=body, pads=PADDED, mean="3,1,1"), mean=mean)
        return found

    @pytest.mark.parametrize("text", [CONV, TURNED], ids=["channels first", "channels last"])
    def test_share_their_first_layer(self, text: str, tmp_path: Path) -> None:
        files = self.files(tmp_path, BEFORE, text)
        nets = load_all(files)
        for net, path in zip(nets, files.values(), strict=True):
            check_same(path, net)
            assert not {"Sub", "Mul", "Add", "Div"} & set(ops(net)) and ops(net).count("Concat") == 1
        fused = fuse(nets, 1.0)
        assert [s.shared for s in fused.plan.shared_spaces()] == [4] and not fused.plan.refusals
        check_tasks(fuse(nets, 0.0), nets, 1e-5)
        assert [macs_before(fused.plan, n.name) for n in nets] == [macs(load(path)) for path in files.values()]

    @pytest.mark.parametrize("pads", [PADDED, BARE])
    @pytest.mark.parametrize(
        "step", ["Cast<to=1>(x0)", 'Resize<mode="linear">(x0, , scales)', "Slice(x0, three, none, one, back)"]
    )
    def test_whatever_places_the_input_before(self, step: str, pads: str, tmp_path: Path) -> None:
        """Another type, another size, channels in another order."""
        text = CONV.replace("x, float[{mean}]", "x0, float[{mean}]").replace("{body}", PLACED + step + " {body}")
        text = text.replace("float[N,3,6,6]", "uint8[N,3,6,6]") if "Cast" in step else text
        text = text.replace("{pads}", pads)
        files = self.files(tmp_path, BEFORE[:3], text)
        nets = load_all(files)
        for net, path in zip(nets, files.values(), strict=True):
            check_same(path, net)
        assert [s.shared for s in analyse(nets).shared_spaces()] == [4]

    @pytest.mark.parametrize("bodies", [BEFORE[:1] * 2, BEFORE[2:]], ids=["the same", "scales"])
    def test_others_stay_as_they_are(self, bodies: Sequence[str], tmp_path: Path) -> None:
        files = self.files(tmp_path, bodies)
        if bodies[0] == bodies[1]:
            files["net1"].write_bytes(files["net0"].read_bytes())
        assert [ops(n) for n in load_all(files)] == [ops(load(path)) for path in files.values()]

    def test_weights_that_something_else_reads_stay(self, tmp_path: Path) -> None:
        text = """g (float[N,3,6,6] x, float[N,3,6,6] x2, float[3,1,1] mean, float[4,3,3,3] w) => (float[N,4,6,6] y)
        {{ d = Sub(x, mean) h = Conv<pads=[1,1,1,1]>(d, w) {body} g = Conv<pads=[1,1,1,1]>(x2, w) y = Add(h, g) }}"""
        files = self.files(tmp_path, ("", ""), text)
        assert [ops(n) for n in load_all(files)] == [["Sub", "Conv", "Conv", "Add"]] * 2

    def test_a_fused_file_and_one_more(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, BEFORE)
        x = np.random.default_rng(5).standard_normal((60, 3, 6, 6), np.float32)
        onnxzip.merge({t: files[t] for t in ("net0", "net1")}, x).save(tmp_path / "both.onnx")
        told = {e["op"]: e["change"] for e in diff(files["net1"], tmp_path / "both.onnx", "net1")["nodes"]}
        onnxzip.merge({t: files[t] for t in ("net0", "net1")}, x, share=0).save(tmp_path / "apart.onnx")
        apart = {e["op"]: e["change"] for e in diff(files["net1"], tmp_path / "apart.onnx", "net1")["nodes"]}
        assert told["Conv"] > 0.01 and apart["Conv"] < 1e-6
        again = onnxzip.merge({"both": tmp_path / "both.onnx", "net3": files["net3"]}, x)
        assert again.report["spaces"][0]["shared"] == 4
