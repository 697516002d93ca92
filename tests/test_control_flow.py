"""Nodes of control flow stand in a merged net as they do in their own: what they read and write stays where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fusing import check_close, check_tasks, check_valid, fuse, net_of, outputs, permuted, samples_for
from onnx import ModelProto, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

import onnxzip
from onnxzip.errors import UnsupportedError
from onnxzip.loading.weights import weights_by_type
from onnxzip.net import Net
from onnxzip.runtime import read_by, rename_values

WEIGHTS = {"w": (6, 3, 3, 3), "w2": (6, 6, 3, 3), "v": (6, 6, 3, 3), "u": (6, 6, 3, 3), "fc": (4, 6)}
SHAPES = WEIGHTS | {"b": (6,), "ub": (6,), "g": (6, 1, 1)}
TRUNK = """first = Conv <pads = [1,1,1,1]> (x, w, b) second = Relu (first)
a = Conv <pads = [1,1,1,1]> (second, w2) c = Relu (a) d = Conv <pads = [1,1,1,1]> (c, v) e = Relu (d)"""
HEAD = """k = Conv <pads = [1,1,1,1]> (h, u, ub) l = Relu (k) p = GlobalAveragePool (l) f = Flatten (p)
y = Gemm <transB = 1> (f, fc)"""
STATE = "float[N,6,8,8]"
FLOWS = {
    "loop": f"""n = Constant <value = int64 {{3}}> () t = Constant <value = bool {{1}}> () h = Loop (n, t, e) <body = body
        (int64 i, bool on, {STATE} s) => (bool go, {STATE} r) {{ go = Identity (on) q = Mul (s, g) r = Add (q, c) }}>""",
    "if": f"""m = ReduceMean <keepdims = 0> (x) z = Constant <value = float {{0}}> () o = Greater (m, z)
        h = If (o) <then_branch = yes () => ({STATE} r) {{ r = Mul (e, c) }},
        else_branch = no () => ({STATE} s) {{ s = Tanh (e) }}>""",
    "nested": f"""n = Constant <value = int64 {{2}}> () t = Constant <value = bool {{1}}> () h = Loop (n, t, e) <body = body
        (int64 i, bool on, {STATE} s) => (bool go, {STATE} r) {{ go = Identity (on)
        one = Constant <value = int64 {{1}}> () o = Less (i, one) r = If (o) <then_branch = yes () => ({STATE} r1)
        {{ r1 = Mul (s, c) }}, else_branch = no () => ({STATE} r2) {{ r2 = Add (s, g) }}> }}>""",
}


def model(flow: str, seed: int) -> ModelProto:
    nodes = f"{TRUNK} {FLOWS[flow]} {HEAD}"
    text = f'<ir_version: 8, opset_import: ["": 17]> net (float[N,3,8,8] x) => (float[N,4] y) {{ {nodes} }}'
    made = parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, shape in SHAPES.items():
        array = np.asarray(rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:]))), np.float32)
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return made


def nets(folder: Path, flow: str) -> list[Net]:
    return [net_of(folder, model(flow, seed), name) for seed, name in ((1, "a"), (2, "b"))]


@pytest.mark.parametrize("flow", FLOWS)
class TestFlows:
    def test_a_net_computes_what_its_file_does(self, flow: str, tmp_path: Path) -> None:
        net, _ = nets(tmp_path, flow)
        feeds = samples_for(net, 7)
        session = ort.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
        check_close(outputs(net, feeds)["y"], session.run(None, feeds)[0], 1e-5)

    def test_the_trunk_before_it_is_shared_and_the_reason_given(self, flow: str, tmp_path: Path) -> None:
        both = nets(tmp_path, flow)
        fused = fuse(both, 1.0)
        check_valid(fused, both)
        assert {s.shared for s in fused.plan.spaces.values()} == {0, 6}  # what the flow reads stays each task's own
        assert any("control flow is kept as it is" in r.why for r in fused.plan.refusals)

    def test_nothing_shared_leaves_the_originals(self, flow: str, tmp_path: Path) -> None:
        both = nets(tmp_path, flow)
        check_tasks(fuse(both, 0.0), both, 1e-5)

    def test_a_permuted_copy_gives_back_the_net(self, flow: str, tmp_path: Path) -> None:
        net, _ = nets(tmp_path, flow)
        both = [net, permuted(net, 5, "b")]
        fused = fuse(both)
        check_tasks(fused, both, 1e-4)
        onnx.checker.check_model(tmp_path / "a.onnx")

    def test_a_retraining_is_refused_before_the_data_are_read(self, flow: str, tmp_path: Path) -> None:
        nets(tmp_path, flow)

        def unread() -> Iterator[np.ndarray]:
            raise AssertionError
            yield

        with pytest.raises(UnsupportedError, match=r"cannot be run in torch: (Loop|If) is not registered"):
            onnxzip.merge({"a": tmp_path / "a.onnx", "b": tmp_path / "b.onnx"}, unread(), retrain=10)


def test_shapes_that_a_file_declares_wrongly_inside(tmp_path: Path) -> None:
    """No runtime minds them; PaddlePaddle's converter writes such."""
    made = model("nested", 1)
    loop = next(n for n in made.graph.node if n.op_type == "Loop")
    (choice,) = (n for n in loop.attribute[0].g.node if n.op_type == "If")
    for branch in choice.attribute:
        branch.g.output[0].type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto())
    loop.attribute[0].g.value_info.add().CopyFrom(onnx.helper.make_tensor_value_info("o", onnx.TensorProto.BOOL, [7]))
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(made, strict_mode=True)
    net = net_of(tmp_path, made, "a")
    feeds = samples_for(net, 7)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    check_close(outputs(net, feeds)["y"], session.run(None, feeds)[0], 1e-5)


