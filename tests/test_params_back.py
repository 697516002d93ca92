"""Params go back into their file by name, and nothing else in it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fusing import fuse, make
from merging import snapshot
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from test_torch_module import MODELS, RUNNABLE, check_runs_as_onnx_runtime, family, feeds_for

import onnxzip
from onnxzip.errors import InvalidDataError, InvalidModelError, UnsupportedError, UsageError
from onnxzip.retraining.module import TorchNet, read_module, write_params
from onnxzip.runtime import to_model

PLAIN = """net (float[N,3,8,8] x) => (float[N,5] y) {
    [one] a = Conv <pads = [1,1,1,1]> (x, w0)
    [two] b = BatchNormalization (a, s, t, m, v)
    [three] c = Relu (b)
    [four] d = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c)
    [five] e = Flatten (d)
    [six] f = MatMul (e, w1)
    [seven] g = Add (f, b1)
    [eight] h = Gemm <alpha = 0.5, transB = 0> (g, w2, b2)
    [nine] y = Softmax <axis = 1> (h)
}"""
STATISTICS = {"m": (4,), "v": (4,)}
WEIGHTS = {"w0": (4, 3, 3, 3), "s": (4,), "t": (4,), "w1": (64, 6), "b1": (6,), "w2": (6, 5), "b2": (1, 5)}
SHAPES = STATISTICS | WEIGHTS


def plain(opset: int = 17) -> ModelProto:
    """A net as an exporter writes it, with everything in it that a net need not have."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {PLAIN}')
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        array = rng.uniform(0.5, 1.0, shape) if name == "v" else 0.5 * rng.standard_normal(shape)
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "nobody reads this"))
    model.producer_name, model.producer_version, model.doc_string, model.domain = "framework", "1.2", "a net", "org.example"
    model.graph.doc_string, model.graph.node[0].doc_string = "a graph", "a node"
    for key in ("zebra", "apple"):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, f"value of {key}"
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 4, 8, 8]))
    return model


def train(module: TorchNet, steps: int = 3) -> None:
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        sum(y.square().mean() for y in module(**feeds_for(module, step + 2)).values()).backward()
        optimizer.step()


def expected(content: bytes, module: TorchNet) -> ModelProto:
    """The file with the raw data of its float initializers replaced, and nothing else touched."""
    model = ModelProto.FromString(content)
    for tensor in model.graph.initializer:
        if tensor.name in module.params():
            tensor.raw_data = module.params()[tensor.name].detach().numpy().tobytes()
    return model


def check_only_params_differ(content: bytes) -> None:
    module = read_module(content)
    assert write_params(module) == content
    train(module)
    written = write_params(module)
    assert written != content
    assert written == expected(content, module).SerializeToString()
    check_runs_as_onnx_runtime(written, module, (2,))
    again = read_module(written)
    assert {n: p.detach().numpy().tobytes() for n, p in again.params().items()} == {
        n: p.detach().numpy().tobytes() for n, p in module.params().items()
    }


@pytest.mark.parametrize("name", RUNNABLE)
def test_families(name: str) -> None:
    check_only_params_differ(family(name))


@pytest.mark.parametrize("path", MODELS[::6], ids=lambda p: p.stem)
def test_example_nets(path: Path) -> None:
    check_only_params_differ(path.read_bytes())


@pytest.mark.parametrize(("share", "layout"), [(1.0, "strands"), (0.5, "strands"), (0.6, "wide")])
@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_merged_nets(name: str, share: float, layout: str, tmp_path: Path) -> None:
    net = fuse([make(tmp_path, name, seed) for seed in (0, 1)], share, layout, "average").net
    check_only_params_differ(to_model(net).SerializeToString())


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 15, 17, 18, 21])
def test_original_nets_of_any_opset(opset: int) -> None:
    content = plain(opset).SerializeToString()
    module = read_module(content)
    check_runs_as_onnx_runtime(content, module)
    assert set(module.params()) == set(SHAPES)
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == set(STATISTICS)
    before = {name: p.detach().clone() for name, p in module.params().items()}
    train(module)
    assert {name for name, p in module.params().items() if not torch.equal(p, before[name])} == set(WEIGHTS)
    check_only_params_differ(content)


