"""Nets that compute in float16: merged in float32, they come back with the ports they had and with their weights in float16.

A float16 has 11 bits: u = 2^-11 is the most that one rounding changes a number by, relative to it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from merging import MODELS, failed, fed, outputs_of, run
from netfiles import originals_outputs
from onnx import ModelProto, TensorProto, numpy_helper, parser
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

import onnxzip
from onnxzip.errors import InvalidDataError
from onnxzip.inspection.differing import diff
from onnxzip.inspection.inspecting import inspect
from onnxzip.loading import load
from onnxzip.loading.halves import computing_in_float32
from onnxzip.net import Net

U = 2.0**-11
ENTER, LEAVE = "image", "logits"
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
LOW, HIGH = "fashion-low", "fashion-high"
kept = pytest.mark.parametrize("keep", [True, False], ids=["float32 ports", "float16 ports"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rounded(model: ModelProto) -> ModelProto:
    """The same net of float32 with weights that float16 can hold."""
    new = ModelProto()
    new.CopyFrom(model)
    for tensor in new.graph.initializer:
        if tensor.data_type == FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return new


def halved(model: ModelProto, keep: bool, **options: object) -> ModelProto:
    """As ONNX Runtime's own tool makes a float16 net of one of float32; some of its Casts stand behind their readers."""
    copy = ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers too small for float16
        made: ModelProto = convert_float_to_float16(copy, keep_io_types=keep, **options)
    return made


def sample(name: str) -> ModelProto:
    return rounded(onnx.load(MODELS / f"{name}.onnx"))


def saved(model: ModelProto, name: str) -> Path:
    path = Path(f"{name}.onnx")
    onnx.save(model, path)
    return path


def half(*values: float) -> str:
    """A constant as onnx's parser takes it: by its bits."""
    bits = np.array(values, np.float16).view(np.uint16).tolist()
    return f"float16[{len(bits)}] {{{', '.join(map(str, bits))}}}"


def digits(count: int, name: str = LOW) -> np.ndarray:
    """Images as float32."""
    with np.load(MODELS / "data" / f"{name}-test.npz") as found:
        return np.asarray(found["x"][:count].astype(np.float32) / 255)


def ports(model: ModelProto | Path | str) -> dict[str, int]:
    graph = (model if isinstance(model, ModelProto) else onnx.load(model)).graph
    return {p.name: p.type.tensor_type.elem_type for p in (*graph.input, *graph.output)}


