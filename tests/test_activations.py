"""The activation behind a layer, in every spelling: what the channels of a step are ranked by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import Architecture, Maker, model_of
from fusing import check_close, fuse, net_of, samples_for
from scipy.special import erf, expit

from onnxzip.analysis import analyse
from onnxzip.calibration.activations import activation_of
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.samples import Source
from onnxzip.calibration.store import Store
from onnxzip.fusion import pairing
from onnxzip.fusion.keeping import Ranking, ranked
from onnxzip.net import Net

ROWS = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32) * 3


def number(m: Maker, value: float, *shape: int) -> str:
    return m.param(np.full(shape, value, np.float32))


def spelled_swish(m: Maker, x: str) -> str:
    """As Paddle writes it, with a factor and a shift of the whole layer."""
    six = m.op("Clip", m.op("Add", x, number(m, 3, 1)), number(m, 0), number(m, 6))
    return m.op("Add", m.op("Mul", m.op("Div", m.op("Mul", x, six), number(m, 6, 1)), number(m, 0.5, 1)), number(m, -0.2, 1))


def read_before(m: Maker, x: str) -> str:
    """What enters the activation is read elsewhere, too."""
    return m.op("Add", m.op("MaxPool", m.op("Sigmoid", x), kernel_shape=[1, 1]), m.op("AveragePool", x, kernel_shape=[1, 1]))


FUNCTIONS = {
    "Relu": (lambda m, x: m.op("Relu", x), lambda x: np.maximum(x, 0)),
    "Tanh": (lambda m, x: m.op("Tanh", x), np.tanh),
    "Silu": (lambda m, x: m.op("Mul", x, m.op("Sigmoid", x)), lambda x: x * expit(x)),
    "HardSwish, spelled out": (spelled_swish, lambda x: 0.5 * x * np.clip(x + 3, 0, 6) / 6 - 0.2),
    "Gelu, spelled out": (
        lambda m, x: m.op("Mul", m.op("Mul", x, m.op("Add", m.op("Erf", m.op("Div", x, number(m, 2**0.5))), number(m, 1))),
                          number(m, 0.5)),
        lambda x: 0.5 * x * (1 + erf(x / 2**0.5)),
    ),
    "slopes by channel": (lambda m, x: m.op("PRelu", x, m.positive(4, 1, 1)), lambda x: x),
    "read before": (read_before, lambda x: x),
    "none": (lambda m, x: m.op("MaxPool", x, kernel_shape=[2, 2]), lambda x: x),
}


def family(name: str) -> Architecture:
    def build(m: Maker, width: int, classes: int) -> str:
        return m.pool_head(FUNCTIONS[name][0](m, m.conv("image", (width, 3, 3, 3))), width, classes)

    return Architecture(build)


def pair(folder: Path, name: str) -> list[Net]:
    return [net_of(folder, model_of(family(name), seed), task) for seed, task in ((1, "a"), (2, "b"))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_go_through_it(name: str, tmp_path: Path) -> None:
    plan = analyse(pair(tmp_path, name))
    (port,) = plan.nets["a"].inputs
    sources = [Source((t,), samples_for(plan.nets["a"], 10), {}) for t in plan.tasks]
    assert port.name in sources[0].inputs
    with Store(1 << 24) as store:
        frontier = Frontier(plan, sources, store, "cpu", 1, 0)
        through = activation_of(frontier, plan.steps[0], "b")
    check_close(through(ROWS), FUNCTIONS[name][1](ROWS), 1e-5)


def test_a_merge_ranks_channels_by_what_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that the activation silences tells nothing, however much it varies before."""
    nets, spread = pair(tmp_path, "Silu"), list[np.ndarray]()
    for k, net in enumerate(nets):
        weights, bias = net.params["p0"].copy(), net.params["p1"].copy()
        weights[2], bias[2] = 3 * weights[2], -200
        nets[k] = replace(net, params={**net.params, "p0": weights, "p1": bias})

    def watched(covariance: np.ndarray, *others: Any) -> Ranking:
        spread.append(np.diagonal(covariance))
        return ranked(covariance, *others)

    monkeypatch.setattr(pairing, "ranked", watched)
    fuse(nets, 0.5)
    assert len(spread) == 2 and all(found[2] < 1e-9 < 0.1 < found[0] for found in spread)