def test_params_among_the_inputs_of_an_old_file(tmp_path: Path) -> None:
    model = plain(9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    check_only_params_differ(model.SerializeToString())


def as_constants(model: ModelProto) -> ModelProto:
    """Every param in a Constant node of its own."""
    held = [
        helper.make_node("Constant", [], [t.name], f"Constant_{k}", value=t) for k, t in enumerate(model.graph.initializer)
    ]
    nodes = [*held, *model.graph.node]
    del model.graph.initializer[:]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def test_params_in_constant_nodes() -> None:
    model = as_constants(plain())
    spare = helper.make_node("Constant", [], ["shift"], "last", value_floats=[1.0, 2.0, 3.0, 4.0, 5.0])
    model.graph.node.insert(0, spare)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["twice"], "two", value_floats=[2.0]))
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(helper.make_node("Mul", ["half", "twice"], ["before"], "double"))
    model.graph.node.append(helper.make_node("Add", ["before", "shift"], ["y"], "end"))
    content = model.SerializeToString()
    module = read_module(content)
    assert set(module.params()) == {*SHAPES, "shift", "twice"}
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == {*STATISTICS, "twice"}
    assert write_params(module) == content
    train(module)
    written = write_params(module)
    check_runs_as_onnx_runtime(written, module)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in module.params():
            array = module.params()[node.output[0]].detach().numpy()
            if node.attribute[0].name == "value":
                node.attribute[0].t.raw_data = array.tobytes()
            else:
                node.attribute[0].floats[:] = array.tolist()
    assert written == model.SerializeToString()


def typed(array: np.ndarray, name: str, kind: int) -> TensorProto:
    """A tensor that holds its numbers in the field of its type in place of raw data."""
    return helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("raw", [True, False])
def test_other_types_and_encodings_stay(kind: int, raw: bool) -> None:
    ports = [helper.make_tensor_value_info(n, kind, ["N", 4]) for n in "xy"]
    array = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    tensors = [typed(array, "w", kind), typed(array[0], "b", kind)]
    if raw:
        for tensor in tensors:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["c"], to=kind),
        helper.make_node("Constant", [], ["half"], value=typed(np.array([0.5]), "half", kind)),
        helper.make_node("Mul", ["c", "half"], ["d"]),
        helper.make_node("Add", ["d", "b"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], tensors)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    module = read_module(content)
    wide = torch.float64 if kind == TensorProto.DOUBLE else torch.float32
    assert {p.dtype for p in module.parameters()} == {wide}
    assert module.inputs[0].dtype == module.outputs[0].dtype == np.dtype(str(wide).removeprefix("torch."))
    held = [torch.tensor(numpy_helper.to_array(t).astype(np.float64)).to(wide) for t in tensors]
    x = torch.rand(3, 4, dtype=wide)
    torch.testing.assert_close(module(x)["y"].detach(), 0.5 * (x @ held[0]) + held[1], rtol=1e-6, atol=1e-6)
    assert write_params(module) == content
    train(module)
    written = ModelProto.FromString(write_params(module))
    own = {1: torch.float32, 11: torch.float64, 10: torch.float16, 16: torch.bfloat16}[kind]
    for tensor, old in zip(written.graph.initializer, tensors, strict=True):
        assert (tensor.data_type, tensor.HasField("raw_data")) == (kind, raw)
        want = module.params()[tensor.name].detach().to(own).double().numpy()
        np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float64), want)
        assert not np.array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(old))
    for model in (written, original := ModelProto.FromString(content)):
        del model.graph.initializer[:]
    assert written == original


def test_a_net_of_halves_runs_as_the_same_net_in_float32() -> None:
    model = plain()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    half, wide = ModelProto.FromString(model.SerializeToString()), model
    for tensor in wide.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for port in (*half.graph.input, *half.graph.output, *half.graph.value_info):
        port.type.tensor_type.elem_type = TensorProto.FLOAT16
    check_runs_as_onnx_runtime(wide.SerializeToString(), read_module(half.SerializeToString()))


