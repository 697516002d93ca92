"""Weighted nodes in canonical form: the file and the net that it is loaded as compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from netfiles import loaded, ops, written

from onnxzip.runtime import to_model


class TestFolding:
    @pytest.mark.parametrize("bias", ["", ", b"])
    @pytest.mark.parametrize("opset", [9, 13, 15])
    def test_batch_normalization_goes_into_the_conv(self, tmp_path: Path, bias: str, opset: int) -> None:
        path = written(
            tmp_path,
            f"""g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] b, float[4] s, float[4] t, float[4] m, float[4] v)
            => (float[] y) {{ a = Conv(x, w{bias}) y = BatchNormalization(a, s, t, m, v) }}""",
            opset,
            v=np.float32([1, 2, 3, 4]),
        )
        net = loaded(path)
        assert ops(net) == ["Conv"] and len(net.params) == 2
        assert net.nodes[0].outputs == ("y",)

    @pytest.mark.parametrize("group", [1, 2])
    def test_batch_normalization_goes_into_the_transposed_conv(self, tmp_path: Path, group: int) -> None:
        path = written(
            tmp_path,
            f"""g (float[N,4,5,5] x, float[4,{6 // group},3,3] w, float[6] s, float[6] t, float[6] m, float[6] v)
            => (float[] y) {{ a = ConvTranspose<strides=[2,2], group={group}>(x, w)
            y = BatchNormalization(a, s, t, m, v) }}""",
            v=np.float32([1, 2, 3, 4, 5, 6]),
        )
        assert ops(loaded(path)) == ["ConvTranspose"]

    def test_normalization_scale_and_shift_all_go_into_one_gemm(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,5] x, float[5,4] w, float[4] b, float[4] s, float[4] t, float[4] m, float[4] v, float[4] c)
            => (float[] y) { h = Gemm<alpha=0.5, beta=2.0>(x, w, b) a = BatchNormalization(h, s, t, m, v)
            n = Mul(c, a) y = Sub(n, c) }""",
            v=np.float32([1, 2, 3, 4]),
        )
        net = loaded(path)
        assert ops(net) == ["Gemm"]
        assert dict(net.nodes[0].attrs) == {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}

    @pytest.mark.parametrize("tail", ["Mul(a, c)", "Add(c, a)", "Sub(a, c)", "Sub(c, a)", "Div(a, c)"])
    @pytest.mark.parametrize("shape", ["4,1,1", "1,4,1,1", "1"])
    def test_per_channel_arithmetic_goes_into_the_conv(self, tmp_path: Path, tail: str, shape: str) -> None:
        path = written(
            tmp_path,
            f"""g (float[N,3,6,6] x, float[4,3,3,3] w, float[{shape}] c) => (float[] y)
            {{ a = Conv(x, w) y = {tail} }}""",
        )
        assert ops(loaded(path)) == ["Conv"]

    @pytest.mark.parametrize(
        "graph",
        [
            "g (float[N,3,6,6] x, float[4,3,3,3] w, float[4] c) => (float[] y) { a = Conv(x, w) y = Mul(a, c) }",
            "g (float[N,3,6,6] x, float[4,3,3,3] w, float[4,4,4] c) => (float[] y) { a = Conv(x, w) y = Add(a, c) }",
            "g (float[N,3,6,6] x, float[1,3,3,3] w, float[4,1,1] c) => (float[] y) { a = Conv(x, w) y = Add(a, c) }",
        ],
    )
    def test_arithmetic_that_is_not_per_channel_stays(self, tmp_path: Path, graph: str) -> None:
        assert len(loaded(written(tmp_path, graph)).nodes) == 2

    def test_division_by_a_value_stays(self, tmp_path: Path) -> None:
        weight = np.full((4, 3, 3, 3), 0.5, np.float32)
        path = written(
            tmp_path,
            """g (float[N,3,6,6] x, float[4,3,3,3] w, float[4,1,1] c) => (float[] y)
            { p = Abs(x) a = Conv(p, w) y = Div(c, a) }""",
            w=weight,
        )
        assert ops(loaded(path)) == ["Abs", "Conv", "Div"]

    @pytest.mark.parametrize("outputs", ["float[] y, float[] a", "float[] y, float[] z"])
    def test_what_is_read_elsewhere_is_not_folded(self, tmp_path: Path, outputs: str) -> None:
        path = written(
            tmp_path,
            f"""g (float[N,3,6,6] x, float[4,3,3,3] w, float[4,1,1] c) => ({outputs})
            {{ a = Conv(x, w) y = Mul(a, c) z = Relu(a) }}""",
        )
        assert "Mul" in ops(loaded(path))

    def test_a_weight_that_two_nodes_share_is_copied(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,4,6,6] x, float[4,4,3,3] w, float[4,1,1] c) => (float[] y)
            { a = Conv(x, w) b = Mul(a, c) y = Conv(b, w) }""",
        )
        net = loaded(path)
        assert ops(net) == ["Conv", "Conv"] and len(net.params) == 2

    @pytest.mark.parametrize("tail", ["c", "d"])
    def test_a_layer_that_is_used_twice_stays_one(self, tail: str, tmp_path: Path) -> None:
        """As long as what folds into it is the same."""
        path = written(
            tmp_path,
            f"""g (float[N,3,6,6] x, float[4,3,3,3] w, float[4] s, float[4] t, float[4] m, float[4] v,
            float[4,1,1] c, float[4,1,1] d) => (float[] y)
            {{ z = Relu(x) a = Conv(x, w) b = BatchNormalization(a, s, t, m, v) r = Mul(b, c)
            e = Conv(z, w) f = BatchNormalization(e, s, t, m, v) g = Mul(f, {tail}) y = Sub(r, g) }}""",
            v=np.float32([1, 2, 3, 4]),
        )
        net = loaded(path)
        assert sorted(ops(net)) == ["Conv", "Conv", "Relu", "Sub"] and len(net.params) == (2 if tail == "c" else 4)

    def test_an_identity_of_a_param_is_that_param(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,3,6,6] x, float[4,3,3,3] w, float[4] b) => (float[] y)
            { z = Relu(x) u = Identity(w) v = Identity(u) a = Conv(x, w, b) e = Conv(z, v, b) y = Sub(a, e) }""",
        )
        convs = [n for n in loaded(path).nodes if n.op == "Conv"]
        assert convs[0].inputs[1:] == convs[1].inputs[1:]

    def test_a_normalization_alone_becomes_a_scale_and_a_bias(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,4,6,6] x, float[4] s, float[4] t, float[4] m, float[4] v, float[4,1,1] c) => (float[] y)
            { r = Relu(x) a = BatchNormalization<epsilon=0.1>(r, s, t, m, v) y = Add(a, c) }""",
            v=np.float32([1, 2, 3, 4]),
        )
        net = loaded(path)
        node = net.nodes[1]
        assert ops(net) == ["Relu", "BatchNormalization"] and node.attrs["epsilon"] == 0.0 and len(node.outputs) == 1
        np.testing.assert_allclose(net.params[node.inputs[3]], 0, rtol=0, atol=0)
        np.testing.assert_allclose(net.params[node.inputs[4]], 1, rtol=0, atol=0)

    def test_matmul_and_add_become_a_matmul_with_a_bias(self, tmp_path: Path) -> None:
        path = written(
            tmp_path, """g (float[N,7,5] x, float[5,4] w, float[4] b) => (float[] y) { a = MatMul(x, w) y = Add(b, a) }"""
        )
        net = loaded(path)
        assert ops(net) == ["MatMul"] and net.nodes[0].inputs == ("x", "w", "b") and net.shapes["y"] == (-1, 7, 4)
        assert [n.op_type for n in to_model(net).graph.node] == ["MatMul", "Add"]


class TestLinear:
    @pytest.mark.parametrize("bias", ["", "float[1] b", "float[4] b", "float[1,4] b", "float[1,1] b", "float b"])
    @pytest.mark.parametrize("attributes", ["", "<transB=1>", "<alpha=0.25, beta=3.0>", "<transB=1, alpha=2.0>"])
    def test_gemm(self, tmp_path: Path, bias: str, attributes: str) -> None:
        weight = "4,5" if "transB" in attributes else "5,4"
        path = written(
            tmp_path,
            f"""g (float[N,5] x, float[{weight}] w{", " * bool(bias) + bias}) => (float[] y)
            {{ y = Gemm{attributes}(x, w{", b" * bool(bias)}) }}""",
        )
        net = loaded(path)
        (node,) = net.nodes
        assert dict(node.attrs) == {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
        assert [net.shapes[v] for v in node.inputs[1:]] == [(4, 5), (4,)][: 1 + bool(bias)]

    def test_a_bias_that_differs_from_row_to_row_stays(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[3,5] x, float[5,4] w, float[3,4] b) => (float[] y) { y = Gemm<beta=2.0>(x, w, b) }")
        net = loaded(path)
        assert net.shapes[net.nodes[0].inputs[2]] == (3, 4) and net.nodes[0].attrs["beta"] == 1.0

    def test_a_transposed_left_side_stays(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[5,3] x, float[5,4] w) => (float[] y) { y = Gemm<transA=1, alpha=0.5>(x, w) }")
        assert loaded(path).nodes[0].attrs["alpha"] == 0.5

    def test_matmul_of_rows_becomes_gemm(self, tmp_path: Path) -> None:
        path = written(
            tmp_path, "g (float[N,5] x, float[5,4] w, float[4] b) => (float[] y) { a = MatMul(x, w) y = Add(a, b) }"
        )
        net = loaded(path)
        assert ops(net) == ["Gemm"] and net.shapes["w"] == (4, 5) and net.nodes[0].inputs == ("x", "w", "b")

    def test_a_matrix_that_two_nodes_read_is_transposed_once(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,5] x, float[5,5] w) => (float[] y) { a = MatMul(x, w) y = Gemm(a, w) }")
        assert len(loaded(path).params) == 1

    def test_a_matrix_that_is_read_both_ways_is_copied(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,5] x, float[5,5] w) => (float[] y) { a = MatMul(x, w) y = Gemm<transB=1>(a, w) }")
        assert len(loaded(path).params) == 2

    def test_products_of_values_stay(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,3,5] x, float[N,5,4] x2) => (float[] y) { y = MatMul(x, x2) }")
        assert ops(loaded(path)) == ["MatMul"]
