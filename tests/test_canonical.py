"""Attributes in canonical form and idle nodes removed: the file and the net that it is loaded as compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fusing import make
from netfiles import loaded, ops, written

from onnxzip.errors import UnsupportedError
from onnxzip.loading import load


class TestWindows:
    @pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
    @pytest.mark.parametrize(
        "op", ["Conv<{0}>(x, w)", "AveragePool<{0}, kernel_shape=[3,2]>(x)", "MaxPool<{0}, kernel_shape=[3,2]>(x)"]
    )
    @pytest.mark.parametrize("strides", ["1,1", "2,3"])
    def test_automatic_padding_becomes_numbers(self, tmp_path: Path, mode: str, op: str, strides: str) -> None:
        call = op.format(f'auto_pad="{mode}", strides=[{strides}]')
        node = loaded(written(tmp_path, f"g (float[N,3,8,7] x, float[4,3,3,2] w) => (float[] y) {{ y = {call} }}")).nodes[0]
        assert node.attrs["auto_pad"] == "NOTSET" and len(node.attrs["pads"]) == 4
        assert node.attrs["kernel_shape"] == (3, 2) and node.attrs["dilations"] == (1, 1)

    @pytest.mark.parametrize(
        "attributes",
        [
            'auto_pad="SAME_UPPER"',
            'auto_pad="SAME_LOWER"',
            'auto_pad="VALID"',
            "output_shape=[16,15]",
            "output_shape=[13,12]",
            'output_shape=[14,15], auto_pad="SAME_UPPER"',
            "pads=[1,0,1,1], output_padding=[1,0]",
            "dilations=[2,2]",
        ],
    )
    def test_transposed_convolutions(self, tmp_path: Path, attributes: str) -> None:
        path = written(
            tmp_path,
            f"""g (float[N,3,7,6] x, float[3,4,3,4] w) => (float[] y)
            {{ y = ConvTranspose<strides=[2,2], {attributes}>(x, w) }}""",
        )
        attrs = loaded(path).nodes[0].attrs
        assert len(attrs["pads"]) == 4 and len(attrs["output_padding"]) == 2 and "output_shape" not in attrs

    def test_pools_with_a_ceiling_and_unread_indices(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,3,8,7] x) => (float[] y)
            { a, i = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) y = LpPool<kernel_shape=[2,2]>(a) }""",
        )
        net = loaded(path)
        assert net.nodes[0].outputs == ("a",) and net.nodes[1].attrs["p"] == 2