def weights(path: Path) -> set[int]:
    """Types of all that are no single numbers."""
    return {t.data_type for t in onnx.load(path).graph.initializer if np.prod(t.dims) > 1 and t.data_type != TensorProto.INT64}


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    """||found - wanted|| / ||wanted||."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def plain(net: Net) -> list[tuple[str, list[np.ndarray]]]:
    """Operators with their params, but for Casts."""
    return [(n.op, [net.params[v] for v in n.inputs if v in net.params]) for n in net.nodes if n.op != "Cast"]


class TestLoading:
    @kept
    @pytest.mark.parametrize("name", ["lenet5-fashion-low", "mobilenet-fashion-low", "resnet-fashion-low"])
    def test_it_is_the_net_of_float32_bit_for_bit(self, name: str, keep: bool) -> None:
        model = sample(name)
        want, net = load(saved(model, "whole")), load(saved(halved(model, keep), "half"))
        assert net.stored == net.computed == "FLOAT16" and want.computed == "FLOAT"
        assert [op for op, _ in plain(net)] == [op for op, _ in plain(want)]
        for (op, mine), (_, theirs) in zip(plain(net), plain(want), strict=True):
            for a, b in zip(mine, theirs, strict=True):
                assert a.dtype == b.dtype and np.array_equal(a, b), op
        assert [n.op for n in net.nodes].count("Cast") == (0 if keep else 2)
        kind = np.float32 if keep else np.float16
        assert [p.dtype for p in (*net.inputs, *net.outputs)] == [kind, kind]

    def test_mixed_precision(self) -> None:
        """Casts around nodes that stay in float32 vanish, too."""
        model = sample("resnet-fashion-low")
        made = halved(model, False, op_block_list=["Relu", "GlobalAveragePool"])
        assert [n.op_type for n in made.graph.node].count("Cast") > 10
        net, want = load(saved(made, "half")), load(saved(model, "whole"))
        assert [n.op for n in net.nodes if n.op != "Cast"] == [n.op for n in want.nodes]
        assert [n.op for n in net.nodes].count("Cast") == 2

    @pytest.mark.parametrize(
        ("kind", "text"),
        {
            "an attribute": f"c = Constant <value = {half(0.5, 2, -1)}> () y = Mul (x, c)",
            "filled": f"s = Shape (x) c = ConstantOfShape <value = {half(1.5)}> (s) y = Add (x, c)",
            "an input handed on": "y = Identity (x)",
            "casts": """a = Cast <to = 1> (x) b = Exp (a) d = Cast <to = 10> (b) e = Neg (d) f = Cast <to = 1> (e)
                y = Cast <to = 10> (f)""",
            "like another": "i = Cast <to = 6> (x) y = CastLike (i, x)",
            "in float64": """d = Cast <to = 11> (x) t = Constant <value = double {2.0}> () p = Pow (d, t)
                m = Constant <value = double {-1e300}> () q = Max (p, m) y = Cast <to = 10> (q)""",
            "a branch": f"""n = ReduceSum <keepdims = 0> (x) z = Constant <value = {half(0)}> () c = Greater (n, z)
                y = If (c) <then_branch = t () => (float16[N,3] r)
                {{ w = Constant <value = {half(1, 2, 3)}> () r = Mul (x, w) }},
                else_branch = e () => (float16[N,3] s) {{ v = Neg (x) h = Cast <to = 1> (v) s = Cast <to = 10> (h) }}>""",
            "a loop": f"""t = Constant <value = bool {{1}}> () n = Constant <value = int64 {{3}}> () y = Loop (n, t, x)
                <body = b (int64 i, bool c, float16[N,3] p) => (bool d, float16[N,3] q)
                {{ d = Identity (c) w = Constant <value = {half(1, 0.5, 3)}> () e = Mul (p, w) q = Add (e, x) }}>""",
            "a function": "y = own.layer (x)",
        }.items(),
    )
    def test_what_a_net_may_hold(self, kind: str, text: str) -> None:
        """It computes what ONNX Runtime makes of the file, on numbers that all of it can be told exactly of."""
        domain = f"""<domain: "own", opset_import: ["": 17]> layer (x) => (y)
            {{ w = Constant <value = {half(1, 2, 4)}> () a = Mul (x, w) h = Cast <to = 1> (a) y = Cast <to = 10> (h) }}"""
        own = "own." in text
        header = '<ir_version: 8, opset_import: ["": 17' + (', "own": 1' if own else "") + "]>"
        whole = f"{header} g (float16[N,3] x) => (float16[N,3] y) {{ {text} }} {domain if own else ''}"
        model = parser.parse_model(whole)
        x = np.array([[1, -2, 3], [0, 0.5, 2]], np.float16)
        (want,) = originals_outputs(model, {"x": x})
        (found,) = originals_outputs(computing_in_float32(model), {"x": x})
        assert found.dtype == want.dtype == np.float16
        np.testing.assert_allclose(found, want, rtol=4 * U)
        for node in computing_in_float32(model).graph.node:
            assert node.op_type != "Constant" or node.attribute[0].t.data_type not in (FLOAT16, TensorProto.DOUBLE)

    @pytest.mark.parametrize(("op", "text"), [
        ("HardSwish", "a = Add (h, three) b = Clip (a, zero, six) d = Mul (h, b) r = Mul (d, sixth)"),
        ("Gelu", "a = Mul (h, root) b = Erf (a) d = Add (b, one) m = Mul (h, d) r = Mul (m, half)"),
    ])
    def test_functions_that_are_spelled_out_with_rounded_numbers(self, op: str, text: str) -> None:
        """1/6 is no number of float16."""
        graph = f"g (float[N,6] x) => (float[N,4] y) {{ h = Gemm (x, w) {text} y = Gemm (r, v) }}"
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 20]> {graph}')
        rng, read = np.random.default_rng(0), {v for n in model.graph.node for v in n.input}
        numbers = {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6, "root": 0.5**0.5, "one": 1, "half": 0.5}
        arrays = {k: np.float32(v) for k, v in numbers.items()} | {
            "w": rng.standard_normal((6, 8), np.float32), "v": rng.standard_normal((8, 4), np.float32),
        }
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), k) for k, a in arrays.items() if k in read)
        files = {"whole": saved(model, "whole"), "half": saved(halved(model, True), "half")}
        for path in files.values():
            assert op in [n.op for n in load(path).nodes]
        assert all(s["shared"] for s in onnxzip.plan(files)["spaces"])

    def test_a_net_of_float32_is_left_alone(self) -> None:
        assert load(MODELS / "lenet5-digits.onnx").computed == "FLOAT"


class TestSamples:
    """Nets that ONNX Runtime's tool has made of those in `models/`."""

    @kept
    @pytest.mark.parametrize(("family", "roundings"), [("lenet5", 2), ("resnet", 6), ("mobilenet", 12)])
    def test_what_shares_nothing_is_its_original(self, family: str, roundings: int, keep: bool) -> None:
        whole = {t: sample(f"{family}-{t}") for t in (LOW, HIGH)}
        files = {t: saved(halved(model, keep), t) for t, model in whole.items()}
        merged = onnxzip.merge(files, digits(80), share=0.0)
        merged.save("m.onnx")
        kind = FLOAT if keep else FLOAT16
        assert ports(Path("m.onnx")) == {ENTER: kind, f"{LOW}_{LEAVE}": kind, f"{HIGH}_{LEAVE}": kind}
        assert weights(Path("m.onnx")) == {FLOAT16}
        onnx.checker.check_model("m.onnx", full_check=True)
        x = digits(200).astype(np.float32 if keep else np.float16)
        found = outputs_of(Path("m.onnx"), x)
        for task, model in whole.items():
            mine, exact = found[f"{task}_{LEAVE}"], outputs_of(model.SerializeToString(), x.astype(np.float32))[LEAVE]
            original = outputs_of(files[task], x)[LEAVE]
            assert mine.dtype == original.dtype
            assert off(mine, exact) < roundings * U
            assert off(mine, original) < roundings * U

    @kept
    @pytest.mark.parametrize("family", ["lenet5", "resnet"])
    def test_merged_with_itself_it_is_itself(self, family: str, keep: bool) -> None:
        model = sample(f"{family}-{LOW}")
        path = saved(halved(model, keep), "half")
        merged = onnxzip.merge({"a": path, "b": path}, digits(80))
        merged.save("m.onnx")
        assert merged.report["merged"]["params_ratio"] == pytest.approx(0.5, abs=0.01)
        assert Path("m.onnx").stat().st_size < 1.1 * path.stat().st_size
        x = digits(200).astype(np.float32 if keep else np.float16)
        found, exact = outputs_of(Path("m.onnx"), x), outputs_of(model.SerializeToString(), x.astype(np.float32))[LEAVE]
        for task in "ab":
            assert off(found[f"{task}_{LEAVE}"], exact) < 4 * U

    @kept
    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_it_merges_as_the_nets_of_float32_do(self, keep: bool, layout: str) -> None:
        whole = {t: sample(f"lenet5-{t}") for t in (LOW, HIGH)}
        x = digits(200)
        results = []
        for make in (lambda m: m, lambda m: halved(m, keep)):
            files = {t: saved(make(model), t) for t, model in whole.items()}
            merged = onnxzip.merge(files, x, share=0.5, layout=layout)
            kind = np.float16 if ports(merged.model)[ENTER] == FLOAT16 else np.float32
            results.append((merged.report, outputs_of(merged.content, digits(300).astype(kind))))
        (one, wanted), (two, found) = results
        assert one["merged"]["params"] == two["merged"]["params"]
        assert two["merged"]["bytes"] < 0.55 * one["merged"]["bytes"]
        for name, want in wanted.items():
            assert off(found[name], want) < 10 * U  # the images are rounded, too: so are all that is fitted to them

    def test_one_net_of_float16_and_one_of_float32(self) -> None:
        """The fused input is float32, which holds what both take; each output has the type that it had."""
        low, high = saved(halved(sample(f"lenet5-{LOW}"), False), "low"), saved(sample(f"lenet5-{HIGH}"), "high")
        x = digits(200)
        for first, second in ((low, high), (high, low)):
            files = {first.stem: first, second.stem: second}
            merged = onnxzip.merge(files, x, share=0.0)
            assert ports(merged.model) == {ENTER: FLOAT, "low_logits": FLOAT16, "high_logits": FLOAT}
            assert merged.report["stored"]["merged"] == "float32"
            found = outputs_of(merged.content, x)
            assert off(found["high_logits"], outputs_of(high, x)[LEAVE]) < 1e-6
            assert off(found["low_logits"], outputs_of(low, x.astype(np.float16))[LEAVE]) < 2 * U
            assert {t: d["fidelity"]["relative_error"] < 2 * U for t, d in merged.report["tasks"].items()} == dict.fromkeys(
                files, True
            )
            assert all(s["shared"] for s in onnxzip.plan(files)["spaces"])


