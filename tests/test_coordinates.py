"""Coordinates of weights: what layers read, and steps that move evenly what a layer computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from merging import MODELS
from onnx import TensorProto, helper, numpy_helper, parser
from torch import Tensor

import onnxzip
from onnxzip.net import Node
from onnxzip.net.classes import VALUES
from onnxzip.peers import Peers
from onnxzip.retraining.batches import Batch, Portion
from onnxzip.retraining.coordinates import Coordinates, _root, coordinates_of
from onnxzip.retraining.heads import Head
from onnxzip.retraining.layer_inputs import LayerInputs, layer_inputs
from onnxzip.retraining.losses import Losses
from onnxzip.retraining.module import TorchNet, read_module
from onnxzip.retraining.objective import Distillation
from onnxzip.retraining.optimizer import Proportional

TEACHERS = {t: MODELS / f"lenet300-{t}.onnx" for t in ("fashion-low", "fashion-high")}
DATA = {t: MODELS / "data" / f"{t}-calibration.npz" for t in TEACHERS}
RNG = np.random.default_rng(0)
SAMPLES = 3


def module_of(tmp_path: Path, op: str, x: tuple[int, ...], weights: Mapping[str, tuple[int, ...]], **attrs: Any) -> TorchNet:
    """A net of one node."""
    arrays = {n: RNG.standard_normal(shape).astype(np.float32) for n, shape in weights.items()}
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *weights], ["y"], **attrs)], "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *x[1:]] if x[0] == SAMPLES else list(x))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return read_module(path)


def read_by(module: TorchNet, x: Tensor, name: str = "w") -> tuple[LayerInputs, Tensor]:
    """What a param was multiplied with, and what the node has made of it."""
    found: list[LayerInputs] = []

    def watch(node: Node, inputs: list[Any], outputs: list[Any]) -> None:
        if name in node.inputs:
            read = layer_inputs(node, node.inputs.index(name), inputs, outputs)
            assert read is not None
            found.append(read)

    with module.watched(watch), torch.no_grad():
        y = module(x)["y"]
    assert len(found) == 1
    return found[0], y


def matrix_of(read: LayerInputs, weights: Tensor) -> Tensor:
    """The weights of each group: [groups, columns, outputs]."""
    flat = weights.detach().reshape(read.height, -1)
    parts = flat.reshape(len(read.rows), -1, flat.shape[1])
    return parts if read.first else parts.mT


CONVS = [
    ((SAMPLES, 4, 9), (6, 4, 3), {"strides": [2], "pads": [1, 0]}),
    ((SAMPLES, 4, 7, 6), (6, 4, 3, 2), {"dilations": [2, 1], "pads": [1, 0, 2, 1]}),
    ((SAMPLES, 4, 7, 6), (6, 2, 3, 3), {"group": 2, "strides": [1, 2]}),
    ((SAMPLES, 4, 5, 5), (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    ((SAMPLES, 2, 3, 4, 5), (5, 2, 2, 2, 2), {}),
]


class TestLayerInputs:
    @pytest.fixture(autouse=True)
    def everywhere(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        if "in_places" not in request.node.name:
            monkeypatch.setattr("onnxzip.retraining.layer_inputs.POSITIONS", 10**6)

    @pytest.mark.parametrize(("x", "w", "attrs"), CONVS)
    def test_rows_times_weights_are_what_a_convolution_makes(
        self, tmp_path: Path, x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]
    ) -> None:
        module = module_of(tmp_path, "Conv", x, {"w": w}, **attrs)
        read, y = read_by(module, torch.randn(x))
        product = read.rows @ matrix_of(read, module.params()["w"])  # [groups, samples * positions, outputs]
        want = y.flatten(2).reshape(SAMPLES, len(read.rows), -1, y[0, 0].numel()).permute(1, 0, 3, 2)
        torch.testing.assert_close(product, want.flatten(1, 2), rtol=1e-4, atol=1e-5)
        assert read.count == read.rows.shape[1] == SAMPLES * y[0, 0].numel()

    @pytest.mark.parametrize("group", [1, 2])
    def test_of_a_transposed_convolution(self, tmp_path: Path, group: int) -> None:
        module = module_of(tmp_path, "ConvTranspose", (SAMPLES, 4, 5), {"w": (4, 3, 2)}, strides=[2], group=group)
        read, y = read_by(module, torch.randn(SAMPLES, 4, 5))
        product = read.rows @ matrix_of(read, module.params()["w"])  # [groups, samples * positions, outputs * kernel]
        want = y.reshape(SAMPLES, group, 3, 5, 2).permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)
        torch.testing.assert_close(product, want, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("transposed", [0, 1])
    def test_of_a_product(self, tmp_path: Path, transposed: int) -> None:
        shape = (5, 4) if transposed else (4, 5)
        module = module_of(tmp_path, "Gemm", (SAMPLES, 4), {"w": shape}, transB=transposed)
        read, y = read_by(module, torch.randn(SAMPLES, 4))
        torch.testing.assert_close((read.rows @ matrix_of(read, module.params()["w"]))[0], y)

    def test_of_rows_in_samples(self, tmp_path: Path) -> None:
        module = module_of(tmp_path, "MatMul", (SAMPLES, 6, 4), {"w": (4, 5)})
        read, y = read_by(module, torch.randn(SAMPLES, 6, 4))
        torch.testing.assert_close((read.rows @ matrix_of(read, module.params()["w"]))[0], y.flatten(0, 1))
        assert read.count == 6 * SAMPLES

    @pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
    def test_of_a_recurrence(self, tmp_path: Path, op: str) -> None:
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
        weights = {"w": (2, gates * 5, 4), "r": (2, gates * 5, 5)}
        module = module_of(tmp_path, op, (7, SAMPLES, 4), weights, hidden_size=5, direction="bidirectional")
        x = torch.randn(7, SAMPLES, 4)
        read, _ = read_by(module, x)
        assert read.count == SAMPLES and matrix_of(read, module.params()["w"]).shape == (2, 4, gates * 5)
        torch.testing.assert_close(read.rows, x.flatten(0, 1).expand(2, -1, -1))
        read, y = read_by(module, x, "r")
        assert matrix_of(read, module.params()["r"]).shape == (2, 5, gates * 5)
        torch.testing.assert_close(read.rows, torch.stack([y[:, 0].flatten(0, 1), y[:, 1].flatten(0, 1)]))

    def test_large_images_are_looked_at_in_places(self, tmp_path: Path) -> None:
        module = module_of(tmp_path, "Conv", (SAMPLES, 1, 40, 40), {"w": (2, 1, 3, 3)})
        x = torch.randn(SAMPLES, 1, 40, 40)
        read, _ = read_by(module, x)
        assert read.count == SAMPLES * 38 * 38 > 10 * read.rows.shape[1]
        alone, _ = read_by(module, x[1:2])
        some = read.rows.reshape(SAMPLES, -1, 9)
        torch.testing.assert_close(some[1], alone.rows[0])  # the same places in any part of a batch
        assert len(some[0].unique(dim=0)) == some.shape[1]


class TestCoordinates:
    def test_inputs_have_the_covariance_1(self) -> None:
        x = torch.randn(2, 500, 6, dtype=torch.float64) * torch.logspace(-1, 1, 6)
        covariance = x.mT @ x / 500
        root = _root(covariance, 1e-6)
        assert root is not None
        unit = torch.eye(6, dtype=torch.float64).expand(2, -1, -1)
        size = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        torch.testing.assert_close(root @ covariance @ root / size, unit, rtol=1e-2, atol=1e-2)
        damped = _root(covariance, 1e9)
        assert damped is not None
        torch.testing.assert_close(damped, unit, rtol=1e-6, atol=1e-6)  # those of the weights
        assert _root(torch.zeros(1, 3, 3), 1.0) is None and _root(torch.full((1, 3, 3), torch.inf), 1.0) is None

    @pytest.mark.parametrize("first", [False, True])
    def test_a_step_does_not_depend_on_how_the_inputs_are_written(self, first: bool) -> None:
        """x -> x A, W -> A^-1 W is the same layer, and makes the same step in what it computes, up to its length."""
        x = torch.randn(400, 8, dtype=torch.float64)
        mixed = x @ (torch.randn(8, 8, dtype=torch.float64) + 2 * torch.eye(8, dtype=torch.float64))
        push = torch.randn(400, 20, dtype=torch.float64)  # gradient by the layer's outputs
        moves = []
        for inputs in (x, mixed):
            root = _root((inputs.mT @ inputs)[None] / len(inputs), 1e-9)
            assert root is not None
            gradient = inputs.mT @ push
            param = torch.ones_like(gradient if first else gradient.T)
            param.grad = gradient if first else gradient.T
            before, where = param.clone(), Coordinates(root, first, len(param))
            Proportional([param], 0.01, {param: where}).step()
            moved = param - before
            moves.append((inputs @ (moved if first else moved.T)).flatten())
        assert float(torch.cosine_similarity(*moves, dim=0)) > 1 - 1e-6
        gradient = mixed.mT @ push
        plain = torch.ones_like(gradient)
        plain.grad = gradient
        Proportional([plain], 0.01).step()
        other = (mixed @ (plain - 1)).flatten()
        assert float(torch.cosine_similarity(moves[0], other, dim=0)) < 0.9


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fused") / "m.onnx"
    onnxzip.merge(TEACHERS, DATA, samples=200, share=0.5, device="cpu").save(path)
    return path


class TestOfANet:
    def test_every_layer_has_some(self, fused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found: list[tuple[Losses, dict[Tensor, Coordinates]]] = []

        def kept(losses: Losses, batches: Sequence[Batch], peers: Peers) -> dict[Tensor, Coordinates]:
            found.append((losses, coordinates_of(losses, batches, peers)))
            return found[0][1]

        monkeypatch.setattr("onnxzip.retraining.student.coordinates_of", kept)
        onnxzip.retrain(fused, TEACHERS, DATA, steps=1, device="cpu")
        losses, coordinates = found[0]
        params = {n: p for n, p in losses.net.params().items() if p.requires_grad}
        assert {n for n, p in params.items() if p in coordinates} == {n for n, p in params.items() if p.ndim > 1}
        for param, where in coordinates.items():
            assert where.root.shape == (1, param[0].numel(), param[0].numel()) and where.height == len(param)

    def test_they_learn_more_from_as_many_steps(self, fused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        left = []
        for make in (coordinates_of, lambda *_: {}):
            monkeypatch.setattr("onnxzip.retraining.student.coordinates_of", make)
            tasks = onnxzip.retrain(fused, TEACHERS, DATA, steps=60, device="cpu").report["retrain"]["tasks"]
            left.append(np.mean([t["end"]["loss"] / t["start"]["loss"] for t in tasks.values()]))
        assert left[0] < 0.97 * left[1] < 1

    def test_weights_that_stand_in_two_ways_have_none(self) -> None:
        """An autoencoder whose decoder is the encoder turned around: [6, 4] maps 4 to 6 and 6 to 4."""
        text = """<ir_version: 8, opset_import: ["": 17]> n (float[N,4] x) => (float[N,4] y, float[N,3] z)
            <float[6,4] w, float[6,3] v> { h = Gemm <transB = 1> (x, w) y = Gemm (h, w) z = MatMul (h, v) }"""
        model = parser.parse_model(text)
        del model.graph.initializer[:]
        for name, shape in (("w", (6, 4)), ("v", (6, 3))):
            model.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name))
        module = read_module(model.SerializeToString())
        heads = tuple(Head("a", n, n, VALUES, 1) for n in "yz")
        losses = Losses(module, heads, {"a": Distillation(heads, {"y": 1.0, "z": 1.0}, 1.0, 0.0)})
        found = coordinates_of(losses, [(Portion(("a",), {"x": torch.randn(50, 4)}, {}, {}),)])
        assert set(found) == {module.params()["v"]}