class TestAttributes:
    def test_defaults_are_present(self, tmp_path: Path) -> None:
        net = loaded(written(tmp_path, "g (float[N,3] x) => (float[] y) { a = LeakyRelu(x) y = Elu(a) }"))
        assert net.nodes[0].attrs["alpha"] == pytest.approx(0.01) and net.nodes[1].attrs["alpha"] == 1.0

    @pytest.mark.parametrize(
        ("call", "attribute", "value"),
        [
            ("Softmax<axis=-1>(x)", "axis", 2),
            ("Concat<axis=-2>(x, x)", "axis", 1),
            ("Transpose(x)", "perm", (2, 1, 0)),
            ("ReduceMean<axes=[-1, 1]>(x)", "axes", (1, 2)),
            ("ReduceMax(x)", "axes", (0, 1, 2)),
            ("Flatten<axis=-1>(x)", "axis", 2),
            ("Hardmax<axis=-1>(x)", "axis", 2),
            ("Unsqueeze(x, m)", "axes", (3,)),
            ("ReduceSum(x, m)", "axes", (2,)),
            ("Clip(x, l)", "min", 0.25),
            ("Clip(x, , l)", "max", 0.25),
            ("Clip(x)", "min", None),
            ("Slice(x, a, b)", "axes", (0, 1)),
            ("Slice(x, a, b, c)", "starts", (0, 1)),
            ("Slice(x, a, b, c)", "ends", (4, 3)),
            ("Slice(x, b, d, c, e)", "ends", (-5, -4)),
            ("Pad(x, p)", "constant_value", 0.0),
            ("Expand(x, u)", "shape", (2, 1, 4, 3)),
        ],
    )
    def test_one_form(self, tmp_path: Path, call: str, attribute: str, value: object) -> None:
        ints = {
            "i": [2, 0],
            "m": [-1],
            "a": [0, 1],
            "b": [99, 2**31 - 1],
            "c": [-2, -1],
            "d": [-99, -99],
            "e": [-1, -2],
            "p": [0, 1, 0, 0, 0, 2],
            "u": [2, 1, 1, 3],
        }
        declared = ", ".join(f"int64[{len(v)}] {k}" for k, v in ints.items())
        path = written(
            tmp_path,
            f"g (float[N,4,3] x, float l, {declared}) => (float[] y) {{ y = {call} }}",
            l=np.float32(0.25),
            **{k: np.array(v, np.int64) for k, v in ints.items()},
        )
        net = loaded(path)
        (node,) = net.nodes
        assert node.attrs[attribute] == value and len(set(node.inputs)) == 1 and not net.params

    @pytest.mark.parametrize("opset", [13, 18])
    def test_split_has_its_sizes(self, tmp_path: Path, opset: int) -> None:
        count = ", num_outputs=2" if opset >= 18 else ""
        path = written(tmp_path, f"g (float[N,4,6] x) => (float[] y, float[] z) {{ y, z = Split<axis=-1{count}>(x) }}", opset)
        net = loaded(path)
        assert net.nodes[0].attrs["split"] == (3, 3) and "num_outputs" not in net.nodes[0].attrs

    @pytest.mark.parametrize("opset", [13, 18])
    def test_axes_are_attributes_at_every_opset(self, tmp_path: Path, opset: int) -> None:
        call = "ReduceMean<axes=[-1], keepdims=0>(x)" if opset == 13 else "ReduceMean<keepdims=0>(x, k)"
        path = written(tmp_path, f"g (float[N,4,6] x, int64[1] k) => (float[] y) {{ y = {call} }}", opset, k=np.array([-1]))
        net = loaded(path)
        assert net.nodes[0].attrs["axes"] == (2,) and net.nodes[0].inputs == ("x",)

    def test_pads_over_some_axes_become_pads_over_all(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            "g (float[N,4,6] x, int64[2] p, int64[1] k, float v) => (float[] y) { y = Pad(x, p, v, k) }",
            18,
            p=np.array([1, 2]),
            k=np.array([-1]),
        )
        assert loaded(path).nodes[0].attrs["pads"] == (0, 0, 1, 0, 0, 2)

    @pytest.mark.parametrize("opset", [11, 13, 18])
    @pytest.mark.parametrize(("call", "given"), [("Resize(x, e, s)", "scales"), ("Resize(x, e, e, z)", "sizes")])
    def test_an_empty_tensor_gives_a_resize_nothing(self, tmp_path: Path, opset: int, call: str, given: str) -> None:
        path = written(
            tmp_path,
            f"g (float[1,2,3,4] x, float[0] e, float[4] s, int64[4] z) => (float[] y) {{ a = {call} y = Relu(a) }}",
            opset,
            s=np.float32([1, 1, 2, 2]),
            z=np.array([1, 2, 5, 6]),
        )
        attrs = loaded(path, (1,)).nodes[0].attrs
        assert {key for key in ("roi", "scales", "sizes") if attrs[key] is not None} == {given}

    @pytest.mark.parametrize("mode", ["nearest", "linear"])
    @pytest.mark.parametrize(
        ("call", "opset", "scales"),
        [
            *((f"Upsample<mode=MODE, scales=[1.0, 1.0, {a}, {b}]>(x)", 7, (a, b)) for a, b in [(2.0, 3.0), (1.5, 1.35)]),
            *(("Upsample<mode=MODE>(x, s)", 9, scales) for scales in [(2, 2), (1.5, 1.35), (1, 2.5)]),
            *(("Resize<mode=MODE>(x, s)", 10, scales) for scales in [(2, 2), (1.5, 1.35), (0.5, 0.5), (0.7, 0.4), (2, 0.5),
                                                                     (1 / 3, 1.7), (1, 0.6)]),
        ],
    )
    def test_old_resizes_begin_at_the_corner(
        self, tmp_path: Path, call: str, opset: int, scales: tuple[float, float], mode: str
    ) -> None:
        call, given = call.replace("MODE", f'"{mode}"'), ", float[4] s" if "s)" in call else ""
        graph = f"g (float[N,3,9,10] x{given}) => (float[] y) {{ a = {call} y = Relu(a) }}"
        node = loaded(written(tmp_path, graph, opset, s=np.float32([1, 1, *scales]))).nodes[0]
        assert node.op == "Resize" and node.attrs["coordinate_transformation_mode"] == "asymmetric"

    def test_an_old_nearest_resize_both_ways_is_refused(self, tmp_path: Path) -> None:
        graph = 'g (float[N,3,9,10] x, float[4] s) => (float[] y) { a = Resize<mode="nearest">(x, s) y = Relu(a) }'
        path = written(tmp_path, graph, 10, s=np.float32([1, 1, 1.5, 0.4]))
        with pytest.raises(UnsupportedError, match=r"Resize.* larger and others smaller"):
            load(path)

    def test_an_old_resize_with_computed_scales(self, tmp_path: Path) -> None:
        graph = """g (float[N,3,9,10] x, float[1] f, int64[1] b, int64[1] e) => (float[] y) { h = Shape(x) c = Cast<to=1>(h)
        d = Slice(c, b, e) q = Div(f, d) o = Div(d, d) s = Concat<axis=0>(o, o, q, q) a = Resize<mode="nearest">(x, s)
        y = Relu(a) }"""
        path = written(tmp_path, graph, 10, f=np.float32([4]), b=np.array([2]), e=np.array([3]))
        assert loaded(path).nodes[0].attrs["nearest_mode"] == "ceil"

    def test_limits_that_are_computed_stay_inputs(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,4] x) => (float[] y) { m = ReduceMax<keepdims=0>(x) y = Clip(x, , m) }")
        node = loaded(path).nodes[1]
        assert node.inputs == ("x", None, "m") and "max" not in node.attrs


