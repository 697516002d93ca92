"""Every file that cannot be loaded: which error, and what its message tells."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.loading import load, mapped
from onnxzip.loading.faithful import read_faithfully
from onnxzip.loading.stored import as_tensor
from onnxzip.runtime import newest_versions

RELU = "g (float[N,5] x) => (float[N,5] y) { y = Relu(x) }"


def write(folder: Path, graph: str, opset: int = 13, ir_version: int = 8, domains: str = "") -> Path:
    model = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}{domains}]> {graph}')
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refused(kind: type[UnsupportedError], path: Path, *words: str) -> str:
    """Loading fails with exactly this kind of error and exit code 3; the message names the file and says the words."""
    with pytest.raises(kind) as caught:
        load(path)
    message = str(caught.value)
    assert type(caught.value) is kind and caught.value.exit_code == 3
    for word in (path.name, *words):
        assert word in message
    return message


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        refused(InvalidModelError, tmp_path / "none.onnx", "no such file")

    def test_directory(self, tmp_path: Path) -> None:
        refused(InvalidModelError, tmp_path, "directory")

    def test_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "net.onnx"
        path.touch()
        refused(InvalidModelError, path, "empty")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_not_readable(self, tmp_path: Path) -> None:
        path = write(tmp_path, RELU)
        path.chmod(0)
        refused(InvalidModelError, path, "cannot be read")

    @pytest.mark.parametrize("part", [0.3, 0.9])
    def test_truncated(self, tmp_path: Path, part: float) -> None:
        path = write(tmp_path, RELU)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])
        refused(InvalidModelError, path)

    @pytest.mark.parametrize(
        "data", [b"not a net at all\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), bytes(100), b"\x08\x08"]
    )
    def test_something_else(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "net.onnx"
        path.write_bytes(data)
        refused(InvalidModelError, path)

    def test_the_checker_refuses(self, tmp_path: Path) -> None:
        refused(InvalidModelError, write(tmp_path, "g (float[N,5] x) => (float[N,5] y) { y = Relu(z) }"), "checker", "z")

    def test_nodes_in_a_circle(self, tmp_path: Path) -> None:
        nodes = "[first] a = Add(x, c) [second] b = Relu(a) c = Tanh(b) y = Neg(c)"
        path = write(tmp_path, f"g (float[N,5] x) => (float[N,5] y) {{ {nodes} }}")
        refused(InvalidModelError, path, "'first' (Add) -> 'second' (Relu) -> 'c' (Tanh) -> 'first' (Add)")

    def test_a_name_that_a_param_and_a_value_have_makes_no_circle(self, tmp_path: Path) -> None:
        graph = "g (float[N,5] x) => (float[N,5] y) <float[5] b = {1, 2, 3, 4, 5}> { a = Add(x, b) b = Relu(a) y = Neg(b) }"
        refused(InvalidModelError, write(tmp_path, graph), "checker", "SSA")

    def test_a_node_that_reads_itself(self, tmp_path: Path) -> None:
        path = write(tmp_path, "g (float[N,5] x) => (float[N,5] y) { [sum] y = Add(x, y) }")
        refused(InvalidModelError, path, "'sum' (Add) -> 'sum' (Add)")

    def test_a_long_circle(self, tmp_path: Path) -> None:
        chain = " ".join(f"[n{k}] v{k} = Relu(v{k - 1})" for k in range(1, 40))
        path = write(tmp_path, f"g (float[N,5] x) => (float[N,5] y) {{ [n0] v0 = Add(x, v39) {chain} y = Neg(v3) }}")
        assert "'n7' (Relu) -> 32 more -> 'n0' (Add)" in refused(InvalidModelError, path)

    def test_an_unknown_operator(self, tmp_path: Path) -> None:
        refused(InvalidModelError, write(tmp_path, "g (float[N,5] x) => (float[N,5] y) { y = Rleu(x) }"), "Rleu")

    def test_shapes_that_contradict_each_other(self, tmp_path: Path) -> None:
        path = write(tmp_path, "g (float[N,5] x, float[N,4] z) => (float[N,5] y) { y = Add(x, z) }")
        refused(InvalidModelError, path, "contradict")

    @pytest.mark.parametrize(("batch", "way"), [(1, "fixed --dim_param N"), (2, "a batch of 1"), (8, "dynamo")])
    def test_any_number_of_samples_by_its_inputs_alone(self, batch: int, way: str, tmp_path: Path) -> None:
        """As torch writes a batch that it has read as a Python integer; with that batch in its inputs the net is taken."""
        ones = ", ".join(["1"] * 3 * batch)
        param, body = f"<float[{batch},3] t = {{{{{ones}}}}}>", "{{ y = Concat<axis = 1>(x, t) }}"
        text = f"g (float[{{0}},4] x) => (float[{{0}},7] y) {param} {body}"
        refused(InvalidModelError, write(tmp_path, text.format("N")), f"a batch of {batch} alone", way, "contradict")
        assert load(write(tmp_path, text.format(batch))).inputs[0].shape == (batch, 4)

    @pytest.mark.parametrize("last", ["Relu", "LayerNormalization"])
    @pytest.mark.parametrize("location", ["../weights.bin", "missing.bin"])
    def test_external_data_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, last: str
    ) -> None:
        """A norm of ONNX Runtime's, which makes the file another one before onnx checks it, changes nothing."""
        monkeypatch.setattr(mapped, "SMALLEST", 64)
        folder = tmp_path / "inner"
        folder.mkdir()
        nodes = f"m = MatMul(x, w) y = {last}(m{', s' * (last != 'Relu')})"
        path = write(folder, f"g (float[N,50] x) => (float[N,40] y) <float[1] s = {{1}}> {{ {nodes} }}")
        model = onnx.load(path)
        weight = numpy_helper.from_array(np.zeros((50, 40), np.float32), "w")
        (tmp_path / "weights.bin").write_bytes(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        model.graph.initializer.append(weight)
        path.write_bytes(model.SerializeToString())
        refused(InvalidModelError, path)

    def test_external_data_in_a_cache(self, tmp_path: Path) -> None:
        """Those of the Hugging Face hub are links, which onnx does not follow."""
        path, data = write(tmp_path, "g (float[N,5] x) => (float[N,5] y) { y = Mul(x, w) }"), tmp_path / "net.onnx_data"
        model = onnx.load(path)
        model.graph.initializer.append(numpy_helper.from_array(np.ones(5, np.float32), "w"))
        onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=0)
        data.rename(tmp_path / "blob")
        data.symlink_to("blob")
        refused(InvalidModelError, path, "link", "Put a copy of that file there")
        data.unlink()
        refused(InvalidModelError, path, data.name, "Put a copy of that file there")
        shutil.copy(tmp_path / "blob", data)
        assert load(path).size == 5


