"""Retraining: what it is aimed at, what it sees, that it never makes a net worse, and that it can be interrupted anywhere."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from merging import MODELS, images, outputs_of, write_net
from netfiles import written
from onnx import parser
from torch.nn import functional

import onnxzip
from onnxzip.calibration.rows import ArrayRows, Pool
from onnxzip.calibration.samples import Source
from onnxzip.config import DataOptions, RetrainOptions
from onnxzip.errors import InvalidDataError, UnsupportedError, UsageError
from onnxzip.exporting.origin import Origin
from onnxzip.net import Port
from onnxzip.progress import Silent
from onnxzip.retraining.batches import HELD, Drawing, parted
from onnxzip.retraining.heads import Head, heads_of, kinds_from
from onnxzip.retraining.loop import LEAST_PATIENCE, PATIENCE, rebalanced, shape_of_rate, stale
from onnxzip.retraining.losses import Judgement, as_close, as_low
from onnxzip.retraining.module import read_module
from onnxzip.retraining.objective import SQUARES, Distillation, custom_loss
from onnxzip.retraining.optimizer import Proportional, orthogonal
from onnxzip.retraining.search import FALL, GOOD, POOR, usual_rate
from onnxzip.retraining.teachers import Answers, Teacher
from onnxzip.runtime import open_file

STEPS = 20


@dataclass(frozen=True)
class Pair:
    """Two small nets, fused on a few samples so that there is something to repair, and data."""

    fused: Path
    teachers: dict[str, Path]
    data: dict[str, Any]

    def retrain(self, steps: int = STEPS, **options: Any) -> onnxzip.Merged:
        given = {k: options.pop(k) for k in ("data", "memory", "seed", "progress", "samples") if k in options}
        settings = {"batch": 16, "learning_rate": 0.01} | options
        return onnxzip.retrain(
            self.fused, self.teachers, given.pop("data", self.data), steps=steps, options=RetrainOptions(**settings),
            device="cpu", **given,
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    teachers = {"a": write_net(folder / "a.onnx", 1), "b": write_net(folder / "b.onnx", 2, classes=3)}
    data = {"a": images(600), "b": images(640, 6)}
    onnxzip.merge(teachers, {t: x[:64] for t, x in data.items()}).save(folder / "fused.onnx")
    return Pair(folder / "fused.onnx", teachers, data)


def stripped(content: bytes) -> tuple[bytes, dict[str, np.ndarray]]:
    """A file without the numbers of its floating-point params, and these."""
    model = onnx.load_from_string(content)
    params = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            params[tensor.name] = onnx.numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return model.SerializeToString(deterministic=True), params


class TestLaws:
    def test_no_steps_are_the_identity(self, pair: Pair) -> None:
        done = pair.retrain(0)
        assert done.content == pair.fused.read_bytes()
        assert done.report["retrain"]["steps"] == 0 and done.report["retrain"]["kept_step"] == 0

    def test_only_params_change(self, pair: Pair) -> None:
        (before, old), (after, new) = stripped(pair.fused.read_bytes()), stripped(pair.retrain().content)
        assert before == after and old.keys() == new.keys()
        assert all(old[n].shape == new[n].shape and not np.array_equal(old[n], new[n]) for n in old)

    def test_every_task_comes_closer_to_its_teacher(self, pair: Pair) -> None:
        report = pair.retrain(100, learning_rate=0.02).report
        for task in report["tasks"].values():
            assert task["fidelity"]["relative_error"] < 0.9 * task["start"]["fidelity"]["relative_error"]
        assert 0 < report["retrain"]["kept_step"] <= 100

    def test_the_judgement_is_what_onnx_runtime_finds(self, pair: Pair) -> None:
        report = pair.retrain().report
        for name, task in report["tasks"].items():
            judged = report["retrain"]["tasks"][name]
            for key, found in (("start", task["start"]["fidelity"]), ("end", task["fidelity"])):
                assert judged[key]["relative_error"] == pytest.approx(found["relative_error"], rel=1e-4)
                assert judged[key]["top1_agreement"] == pytest.approx(found["top1_agreement"])

    def test_the_same_seed_gives_the_same_bytes(self, pair: Pair) -> None:
        first = pair.retrain().content
        assert pair.retrain().content == first and pair.retrain(seed=1).content != first


class TestNeverWorse:
    @pytest.mark.parametrize("rate", [10.0, 1e3])
    def test_a_rate_that_destroys_keeps_the_start(self, pair: Pair, rate: float) -> None:
        done = pair.retrain(10, learning_rate=rate)
        assert done.content == pair.fused.read_bytes() and done.report["retrain"]["kept_step"] == 0

    def test_no_task_pays_for_another(self) -> None:
        start = Judgement(1.0, 0.5, 0.9)
        assert as_close(start, start) and as_close(Judgement(0.9, 0.4, 0.8), start) and as_low(Judgement(1, 1, None), start)
        for worse in (Judgement(1.1, 0.4, 1.0), Judgement(0.9, 0.6, 1.0), Judgement(np.nan, 0.4, 1.0)):
            assert not as_close(worse, start)
        assert not as_low(Judgement(1.1, 0.4, 1.0), start)

    def test_a_task_that_falls_behind_gains_weight(self) -> None:
        plain = [1.0, 2.0]
        assert rebalanced([0.5, 0.1], [1.0, 0.25]) == plain == rebalanced([np.nan, 0.1], [1.0, 0.25])
        assert rebalanced([0.5, 0.75], [1.0, 0.25]) == pytest.approx([0.5, 3.0])

    def test_a_net_that_is_its_teacher_stays_one(self, pair: Pair, tmp_path: Path) -> None:
        same = {"a": pair.teachers["a"], "c": pair.teachers["a"]}
        onnxzip.merge(same, pair.data["a"]).save(tmp_path / "m.onnx")
        options = RetrainOptions(batch=16)
        report = onnxzip.retrain(tmp_path / "m.onnx", same, pair.data["a"], steps=20, options=options, device="cpu").report
        for task in report["tasks"].values():
            assert task["fidelity"]["relative_error"] <= task["start"]["fidelity"]["relative_error"] < 1e-4

    def test_the_rate_is_found(self, pair: Pair) -> None:
        done = pair.retrain(300, learning_rate=None).report["retrain"]
        assert done["trial_steps"] >= 15 and done["steps"] <= 300 and done["kept_step"] > 0
        falls = done["trial_steps"] // 15 - 1
        usual = usual_rate([task["start"]["relative_error"] for task in done["tasks"].values()], 300, 16)
        assert done["learning_rate"] in (pytest.approx(usual * FALL**k) for k in (falls, falls + 1))

    def test_poor_starts_have_higher_rates(self, pair: Pair) -> None:
        starts = [0, 0.1], [0.4, 0.6], [0.6, 1.0], [0.9, 1.1], [1, 1e9], [1, np.nan]
        rates = [usual_rate(errors, 300, 64) for errors in starts]
        assert rates == [GOOD, GOOD, pytest.approx(0.008), POOR, POOR, POOR]
        done = pair.retrain(30, learning_rate=None).report["retrain"]
        assert [usual_rate([1.0], n, 32) for n in (1, 600, 3000)] == [POOR, pytest.approx(0.0075), pytest.approx(0.0055)]
        assert usual_rate([0.1], 1, 64) == usual_rate([0.1], 3000, 64) == GOOD
        assert usual_rate([0.1], 300, 8) == GOOD / 4
        usual = usual_rate([task["start"]["relative_error"] for task in done["tasks"].values()], 30, 16)
        assert done["learning_rate"] == usual and done["trial_steps"] == 0

    def test_only_a_low_rate_tells_that_more_steps_would_not_pay(self) -> None:
        steps = 3000
        ends = [next(k for k in range(best, 2 * steps) if stale(k, best, steps)) for best in (1, 394, 2000)]
        assert ends == [steps / 2 + PATIENCE * steps] * 2 + [2000 + PATIENCE * steps]
        assert not any(stale(k, 1, LEAST_PATIENCE) for k in range(LEAST_PATIENCE))

    def test_sample_nets(self) -> None:
        """Of a LeNet-5 pair zipped on few samples the distance to both teachers falls in 30 steps on all of them."""
        teachers = {t: MODELS / f"lenet5-{t}.onnx" for t in ("fashion-low", "fashion-high")}
        data = {t: MODELS / "data" / f"{t}-calibration.npz" for t in teachers}
        done = onnxzip.merge(teachers, data, samples=100, retrain=30, device="cpu").report["retrain"]
        for task in done["tasks"].values():
            assert task["end"]["relative_error"] < 0.95 * task["start"]["relative_error"]


class TestDistillation:
    HEAD = Head("a", "y", "a_y", "logits", 1, labelled=True)

    def loss(self, student: torch.Tensor, teacher: torch.Tensor, labels: Any = None, **options: Any) -> float:
        head = options.pop("head", self.HEAD)
        given = {"temperature": 1.0, "label_weight": 0.0} | options
        return float(Distillation((head,), {"y": 2.0}, **given)({"y": student}, {"y": teacher}, labels))

    def test_formula(self) -> None:
        student, teacher = torch.tensor([[1.0, -1.0], [0.5, 2.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]])
        squares = ((student - teacher) ** 2).mean() / 2
        for t in (1.0, 3.0):
            p, q = (teacher / t).softmax(1), (student / t).softmax(1)
            divergence = (p * (p.log() - q.log())).sum(1).mean()
            wanted = float(SQUARES * squares + t * t * divergence)
            assert self.loss(student, teacher, temperature=t) == pytest.approx(wanted, rel=1e-5)
        assert self.loss(student, teacher, head=replace(self.HEAD, kind="values")) == pytest.approx(float(squares))

    def test_probabilities_diverge_as_their_logits(self) -> None:
        student, teacher = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.eye(5, 4)
        head = replace(self.HEAD, kind="probabilities")
        squares = functional.mse_loss(student.softmax(1), teacher.softmax(1)) / 2
        logits_squares = functional.mse_loss(student, teacher) / 2
        divergence = self.loss(student, teacher) - SQUARES * float(logits_squares)
        found = self.loss(student.softmax(1), teacher.softmax(1), head=head) - SQUARES * float(squares)
        assert found == pytest.approx(divergence, rel=1e-4)

    def test_a_teacher_without_variance(self) -> None:
        teacher = torch.zeros(3, 2)
        loss = Distillation((self.HEAD,), {"y": 0.0}, 1.0, 0.0)({"y": teacher}, {"y": teacher}, None)
        assert float(loss) == 0.0

    def test_labels_are_mixed_in(self) -> None:
        student, teacher, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
        soft, hard = self.loss(student, teacher, labels), float(functional.cross_entropy(student, labels))
        assert self.loss(student, teacher, labels, label_weight=0.25) == pytest.approx(0.75 * soft + 0.25 * hard, rel=1e-6)
        assert self.loss(student, teacher, None, label_weight=0.25) == pytest.approx(soft)

    def test_labels_reach_it(self, pair: Pair) -> None:
        data = {t: (x, np.zeros(len(x), np.int64)) for t, x in pair.data.items()}
        plain = pair.retrain(data=data).content
        assert plain == pair.retrain().content
        assert pair.retrain(data=data, label_weight=0.5).content != plain

    def test_a_loss_of_the_users(self, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine.py").write_text("def loss(y, t, labels):\n    return (y['logits'] - t['logits']).abs().mean()\n")
        monkeypatch.chdir(tmp_path)
        done = pair.retrain(loss="mine:loss")
        assert done.content not in (pair.retrain().content, pair.fused.read_bytes())
        (tmp_path / "flawed.py").write_text("def loss(y, t, labels):\n    return (y['logits'] - t['logits']).abs()\n")
        with pytest.raises(UsageError, match="no tensor of one number"):
            pair.retrain(loss="flawed:loss")
        for text in ("mine:other", "none:loss", "mine", "mine:__name__"):
            with pytest.raises(UsageError, match="--loss"):
                custom_loss(text)
        (tmp_path / "falling.py").write_text("def loss(y, t, labels):\n    return y['logit'].mean()\n")
        with pytest.raises(UsageError, match="--loss falling:loss: failed: KeyError: 'logit'"):
            pair.retrain(loss="falling:loss")
        (tmp_path / "unfinished.py").write_text("1 / 0\n")
        with pytest.raises(UsageError, match="--loss unfinished:loss: its module fails: ZeroDivisionError"):
            custom_loss("unfinished:loss")

    def test_a_loss_that_is_no_text(self, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A callable is the loss of its name: to checkpoints, too; one without a name goes without them."""
        text = "def {0}(y, t, labels):\n    return (y['logits'] - t['logits']).{0}().mean()\n"
        (tmp_path / "named.py").write_text(text.format("abs") + text.format("cosh"))
        monkeypatch.syspath_prepend(tmp_path)
        named = importlib.import_module("named")
        options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 8}
        done = pair.retrain(loss=named.abs, **options)
        assert done.content == pair.retrain(loss=lambda y, t, labels: named.abs(y, t, labels)).content
        assert done.content == pair.retrain(loss="named:abs", resume=True, **options).content
        with pytest.raises(UsageError, match="belongs to another"):
            pair.retrain(loss=named.cosh, resume=True, **options)
        with pytest.raises(UsageError, match="losses apart by their names"):
            pair.retrain(loss=lambda y, t, labels: named.abs(y, t, labels), **options)
        with pytest.raises(UsageError, match="--loss named:abs: failed: TypeError"):
            custom_loss(named.abs)({"logits": 1}, {"logits": None}, None)  # type: ignore[dict-item]


