"""Spaces whose basis is free: which they are, that turning one leaves a net as it is, and that it pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fusing import check_tasks, fuse, make, outputs, permuted, samples_for

from onnxzip import merge
from onnxzip.analysis import analyse
from onnxzip.analysis.turning import turnable, turned_params
from onnxzip.exporting.traces import read_trace
from onnxzip.inspection.differing import diff
from onnxzip.linalg.principal import principal_axes
from onnxzip.matching import methods
from onnxzip.runtime import entries_of

MODELS = Path(__file__).parent.parent / "models"
HALVES = {t: MODELS / f"mobilenet-fashion-{t}.onnx" for t in ("low", "high")}


def free_spaces(family: str, folder: Path) -> list[int]:
    """Sizes of the spaces of two nets whose basis is free in both."""
    plan = analyse([make(folder, family, s, f"{family}{s}") for s in (1, 2)])
    return [max(s.sizes.values()) for s in plan.spaces.values() if all(turnable(plan, s.number, t) for t in s.sizes)]


@pytest.mark.parametrize(
    ("family", "sizes"),
    [("mobilenet", [8]), *((f, []) for f in ("mlp", "vgg", "resnet", "preactivation", "densenet", "squeeze_excite"))],
)
def test_a_basis_is_free_where_linear_nodes_alone_touch_it(family: str, sizes: list[int], tmp_path: Path) -> None:
    """Of MobileNetV2's streams the first ends in a Clip; those of the other nets all are read by an activation."""
    assert free_spaces(family, tmp_path) == sizes


@pytest.mark.parametrize("seed", range(3))
def test_a_net_along_other_axes_is_the_same_net(seed: int, tmp_path: Path) -> None:
    nets = [make(tmp_path, "mobilenet", 1, "a"), make(tmp_path, "mobilenet", 2, "b")]
    plan = analyse(nets)
    (space,) = (s for s in plan.spaces.values() if turnable(plan, s.number, "a"))
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))[0]
    params = turned_params(plan, space.number, "a", axes)
    assert params and all(not np.allclose(a, plan.nets["a"].params[n]) for n, a in params.items())
    turned = replace(plan.nets["a"], params={**plan.nets["a"].params, **params})
    feeds = samples_for(nets[0], 7)
    for name, want in outputs(plan.nets["a"], feeds).items():
        np.testing.assert_allclose(outputs(turned, feeds)[name], want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_axes_are_orthonormal_with_the_largest_variance_first() -> None:
    x = np.random.default_rng(0).standard_normal((500, 4)) * [1, 9, 3, 0.1]
    axes = principal_axes(np.cov(x.T))
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-12)
    variances = (x @ axes.T).var(axis=0)
    assert (np.diff(variances) < 0).all()
    assert np.abs(axes).argmax(axis=1).tolist() == axes.argmax(axis=1).tolist() == [1, 2, 0, 3]
    np.testing.assert_allclose(principal_axes(np.cov(-x[::-1].T)), axes, atol=1e-9)


class TestNothingIsTurned:
    """Where channels are the same, or akin, in their own basis."""

    def test_between_a_net_and_its_copy_with_channels_in_another_order(self, tmp_path: Path) -> None:
        net = make(tmp_path, "mobilenet", 1, "a")
        nets = [net, permuted(net, 4, "b")]
        fused = fuse(nets)
        assert fused.zipped.turned == frozenset()
        check_tasks(fused, nets, 1e-5)

    def test_between_siblings(self, tmp_path: Path) -> None:
        net, rng = make(tmp_path, "mobilenet", 1, "a"), np.random.default_rng(5)
        moved = {k: (v * (1 + 0.1 * rng.standard_normal(v.shape))).astype(v.dtype) for k, v in net.params.items()}
        assert fuse([net, replace(net, name="b", params=moved)]).zipped.turned == frozenset()

    def test_where_nothing_is_shared(self, tmp_path: Path) -> None:
        nets = [make(tmp_path, "mobilenet", s, n) for s, n in ((1, "a"), (2, "b"))]
        fused = fuse(nets, 0.0)
        assert fused.zipped.turned == frozenset()
        check_tasks(fused, nets, 1e-5)


def test_turning_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two MobileNetV2-like nets, everything shared: an error of 0.16 of the outputs on average, in place of 0.19."""
    data = {t: MODELS / "data" / f"fashion-{t}-calibration.npz" for t in HALVES}

    def error() -> float:
        tasks = merge(HALVES, data, device="cpu").report["tasks"].values()
        return float(np.mean([t["fidelity"]["relative_error"] for t in tasks]))

    turned = error()
    monkeypatch.setitem(methods.METHODS, "zip", replace(methods.ZIP, turn=False))
    assert turned < 0.92 * error()


def test_a_fused_file_says_which_nodes_are_along_other_axes(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).random((64, 1, 28, 28), np.float32)
    merged = merge(HALVES, noise, device="cpu")
    merged.save(tmp_path / "m.onnx")
    trace = read_trace(entries_of(onnx.load(tmp_path / "m.onnx")), "m")
    turned = {node.origins["low"] for node in trace.nodes.values() if node.turned}
    made, read = (4, 5, 6, 7, 8), (5, 6, 7, 8)
    blocks = [(k, 4) for k in made] + [(k, 0) for k in read]
    assert turned == {"/9/9.0/Conv"} | {f"/{k}/body/body.{m}/body.{m}.0/Conv" for k, m in blocks}
    entries = {e["name"]: e for e in diff(HALVES["low"], tmp_path / "m.onnx")["nodes"]}
    assert all(entries[name]["change"] is None and "axes" in entries[name]["why"] for name in turned)
    assert entries["/2/body/body.0/body.0.0/Conv"]["change"] > 0