@pytest.mark.parametrize(("places", "branch"), [(8, "then"), (6, "else")])
def test_branches_that_shapes_choose_between(places: int, branch: str, tmp_path: Path) -> None:
    """All outputs of the branch that is taken, one of which it reads itself; params that it reads keep their names, and what
    is called alike in two branches stays apart."""
    two, three = (f"k = Constant <value = float {{{number}}}> ()" for number in (2.0, 3.0))
    flow = f"""n = Shape <start = 2, end = 3> (e) few = Constant <value_ints = [8]> () o = Equal (n, few)
        yes = Squeeze (o) g1, m = If (yes)
        <then_branch = t () => ({STATE} r, {STATE} q) {{ {two} s = Mul (e, gain) r = Mul (s, k) q = Add (r, c) }},
         else_branch = f () => ({STATE} r, {STATE} q) {{ {three} s = Sub (e, gain) r = Mul (s, k) q = Mul (r, c) }}>
        h = If (yes) <then_branch = t () => ({STATE} r) {{ {three} r = Mul (g1, k) }},
         else_branch = f () => ({STATE} r) {{ {two} r = Mul (g1, k) }}>""".replace("8,8]", "S,S]")
    nodes = f"{TRUNK} {flow} {HEAD} z = ReduceMean <keepdims = 0, axes = [1, 2, 3]> (m)"
    text = f"net (float[N,3,{places},{places}] x) => (float[N,4] y, float[N] z) {{ {nodes} }}"
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    rng = np.random.default_rng(1)
    for name, shape in {**SHAPES, "gain": (6, 1, 1)}.items():
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 3, name))
    net = net_of(tmp_path, made, "a")
    assert "If" not in {n.op for n in net.nodes} and ("Sub" in {n.op for n in net.nodes}) == (branch == "else")
    feeds = samples_for(net, 5)
    session = ort.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    for name, want in zip("yz", session.run(None, feeds), strict=True):
        check_close(outputs(net, feeds)[name], want, 1e-5)
    assert "gain" in net.params


def test_a_branch_that_is_constant_altogether(tmp_path: Path) -> None:
    """Such an If has been folded before the branch that shapes choose could take its place (positions of DeBERTa)."""
    flow = """n = Size (first_shape) four = Constant <value_ints = [4]> () few = Squeeze (four) o = Equal (n, few)
        times = If (o) <then_branch = yes () => (float[1] r) { r = Cast <to = 1> (four) },
         else_branch = no () => (float[1] q) { q = Constant <value = float[1] {9.0}> () }> h = Mul (e, times)"""
    text = f"net (float[N,3,8,8] x) => (float[N,4] y) {{ {TRUNK} first_shape = Shape (second) {flow} {HEAD} }}"
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    rng = np.random.default_rng(1)
    for name, shape in SHAPES.items():
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 3, name))
    net = net_of(tmp_path, made, "a")
    feeds = samples_for(net, 5)
    session = ort.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    check_close(outputs(net, feeds)["y"], session.run(None, feeds)[0], 1e-5)
    assert "If" not in {n.op for n in net.nodes}


def test_values_get_other_names_wherever_graphs_inside_have_them() -> None:
    """As those that a branch hands on, and those of a body."""
    text = """net (float[3] x, bool o) => (float[3] y) { h = Neg (x)
        b = If (o) <then_branch = yes () => (float[3] h) { }, else_branch = no () => (float[3] e) { e = Exp (h) }>
        n = Constant <value = int64 {2}> () t = Constant <value = bool {1}> ()
        y = Loop (n, t, b) <body = body (int64 i, bool on, float[3] s) => (bool go, float[3] r) { go = Identity (on)
        r = Mul (s, h) }> }"""
    made, feeds = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'), {"x": np.arange(3, dtype=np.float32)}
    wanted = [ReferenceEvaluator(made).run(None, feeds | {"o": np.array(o)}) for o in (True, False)]
    rename_values(made.graph.node, {"h": "y_inner0", "s": "other", "e": "another"})
    assert not {"h", "s", "e"} & {v for n in made.graph.node for v in read_by(n)}
    found = [ReferenceEvaluator(made).run(None, feeds | {"o": np.array(o)}) for o in (True, False)]
    np.testing.assert_array_equal(found, wanted)


def test_weights_inside_count_as_those_outside() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> net (float[N,2] x, bool o) => (float[N,2] y) <float[2] w = {1, 2}> {
        h = Mul (x, w) y = If (o) <then_branch = yes () => (float[N,2] a) { k = Constant <value = float[2] {3, 4}> ()
        a = If (o) <then_branch = inner () => (float[N,2] b) <float[1] m = {5}> { b = Mul (k, m) },
        else_branch = other () => (float[N,2] c) { c = Add (h, k) }> },
        else_branch = no () => (float[N,2] e) { e = Exp (h) }> }"""
    assert weights_by_type(parser.parse_model(text)) == {"FLOAT": 5}