NET = '<ir_version: 8, opset_import: ["": 17]> n (float[N,4] x) => (float[N,4] y) {{ h = Relu (x) {last} }}'


class TestHeads:
    def kind(self, last: str, given: dict[str, str] | None = None, shape: str = "float[N,4]") -> tuple[str, int]:
        text = NET.format(last=last).replace("float[N,4] y", f"{shape} y")
        net = read_module(parser.parse_model(text).SerializeToString()).reading.net
        (head,) = heads_of(net, {"a": Origin("", "", {"x": "x"}, {"own": "y"})}, given or {})
        return head.kind, head.axis

    def test_the_graph_tells(self) -> None:
        assert self.kind("y = Softmax <axis = 1> (h)") == ("probabilities", 1)
        assert self.kind("y = LogSoftmax <axis = 1> (h)") == ("logits", 1)
        assert self.kind("y = Neg (h)") == ("logits", 1)
        assert self.kind("y = Sigmoid (h)")[0] == "values"
        assert self.kind("s = Constant <value = int64[2] {-1, 1}> () y = Reshape (h, s)", shape="float[M,1]")[0] == "values"

    def test_the_user_tells(self) -> None:
        assert self.kind("y = Neg (h)", kinds_from(["y=values"]))[0] == "values"
        with pytest.raises(UsageError, match="no such output"):
            self.kind("y = Neg (h)", {"z": "values"})
        for text in ("y=class", "y", "=values"):
            with pytest.raises(UsageError, match="OUTPUT=KIND"):
                kinds_from([text])

    def test_a_task_must_have_one(self) -> None:
        with pytest.raises(UnsupportedError, match="floating-point"):
            self.kind("y = Cast <to = 7> (h)", shape="int64[N,4]")


