"""Nets in ONNX Runtime: lowering, sessions, values that stay on the device."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from importlib import metadata

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxzip.errors import BackendMissingError, UnsupportedError, UsageError
from onnxzip.net import Net, Node, Port, Shape
from onnxzip.runtime import Session, memory, open_session, peak_rss_bytes, to_model
from onnxzip.runtime.session import cuda_works

F32 = np.dtype(np.float32)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not cuda_works(), reason="no CUDA device"))]


def net_of(*nodes: Node, shapes: dict[str, Shape], outputs: str = "y", opset: int = 13, **params: np.ndarray) -> Net:
    """A net with the input `x`."""
    everything = shapes | {k: v.shape for k, v in params.items()}
    dtypes = dict.fromkeys(shapes, F32) | {k: v.dtype for k, v in params.items()}
    ports = [Port(v, dtypes[v], everything[v]) for v in ("x", *outputs)]
    return Net(
        "tops", tuple(ports[:1]), tuple(ports[1:]), nodes, params, everything, dtypes, opset, metadata={"b": "2", "a": "1"}
    )


def two_outputs() -> Net:
    nodes = (Node("r", "Relu", ("x",), ("y",)), Node("m", "MatMul", ("y", "w", "b"), ("z",)))
    rng = np.random.default_rng(0)
    w, b = (np.asarray(rng.standard_normal(s), np.float32) for s in ((4, 3), (3,)))
    return net_of(*nodes, shapes={"x": (-1, 2, 4), "y": (-1, 2, 4), "z": (-1, 2, 3)}, outputs="yz", w=w, b=b)


class TestLowering:
    def test_the_model_is_valid_deterministic_and_described(self) -> None:
        model = to_model(two_outputs())
        onnx.checker.check_model(model, full_check=True)
        assert model.SerializeToString(deterministic=True) == to_model(two_outputs()).SerializeToString(deterministic=True)
        assert [(p.key, p.value) for p in model.metadata_props] == [("a", "1"), ("b", "2")]
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
        assert model.producer_name == "onnxzip" and model.ir_version == 8 and model.opset_import[0].version == 13
        assert all(t.raw_data for t in model.graph.initializer)

    @pytest.mark.parametrize(("opset", "inputs"), [(13, 1), (18, 2)])
    def test_axes_go_where_the_opset_has_them(self, opset: int, inputs: int) -> None:
        node = Node("m", "ReduceMean", ("x",), ("y",), {"axes": (1,), "keepdims": 0, "noop_with_empty_axes": 0})
        model = to_model(net_of(node, shapes={"x": (-1, 3), "y": (-1,)}, opset=opset))
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.node[0].input) == inputs

    def test_constants_take_the_type_of_the_data(self) -> None:
        node = Node("c", "Clip", ("x",), ("y",), {"min": None, "max": 6})
        model = to_model(net_of(node, shapes={"x": (-1, 3), "y": (-1, 3)}))
        onnx.checker.check_model(model, full_check=True)
        assert list(model.graph.node[0].input) == ["x", "", "c.max"]
        assert model.graph.initializer[0].data_type == onnx.TensorProto.FLOAT and not model.graph.initializer[0].dims

    def test_fresh_names_do_not_collide(self) -> None:
        nodes = (Node("c", "Clip", ("x",), ("c.max",), {"min": None, "max": 6.0}), Node("d", "Relu", ("c.max",), ("y",)))
        model = to_model(net_of(*nodes, shapes={"x": (-1, 3), "c.max": (-1, 3), "y": (-1, 3)}))
        onnx.checker.check_model(model, full_check=True)
        assert model.graph.initializer[0].name == "c.max_1"

    def test_a_shape_with_a_multiple_of_the_batch(self) -> None:
        nodes = (Node("r", "Reshape", ("x",), ("y",), {"shape": (-6, 5), "allowzero": 0}),)
        net = net_of(*nodes, shapes={"x": (-1, 6, 5), "y": (-6, 5)})
        assert open_session(net, "cpu").run({"x": np.zeros((4, 6, 5), np.float32)})["y"].shape == (24, 5)

    @pytest.mark.parametrize("batch", [1, 5])
    def test_an_expansion_to_the_batch(self, batch: int) -> None:
        nodes = (
            Node("e", "Expand", ("t",), ("u",), {"shape": (-2, 1, 5)}),
            Node("r", "Reshape", ("u",), ("v",), {"shape": (-1, 2, 5), "allowzero": 0}),
            Node("a", "Add", ("x", "v"), ("y",)),
        )
        token = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
        net = net_of(*nodes, shapes={"x": (-1, 2, 5), "u": (-2, 1, 5), "v": (-1, 2, 5), "y": (-1, 2, 5)}, t=token)
        onnx.checker.check_model(to_model(net), full_check=True)
        got = open_session(net, "cpu").run({"x": np.zeros((batch, 2, 5), np.float32)})["y"]
        np.testing.assert_allclose(got, np.broadcast_to(token, (batch, 2, 5)), rtol=0, atol=0)

    def test_operators_of_other_domains(self) -> None:
        net = replace(
            net_of(Node("g", "com.microsoft.FastGelu", ("x",), ("y",)), shapes={"x": (-1, 3), "y": (-1, 3)}),
            opsets={"com.microsoft": 1},
        )
        assert to_model(net).graph.node[0].domain == "com.microsoft"
        got = open_session(net, "cpu").run({"x": np.full((1, 3), 5.0, np.float32)})["y"]
        np.testing.assert_allclose(got, 5.0, rtol=1e-4)


class TestSession:
    @pytest.mark.parametrize("device", DEVICES)
    def test_bound_values_equal_plain_ones(self, device: str) -> None:
        session = open_session(two_outputs(), device, threads=1)
        x = np.asarray(np.random.default_rng(1).standard_normal((6, 2, 4)), np.float32)
        plain = session.run({"x": x})
        np.testing.assert_allclose(plain["y"], np.maximum(x, 0), rtol=0, atol=0)
        bound = session.run_bound({"x": x}, keep={"y"})
        kept = bound["y"]
        assert isinstance(kept, ort.OrtValue) and kept.device_name() == session.device == device
        np.testing.assert_allclose(kept.numpy(), plain["y"], rtol=0, atol=0)
        np.testing.assert_allclose(bound["z"], plain["z"], rtol=1e-6)
        again = session.run_bound({"x": kept})
        np.testing.assert_allclose(again["z"], plain["z"], rtol=1e-6)

    def test_some_outputs_alone(self) -> None:
        session = open_session(two_outputs(), "cpu", outputs=["y"])
        assert session.outputs == ("y",) and set(session.run({"x": np.zeros((1, 2, 4), np.float32)})) == {"y"}

    def test_auto_takes_what_there_is(self) -> None:
        session = open_session(two_outputs())
        assert session.device == ("cuda" if cuda_works() else "cpu") and session.provider in session.inner.get_providers()

    @pytest.mark.skipif(cuda_works(), reason="there is a CUDA device")
    def test_cuda_that_is_not_there(self) -> None:
        with pytest.raises(BackendMissingError, match="CUDA") as caught:
            open_session(two_outputs(), "cuda")
        assert caught.value.exit_code == 4

    def test_an_unknown_device(self) -> None:
        with pytest.raises(UsageError, match="'tpu'"):
            open_session(two_outputs(), "tpu")

    def test_two_builds_of_onnx_runtime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "distribution", lambda name: name)
        with pytest.raises(BackendMissingError, match="uninstall -y onnxruntime onnxruntime-gpu"):
            open_session(two_outputs(), "cpu")

    @pytest.mark.parametrize("change", [{"opset": 99}, {"nodes": (Node("r", "Rleu", ("x",), ("y",)),), "params": {}}])
    def test_what_onnx_runtime_cannot_run(self, change: dict[str, object]) -> None:
        net = net_of(Node("r", "Relu", ("x",), ("y",)), shapes={"x": (-1, 3), "y": (-1, 3)})
        with pytest.raises(UnsupportedError, match="'tops'"):
            open_session(replace(net, **change), "cpu")

    def test_nothing_is_printed(self, capfd: pytest.CaptureFixture[str]) -> None:
        session: Session = open_session(two_outputs())
        session.run({"x": np.zeros((1, 2, 4), np.float32)})
        assert capfd.readouterr() == ("", "")


def test_where_no_module_tells_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none that does."""
    found = peak_rss_bytes()
    assert found is not None and found > 30e6
    monkeypatch.setitem(sys.modules, "resource", None)
    assert runpy.run_path(memory.__file__)["peak_rss_bytes"]() is None
