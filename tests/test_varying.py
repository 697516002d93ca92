"""Samples that come again: what is made of them, when, and that they teach more than the same rows over and over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from merging import MODELS, images, write_net

import onnxzip
from onnxzip.calibration.rows import ArrayRows, Pool
from onnxzip.config import DataOptions, RetrainOptions
from onnxzip.exporting.origin import Origin
from onnxzip.net import Port
from onnxzip.retraining.batches import Stream
from onnxzip.retraining.teachers import Teacher
from onnxzip.retraining.varying import Draw, can_vary, drawn, varied
from onnxzip.runtime import open_file

F32 = np.dtype(np.float32)


def draw(parts: float, shifts: tuple[float, float], rows: int = 2) -> Draw:
    return Draw(np.zeros(rows, int), np.full(rows, parts, np.float32), np.tile(shifts, (rows, 1)))


class TestVaried:
    def test_blends(self) -> None:
        x, other = np.ones((2, 5), np.float32), np.full((2, 5), 3, np.float32)
        np.testing.assert_allclose(varied({"x": x}, {"x": other}, draw(0.25, (1, 1)))["x"], 0.25 + 0.75 * 3)

    @pytest.mark.parametrize("shape", [(2, 3, 56, 28), (2, 1, 56, 28)])
    def test_images_are_shifted(self, shape: tuple[int, ...]) -> None:
        x = np.random.default_rng(0).random(shape, np.float32)
        found = varied({"x": x}, {"x": x}, draw(1, (1, -1)))["x"]
        np.testing.assert_array_equal(found[:, :, :-2, 1:], x[:, :, 2:, :-1])
        np.testing.assert_array_equal(found[:, :, -1, 1:], x[:, :, -1, :-1])
        np.testing.assert_array_equal(varied({"x": x}, {"x": x}, draw(1, (0.1, 0)))["x"], x)

    def test_images_with_channels_last(self) -> None:
        x = np.random.default_rng(0).random((2, 3, 56, 28), np.float32)
        found = varied({"x": x}, {"x": x}, draw(1, (1, -1)))["x"]
        last = varied({"x": x.transpose(0, 2, 3, 1)}, {"x": x.transpose(0, 2, 3, 1)}, draw(1, (1, -1)))["x"]
        np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), found)

    def test_what_is_no_image_is_blended_alone(self) -> None:
        x = np.random.default_rng(0).random((2, 80, 40), np.float32)
        np.testing.assert_array_equal(varied({"x": x}, {"x": x}, draw(1, (1, 1)))["x"], x)

    def test_a_draw_is_known_by_its_key(self) -> None:
        rows = np.arange(40, 90)
        one, again, other = (drawn(rows, 30, key) for key in ((0, 1, 2), (0, 1, 2), (0, 1, 3)))
        np.testing.assert_array_equal(one.partners, again.partners)
        np.testing.assert_array_equal(one.some(np.arange(9, 20)).shifts, again.shifts[9:20])
        assert set(one.partners) <= set(rows.tolist()) and not np.array_equal(one.parts, other.parts)

    def test_numbers_of_words_are_not_blended(self) -> None:
        assert can_vary([Port("x", F32, (-1, 5))])
        assert not can_vary([Port("x", F32, (-1, 5)), Port("ids", np.dtype(np.int64), (-1, 5))])


class TestStreams:
    @pytest.fixture
    def pool(self) -> Pool:
        x = images(50)
        port = Port("image", F32, (-1, *x.shape[1:]))
        return Pool(("a",), ArrayRows({"image": x}, (port,), DataOptions(), "x"), {}, np.arange(50))

    def stream(self, path: Path, pool: Pool, varies: bool) -> Stream:
        teacher = Teacher("a", Origin("", "", {"image": "image"}, {"logits": "a_logits"}), open_file("a", path, "cpu"))
        return Stream(pool, (teacher,), 10, (0, 0), 1 << 20, torch.device("cpu"), varies)

    def test_only_what_comes_again_is_varied(self, pool: Pool, tmp_path: Path) -> None:
        path = write_net(tmp_path / "a.onnx", 0)
        plain, varying = self.stream(path, pool, False), self.stream(path, pool, True)
        for step in range(8):  # 40 rows to train on
            one, other = plain.at(step), varying.at(step)
            assert torch.equal(one.feeds["image"], other.feeds["image"]) == (step < 4)
            want = other.feeds["image"].numpy()
            told = open_file("a", path, "cpu").run({"image": want})["logits"]
            np.testing.assert_allclose(other.targets["a_logits"].numpy(), told, rtol=1e-5, atol=1e-6)

    def test_what_judges_is_never_varied(self, pool: Pool, tmp_path: Path) -> None:
        path = write_net(tmp_path / "a.onnx", 0)
        judges = [p.feeds["image"] for p in self.stream(path, pool, True).judging()]
        assert torch.equal(torch.cat(judges), torch.tensor(pool.rows.take(np.arange(4, 50, 5))["image"]))


def test_few_samples_teach_more() -> None:
    """200 images a task: without variation little is learned that holds for others."""
    nets = {t: MODELS / f"lenet300-{t}.onnx" for t in ("fashion", "digits")}
    data = {t: np.load(MODELS / "data" / f"{t}-calibration.npz")["x"][:200] for t in nets}

    def errors(unvaried: bool) -> np.ndarray:
        options = RetrainOptions(unvaried=unvaried)
        tasks = onnxzip.merge(nets, data, retrain=100, retrain_options=options, seed=0).report["tasks"]
        return np.array([t["fidelity"]["relative_error"] for t in tasks.values()])

    assert (errors(unvaried=False) < 0.9 * errors(unvaried=True)).all()