class TestBatches:
    def test_an_epoch_sees_each_row_once(self) -> None:
        drawing = Drawing(np.arange(100, 203), 10, (3, 0))
        for epoch in range(3):
            seen = np.concatenate([drawing.places(10 * epoch + k) for k in range(10)])
            assert len(np.unique(seen)) == 100
        np.testing.assert_array_equal(drawing.places(4), np.arange(40, 50))
        np.testing.assert_array_equal(drawing.places(17), drawing.places(17))
        assert not np.array_equal(drawing.places(10), drawing.places(20))
        assert not np.array_equal(drawing.places(10), replace(drawing, key=(3, 1)).places(10))

    def test_few_rows_are_one_batch(self) -> None:
        assert sorted(Drawing(np.arange(7), 64, (0, 0)).places(5).tolist()) == list(range(7))

    @pytest.mark.parametrize(("rows", "judging"), [(7, 1), (1000, 200), (10_000, HELD)])
    def test_what_judges_is_never_trained_on(self, rows: int, judging: int) -> None:
        """And it is what the zip would hold out."""
        order = np.random.default_rng(1).permutation(rows)
        train, held = parted(order)
        assert not set(train) & set(held) and len(train) + len(held) == rows and len(held) == judging
        assert set(held) <= set(order[Source((), {"x": order}, {}).held()])

    def test_samples_stay_as_they_are_stored(self, pair: Pair, tmp_path: Path) -> None:
        """uint8 images, a mapped file, an iterable of batches and float32 are the same samples."""
        pixels = np.random.default_rng(0).integers(0, 256, (600, 1, 6, 6), np.uint8)
        np.save(tmp_path / "x.npy", pixels)
        as_floats = pair.retrain(data=pixels.astype(np.float32) / np.float32(255)).content
        for data in (pixels, tmp_path / "x.npy", np.split(pixels, 8)):
            assert pair.retrain(data=data).content == as_floats

    def test_an_endless_iterable_ends(self, pair: Pair) -> None:
        def endless() -> Any:
            rng = np.random.default_rng(0)
            while True:
                yield rng.standard_normal((64, 1, 6, 6), np.float32)

        assert pair.retrain(5, data=endless()).report["samples"]["a"] < 5 * 16 + 5 * HELD + 64

    def test_bad_samples_are_found(self, pair: Pair) -> None:
        bad = images(200)
        bad[:, 0, 0, 0] = np.nan
        with pytest.raises(InvalidDataError, match="NaN"):
            pair.retrain(data=bad)