class TestVersions:
    def test_an_old_opset(self, tmp_path: Path) -> None:
        refused(UnsupportedError, write(tmp_path, RELU, opset=6), "opset 6", "7 to")

    def test_a_new_opset(self, tmp_path: Path) -> None:
        newest = newest_versions()[0]
        refused(UnsupportedError, write(tmp_path, RELU, opset=newest + 1), f"opset {newest + 1}", f"to {newest}")

    def test_a_new_ir_version(self, tmp_path: Path) -> None:
        newest = newest_versions()[1]
        refused(UnsupportedError, write(tmp_path, RELU, ir_version=newest + 1), f"IR version {newest + 1}")

    def test_a_conversion_that_onnx_cannot_do(self, tmp_path: Path) -> None:
        graph = """g (float[1,3] x, float[3] s) => (float[1,3] y) { y = BatchNormalization<spatial=0>(x, s, s, s, s) }"""
        refused(UnsupportedError, write(tmp_path, graph, opset=8), "from opset 8 to 13: Attribute spatial", "with opset 13")


class TestShapes:
    def test_a_second_dynamic_axis(self, tmp_path: Path) -> None:
        """A number must stand there, or one of the usual ones must do."""
        text = "g (float[N,3,H,8] x, float[3,5,1] w) => (float[N,3,H,8] y) { y = Add(x, w) }"
        refused(UnsupportedError, write(tmp_path, text), "axis 2 of input 'x'", "224", "make_dynamic_shape_fixed")

    def test_an_input_without_shape(self, tmp_path: Path) -> None:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
        path = tmp_path / "net.onnx"
        path.write_bytes(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
        )
        refused(UnsupportedError if onnx_accepts(path) else InvalidModelError, path)

    def test_an_output_that_is_no_tensor(self, tmp_path: Path) -> None:
        """As scikit-learn's classifiers have them: they are kept as they are, but cannot be run in torch."""
        nodes = "y = Softmax(x) z = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (y)"
        graph = f"g (float[N,3] x) => (float[N,3] y, seq(map(int64, float)) z) {{ {nodes} }}"
        path = write(tmp_path, graph, domains=', "ai.onnx.ml": 3')
        assert load(path).made == ("z",)
        with pytest.raises(UnsupportedError, match=r"'z' is not a tensor.*zipmap=False"):
            read_faithfully(path)

    def test_a_size_that_depends_on_the_data(self, tmp_path: Path) -> None:
        path = write(tmp_path, "g (float[N,5] x) => (int64[2,M] y) { [finder] n = NonZero(x) y = Neg(n) }")
        refused(UnsupportedError, path, "nothing stands before node 'finder'", "NonZero", "depends on the data")

    def test_a_size_that_is_no_multiple_of_the_batch(self, tmp_path: Path) -> None:
        path = write(tmp_path, "g (float[N,5] x) => (float[M,5] y) <float[1,5] w = {1,2,3,4,5}> { y = Concat<axis=0>(x, w) }")
        refused(UnsupportedError, path, "'y'", "multiple of the batch")

    def test_a_reshape_for_a_batch_of_one(self, tmp_path: Path) -> None:
        """onnx believes it for any batch."""
        graph = "g (float[N,5] x) => (float[1,5] y) <int64[2] s = {1, 5}> { a = Relu(x) [flat] y = Reshape(a, s) }"
        refused(InvalidModelError, write(tmp_path, graph), "'flat'", "[1, 5] of [2, 5]", "batch of 1")
        assert load(write(tmp_path, graph.replace("N", "1", 1))).outputs[0].shape == (1, 5)

    def test_a_number_that_depends_on_the_batch(self, tmp_path: Path) -> None:
        path = write(
            tmp_path, "g (float[N,5] x) => (float[N,5] y) { s = Shape(x) n = Cast<to=1>(s) m = ReduceProd(n) y = Div(x, m) }"
        )
        refused(UnsupportedError, path, "'m'", "depends on the batch")

    def test_a_constant_output(self, tmp_path: Path) -> None:
        path = write(
            tmp_path, "g (float[N,5] x) => (float[N,5] y, float[2] z) <float[2] w = {1, 2}> { y = Relu(x) z = Neg(w) }"
        )
        refused(UnsupportedError, path, "'z'")

    def test_no_outputs(self, tmp_path: Path) -> None:
        refused(UnsupportedError, write(tmp_path, "g (float[N,5] x) => () { y = Relu(x) }"), "has no outputs")

    def test_an_operator_that_onnx_does_not_know(self, tmp_path: Path) -> None:
        path = write(
            tmp_path,
            "g (float[N,5] x) => (float[N,5] y) { [odd] a = com.strange.T(x) y = Neg(a) }",
            domains=', "com.strange": 1',
        )
        refused(UnsupportedError, path, "before node 'odd'", "com.strange")

    @pytest.mark.parametrize("domain", ["com.microsoft.nchwc", "com.ms.internal.nhwc"])
    def test_a_layout_for_one_machine(self, tmp_path: Path, domain: str) -> None:
        """What ONNX Runtime writes with ORT_ENABLE_ALL."""
        graph = f"g (float[N,8,4,4] x) => (float[N,8,4,4] y) {{ [wide] y = {domain}.Conv(x, x) }}"
        path = write(tmp_path, graph, domains=f', "{domain}": 1')
        refused(UnsupportedError, path, "'wide' (Conv)", "machine", "ORT_ENABLE_EXTENDED")

    @pytest.mark.parametrize(
        "node",
        ["y, m, v = BatchNormalization <training_mode = 1> (x, s, s, s, s)", "y = Dropout (x, r, t)", "y = Dropout (x, , t)"],
    )
    def test_training_mode(self, tmp_path: Path, node: str) -> None:
        params = "<float[3] s = {1, 2, 3}, float r = {0.1}, bool t = {1}>"
        graph = f"g (float[N,3,4,4] x) => (float[N,3,4,4] y) {params} {{ [odd] {node} }}"
        refused(UnsupportedError, write(tmp_path, graph, opset=15), "'odd'", "training mode", "model.eval()")

    def test_a_loop_that_gives_a_row_for_every_step(self, tmp_path: Path) -> None:
        path = write(
            tmp_path,
            """g (float[N,5] x, int64 n) => (float[M,N,5] y) { t = Constant <value = bool {1}> () [walk] s, y = Loop (n, t, x)
            <body = b (int64 i, bool c, float[N,5] p) => (bool d, float[N,5] q, float[N,5] r)
            { d = Identity (c) q = Relu (p) r = Neg (p) }> }""",
        )
        refused(UnsupportedError, path, "before node 'walk'", "Loop")