def test_external_data_come_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(plain(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert (tmp_path / "net.data").exists()
    module, before = onnxzip.to_torch(path), snapshot(tmp_path)
    check_runs_as_onnx_runtime(plain().SerializeToString(), module)
    train(module)
    onnxzip.from_torch(module, tmp_path / "new.onnx")
    assert snapshot(tmp_path).items() >= before.items()
    content = (tmp_path / "new.onnx").read_bytes()
    check_runs_as_onnx_runtime(content, module)
    assert ModelProto.FromString(content).graph.node == plain().graph.node
    with pytest.raises(InvalidModelError, match="other files"):
        read_module(path.read_bytes())
    monkeypatch.setattr("onnxzip.loading.beside.LARGEST_FILE", 1000)
    with pytest.raises(UnsupportedError, match="2 GB"):
        onnxzip.to_torch(path)


def test_params_of_local_functions_are_those_that_they_are_called_with() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
    net (float[N,3] x) => (float[N,3] y) { h = own.layer (x, w0) y = own.layer (h, w1) }
    <domain: "own", opset_import: ["": 17]>
    layer (x, w) => (y) {
        a = MatMul (x, w)
        shift = Constant <value = float[3] {0.1, 0.2, 0.3}> ()
        y = Add (a, shift)
    }"""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name in ("w0", "w1"):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((3, 3), np.float32), name))
    content = model.SerializeToString()
    assert set(read_module(content).params()) == {"w0", "w1"}
    check_only_params_differ(content)


class TestWriting:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "net.onnx"
        path.write_bytes(plain().SerializeToString())
        return path

    def test_a_file_is_replaced_only_by_force(self, file: Path) -> None:
        module, before = onnxzip.to_torch(file), file.read_bytes()
        onnxzip.from_torch(module, file.with_name("copy.onnx"))
        assert file.with_name("copy.onnx").read_bytes() == before
        train(module)
        with pytest.raises(UsageError, match="exists"):
            onnxzip.from_torch(module, file)
        assert file.read_bytes() == before
        onnxzip.from_torch(module, file, force=True)
        assert file.read_bytes() == expected(before, module).SerializeToString()

    @pytest.mark.parametrize("spoil", [lambda p: p[0].fill_(np.nan), lambda p: p[0].fill_(np.inf)])
    def test_a_param_that_is_no_number_is_refused(self, file: Path, spoil: Callable[[torch.Tensor], object]) -> None:
        module, before = onnxzip.to_torch(file), snapshot(file.parent)
        with torch.no_grad():
            spoil(module.params()["w1"])
        with pytest.raises(InvalidDataError, match="'w1' has become NaN or infinite"):
            onnxzip.from_torch(module, file.with_name("new.onnx"))
        assert snapshot(file.parent) == before

    def test_a_param_that_is_too_large_for_its_type_is_refused(self) -> None:
        model = plain()
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        for port in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            port.type.tensor_type.elem_type = TensorProto.FLOAT16
        module = read_module(model.SerializeToString())
        with torch.no_grad():
            module.params()["w0"][0, 0, 0, 0] = 1e5
        with pytest.raises(InvalidDataError, match="'w0'"):
            write_params(module)

    def test_infinities_of_the_file_stay(self) -> None:
        model = plain()
        mask = np.array([0, -np.inf, 0, 0, 0], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
        model.graph.node[-1].input[0] = "masked"
        model.graph.node.insert(8, helper.make_node("Add", ["h", "mask"], ["masked"]))
        content = model.SerializeToString()
        module = read_module(content)
        check_runs_as_onnx_runtime(content, module)
        train(module)
        written = read_module(write_params(module))
        assert written.params()["mask"][1] == -np.inf

    def test_a_param_of_another_shape_is_refused(self, file: Path) -> None:
        module = onnxzip.to_torch(file)
        module.b1 = torch.nn.Parameter(torch.zeros(7))
        with pytest.raises(UsageError, match=r"'b1' has the shape \[7\]; in the file it has \[6\]"):
            write_params(module)

    def test_what_is_moved_and_cast_comes_back_in_the_type_of_the_file(self, file: Path) -> None:
        module = onnxzip.to_torch(file)
        train(module)
        want = write_params(module)
        assert write_params(module.double()) == want
        assert write_params(module.to(memory_format=torch.channels_last)) == want