class Counting(Teacher):
    """A teacher that counts what it is asked."""

    asked: list[int] = []  # noqa: RUF012 - emptied by who uses it

    def answers(self, feeds: Any) -> Any:
        self.asked.append(len(feeds["image"]))
        return super().answers(feeds)


class TestTeachers:
    def answers(self, pair: Pair, room: int, rows: int = 50) -> Answers:
        x = images(60)
        port = Port("image", np.dtype(np.float32), (-1, 1, 6, 6))
        pool = Pool(("a",), ArrayRows({"image": x}, (port,), DataOptions(), "x"), {}, np.arange(60))
        file = pair.teachers["a"]
        teacher = Counting("a", Origin("", "", {"image": "image"}, {"logits": "a_logits"}), open_file("a", file, "cpu"))
        Counting.asked.clear()
        return Answers(pool, np.arange(5, 5 + rows), (teacher,), 16, room)

    def test_each_sample_is_asked_for_once(self, pair: Pair) -> None:
        answers, x = self.answers(pair, 1 << 20), images(60)
        places = np.random.default_rng(0).permutation(50)
        for _ in range(3):
            found = answers.take(places, {"image": x[5:55][places]})
            np.testing.assert_allclose(found["a_logits"], outputs_of(pair.teachers["a"], x[5:55][places])["logits"], rtol=1e-5)
        assert Counting.asked == [16, 16, 16, 2] and answers.keeps

    def test_without_room_it_is_asked_again(self, pair: Pair) -> None:
        answers, x = self.answers(pair, 50 * 4 * 4 - 1), images(60)
        assert not answers.keeps and answers.bytes == 50 * 4 * 4
        found = answers.take(np.arange(3), {"image": x[5:8]})
        np.testing.assert_allclose(found["a_logits"], outputs_of(pair.teachers["a"], x[5:8])["logits"], rtol=1e-5)

    def test_the_bound_changes_no_result(self, pair: Pair) -> None:
        assert pair.retrain(memory=0).content == pair.retrain(memory="1G").content

    def test_one_that_is_broken(self, pair: Pair, tmp_path: Path) -> None:
        broken = write_net(tmp_path / "a.onnx", 1, b2=np.full(4, np.nan, np.float32))
        with pytest.raises(InvalidDataError, match="NaN"):
            onnxzip.retrain(pair.fused, pair.teachers | {"a": broken}, pair.data, steps=1, any_teacher=True, device="cpu")