class TestData:
    def test_floats_of_any_width_and_images(self) -> None:
        """What is given is rounded to what the nets take; images are scaled as for nets of float32."""
        files = {t: saved(halved(sample(f"lenet300-{t}"), False), t) for t in (LOW, HIGH)}
        images = np.random.default_rng(0).integers(0, 256, (100, 1, 28, 28)).astype(np.uint8)
        made = {}
        for name, data in {
            "uint8": images, "half": (images.astype(np.float32) / 255).astype(np.float16),
            "single": images.astype(np.float32) / 255, "double": images / 255,
        }.items():
            made[name] = onnxzip.merge(files, data, samples=80)
        contents = {name: merged.model.graph.SerializeToString(deterministic=True) for name, merged in made.items()}
        assert len(set(contents.values())) == 1

    def test_noise_serves_where_there_are_none(self) -> None:
        files = {t: saved(halved(sample(f"lenet300-{t}"), False), t) for t in (LOW, HIGH)}
        assert onnxzip.merge(files, share=0.0).report["tasks"][LOW]["fidelity"]["relative_error"] < 2 * U

    def test_numbers_that_float16_cannot_hold(self) -> None:
        files = {t: saved(halved(sample(f"lenet300-{t}"), False), t) for t in (LOW, HIGH)}
        data = digits(40)
        data[7] *= 1e6
        with pytest.raises(InvalidDataError, match=r"'image' hold numbers above 65,504, the largest of float16"):
            onnxzip.merge(files, data)