class TestRemoval:
    def test_idle_nodes_go_and_outputs_keep_their_names(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,4] x) => (float[] y, float[] r, float[] z)
            { a = Identity(x) r = Relu(a) b = Dropout(r) c = Cast<to=1>(b) y = Sigmoid(c) d = Tanh(y) z = Identity(d) }""",
        )
        net = loaded(path)
        assert ops(net) == ["Relu", "Sigmoid", "Tanh"] and net.nodes[2].outputs == ("z",)

    def test_an_output_that_is_an_input_or_another_output_stays(self, tmp_path: Path) -> None:
        path = written(
            tmp_path, "g (float[N,4] x) => (float[] y, float[] z, float[] t) { y = Identity(x) t = Tanh(x) z = Dropout(t) }"
        )
        assert ops(loaded(path)) == ["Identity", "Tanh", "Identity"]

    def test_a_chain_of_idle_nodes_between_outputs(self, tmp_path: Path) -> None:
        path = written(
            tmp_path,
            """g (float[N,4] x) => (float[] y) { a = Relu(x) b = Identity(a) c = Identity(b) d = Tanh(b) e = Add(c, d)
            y = Identity(e) }""",
        )
        assert ops(loaded(path)) == ["Relu", "Tanh", "Add"]

    def test_a_sum_with_a_single_zero_goes(self, tmp_path: Path) -> None:
        """In either order; not one that gives the value another axis, nor a bias of zeros, nor another number."""
        path = written(
            tmp_path,
            """g (float[N,4] x) => (float[] y)
            <float n = {0}, float[1,1] m = {0}, float[1,1,1] l = {0}, float[4] b = {0,0,0,0}, float o = {0.5}>
            { a = Relu(x) c = Add(a, n) d = Tanh(c) e = Add(m, d) f = Add(e, l) h = Add(f, b) y = Add(h, o) }""",
        )
        net = loaded(path)
        assert ops(net) == ["Relu", "Tanh", "Add", "Add", "Add"] and net.nodes[2].inputs == ("d", "l")

    def test_a_cast_to_another_type_stays(self, tmp_path: Path) -> None:
        path = written(tmp_path, "g (float[N,4] x) => (float[] y) { a = Cast<to=6>(x) y = Cast<to=1>(a) }")
        assert ops(loaded(path)) == ["Cast", "Cast"]


@pytest.mark.parametrize("family", ["learned_query", "tiled_query"])
def test_queries_are_params_behind_their_layers(family: str, tmp_path: Path) -> None:
    """What a layer makes of a param that is repeated for every sample is the same for all of them."""
    net = make(tmp_path, family, 1)
    assert "Tile" not in {n.op for n in net.nodes}
    (query,) = (n for n in net.nodes if n.op == "Expand")
    assert net.shapes[str(query.inputs[0])] == (1, 2, 1, 4)
