"""The interpreter: nets run in torch, trained params in place of the stored ones, and what cannot run is named at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from evaluation import evaluate

from onnxzip.errors import UnsupportedError
from onnxzip.loading import load
from onnxzip.net import Net

NET = """<ir_version: 8, opset_import: ["": 17]>
small (float[N,2,4,4] x) => (float[N,3] y, float[N,3,1,1] z)
<float[3,2,3,3] w, float[3] b> {
    h = Conv <pads = [1,1,1,1]> (x, w, b)
    r = Relu (h)
    z = GlobalAveragePool (r)
    y = Flatten (z)
}"""
UNKNOWN = """<ir_version: 8, opset_import: ["": 17]>
odd (float[N,4] x, float least) => (float[N,4] y)
{
    a = Cast <to = 12> (x)
    c = BitShift <direction = "LEFT"> (a, shift)
    d = RandomUniformLike <dtype = 1> (c)
    y = Clip (d, least)
}"""


def net_of(text: str, folder: Path, **params: np.ndarray) -> Net:
    model = onnx.parser.parse_model(text)
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in params.items())
    onnx.save(model, folder / "net.onnx")
    return load(folder / "net.onnx")


@pytest.fixture
def net(tmp_path: Path) -> Net:
    rng = np.random.default_rng(0)
    return net_of(NET, tmp_path, w=rng.standard_normal((3, 2, 3, 3), np.float32), b=rng.standard_normal(3, np.float32))


def test_all_outputs_come_in_the_order_of_the_net_and_the_net_stays_as_it_is(net: Net) -> None:
    before = {name: array.copy() for name, array in net.params.items()}
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 2, 4, 4), np.float32))
    results = evaluate(net, {"x": x})
    assert [(name, tuple(y.shape)) for name, y in results.items()] == [("y", (5, 3)), ("z", (5, 3, 1, 1))]
    h = torch.nn.functional.conv2d(x, torch.tensor(before["w"]), torch.tensor(before["b"]), padding=1)
    want = torch.relu(h).mean((2, 3))
    np.testing.assert_allclose(results["y"].numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
    for name, array in before.items():
        np.testing.assert_array_equal(net.params[name], array)


def test_given_params_are_used_and_receive_gradients(net: Net) -> None:
    weight = torch.zeros(3, 2, 3, 3, requires_grad=True)
    bias = torch.ones(3, requires_grad=True)
    y = evaluate(net, {"x": torch.ones(2, 2, 4, 4)}, {"w": weight, "b": bias})["y"]
    np.testing.assert_array_equal(y.detach().numpy(), np.ones((2, 3), np.float32))
    y.sum().backward()
    np.testing.assert_allclose(bias.grad.numpy(), np.full(3, 2.0), rtol=1e-6, atol=0)
    assert float(weight.grad.abs().sum()) > 0


def test_every_obstacle_is_named_before_anything_runs(tmp_path: Path) -> None:
    net = net_of(UNKNOWN, tmp_path, shift=np.array(1, np.uint32))
    with pytest.raises(UnsupportedError) as error:
        evaluate(net, {})
    for part in ("BitShift is not registered", "RandomUniformLike is not registered", "Clip has a computed min"):
        assert part in str(error.value)
