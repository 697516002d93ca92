"""A net as a torch module: it computes what ONNX Runtime computes, traces, copies, and differentiates."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from architectures import ARCHITECTURES, model_of
from fusing import fuse, make, net_of
from netfiles import written
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch.export import Dim

import onnxzip
from onnxzip.errors import InvalidModelError, UnsupportedError, UsageError
from onnxzip.net import Net, bind_batch
from onnxzip.retraining.keys import keys_of
from onnxzip.retraining.module import TorchNet, read_module, write_params
from onnxzip.runtime import to_model

MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))
# families with an operator that has no record
UNKNOWN = {"unknown_operator": "BitShift"}
RUNNABLE = sorted(ARCHITECTURES.keys() - UNKNOWN)
MERGED = [
    "mlp",
    "tokens",
    "lenet",
    "resnet",
    "mobilenet",
    "densenet",
    "grouped",
    "unet",
    "layer_norm",
    "two_outputs",
    "two_inputs",
]


def session(content: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def feeds_for(module: TorchNet, batch: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(batch)
    arrays = {p.name: rng.standard_normal(bind_batch(p.shape, batch)).astype(p.dtype) for p in module.inputs}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def check_runs_as_onnx_runtime(content: bytes, module: TorchNet, batches: tuple[int, ...] = (1, 5)) -> None:
    runtime = session(content)
    for batch in batches:
        feeds = feeds_for(module, batch)
        wanted = runtime.run(None, {name: x.numpy() for name, x in feeds.items()})
        found = module(**feeds)
        assert list(found) == [o.name for o in runtime.get_outputs()] == [p.name for p in module.outputs]
        for got, want in zip(found.values(), wanted, strict=True):
            assert tuple(got.shape) == want.shape
            np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=1e-5 * float(np.abs(want).max()))


def family(name: str) -> bytes:
    return model_of(ARCHITECTURES[name], 0).SerializeToString()


def merged(name: str, share: float, layout: str, folder: Path) -> Net:
    return fuse([make(folder, name, seed) for seed in (0, 1)], share, layout, "average").net


def model(graph: str, folder: Path, opset: int = 17, **given: np.ndarray) -> bytes:
    return written(folder, graph, opset, **given).read_bytes()


def float_initializers(content: bytes) -> set[str]:
    return {t.name for t in ModelProto.FromString(content).graph.initializer if t.data_type == TensorProto.FLOAT}


def settings(content: bytes) -> set[str]:
    """Names that a Clip or a Resize reads as its bounds or scales."""
    nodes = [n for n in ModelProto.FromString(content).graph.node if n.op_type in ("Clip", "Resize")]
    return {v for n in nodes for v in n.input[1:]}


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_example_nets_run_as_in_onnx_runtime(path: Path) -> None:
    check_runs_as_onnx_runtime(path.read_bytes(), onnxzip.to_torch(path))


@pytest.mark.parametrize("name", RUNNABLE)
def test_families_run_as_in_onnx_runtime_and_have_all_their_params(name: str) -> None:
    content = family(name)
    module = read_module(content)
    check_runs_as_onnx_runtime(content, module)
    assert set(module.state_dict()) == set(module.params()) == float_initializers(content) - settings(content)


@pytest.mark.parametrize(("share", "layout"), [(1.0, "strands"), (0.5, "strands"), (0.6, "wide")])
@pytest.mark.parametrize("name", MERGED)
def test_merged_nets_run_as_in_onnx_runtime(name: str, share: float, layout: str, tmp_path: Path) -> None:
    content = to_model(merged(name, share, layout, tmp_path)).SerializeToString()
    module = read_module(content)
    check_runs_as_onnx_runtime(content, module)
    assert write_params(module) == content


@pytest.mark.parametrize("name", ["lenet", "resnet", "mobilenet", "unet", "layer_norm", "two_inputs", "reshaped", "grouped"])
def test_modules_trace_with_any_batch(name: str) -> None:
    module = read_module(family(name))
    inputs, others = (tuple(feeds_for(module, batch).values()) for batch in (3, 7))
    exported = torch.export.export(module, inputs, dynamic_shapes=(tuple({0: Dim("batch")} for _ in inputs),))
    for given in (inputs, others):
        for got, want in zip(exported.module()(*given).values(), module(*given).values(), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert set(module.state_dict()) <= set(exported.state_dict)


@pytest.mark.parametrize("layout", ["strands", "wide"])
def test_merged_nets_trace(layout: str, tmp_path: Path) -> None:
    module = read_module(to_model(merged("resnet", 0.5, layout, tmp_path)).SerializeToString())
    feeds = feeds_for(module, 3)
    exported = torch.export.export(module, (), feeds)
    for got, want in zip(exported.module()(**feeds).values(), module(**feeds).values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


TOKENS = """net (float[N,4,6] x, float[1,1,8] token, float[6,8] w, float[8,3] v) => (float[N,5,3] y) {
    shape = Shape (x)
    first = Constant <value_ints = [0]> ()
    batch = Gather (shape, first)
    rest = Constant <value_ints = [1, 8]> ()
    full = Concat <axis = 0> (batch, rest)
    tokens = Expand (token, full)
    a = MatMul (x, w)
    h = Concat <axis = 1> (tokens, a)
    y = MatMul (h, v)
}"""


ONE = """net (float[1,6] x, float[1,2] x2, float[6,4] w, int64[2] s) => (float[1,4] y, float total, float[2,2] z) {
    m = MatMul (x, w) t = ReduceSum <keepdims = 0> (x2) y = Add (m, t) total = ReduceMax <keepdims = 0> (y)
    z = Reshape (y, s) }"""


class TestOneSampleAtATime:
    """Files for one sample take several: at once where nothing mixes them, else one after the other."""

    def test_several_at_once(self, tmp_path: Path) -> None:
        text = "net (float[1,6] x, float[6,4] w, int64[2] s) => (float[1,4] y) { m = MatMul (x, w) y = Reshape (m, s) }"
        module = onnxzip.to_torch(written(tmp_path, text, s=np.array([1, 4])))
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(module(x)["y"], x @ module.params()["w"])
        assert module.inputs[0].shape == (-1, 6)
        onnxzip.from_torch(module, tmp_path / "t.onnx")
        assert onnx.load(tmp_path / "t.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1

    def test_one_after_the_other(self, tmp_path: Path) -> None:
        """Where samples would mix; what has no rows of samples has one for each."""
        module = onnxzip.to_torch(written(tmp_path, ONE, s=np.array([2, 2])))
        x, x2 = (torch.randn(5, n, generator=torch.Generator().manual_seed(n)) for n in (6, 2))
        found = module(x, x2)
        y = x @ module.params()["w"] + x2.sum(1, keepdim=True)
        torch.testing.assert_close(found, {"y": y, "total": y.amax(1), "z": y.reshape(10, 2)})
        found["y"].sum().backward()
        assert module.params()["w"].grad is not None
        alone = module(x[:1], x2[:1])
        assert alone["total"].shape == ()
        with pytest.raises(UsageError, match="given 4 and 5 samples"):
            module(x, x2[:4])


def test_a_token_that_is_repeated_for_every_sample_takes_the_batch_of_the_input(tmp_path: Path) -> None:
    content = model(TOKENS, tmp_path)
    module = read_module(content)
    check_runs_as_onnx_runtime(content, module, (1, 2, 5))
    exported = torch.export.export(module, (torch.rand(3, 4, 6),), dynamic_shapes=(({0: Dim("batch")},),))
    assert exported.module()(torch.rand(8, 4, 6))["y"].shape == (8, 5, 3)


def test_a_merged_net_repeats_its_token_for_every_sample(tmp_path: Path) -> None:
    nets = [net_of(tmp_path, ModelProto.FromString(model(TOKENS, tmp_path)), name) for name in "ab"]
    content = to_model(fuse(nets).net).SerializeToString()
    module = read_module(content)
    check_runs_as_onnx_runtime(content, module, (1, 5))
    feeds = feeds_for(module, 5)
    want = read_module(model(TOKENS, tmp_path))(**feeds)["y"]
    for got in module(**feeds).values():
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3 * float(want.detach().abs().max()))


def test_a_single_number_of_a_vector_is_taken(tmp_path: Path) -> None:
    """Fused weights of a BiFPN: one factor for each scale, chosen by a single index."""
    graph = """net (float[N,4] x, float[3] w) => (float[N,4] y) <int64 one = {1}> {
        factor = Gather <axis = 0> (w, one)
        y = Mul (x, factor)
    }"""
    content = model(graph, tmp_path)
    check_runs_as_onnx_runtime(content, read_module(content))


class TestReading:
    GRAPH = """net (float[N,4] x, float[4,4] w, float[4] b) => (float[N,4] y, float[N,4] z) {
        a = MatMul (x, w)
        y = Add (a, b)
        c = Relu (y)
        t = Transpose <perm = [1, 0]> (w)
        d = MatMul (c, t)
        z = Add (d, b)
    }"""

    def test_a_param_that_is_read_twice_or_transposed_is_one_parameter(self, tmp_path: Path) -> None:
        content = model(self.GRAPH, tmp_path)
        module = read_module(content)
        check_runs_as_onnx_runtime(content, module)
        assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {"w": (4, 4), "b": (4,)}
        x = torch.rand(3, 4)
        module(x)["z"].sum().backward()
        w, b = (module.params()[name].detach().clone().requires_grad_() for name in "wb")
        (torch.relu(x @ w + b) @ w.T + b).sum().backward()
        torch.testing.assert_close(module.params()["w"].grad, w.grad)
        torch.testing.assert_close(module.params()["b"].grad, b.grad)

    def test_integers_and_settings_are_constants(self, tmp_path: Path) -> None:
        graph = """net (float[N,4] x, float[7,4] _constant_0, float low, float high) => (float[N,2,4] y) {
            at = Constant <value = int64[2] {5, 1}> ()
            rows = Gather <axis = 0> (_constant_0, at)
            h = Clip (rows, low, high)
            one = Constant <value = int64[1] {1}> ()
            u = Unsqueeze (x, one)
            y = Mul (u, h)
        }"""
        content = model(graph, tmp_path, low=np.array(-0.7, np.float32), high=np.array(0.8, np.float32))
        module = read_module(content)
        check_runs_as_onnx_runtime(content, module)
        assert module.keys == {"_constant_0": "_constant_0_"} and list(module.state_dict()) == ["_constant_0_"]
        assert module.double()(torch.rand(2, 4, dtype=torch.float64))["y"].dtype == torch.float64

    def test_statistics_exponents_and_single_numbers_get_no_gradient(self, tmp_path: Path) -> None:
        graph = """net (float[N,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v, float[1] e, float k)
            => (float[N,3,4] y) {
            h = BatchNormalization (x, s, b, m, v)
            q = Pow (h, e)
            y = Mul (q, k)
        }"""
        content = model(graph, tmp_path, v=np.ones(3, np.float32), e=np.full(1, 2.0, np.float32), k=np.array(3, np.float32))
        module = read_module(content)
        check_runs_as_onnx_runtime(content, module)
        assert {n: p.requires_grad for n, p in module.named_parameters()} == {
            **dict.fromkeys("sb", True),
            **dict.fromkeys("mvek", False),
        }
        before = {n: p.detach().clone() for n, p in module.named_parameters()}
        module.requires_grad_(True)
        module(torch.rand(2, 3, 4))["y"].sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in module.named_parameters() if n in "sbmvk")
        assert all(torch.equal(before[n], p) for n, p in module.named_parameters())

    def test_all_unknown_operators_are_named_at_once(self, tmp_path: Path) -> None:
        graph = """net (float[N,4] x, float[4] w) => (float[N,4] y) {
            [first] a = RandomUniformLike (x)
            [second] b = Identity (a)
            [third] c = Mul (b, w)
            [fourth] d = Det (c)
            [fifth] e = vendor.Odd (c)
            [sixth] f = RandomUniformLike (e)
            [seventh] y = Identity (f)
        }"""
        text = f'<ir_version: 8, opset_import: ["": 17, "vendor": 1]> {graph}'
        parsed = onnx.parser.parse_model(text)
        parsed.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "w"))
        del parsed.graph.input[1], parsed.graph.node[3]
        path = tmp_path / "odd.onnx"
        path.write_bytes(parsed.SerializeToString())
        with pytest.raises(UnsupportedError) as error:
            onnxzip.to_torch(path)
        for part in ("RandomUniformLike (node 'first', 'sixth')", "vendor.Odd (node 'fifth')", str(path)):
            assert part in str(error.value)
        assert "Mul" not in str(error.value)

    def test_control_flow_is_refused(self) -> None:
        text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[N,2] x) => (float[N,2] y) {
            top = ReduceMax <keepdims = 0> (x)
            choice = Cast <to = 9> (top)
            [branch] y = If (choice) <
                then_branch = yes () => (float[N,2] a) { a = Relu (x) },
                else_branch = no () => (float[N,2] b) { b = Neg (x) }
            >
        }"""
        with pytest.raises(UnsupportedError, match=r"If \(node 'branch'\)"):
            read_module(onnx.parser.parse_model(text).SerializeToString())

    @pytest.mark.parametrize("name", sorted(UNKNOWN))
    def test_families_with_unknown_operators_are_refused(self, name: str) -> None:
        with pytest.raises(UnsupportedError, match=UNKNOWN[name]):
            read_module(family(name))

    def test_normalization_in_training_is_refused(self, tmp_path: Path) -> None:
        graph = """net (float[N,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[N,3,4] y) {
            y, mean, variance = BatchNormalization <training_mode = 1> (x, s, b, m, v)
        }"""
        with pytest.raises(UnsupportedError, match="training mode"):
            read_module(model(graph, tmp_path))

    @pytest.mark.parametrize("content", [b"", b"no net", b"\x08\x08"])
    def test_bytes_that_are_no_net_are_refused(self, content: bytes) -> None:
        with pytest.raises(InvalidModelError):
            read_module(content)


class TestModule:
    @pytest.fixture
    def module(self) -> TorchNet:
        return read_module(family("two_outputs"))

    def same(self, one: TorchNet, other: TorchNet, feeds: Mapping[str, torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one(**feeds).values(), other(**feeds).values(), strict=True))

    def test_only_what_the_outputs_need_is_run(self, module: TorchNet) -> None:
        feeds, names = feeds_for(module, 3), [p.name for p in module.outputs]
        full = module(**feeds)
        for wanted in ([names[0]], [names[1]], names[::-1]):
            found = module.compute(feeds, wanted)
            assert list(found) == wanted
            assert all(torch.equal(found[name], full[name]) for name in wanted)
        module.compute(feeds, [names[1]])[names[1]].sum().backward()
        unread = [name for name, p in module.named_parameters() if p.grad is None]
        assert 0 < len(unread) < len(list(module.parameters()))

    def test_inputs_that_an_output_does_not_need_may_be_missing(self, tmp_path: Path) -> None:
        graph = (
            "net (float[N,4] x, float[N,4] x2, float[4] w) => (float[N,4] y, float[N,4] z) { y = Mul (x, w) z = Add (x2, w) }"
        )
        module = read_module(model(graph, tmp_path))
        assert module.compute({"x2": torch.ones(2, 4)}, ["z"])["z"].shape == (2, 4)
        with pytest.raises(UsageError, match="needs its input 'x2'"):
            module(torch.ones(2, 4))
        with pytest.raises(UsageError, match="no output 'q'"):
            module.compute({}, ["q"])
        with pytest.raises(UsageError, match="3 inputs by position"):
            module(*[torch.ones(2, 4)] * 3)
        with pytest.raises(UsageError, match="w by name"):
            module(torch.ones(2, 4), w=torch.ones(4))

    def test_inputs_of_another_shape_are_told(self, tmp_path: Path) -> None:
        module = read_module(model("net (float[N,4] x, float[4] w) => (float[N,4] y) { y = Mul (x, w) }", tmp_path))
        with pytest.raises(UsageError, match=r"'net'.*input 'x' takes the shape \[any, 4\], was given \[2, 5\]"):
            module(torch.ones(2, 5))
        with pytest.raises(UsageError, match=r"given \[4\]"):
            module(torch.ones(4))

    def test_copies_stand_alone(self, module: TorchNet) -> None:
        feeds = feeds_for(module, 3)
        for made in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert self.same(module, made, feeds)
            with torch.no_grad():
                next(made.parameters()).mul_(2.0)
            assert not self.same(module, made, feeds)
            assert write_params(made) != write_params(module) == family("two_outputs")
            made.load_state_dict(module.state_dict())
            assert self.same(module, made, feeds)

    def test_training_and_evaluation_are_the_same(self) -> None:
        module = read_module(family("vgg"))
        feeds, before = feeds_for(module, 3), copy.deepcopy(module.state_dict())
        assert self.same(copy.deepcopy(module).train(), module.eval(), feeds)
        module.train()(**feeds)
        assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())

    def test_other_types(self) -> None:
        content = family("mobilenet")
        module = read_module(content)
        feeds = feeds_for(module, 3)
        want = module(**feeds)["out0"]
        got = module.double()(**{k: v.double() for k, v in feeds.items()})["out0"]
        torch.testing.assert_close(got.float(), want, rtol=1e-4, atol=1e-5)
        assert write_params(module) == content
        with torch.autocast("cpu", torch.bfloat16):
            low = module.float()(**feeds)["out0"].detach()
        assert float((low - want.detach()).abs().max()) < 0.1 * float(want.detach().abs().max())

    def test_keys_are_the_names_unless_torch_refuses_them(self) -> None:
        names = ["layer1.conv.weight", "/fc/W:0", "onnx::Conv_1", "a", "a.b", "forward", "x.training.w", "c..d", "forward_"]
        names += [".e", "inputs"]
        plain = ["layer1.conv.weight", "/fc/W:0", "onnx::Conv_1", "a", "forward_"]
        nodes, before = [], "x"
        for k, _ in enumerate(names):
            nodes.append(helper.make_node("Add", [before, names[k]], [f"v{k}"]))
            before = f"v{k}"
        ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("x", before)]
        stored = [numpy_helper.from_array(np.full(2, 10.0**-k, np.float32), name) for k, name in enumerate(names)]
        graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
        content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        module = read_module(content)
        check_runs_as_onnx_runtime(content, module)
        assert set(module.keys) == set(module.params()) == set(names)
        assert sorted(module.keys.values()) == sorted(module.state_dict())
        assert {name for name, key in module.keys.items() if name == key} == set(plain)
        other = read_module(content)
        with torch.no_grad():
            for k, parameter in enumerate(other.params().values()):
                parameter.fill_(k)
        module.load_state_dict(other.state_dict())
        written_back = ModelProto.FromString(write_params(module)).graph.initializer
        assert [(t.name, numpy_helper.to_array(t)[0]) for t in written_back] == [(n, k) for k, n in enumerate(other.keys)]
        torch.export.export(module, (torch.rand(3, 2),))

    def test_keys_are_all_different(self) -> None:
        names = ["a_b_", "a.b", "a", "a_b", "a..b", "a_b__.c"]
        keys = keys_of(names, torch.nn.Module())
        assert len(set(keys.values())) == len(names)


def test_torch_is_not_executed_before_a_module_is_made() -> None:
    code = (
        "import sys, onnxzip; onnxzip.to_torch, onnxzip.from_torch\n"
        "assert not any(name.startswith('torch.') for name in sys.modules)\n"
        "import onnxzip.retraining.module\n"
        "assert any(name.startswith('torch.') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
