"""Nets whose outputs hold infinite numbers: logits that a mask of the input hides, logarithms of 0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from netfiles import originals_outputs, written

import onnxzip
from onnxzip.config import RetrainOptions
from onnxzip.exporting.tally import Tally
from onnxzip.exporting.trial import error_of
from onnxzip.retraining.heads import Head
from onnxzip.retraining.losses import _sums
from onnxzip.retraining.objective import APART, Distillation
from onnxzip.retraining.student import _variance

LAYERS = """m = MatMul (x, w1) h = Add (m, b1) r = Relu (h) n = MatMul (r, w2) o = Add (n, b2)"""
PARAMS = "float[16,24] w1, float[24] b1, float[24,8] w2, float[8] b2"
HIDDEN = f"""g (float[N,16] x, {PARAMS}, float bound, float endless) => (float[N,8] y) {{ {LAYERS}
    parts = Constant <value_ints: ints = [8, 8]> () first, second = Split <axis = 1> (x, parts) hides = Greater (first, bound)
    y = Where (hides, endless, o) }}"""
LOGARITHMS = f"g (float[N,16] x, {PARAMS}) => (float[N,8] y) {{ {LAYERS} p = Relu (o) y = Log (p) }}"
X = np.random.default_rng(9).standard_normal((400, 16)).astype(np.float32)
INF = float("inf")


def write(path: Path, seed: int, text: str) -> Path:
    rng, shapes = np.random.default_rng(seed), {"w1": (16, 24), "b1": (24,), "w2": (24, 8), "b2": (8,)}
    given = {n: rng.standard_normal(s).astype(np.float32) / 2 for n, s in shapes.items()}
    if "endless" in text:
        given |= {"bound": np.array(0.8, np.float32), "endless": np.array(-np.inf, np.float32)}
    path.parent.mkdir(exist_ok=True)
    return written(path.parent, text, **given).rename(path)


@pytest.fixture(params=[HIDDEN, LOGARITHMS], ids=["hidden", "logarithms"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Path]]:
    yield {task: write(tmp_path / f"{task}.onnx", seed, request.param) for seed, task in enumerate("ab")}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_nets_with_infinite_outputs_merge_and_verify(files: dict[str, Path], share: float, tmp_path: Path) -> None:
    merged = onnxzip.merge(files, X, share=share, device="cpu")
    merged.save(tmp_path / "m.onnx")
    assert np.isinf(originals_outputs(merged.model, {"x": X})[0]).any()
    again = onnxzip.verify(tmp_path / "m.onnx", files, X, device="cpu")
    for entry in (*merged.report["tasks"].values(), *again["tasks"].values()):
        assert 0 <= entry["fidelity"]["relative_error"] < (1.2 if share else 1e-5)
    onnxzip.split(tmp_path / "m.onnx", "a")


def test_retraining_leaves_them_out(files: dict[str, Path], tmp_path: Path) -> None:
    """It gets better and stays finite, though a tenth and more of what the teachers say is infinite."""
    onnxzip.merge(files, X[:40], device="cpu").save(tmp_path / "m.onnx")
    done = onnxzip.retrain(tmp_path / "m.onnx", files, X, steps=150, options=RetrainOptions(learning_rate=0.003), device="cpu")
    judged = done.report["retrain"]
    assert judged["steps"] == 150 and judged["kept_step"] > 0
    for task in judged["tasks"].values():
        before, after = task["start"]["loss"], task["end"]["loss"]
        assert np.isfinite([before, after]).all() and after < before


class TestTally:
    def test_the_same_infinite_numbers_are_equal(self) -> None:
        tally = Tally()
        tally.add(np.array([-INF, 3.0, 4.0, INF]), np.array([-INF, 3.0, 4.0, INF]))
        assert tally.relative_error == 0 and tally.infinite == 2

    def test_one_that_is_alone_counts_as_wholly_wrong(self) -> None:
        tally = Tally()
        tally.add(np.array([-INF, 1.0, 1.0, 1.0, INF]), np.array([-INF, 1.0, 1.0, -INF, -INF]))
        assert tally.relative_error == pytest.approx(np.sqrt(2 / 4))
        alone = Tally()
        alone.add(np.array([1.0]), np.array([-INF]))
        assert alone.relative_error == 1

    def test_a_difference_of_forms_of_one_net(self) -> None:
        masked = np.array([-INF, 2.0])
        assert error_of(masked, masked) == 0
        assert error_of(masked + np.array([0, 0.5]), masked) == 0.25
        assert error_of(np.array([1.0, 2.0]), masked) == INF


class TestLoss:
    @pytest.mark.parametrize("kind", ["values", "logits", "probabilities"])
    def test_places_where_the_teacher_is_infinite_leave_it(self, kind: str) -> None:
        head = Head("a", "y", "a_y", kind, 1)
        criterion, masked = (Distillation((head,), {"y": v}, 2.0, 0.0) for v in (2.0, 2.0 * 4 / 6))
        rng = np.random.default_rng(0)
        near, far = (torch.tensor(rng.random((6, 4)), dtype=torch.float32) for _ in range(2))
        student = torch.cat([near, torch.full((6, 1), -INF), torch.ones(6, 1)], 1).requires_grad_()
        teacher = torch.cat([far, torch.full((6, 2), -INF)], 1)
        loss = masked({"y": student}, {"y": teacher}, None)
        assert loss.item() == pytest.approx(criterion({"y": near}, {"y": far}, None).item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.isfinite().all() and (gradient[:, 4:] == 0).all() and (gradient[:, :4] != 0).any()

    def test_parts_of_a_batch_add_up(self) -> None:
        """However many infinite numbers each has: processes that share a batch come to the same."""
        criterion = Distillation((Head("a", "y", "a_y", "logits", 1),), {"y": 2.0}, 2.0, 0.0)
        student, teacher = (torch.randn(6, 4, generator=torch.Generator().manual_seed(k)) for k in range(2))
        teacher[:2, 1:] = -INF
        whole, *parts = (criterion({"y": student[at]}, {"y": teacher[at]}, None) for at in (slice(6), slice(3), slice(3, 6)))
        torch.testing.assert_close(whole, (parts[0] + parts[1]) / 2)

    def test_the_mean_alone_has_a_loss_of_1(self) -> None:
        values = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
        values[:20, 1] = -INF
        values[:, 3] = INF
        mean = torch.stack([values[values[:, k].isfinite(), k].mean().nan_to_num() for k in range(4)]).expand(50, 4)
        criterion = Distillation((Head("a", "y", "a_y", "values", 1),), {"y": float(_variance(values))}, 2.0, 0.0)
        assert criterion({"y": mean}, {"y": values}, None).item() == pytest.approx(1, rel=1e-5)

    def test_a_student_that_is_infinite_alone_is_far_off(self) -> None:
        head = Head("a", "y", "a_y", "values", 1)
        criterion = Distillation((head,), {"y": 2.0}, 2.0, 0.0)
        loss = criterion({"y": torch.tensor([[INF, 1.0]])}, {"y": torch.tensor([[0.0, 1.0]])}, None)
        assert loss.item() == APART**2 / 2

    def test_judgement_counts_what_is_infinite_in_the_student_alone(self) -> None:
        head = Head("a", "y", "a_y", "values", 1)
        found = _sums(head, torch.tensor([[-INF, 1.0, INF]]), torch.tensor([[-INF, 1.0, 3.0]]), torch.tensor(0.0))
        assert found[2:4].tolist() == [9.0, 10.0]


def test_a_logarithm_of_0_has_no_gradient(tmp_path: Path) -> None:
    text = "g (float[N,3] x, float[3] b) => (float[N,3] y) { s = Add (x, b) y = Log (s) }"
    module = onnxzip.to_torch(written(tmp_path, text, b=np.zeros(3, np.float32)))
    y = module(torch.tensor([[0.0, 1.0, -1.0]]))["y"]
    assert y[0, 0] == -INF and y[0, 1] == 0 and y[0, 2].isnan()
    torch.where(y.isfinite(), y, 0.0).sum().backward()
    assert module.params()["b"].grad[:2].tolist() == [0.0, 1.0]