class Encoder(nn.Module):
    """Tokens to classes, by attention."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.joint(self.norms[0](h)).chunk(3, -1))
        a = torch.softmax(q @ k.transpose(-2, -1) * 8**-0.5, -1)
        h = h + self.out((a @ v).transpose(1, 2).flatten(2))
        h = h + self.mlp(self.norms[1](h))
        logits: torch.Tensor = self.head(h.mean(1))
        return logits


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(30, 24), nn.Tanh(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))


def conv_bn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3),
        nn.BatchNorm2d(12), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )


NETS: Mapping[str, tuple[object, tuple[int, ...]]] = {
    "mlp": (mlp, (5, 6)), "conv + BatchNormalization": (conv_bn, (3, 8, 8)), "encoder": (Encoder, (5, 6)),
}


def exported(kind: str, seed: int, dynamo: bool) -> tuple[Path, nn.Module]:
    """A net after `.half()`, as torch writes it; and the net itself, back in float32."""
    build, shape = NETS[kind]
    torch.manual_seed(seed)
    net = build().eval()  # type: ignore[operator]
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.2)
            nn.init.uniform_(part.running_var, 0.6, 1.4)
    path, example = Path(f"{seed}.onnx"), torch.randn(2, *shape).half()
    names = {"input_names": ["x"], "output_names": ["y"], "dynamo": dynamo}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            dims = ({0: torch.export.Dim("N", min=1, max=4096)},)
            torch.onnx.export(net.half(), (example,), path, **names, dynamic_shapes=dims, verbose=False)
        else:
            axes = {"x": {0: "N"}, "y": {0: "N"}}
            torch.onnx.export(net.half(), (example,), path, **names, dynamic_axes=axes, opset_version=14)
    return path, net.float()


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", NETS)
def test_exports_of_torch(kind: str, dynamo: bool) -> None:
    """Among them a LayerNorm that the older exporter computes in float64."""
    rng = np.random.default_rng(1)
    data = rng.standard_normal((120, *NETS[kind][1]), np.float32)
    (a, net), (b, other) = (exported(kind, seed, dynamo) for seed in (1, 2))
    x = data[:50].astype(np.float16)
    with torch.no_grad():
        exact = {"a": net(torch.tensor(x).float()).numpy(), "b": other(torch.tensor(x).float()).numpy()}
    apart = onnxzip.merge({"a": a, "b": b}, data, share=0.0)
    assert set(ports(apart.model).values()) == {FLOAT16}
    for task, want in exact.items():
        assert off(fed(apart.content, {"x": x})[f"{task}_y"], want) < 2 * U
    same = onnxzip.merge({"a": a, "b": a}, data)
    assert same.report["merged"]["params_ratio"] < 0.53 and not same.report["refusals"]
    for task in "ab":
        assert off(fed(same.content, {"x": x})[f"{task}_y"], exact["a"]) < 2 * U
    shared = onnxzip.plan({"a": a, "b": b})["spaces"]
    assert shared and all(s["shared"] == s["sizes"]["a"] for s in shared if "sizes" in s)


class TestCommands:
    """What is done with a fused file of float16."""

    @pytest.fixture
    def fused(self) -> Path:
        np.savez("d.npz", image=(digits(260) * 255).astype(np.uint8))
        for name, seed in (("low", LOW), ("high", HIGH)):
            saved(halved(sample(f"lenet5-{seed}"), False), name)
        ran = run("merge", "low.onnx", "high.onnx", "--data", "d.npz", "--share", "0.5", "-o", "m.onnx", "--json")
        assert ran.code == 0, ran.err
        report = json.loads(ran.out)
        assert report["stored"] == {"merged": "float16", "tasks": {"low": "float16", "high": "float16"}}
        assert report["merged"]["bytes"] == Path("m.onnx").stat().st_size
        return Path("m.onnx")

    def test_plan(self, fused: Path) -> None:
        planned = onnxzip.plan({"low": "low.onnx", "high": "high.onnx"}, share=0.5)
        assert planned["stored"]["merged"] == "float16"
        assert "in the fused file" not in run("plan", "low.onnx", "high.onnx").out
        net = load(fused)
        assert planned["merged"]["params"] == net.size and net.computed == net.stored == "FLOAT16"

    def test_verify(self, fused: Path) -> None:
        against = ("--against", "low=low.onnx", "--against", "high=high.onnx", "--data", "d.npz")
        assert run("verify", fused, *against, "--tolerance", "0.3", "--min-agreement", "0.8").code == 0
        failed(1, "verify", fused, *against, "--tolerance", "1e-4", words=("relative error",))
        saved(sample(f"lenet5-{LOW}"), "whole")
        failed(1, "verify", fused, "--against", "low=whole.onnx", "--data", "d.npz", words=("float16", "float32"))

    @kept
    def test_converted_to_float16_again(self, fused: Path, keep: bool) -> None:
        """It computes in float16 then, as its originals do, and is what it was."""
        saved(halved(onnx.load(fused), keep), "again")
        against = ("--against", "low=low.onnx", "--against", "high=high.onnx", "--data", "d.npz", "--json")
        told = (json.loads(run("verify", f, *against).out)["tasks"] for f in (fused, "again.onnx"))
        before, after = ({t: entry["fidelity"]["relative_error"] for t, entry in tasks.items()} for tasks in told)
        x = digits(50).astype(np.float16)
        for task, name in (("low", f"low_{LEAVE}"), ("high", f"high_{LEAVE}")):
            assert after[task] == pytest.approx(before[task], abs=4 * U)
            assert off(outputs_of(Path("again.onnx"), x)[name], outputs_of(fused, x)[name]) < 4 * U
        assert run("split", "again.onnx", "--task", "low", "-o", "alone.onnx").code == 0
        assert load("again.onnx").size == load(fused).size

    def test_split_and_bundle(self, fused: Path) -> None:
        assert run("bundle", fused, "-o", "all").code == 0
        x = digits(50).astype(np.float16)
        whole = outputs_of(fused, x)
        for task in ("low", "high"):
            assert run("split", fused, "--task", task, "-o", f"{task}2.onnx").code == 0
            for alone in (Path(f"{task}2.onnx"), Path("all", f"{task}.onnx")):
                assert ports(alone) == {ENTER: FLOAT16, LEAVE: FLOAT16} and weights(alone) == {FLOAT16}
                found = outputs_of(alone, x)[LEAVE]
                np.testing.assert_allclose(found, whole[f"{task}_{LEAVE}"], rtol=2 * U, atol=2 * U)

    def test_inspect_and_diff(self, fused: Path) -> None:
        told = inspect(fused)
        assert told["file"]["params"] == load(fused).size
        nodes = {n["name"]: n for n in told["nodes"]}
        assert {n.name for n in load(fused).nodes} == set(nodes)
        assert sum(n["bytes"] for n in nodes.values()) == 2 * told["file"]["params"]
        found = diff("low.onnx", fused)
        assert found["summary"]["missing"] == 0 and found["summary"]["nodes"] == len(load("low.onnx").nodes)
        assert run("inspect", fused, "--html", "page.html", "--against", "low=low.onnx").code == 0

    def test_retrain(self, fused: Path) -> None:
        teachers = ("--teacher", "low=low.onnx", "--teacher", "high=high.onnx", "--data", "d.npz")
        merging = ("merge", "low.onnx", "high.onnx", "--data", "d.npz")
        assert run(*merging, "--method", "average", "-o", "bad.onnx").code == 0
        ran = run("retrain", "bad.onnx", *teachers, "--steps", "40", "-o", "t.onnx", "--json")
        assert ran.code == 0, ran.err
        tasks = json.loads(ran.out)["retrain"]["tasks"]
        assert all(t["end"]["loss"] < 0.95 * t["start"]["loss"] for t in tasks.values())
        assert ports("t.onnx") == ports(fused) and weights(Path("t.onnx")) == {FLOAT16}
        again = run(*merging, "--retrain", "4", "-o", "r.onnx")
        assert again.code == 0 and ports("r.onnx") == ports(fused)

    def test_as_a_torch_module(self, fused: Path) -> None:
        module = onnxzip.to_torch(fused)
        x = digits(20).astype(np.float16)
        want = outputs_of(fused, x)
        for tensor in (torch.tensor(x), torch.tensor(x).float()):
            found = module(tensor)
            for name, array in want.items():
                assert off(found[name].detach().numpy(), array) < U
        onnxzip.from_torch(module, "same.onnx")
        assert Path("same.onnx").read_bytes() == fused.read_bytes()
        with torch.no_grad():
            next(iter(module.params().values())).mul_(2)
        onnxzip.from_torch(module, "other.onnx")
        assert weights(Path("other.onnx")) == {FLOAT16}

    @pytest.mark.parametrize("target", ["ort", "onnx-mobile"])
    def test_export(self, fused: Path, target: str) -> None:
        path = Path(f"shipped.{'ort' if target == 'ort' else 'onnx'}")
        ran = run("export", fused, "--target", target, "-o", path, "--data", "d.npz")
        assert ran.code == 0, ran.err
        if target == "onnx-mobile":
            assert ports(path) == ports(fused)
            x = digits(1).astype(np.float16)
            for name, want in outputs_of(fused, x).items():
                assert off(outputs_of(path, x)[name], want) < U

    def test_merge_again(self, fused: Path) -> None:
        saved(halved(sample("lenet5-digits"), False), "digits")
        ran = run("merge", f"both={fused}", "third=digits.onnx", "--data", "d.npz", "--share", "0", "-o", "three.onnx")
        assert ran.code == 0, ran.err
        x = digits(30).astype(np.float16)
        found = outputs_of(Path("three.onnx"), x)
        for name, want in outputs_of(fused, x).items():
            assert off(found[name], want) < U
        assert set(ports("three.onnx").values()) == {FLOAT16}
        graph = onnx.load("three.onnx").graph
        params = {t.name for t in graph.initializer}
        casts = [n for n in graph.node if n.op_type == "Cast" and n.input[0] not in params]
        assert len(casts) == 4  # one behind the input, one before each output


def written(name: str, graph: str, seed: int, **shapes: tuple[int, ...]) -> Path:
    """A net of float16 from text; what stands in `shapes` are its weights."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}')
    rng = np.random.default_rng(seed)
    for param, shape in shapes.items():
        array = (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(array, param))
    return saved(model, name)