class TestOptimizer:
    @pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
    def test_directions_are_of_one_strength(self, shape: tuple[int, int]) -> None:
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonal(matrix)) / max(shape) ** 0.5
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3
        torch.testing.assert_close(orthogonal(1e-3 * matrix), orthogonal(matrix), rtol=1e-3, atol=1e-3)
        assert not orthogonal(torch.zeros(shape)).any()

    @pytest.mark.parametrize("shape", [(8, 5), (4, 3, 3, 3), (20,), (2, 9)])
    def test_a_step_is_a_fraction_of_the_tensor(self, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        param = torch.randn(shape, generator=generator, requires_grad=True)
        before = param.detach().clone()
        param.grad = 1e-4 * torch.randn(shape, generator=generator)
        Proportional([param], 0.01).step()
        moved = (param.detach() - before).square().mean().sqrt() / before.square().mean().sqrt()
        assert 0.006 < float(moved) < 0.014

    def test_the_rate_rises_and_falls(self) -> None:
        rates = [shape_of_rate(k, 100) for k in range(100)]
        assert rates[0] < 0.11 and max(rates) > 0.9 and 0 < rates[-1] < 0.011


@dataclass
class At:
    """A progress that does something at a step."""

    step: int
    act: Any
    done: int = 0
    stage: str = ""
    details: list[str] = field(default_factory=list)

    def begin(self, stage: str, total: int) -> None:
        self.stage = stage

    def advance(self, parts: int) -> None:
        if self.stage == "retrain":
            self.done += parts
            if self.done == self.step:
                self.act()

    def detail(self, text: str) -> None:
        self.details.append(text)

    def note(self, text: str) -> None:
        Silent().note(text)


class Killed(Exception):
    """Stands for a process that ends without warning."""


def kill() -> None:
    raise Killed


def press_control_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


LAYERS = """g (float[{n},4,6] x, float[24,8] w, float[8] b, float[8,{k}] v, int64[2] flat, int64[2] flat2) => (float[] y) {{
    {first} m = MatMul (f, w) a = Add (m, b) r = Relu (a) y = MatMul (r, v) }}"""
FIRST = {
    "one": "f = Reshape (x, flat)",
    "zero": "f = Reshape (x, flat2)",
    "mixing": "s = ReduceMax <axes = [0], keepdims = 1> (x) f = Reshape (s, flat)",
}


ATTENTION = """g (float[N,4,8] x, float[8,12] w, float[12,12] q, float[12,12] k, float[4,4] mask, float[12,5] v)
    => (float[] y) { m = MatMul (x, w) h = Relu (m) a = MatMul (h, q) b = MatMul (h, k) t = Transpose <perm = [0, 2, 1]> (b)
    s = MatMul (a, t) u = Add (s, mask) p = Softmax <axis = -1> (u) o = MatMul (p, h) y = MatMul (o, v) }"""


def test_a_mask_is_no_weight(tmp_path: Path) -> None:
    """A step of a fraction of its infinite size made NaN of all."""
    files, mask = {}, np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    for seed, task in enumerate("ab"):
        (tmp_path / task).mkdir()
        rng, shapes = np.random.default_rng(seed), {"w": (8, 12), "q": (12, 12), "k": (12, 12), "v": (12, 5)}
        arrays = {name: 0.3 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        files[task] = written(tmp_path / task, ATTENTION, mask=mask, **arrays)
    assert [n for n, p in read_module(files["a"]).params().items() if not p.requires_grad] == ["mask"]
    x = np.random.default_rng(5).standard_normal((300, 4, 8)).astype(np.float32)
    onnxzip.merge(files, x[:64], device="cpu").save(tmp_path / "m.onnx")
    report = onnxzip.retrain(tmp_path / "m.onnx", files, x, steps=40, options=RetrainOptions(batch=32), device="cpu").report
    assert report["retrain"]["kept_step"] > 0


class TestOneSampleAtATime:
    def report(self, folder: Path, n: str, first: str, notes: list[str]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What retraining says of two nets that take so many samples, and what it has made of them."""
        files, count = {}, 1 if n == "1" else -1
        for seed, task in enumerate("ab"):
            (folder / task).mkdir(parents=True)
            rng, shapes = np.random.default_rng(seed), {"w": (24, 8), "b": (8,), "v": (8, 3 + seed)}
            arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
            shaped = {"flat": np.array([count, 24]), "flat2": np.array([0, -1])}
            files[task] = written(folder / task, LAYERS.format(n=n, k=3 + seed, first=first), **shaped, **arrays)
        x = np.random.default_rng(0).standard_normal((130, 4, 6)).astype(np.float32)
        onnxzip.merge(files, x[:64], device="cpu").save(folder / "m.onnx")
        progress, options = At(0, None), RetrainOptions(batch=16, learning_rate=0.003)
        progress.note = notes.append  # type: ignore[method-assign]
        done = onnxzip.retrain(folder / "m.onnx", files, x, steps=20, options=options, device="cpu", progress=progress)
        assert done.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == (n == "1")
        return done.report["retrain"], list(stripped(done.content)[1].values())

    @pytest.mark.parametrize("first", FIRST)
    def test_it_is_taught_as_by_batches(self, first: str, tmp_path: Path) -> None:
        """What stands for the one sample in a Reshape is freed; where samples would mix, one after the other is run."""
        notes: list[str] = []
        one, params = self.report(tmp_path / "one", "1", FIRST[first], notes)
        assert any("1 of the samples of a step at a time" in n for n in notes) == (first == "mixing")
        many, wanted = self.report(tmp_path / "many", "N", FIRST["one" if first == "mixing" else first], [])
        assert one["kept_step"] == many["kept_step"] > 0
        for task, judged in many["tasks"].items():
            assert one["tasks"][task]["end"]["loss"] == pytest.approx(judged["end"]["loss"], rel=1e-3)
        for got, want in zip(params, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)

    def test_portions_that_do_not_come_out_even(self, tmp_path: Path) -> None:
        """Rows of a net for two samples, several a sample: those of the last one's repetition are left out."""
        text = "g (float[2,6] x, float[6,4] w, int64[2] s) => (float[4,2] y) { m = MatMul (x, w) y = Reshape (m, s) }"
        module = read_module(written(tmp_path, text, s=np.array([4, 2])))
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
        found = module.compute_all({"x": x}, ["y"])["y"]
        torch.testing.assert_close(found, (x @ module.params()["w"]).reshape(10, 2))


class TestCheckpoints:
    @pytest.mark.parametrize("killed_at", [10, 13])
    def test_going_on_gives_the_same_bytes(self, pair: Pair, tmp_path: Path, killed_at: int) -> None:
        straight = pair.retrain(20).content
        options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 10 if killed_at == 10 else 4}
        with pytest.raises(Killed):
            pair.retrain(20, progress=At(killed_at, kill), **options)
        resumed = pair.retrain(20, resume=True, **options)
        assert resumed.content == straight and resumed.report["retrain"]["steps"] == 20
        assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]

    def test_in_a_later_epoch_and_after_a_search(self, pair: Pair, tmp_path: Path) -> None:
        straight = pair.retrain(220, learning_rate=None).content
        options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 25, "learning_rate": None}
        with pytest.raises(Killed):
            pair.retrain(220, progress=At(120, kill), **options)
        assert pair.retrain(220, resume=True, **options).content == straight

    def test_what_does_not_belong_is_refused(self, pair: Pair, tmp_path: Path) -> None:
        path = tmp_path / "c.pt"
        pair.retrain(10, checkpoint=path, checkpoint_every=5)
        for change in ({"seed": 1}, {"batch": 8}, {"steps": 12}, {"data": images(200, 9)}, {"temperature": 1.0}):
            with pytest.raises(UsageError, match="belongs to another"):
                pair.retrain(**({"steps": 10, "checkpoint": path, "resume": True} | change))
        pair.retrain(10, checkpoint=path, resume=True)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UsageError, match="no checkpoint that can be read"):
            pair.retrain(10, checkpoint=path, resume=True)
        with pytest.raises(UsageError, match="there is no such checkpoint"):
            pair.retrain(10, checkpoint=tmp_path / "d.pt", resume=True)

    def test_one_that_cannot_be_written(self, pair: Pair, tmp_path: Path) -> None:
        """It is told of, and costs nothing that was learned: here its folder goes once the steps have begun."""
        folder = tmp_path / "there"
        folder.mkdir()

        class Told(Silent):
            notes: ClassVar[list[str]] = []

            def advance(self, parts: int) -> None:
                shutil.rmtree(folder, ignore_errors=True)

            def note(self, text: str) -> None:
                self.notes.append(text)

        done = pair.retrain(10, checkpoint=folder / "c.pt", checkpoint_every=5, progress=Told())
        assert done.content == pair.retrain(10).content
        for note, step in zip(Told.notes[-2:], (5, 10), strict=True):
            assert note.startswith(f"the retraining goes on without a checkpoint of step {step}: {folder / 'c.pt'}: ")

    def test_control_c_keeps_the_best(self, pair: Pair, tmp_path: Path) -> None:
        before = signal.getsignal(signal.SIGINT)
        options = {"checkpoint": tmp_path / "c.pt"}
        progress = At(31, press_control_c)
        done = pair.retrain(60, progress=progress, **options)
        found = done.report["retrain"]
        assert found["interrupted"] and found["steps"] == 31 and 0 < found["kept_step"] <= 31
        assert signal.getsignal(signal.SIGINT) == before and len(progress.details) == 31
        for task in done.report["tasks"].values():
            assert task["fidelity"]["relative_error"] < task["start"]["fidelity"]["relative_error"]
        assert pair.retrain(60, resume=True, **options).content == pair.retrain(60).content

    def test_control_c_in_the_search(self, pair: Pair) -> None:
        done = pair.retrain(300, progress=At(15, press_control_c), learning_rate=None).report["retrain"]
        assert done["interrupted"] and done["steps"] < 60
