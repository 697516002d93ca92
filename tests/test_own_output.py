"""Layers that are applied to their own output, time and again: shared as any others, and one param in the file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from merging import fed
from torch import Tensor, nn
from zoo.catalogue import Entry, exported, inputs_of, module_of
from zoo.laws import examine

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.errors import UnsupportedError
from onnxzip.loading import load

WORDS, TOKENS, WIDTH, HEADS, STEPS = 50, 7, 16, 2, 3
SAME, NEAR, SHARE_0 = 1e-5, 1e-3, 1e-5


class Albert(nn.Module):
    """One transformer layer, three times; the table of words is narrower than the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.wide = nn.Embedding(WORDS, 8), nn.Linear(8, WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down, self.first, self.second = (
            nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        )
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wide(self.words(ids))
        for _ in range(STEPS):
            q, k, v = (layer(x).view(*ids.shape, HEADS, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
            seen = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
            x = self.first(x + self.out(seen.transpose(1, 2).reshape(*ids.shape, WIDTH)))
            x = self.second(x + self.down(nn.functional.gelu(self.up(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


class Refined(nn.Module):
    """A convolutional GRU that refines a field in three steps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.start = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.update, self.reset, self.new = (nn.Conv2d(16, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        seen = torch.relu(self.seen(image))
        state = torch.tanh(self.start(seen))
        for _ in range(STEPS):
            both = torch.cat([state, seen], 1)
            update, reset = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            state = (1 - update) * state + update * torch.tanh(self.new(torch.cat([reset * state, seen], 1)))
        field: Tensor = self.head(state)
        return field


class OwnBiases(nn.Module):
    """The same weights with another bias in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        self.biases = nn.ParameterList(torch.randn(WIDTH) for _ in range(STEPS))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.start(x))
        for bias in self.biases:
            x = torch.relu(nn.functional.linear(x, self.weight, bias))
        logits: Tensor = self.head(x)
        return logits


NETS = {
    "ALBERT": Entry(Albert, {"ids": (TOKENS,)}, {"ids": WORDS}),
    "refined": Entry(Refined, {"image": (3, 8, 8)}),
    "biases": Entry(OwnBiases, {"x": (6,)}),
}
SPACES = {"ALBERT": 4, "refined": 2}
TIED = {"ALBERT": ("q", "k", "v", "out", "up", "down"), "refined": ("update", "reset", "new")}
Write = Callable[[str, int, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a net of a seed in a dialect."""

    def written(name: str, seed: int, dialect: str = "torchscript") -> Path:
        if dialect == "dynamo" and importlib.util.find_spec("onnxscript") is None:
            pytest.skip("torch's dynamo exporter needs onnxscript")
        path = tmp_path / f"{name}-{seed}.onnx"
        onnx.save(exported(module_of(NETS[name], seed), NETS[name], dialect), path)
        return path

    return written


def feeds(name: str, count: int, seed: int) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in inputs_of(NETS[name], count, seed).items()}


@pytest.mark.parametrize(("name", "dialect"), [("ALBERT", "torchscript"), ("ALBERT", "dynamo"), ("refined", "torchscript")])
def test_laws_of_the_merge(write: Write, name: str, dialect: str) -> None:
    found = examine(load(write(name, 1, dialect)), feeds(name, 60, 3), feeds(name, 9, 8))
    assert max(found.same, found.unshared, found.reordered) < SAME, found
    assert found.nearly < NEAR, found
    assert not found.refusals and found.shared == found.spaces == SPACES[name], found


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("share", "layout"), [(1.0, "strands"), (0.5, "wide"), (0.5, "strands"), (0.0, "strands")])
def test_each_layer_is_one_param_in_the_file(write: Write, tmp_path: Path, name: str, share: float, layout: str) -> None:
    nets = {"a": write(name, 1, "torchscript"), "b": write(name, 2, "torchscript")}
    merged = onnxzip.merge(nets, feeds(name, 80, 3), share=share, layout=layout)
    merged.save(tmp_path / "both.onnx")
    uses: dict[str, set[str]] = {}
    for node in merged.model.graph.node:
        for layer in TIED[name]:
            if f"/{layer}" in node.name and node.op_type in ("MatMul", "Gemm", "Conv"):
                uses.setdefault(layer, set()).add(node.input[1])
    assert uses.keys() == set(TIED[name])
    most = 1 if share == 1 or layout == "wide" else 2 if share == 0 else 3
    assert all(len(params) <= most for params in uses.values()), uses
    assert merged.report["merged"]["params_ratio"] < {1.0: 0.55, 0.5: 1.13, 0.0: 1.01}[share]
    found, fresh = fed(tmp_path / "both.onnx", feeds(name, 9, 8)), feeds(name, 9, 8)
    for task, path in nets.items():
        [alone] = fed(onnxzip.split(tmp_path / "both.onnx", task).SerializeToString(), fresh).values()
        np.testing.assert_allclose(alone, found[f"{task}_out"], rtol=0, atol=SAME)
        if not share:
            np.testing.assert_allclose(alone, fed(path, fresh)["out"], rtol=0, atol=SHARE_0)


@pytest.mark.parametrize("name", SPACES)
def test_the_fit_is_better_than_the_mean(write: Write, name: str) -> None:
    nets = {"a": write(name, 1, "torchscript"), "b": write(name, 2, "torchscript")}
    errors = []
    for method in ("zip", "average"):
        tasks = onnxzip.merge(nets, feeds(name, 200, 3), method=method).report["tasks"].values()
        errors.append(np.mean([task["fidelity"]["relative_error"] for task in tasks]))
    assert errors[0] < 0.85 * errors[1]


def test_biases_of_their_own_are_refused(write: Write) -> None:
    """As many fits would be as many params: the file would be larger than both nets."""
    nets = [load(write("biases", seed, "torchscript"), task) for seed, task in ((1, "a"), (2, "b"))]
    with pytest.raises(UnsupportedError, match="one of which adds another bias to what another has made"):
        analyse(nets)
