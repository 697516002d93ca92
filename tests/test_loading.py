"""Files to nets: the batch, constants, names, versions; the nets that come with onnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import snapshot
from netfiles import check_canonical, check_same, loaded, ops, written
from onnx import parser

from onnxzip.errors import InvalidModelError, UsageError
from onnxzip.loading import load, load_all, mapped
from onnxzip.runtime import to_model

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


class TestBatch:
    def test_shapes_computed_from_shapes_become_numbers(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,3,4,5] x) => (float[N,M,L] y)
            <int64 zero = {0}, int64[1] at = {0}, int64[2] rest = {6, -1}>
            { s = Shape(x) n = Gather<axis=0>(s, zero) m = Unsqueeze(n, at) t = Concat<axis=0>(m, rest) y = Reshape(x, t) }""",
        )
        net = loaded(path)
        assert ops(net) == ["Reshape"] and net.nodes[0].attrs["shape"] == (-1, 6, 10) == net.outputs[0].shape

    @pytest.mark.parametrize("cut", ["start=1", "start=-3, end=3"])
    def test_sizes_of_some_axes_become_numbers(self, tmp_path: Path, cut: str) -> None:
        path = written(
            tmp_path,
            f"""g (float[N,3,4,5] x) => (float[N,3,4,5] y)
            {{ s = Shape<{cut}>(x) p = ReduceProd<keepdims=0>(s) f = Cast<to=1>(p) y = Div(x, f) }}""",
            15,
        )
        assert ops(loaded(path)) == ["Div"]

    def test_a_shape_of_some_axes_with_the_batch(self, tmp_path: Path) -> None:
        graph = "g (float[N,3,4,5] x, float[1] w) => (float[N,3,4] y) { s = Shape<end=-1>(x) y = Expand(w, s) }"
        net = loaded(written(tmp_path, graph, 15))
        assert ops(net) == ["Expand"] and net.nodes[0].attrs["shape"] == (-1, 3, 4)

    def test_multiples_of_the_batch(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,6,5] x, int64[2] s, int64[3] t) => (float[] y)
            { a = Reshape(x, s) b = Softmax(a) y = Reshape(b, t) }""",
            s=np.array([-1, 5]),
            t=np.array([-1, 6, 5]),
        )
        net = loaded(path)
        assert (
            net.shapes["a"] == (-6, 5) and net.nodes[0].attrs["shape"] == (-6, 5) and net.nodes[2].attrs["shape"] == (-1, 6, 5)
        )

    def test_a_class_token_is_expanded_to_the_batch(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,6,5] x, float[1,1,5] c) => (float[] y)
            <int64 zero = {0}, int64[1] at = {0}, int64[2] rest = {-1, -1},
            int64[3] minus = {-1, -1, -1}, int64[3] ones = {1, 1, 1}>
            { s = Shape(x) n = Gather<axis=0>(s, zero) m = Unsqueeze(n, at) t = Concat<axis=0>(m, rest)
              q = Equal(t, minus) u = Where(q, ones, t) e = Expand(c, u) y = Concat<axis=1>(e, x) }""",
        )
        net = loaded(path)
        assert ops(net) == ["Expand", "Concat"] and net.nodes[0].attrs["shape"] == (-1, 1, 5)

    def test_zeros_of_the_batchs_size(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,6] x) => (float[] y)
            { s = Shape(x) e = ConstantOfShape(s) y = Concat<axis = 1>(e, x) }""",
        )
        assert loaded(path).shapes["e"] == (-1, 6)

    def test_a_fixed_batch_stays_fixed(self, tmp_path: Path) -> None:
        net = loaded(written(tmp_path, "g (float[2,6] x) => (float[] y) { y = Relu(x) }"))
        assert net.shapes["y"] == (2, 6)

    def test_constant_subgraphs_are_folded(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,5] x, float[5,4] w) => (float[] y)
            { t = Transpose(w) z = Constant<value = float {2.0}>() d = Mul(t, z) y = Gemm<transB=1>(x, d) }""",
        )
        net = loaded(path)
        assert ops(net) == ["Gemm"] and len(net.params) == 1

    def test_a_condition_that_is_constant_is_decided(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,5] x, bool c) => (float[] y)
            { y = If(c) <then_branch = t () => (float[N,5] a) { a = Relu(x) },
            else_branch = e () => (float[N,5] b) { b = Tanh(x) }> }""",
            c=np.array(True),
        )
        assert ops(loaded(path)) == ["Relu"]


class TestFiles:
    def test_initializers_listed_as_inputs_are_params(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,5] x, float[5,5] w) => (float[] y) { y = MatMul(x, w) }", opset=9, ir_version=3)
        assert [p.name for p in loaded(path).inputs] == ["x"]

    def test_names_are_kept_and_missing_ones_made_up(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,5] x) => (float[] y) { [first] a = Relu(x) b = Tanh(a) [first] y = Neg(b) }")
        net = load(path)
        check_canonical(net)
        assert [n.name for n in net.nodes] == ["first", "Tanh_1", "first_1"]
        assert net.name == "net" and load(path, "shoes").name == "shoes"

    def test_local_functions_are_inlined(self, tmp_path: Path) -> None:
        text = """<ir_version: 8, opset_import: ["": 13, "mine": 1]> g (float[N,5] x) => (float[N,5] y) { y = mine.twice(x) }
            <domain: "mine", opset_import: ["": 13]> twice (a) => (b) { r = Relu(a) b = Add(r, r) }"""
        path = tmp_path / "net.onnx"
        path.write_bytes(parser.parse_model(text).SerializeToString())
        net = loaded(path)
        assert ops(net) == ["Relu", "Add"] and not net.opsets

    def test_external_data(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,50] x, float[40,50] w) => (float[] y) { y = Gemm<transB=1>(x, w) }")
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        assert (tmp_path / "weights.bin").exists() and loaded(path).size == 2000

    def test_external_data_by_way_of_a_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        """onnx finds them all the same, the system and ONNX Runtime do not."""
        path = written(tmp_path, "g (float[N,50] x, float[40,50] w) => (float[] y) { y = Gemm<transB=1>(x, w) }")
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = "sub/../weights.bin"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InvalidModelError, match=r"net\.onnx: .*'sub/\.\./weights\.bin', where there is no file"):
            load(path)
        (tmp_path / "sub").mkdir()
        assert loaded(path).size == 2000

    @pytest.mark.parametrize("beside", [False, True])
    def test_nodes_in_disorder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool) -> None:
        """As converters leave them: what they add stands behind all others."""
        monkeypatch.setattr(mapped, "SMALLEST", 64)
        path = written(
            tmp_path,
            """g (float[N,5] x, float[5,5] w) => (float[] y, float[] z) { r = Relu (x) p = MatMul (r, w) z = Neg (p)
            t = Tanh (p) m = ReduceMax <keepdims = 0> (x) i = IsInf (m) y = If (i) <
            then_branch = u () => (float[N,5] o) { o = Neg (t) }, else_branch = v () => (float[N,5] q) { q = Exp (t) }> }""",
        )
        model = onnx.load(path)
        nodes = list(model.graph.node)[::-1]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.save(model, path, save_as_external_data=beside, location="net.data", size_threshold=0)
        before = snapshot(tmp_path)
        net = load(path)
        assert any(map(mapped.is_mapped, net.params.values())) == beside
        check_same(path, net)
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize("beside", [False, True])
    def test_outputs_without_type_or_shape(self, tmp_path: Path, beside: bool) -> None:
        """As those leave them who make an inner value an output."""
        graph = "g (float[N,5] x, float[5,5] w) => (float[] y) { a = MatMul (x, w) b = Relu (a) y = Neg (b) }"
        path = written(tmp_path, graph)
        model = onnx.load(path)
        model.graph.output[0].type.tensor_type.ClearField("shape")
        model.graph.output.append(onnx.ValueInfoProto(name="a"))
        onnx.save(model, path, save_as_external_data=beside, location="net.data", size_threshold=0)
        net = loaded(path)
        assert [(p.name, p.shape) for p in net.outputs] == [("y", (-1, 5)), ("a", (-1, 5))]

    @pytest.mark.parametrize("strange", ["graph without a name", "domain written out", "params that are no inputs"])
    def test_what_onnx_runtime_takes_and_the_checker_does_not(self, tmp_path: Path, strange: str) -> None:
        path = written(tmp_path, "g (float[N,5] x, float[5,5] w) => (float[] y) { a = MatMul (x, w) y = Relu (a) }", 9)
        model = onnx.load(path)
        if strange == "graph without a name":
            model.graph.name = ""
        elif strange == "domain written out":
            for node in model.graph.node:
                node.domain = "ai.onnx"
        else:
            model.ir_version = 3
        onnx.save(model, path)
        with pytest.raises(onnx.checker.ValidationError):
            onnx.checker.check_model(str(path))
        assert ops(loaded(path)) == ["Gemm", "Relu"]

    def test_nodes_in_order_stay_where_they_are(self, tmp_path: Path) -> None:
        """A name inside of a branch is another one than the same name behind it."""
        path = written(
            tmp_path,
            """g (float[N,5] x, bool c) => (float[] y) { a = Relu (x) [if] b = If (c) <then_branch = u () => (float[N,5] o)
            { t = Tanh (a) o = Neg (t) }, else_branch = v () => (float[N,5] q) { q = Exp (a) }> t = Sin (b) y = Cos (t) }""",
            c=np.array(True),
        )
        assert ops(loaded(path)) == ["Relu", "Tanh", "Neg", "Sin", "Cos"]

    def test_metadata_survive_and_loading_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,5] x, float[5,4] w) => (float[] y) { a = MatMul(x, w) y = Relu(a) }", opset=11)
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {"author": "someone"})
        onnx.save(model, path)
        first, second = (to_model(load(path)).SerializeToString(deterministic=True) for _ in range(2))
        assert first == second and load(path).metadata == {"author": "someone"}

    def test_lowering_and_loading_again_changes_nothing(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] b, int64[2] s, float l) => (float[] y)
            { a = Conv(x, w, b) c = Clip(a, l) m = ReduceMean<axes=[-1]>(c) y = Reshape(m, s) }""",
            s=np.array([0, -1]),
        )
        net = load(path)
        again = tmp_path / "again.onnx"
        again.write_bytes(to_model(net).SerializeToString())
        back = load(again, net.name)
        assert [(n.name, n.op, n.inputs, dict(n.attrs)) for n in net.nodes] == [
            (n.name, n.op, n.inputs, dict(n.attrs)) for n in back.nodes
        ]
        assert dict(net.shapes) == dict(back.shapes)

    def test_all_nets_come_to_the_highest_opset(self, tmp_path: Path) -> None:
        for folder, opset in (("a", 9), ("b", 18)):
            (tmp_path / folder).mkdir()
            written(tmp_path / folder, "g (float[N,5] x) => (float[] y) { a = Relu(x) y = Softmax<axis=1>(a) }", opset)
        nets = load_all({"first": tmp_path / "a" / "net.onnx", "second": tmp_path / "b" / "net.onnx"})
        assert [n.name for n in nets] == ["first", "second"] and {n.opset for n in nets} == {18}
        check_same(tmp_path / "a" / "net.onnx", nets[0])

    def test_an_opset_can_be_asked_for_but_not_a_lower_one(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,5] x) => (float[] y) { y = Relu(x) }", 15)
        assert load(path, opset=17).opset == 17
        with pytest.raises(UsageError, match="ask for 15 to"):
            load(path, opset=14)

    @pytest.mark.parametrize("name", ["squeezenet", "resnet50", "shufflenet", "densenet121", "inception_v1", "inception_v2"])
    def test_nets_of_the_onnx_wheel(self, name: str) -> None:
        net = loaded(LIGHT / f"light_{name}.onnx", batches=(1,))
        assert "ConstantOfShape" not in ops(net) and "Unsqueeze" not in ops(net)
        if name != "densenet121":
            assert "BatchNormalization" not in ops(net)

    @pytest.mark.parametrize("name", ["bvlc_alexnet", "vgg19", "zfnet512"])
    def test_large_nets_of_the_onnx_wheel_load(self, name: str) -> None:
        net = load(LIGHT / f"light_{name}.onnx")
        check_canonical(net)
        assert ops(net)[-1] == "Softmax" and net.size > 5e7