class TestNumbers:
    @pytest.mark.parametrize(("kind", "name"), [("bfloat16", "BFLOAT16"), ("double", "DOUBLE")])
    def test_other_floats(self, tmp_path: Path, kind: str, name: str) -> None:
        path = write(tmp_path, f"g ({kind}[N,5] x) => ({kind}[N,5] y) {{ y = Relu(x) }}", opset=14)
        refused(UnsupportedError, path, "'x'", name, "float32")

    @pytest.mark.parametrize("middle", ["a = Mul (h, w)", "v = Identity (w) a = Mul (h, v)", "a = Relu (h)"])
    def test_a_net_that_computes_in_bfloat16(self, tmp_path: Path, middle: str) -> None:
        """ONNX Runtime runs hardly any of these on a CPU, so that nothing could be verified."""
        nodes = f"h = Cast<to=16>(x) [mixer] {middle} y = Cast<to=1>(a)"
        path = write(tmp_path, f"g (float[N,2] x) => (float[N,2] y) {{ {nodes} }}")
        model = onnx.load(path)
        model.graph.initializer.append(as_tensor(np.ones(2, np.float32), TensorProto.BFLOAT16, "w"))
        onnx.save(model, path)
        refused(UnsupportedError, path, "(Cast)", "BFLOAT16", "ONNX Runtime", "float32 or float16")

    def test_bits_of_halves(self, tmp_path: Path) -> None:
        graph = "g (float16[N,2] x) => (int16[N,2] y) { a = Relu (x) [bits] y = BitCast <to = 5> (a) }"
        refused(UnsupportedError, write(tmp_path, graph, opset=26), "'bits'", "BitCast", "bits")

    def test_a_sequence_of_halves_as_an_output(self, tmp_path: Path) -> None:
        graph = "g (float16[N,2] x) => (seq(float16[N,2]) y) { a = Relu (x) y = SequenceConstruct (a, x) }"
        refused(UnsupportedError, write(tmp_path, graph), "'y'", "several tensors", "half types")

    def test_quantised_nets(self, tmp_path: Path) -> None:
        path = write(
            tmp_path,
            """g (float[N,5] x) => (float[N,5] y) <float s = {0.5}, uint8 z = {3}>
            { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""",
        )
        refused(UnsupportedError, path, "QuantizeLinear", "float nets first")

    @pytest.mark.parametrize("op", ["MatMulNBits", "QAttention", "DynamicQuantizeMatMul", "QLinearAdd", "QGemm"])
    def test_quantised_operators_of_vendors(self, tmp_path: Path, op: str) -> None:
        graph = f"g (float[N,5] x) => (float[N,5] y) {{ y = com.microsoft.{op}(x) }}"
        refused(UnsupportedError, write(tmp_path, graph, domains=', "com.microsoft": 1'), op, "float nets first")


def onnx_accepts(path: Path) -> bool:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError:
        return False
    return True