CONV = {"c": (8, 3, 3, 3), "b": (8,), "d": (6, 8, 3, 3), "e": (4, 6), "f": (4,)}
POOLED = """g (float16[{n},3,{size}] x) => ({out}) {{ h = Conv <pads = [1,1,1,1]> (x, c, b) r = Relu (h) k = Conv (r, d)
    p = GlobalAveragePool (k) q = Flatten (p) y = Gemm <transB = 1> (q, e, f) {end} }}"""


class TestInputsAndEnds:
    def test_images_of_any_size(self) -> None:
        """The Casts at the ports stay when the net has been run at another size."""
        text = POOLED.format(n="N", size="H,W", out="float16[N,4] y", end="")
        files = {str(k): written(f"{k}", text, k, **CONV) for k in (1, 2)}
        data = np.random.default_rng(3).standard_normal((60, 3, 12, 12), np.float32)
        merged = onnxzip.merge(files, data, share=0.0)
        assert merged.report["sizes"]
        x = np.random.default_rng(4).standard_normal((5, 3, 15, 9)).astype(np.float16)
        found = fed(merged.content, {"x": x})
        for task, file in files.items():
            assert off(found[f"{task}_y"], fed(file, {"x": x})["y"]) < 4 * U

    def test_tokens_of_any_number(self) -> None:
        """A mask of float16's lowest number is computed from the number of tokens."""
        text = f"""g (int64[N,S] i) => (float16[N,S,4] y) {{ h = Gather (t, i) q = MatMul (h, w) k = MatMul (h, v)
            kt = Transpose <perm = [0,2,1]> (k) s = MatMul (q, kt) one = Constant <value = int64[1] {{1}}> ()
            sh = Shape (i) n = Slice (sh, one, two) nn = Concat <axis = 0> (n, n)
            low = ConstantOfShape <value = {half(-65504)}> (nn) m = Trilu <upper = 1> (low, next) a = Add (s, m)
            p = Softmax <axis = -1> (a) z = MatMul (p, h) y = MatMul (z, e) }}"""
        files = {}
        for k in (1, 2):
            path = written(f"{k}", text, k, t=(20, 8), w=(8, 8), v=(8, 8), e=(8, 4))
            model = onnx.load(path)
            model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "two"))
            model.graph.initializer.append(numpy_helper.from_array(np.array(1), "next"))
            files[str(k)] = saved(model, f"{k}")
        rng = np.random.default_rng(0)
        merged = onnxzip.merge(files, rng.integers(0, 20, (60, 9)), share=0.0)
        assert merged.report["sizes"]
        i = rng.integers(0, 20, (4, 13))
        for task, file in files.items():
            assert off(fed(merged.content, {"i": i})[f"{task}_y"], fed(file, {"i": i})["y"]) < 4 * U

    def test_weights_beside_the_file(self) -> None:
        files = {}
        for name in (LOW, HIGH):
            onnx.save(
                halved(sample(f"lenet300-{name}"), False), f"{name}.onnx", save_as_external_data=True, size_threshold=0,
                location=f"{name}.data",
            )
            files[name] = Path(f"{name}.onnx")
        merged = onnxzip.merge(files, digits(60), share=0.0, opset=21)
        assert all(t["fidelity"]["relative_error"] < 2 * U for t in merged.report["tasks"].values())
        assert merged.model.opset_import[0].version == 21

    def test_one_sample_beside_any_number(self) -> None:
        files = {}
        for n in ("1", "N"):
            files[n] = written(n, POOLED.format(n=n, size="9,9", out=f"float16[{n},4] y", end=""), 1 + (n == "N"), **CONV)
        data = np.random.default_rng(3).standard_normal((60, 3, 9, 9), np.float32)
        merged = onnxzip.merge(files, data, share=0.0)
        assert all(t["fidelity"]["relative_error"] < 4 * U for t in merged.report["tasks"].values())

    def test_an_end_that_is_kept_as_it_is(self) -> None:
        """Numbers that the data decide how many of there are, of float16 and beside another output."""
        end = f"m = Constant <value = {half(0)}> () n = Greater (y, m) z = NonZero (n) t = Transpose <perm = [1,0]> (z)"
        end += " v = GatherND (y, t)"
        text = POOLED.format(n="N", size="9,9", out="float16[N,4] y, float16[M] v", end=end)
        files = {str(k): written(f"{k}", text, k, **CONV) for k in (1, 2)}
        data = np.random.default_rng(3).standard_normal((60, 3, 9, 9), np.float32)
        for share, nets in ((0.0, files), (1.0, {"1": files["1"], "2": files["1"]})):
            merged = onnxzip.merge(nets, data, share=share)
            assert set(ports(merged.model).values()) == {FLOAT16}
            x = data[:4].astype(np.float16)
            found = fed(merged.content, {"x": x})
            for task, file in nets.items():
                for name, want in fed(file, {"x": x}).items():
                    assert off(found[f"{task}_{name}"], want) < 4 * U

    def test_an_input_that_is_an_output(self) -> None:
        text = POOLED.format(n="N", size="9,9", out="float16[N,4] y, float16[N,3,9,9] x", end="")
        files = {str(k): written(f"{k}", text, k, **CONV) for k in (1, 2)}
        x = np.random.default_rng(3).standard_normal((60, 3, 9, 9)).astype(np.float16)
        merged = onnxzip.merge(files, x, share=0.0)
        np.testing.assert_array_equal(fed(merged.content, {"x": x})["1_x"], x)

    def test_inputs_of_other_types_beside_it(self) -> None:
        text = """g (float16[N,6] x, int64[N] i) => (float16[N,4] y, int64[N] z)
            { a = Gemm <transB = 1> (x, w, b) r = Relu (a) t = Gather (v, i) s = Add (r, t) y = Gemm <transB = 1> (s, e, f)
              z = ArgMax <axis = 1, keepdims = 0> (y) }"""
        shapes = {"w": (8, 6), "b": (8,), "v": (5, 8), "e": (4, 8), "f": (4,)}
        files = {str(k): written(f"{k}", text, k, **shapes) for k in (1, 2)}
        rng = np.random.default_rng(3)
        data = {"x": rng.standard_normal((80, 6), np.float32), "i": rng.integers(0, 5, 80)}
        merged = onnxzip.merge(files, data, share=0.0)
        feeds = {"x": data["x"].astype(np.float16), "i": data["i"]}
        found = fed(merged.content, feeds)
        for task, file in files.items():
            want = fed(file, feeds)
            assert off(found[f"{task}_y"], want["y"]) < 4 * U
            assert (found[f"{task}_z"] == want["z"]).mean() > 0.95
