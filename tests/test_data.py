"""Samples in every form in which they can be given come out as the same sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merging import images
from PIL import Image

from onnxzip.calibration.checking import Feed
from onnxzip.calibration.samples import Source, set_apart, wanted
from onnxzip.calibration.sources import Samples, gather
from onnxzip.config import DataOptions
from onnxzip.errors import InvalidDataError, UsageError
from onnxzip.net import Port

F32 = np.dtype(np.float32)
PORT = Port("image", F32, (-1, 1, 6, 6))
FEED = Feed((PORT,), {"picture": "image"}, 4)
X, Y = images(50), np.arange(50) % 4


def collected(data: Any, feeds: dict[str, Feed] | None = None, seed: int = 0, **options: Any) -> tuple[Samples, list[str]]:
    notes: list[str] = []
    found = gather(data, feeds or {"a": FEED, "b": FEED}, DataOptions(**options), np.random.default_rng(seed), notes.append)
    return found, notes


def in_order(array: np.ndarray) -> np.ndarray:
    """Samples sorted, as sources are shuffled."""
    flat = array.reshape(len(array), -1)
    return array[np.lexsort(flat.T[::-1])]


def check_source(source: Source, x: np.ndarray, y: np.ndarray | None = None) -> None:
    """The source holds these samples in some order, each with its label."""
    assert source.inputs["image"].dtype == np.float32
    np.testing.assert_array_equal(in_order(source.inputs["image"]), in_order(x))
    assert set(source.labels) == (set() if y is None else set(source.tasks))
    if y is not None:
        label = {row.tobytes(): int(c) for row, c in zip(x, y, strict=True)}
        for labels in source.labels.values():
            assert [label[row.tobytes()] for row in source.inputs["image"]] == labels.tolist()


class Reader:
    """As ONNX Runtime's CalibrationDataReader."""

    def __init__(self) -> None:
        self.batches = iter(np.split(X, 10))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


class Indexed:
    """As torch's Dataset."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, k: int) -> np.ndarray:
        return np.asarray(X[k])


class TestForms:
    def test_files(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "named.npz", image=X)
        np.savez_compressed(tmp_path / "other_name.npz", picture=X)
        np.savez(tmp_path / "x.npz", x=X)
        np.save(tmp_path / "x.npy", X)
        for path in sorted(tmp_path.iterdir()):
            found, notes = collected(str(path))
            assert [s.tasks for s in found.sources] == [("a", "b")] and not found.noise and notes == []
            check_source(found.sources[0], X)

    def test_labels(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x=X, y=Y[:, None].astype(np.uint8))
        check_source(collected(tmp_path / "d.npz")[0].sources[0], X, Y)

    def test_python_objects(self) -> None:
        for data in (X, {"image": X}, {"picture": X}, iter(np.split(X, 5)), [{"image": b} for b in np.split(X, 5)], Reader()):
            check_source(collected(data)[0].sources[0], X)
        for data in ((X, Y), {"image": X, "y": Y}, [(X[:20], Y[:20]), (X[20:], Y[20:])], [[X, Y]], [({"image": X}, Y)]):
            check_source(collected(data)[0].sources[0], X, Y)

    def test_torch(self) -> None:
        torch = pytest.importorskip("torch")
        dataset = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        check_source(collected(torch.utils.data.DataLoader(dataset, batch_size=8))[0].sources[0], X, Y)
        for whole in (torch.from_numpy(X), {"image": torch.from_numpy(X)}):
            check_source(collected(whole)[0].sources[0], X)
        with pytest.raises(InvalidDataError, match="holds a tensor that NumPy cannot take"):
            collected(torch.from_numpy(X).bfloat16())

    def test_a_callable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_batches.py").write_text(
            "import numpy\nclass Maker:\n    @staticmethod\n    def half():\n"
            "        for k in range(10):\n            yield {'image': numpy.full((4, 1, 6, 6), k, 'float64')}\n"
        )
        monkeypatch.chdir(tmp_path)
        found, _ = collected("my_batches:Maker.half")
        check_source(
            found.sources[0],
            np.repeat(np.arange(10, dtype=np.float32), 4)[:, None, None, None] + np.zeros((1, 1, 6, 6), np.float32),
        )

    def test_iterables_are_left_when_there_is_enough(self) -> None:
        def endless() -> Iterator[np.ndarray]:
            while True:
                yield X

        assert collected(endless(), samples=120)[0].sources[0].count == 120

    def test_several_inputs(self, tmp_path: Path) -> None:
        feed = Feed((PORT, Port("scale", F32, (-1, 3))), {}, None)
        np.savez(tmp_path / "d.npz", image=X, scale=np.ones((50, 3)), x=X, extra=X)
        found, notes = collected(tmp_path / "d.npz", {"a": feed})
        assert set(found.sources[0].inputs) == {"image", "scale"} and notes == [f"{tmp_path / 'd.npz'}: 'x', 'extra' not used"]
        with pytest.raises(InvalidDataError, match="'scale'"):
            collected({"image": X}, {"a": feed})

    @pytest.mark.parametrize(
        "data", [3, object(), [3, 4], [X, {"image": X}], [np.float32(3)], [X, X[:, :, :5]], {"image": np.float32(1)}]
    )
    def test_what_is_no_data(self, data: Any) -> None:
        with pytest.raises(InvalidDataError):
            collected(data)

    def test_what_is_empty(self) -> None:
        for data in ([], iter(()), (x for x in [])):
            with pytest.raises(InvalidDataError, match="is empty: it gives no batch"):
                collected(data)


class TestTasks:
    def test_the_same_file_is_one_source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in "de":
            np.savez(f"{name}.npz", x=X)
        feeds = dict.fromkeys("abc", FEED)
        found, _ = collected({"a": "d.npz", "b": str(tmp_path / "d.npz"), "c": "e.npz"}, feeds)
        assert [s.tasks for s in found.sources] == [("a", "b"), ("c",)]
        assert [s.tasks for s in collected({"a": "d.npz", "": "e.npz"}, feeds)[0].sources] == [("a",), ("b", "c")]
        assert [s.tasks for s in collected({"a": X, "b": X, "c": X + 1}, feeds)[0].sources] == [("a", "b"), ("c",)]

    @pytest.mark.parametrize("names", [("a", "b"), ("a",)])
    def test_inputs_that_are_called_as_the_tasks_are_told_apart(self, names: tuple[str, ...]) -> None:
        """A mapping of arrays by input looks like one by task: the message says so, and both ways out of it work."""
        feed = Feed(tuple(Port(name, F32, (-1, 1, 6, 6)) for name in names), {}, None)
        feeds, arrays = {"a": feed, "b": feed}, {name: X + k for k, name in enumerate(names)}
        with pytest.raises(InvalidDataError, match=r"tasks and inputs have these names.*read by task\. Give \{''"):
            collected(arrays, feeds)
        for given in ({"": arrays}, {"a": arrays, "b": arrays}):
            found, _ = collected(given, feeds)
            assert [s.tasks for s in found.sources] == [("a", "b")] and set(found.sources[0].inputs) == set(names)

    def test_arrays_by_task_are_enough_for_one_input_each(self) -> None:
        feed = Feed((Port("a", F32, (-1, 1, 6, 6)),), {"b": "a"}, None)
        found, _ = collected({"a": X, "b": X + 1}, {"a": feed, "b": feed})
        assert [s.tasks for s in found.sources] == [("a",), ("b",)]

    def test_labels_are_kept_where_there_are_classes(self) -> None:
        found, notes = collected((X, Y), {"a": FEED, "b": Feed((PORT,), {}, None)})
        assert set(found.sources[0].labels) == {"a"} and len(notes) == 1 and "'b'" in notes[0]


class TestNumbers:
    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.int8, np.uint16, np.bool_])
    def test_other_formats_become_float32(self, dtype: type) -> None:
        check_source(
            collected(np.round(np.abs(X)).astype(dtype))[0].sources[0], np.round(np.abs(X)).astype(dtype).astype(np.float32)
        )

    def test_integer_inputs_keep_their_format(self) -> None:
        feed = Feed((Port("ids", np.dtype(np.int64), (-1, 5)),), {}, None)
        ids = np.arange(200).reshape(40, 5)
        found = collected(ids.astype(np.uint8), {"a": feed})[0].sources[0].inputs["ids"]
        assert found.dtype == np.int64 and np.array_equal(in_order(found), ids)
        with pytest.raises(InvalidDataError, match="int64"):
            collected(ids + 0.5, {"a": feed})

    def test_images_are_scaled_and_that_is_said_once(self, tmp_path: Path) -> None:
        x = np.random.default_rng(1).integers(0, 256, (50, 1, 6, 6), np.uint8)
        np.savez(tmp_path / "d.npz", x=x)
        np.savez(tmp_path / "e.npz", x=x)
        found, notes = collected({"a": tmp_path / "d.npz", "b": tmp_path / "e.npz"})
        check_source(found.sources[0], x.astype(np.float32) / np.float32(255))
        assert found.scaled == (str(tmp_path / "d.npz"), str(tmp_path / "e.npz")) and len(notes) == 1 and "0..1" in notes[0]

    def test_a_net_that_takes_bytes_gets_them(self) -> None:
        """By the std that the note tells."""
        x = np.random.default_rng(1).integers(0, 256, (50, 1, 6, 6), np.uint8)
        _, notes = collected(x)
        found, quiet = collected(x, std=(float(notes[0].split("--std ")[1].split()[0]),))
        np.testing.assert_allclose(in_order(found.sources[0].inputs["image"]), in_order(x.astype(np.float32)), rtol=1e-6)
        assert "--std" not in quiet[0]

    def test_samples_that_are_no_batches(self) -> None:
        feed = Feed((Port("image", F32, (-1, 3, 6, 6)),), {}, None)
        with pytest.raises(InvalidDataError, match=r"The first axis counts the samples.*x\[None\]"):
            collected(list(np.repeat(X, 3, axis=1)), {"a": feed})

    def test_a_dataset_is_no_loader(self) -> None:
        with pytest.raises(InvalidDataError, match="Give a DataLoader of it"):
            collected(Indexed())

    def test_mean_and_std(self) -> None:
        x = np.random.default_rng(1).integers(0, 256, (50, 3, 4, 4), np.uint8)
        feed = Feed((Port("image", F32, (-1, 3, 4, 4)),), {}, None)
        mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
        found = collected(x, {"a": feed}, mean=mean, std=std)[0].sources[0].inputs["image"]
        want = (x / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
        np.testing.assert_allclose(in_order(found), in_order(want), atol=1e-6)
        with pytest.raises(UsageError, match="--std has 2 values, the images have 3"):
            collected(x, {"a": feed}, mean=(0.5,), std=(0.2, 0.3))

    @pytest.mark.parametrize(("data", "where"), [(X, r"data \(ndarray\)"), (None, "noise")], ids=["array", "noise"])
    def test_options_for_images_that_have_no_use_are_refused(self, data: np.ndarray | None, where: str) -> None:
        """Nets calibrated on numbers that were not normalised, though it was asked for, are worth nothing."""
        with pytest.raises(UsageError, match=f"--std: for folders of images and uint8 arrays.*{where} would be taken as"):
            collected(data, std=(0.5,))
        with pytest.raises(UsageError, match=f"--size: for folders of images only; {where} would"):
            collected(data, size=12)
        feed = Feed((Port("image", np.dtype(np.uint8), (-1, 1, 6, 6)),), {}, None)
        with pytest.raises(UsageError, match=r"--mean and --std: .* for inputs of floats only"):
            collected(np.zeros((50, 1, 6, 6), np.uint8), {"a": feed}, mean=(0.5,), std=(0.5,))
        assert not collected(data)[1]

    def test_options_for_images_that_some_data_have_no_use_for(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x=X)
        pixels = np.random.default_rng(1).integers(0, 256, (50, 1, 6, 6), np.uint8)
        found, notes = collected({"a": pixels, "b": tmp_path / "d.npz"}, mean=(0.5,))
        check_source(found.of("b"), X)
        check_source(found.of("a"), pixels.astype(np.float32) / np.float32(255) - np.float32(0.5))
        assert "d.npz: taken as it is; --mean" in notes[0] and "d.npz" not in notes[1]

    @pytest.mark.parametrize(("have", "want"), [((6, 7, 3), (3, 7, 3)), ((6, 7, 3), (3, 6, 3)), ((6, 7, 3), (3, 6, 7))])
    def test_channels_behind_sizes_that_the_samples_themselves_have_told(
        self, have: tuple[int, ...], want: tuple[int, ...]
    ) -> None:
        feed = Feed((Port("image", F32, (-1, *want)),), {}, None)
        with pytest.raises(InvalidDataError, match=r"channels to the front: x\.transpose\(0, 3, 1, 2\)"):
            collected(np.zeros((40, *have), np.float32), {"a": feed})


class TestSampling:
    def test_a_cap_draws_at_random_and_by_the_seed(self) -> None:
        first, again, other = (collected(X, seed=s, samples=40)[0].sources[0].inputs["image"] for s in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert len(first) == len(other) == 40 and not np.array_equal(in_order(first), in_order(other))
        assert {r.tobytes() for r in first} <= {r.tobytes() for r in X} and len({r.tobytes() for r in first}) == 40

    def test_a_fifth_is_held_out_from_all_of_them(self) -> None:
        x = np.repeat(np.arange(500, dtype=np.float32), 36).reshape(500, 1, 6, 6)
        source = collected(x)[0].sources[0]
        held = source.inputs["image"][source.held()][:, 0, 0, 0]
        assert len(held) == 100 and held.min() < 25 and held.max() > 475 and abs(held.mean() - 250) < 50

    def test_what_judges_is_left_over_or_a_tenth(self) -> None:
        order = np.random.default_rng(0).permutation(1000)
        for samples, judging in ((2000, 100), (1000, 100), (900, 100), (800, 200), (300, 500), (10, 500)):
            first, last = set_apart(order, samples)
            np.testing.assert_array_equal(np.concatenate([first, last]), order)
            assert len(last) == judging
        for samples in (32, 500, 2000, 100_000):
            assert min(len(set_apart(np.arange(wanted(samples)), samples)[0]), samples) == samples

    def test_noise(self) -> None:
        found, _ = collected(None)
        x = found.sources[0].inputs["image"]
        assert found.noise and x.shape == (1000, 1, 6, 6) and abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02
        np.testing.assert_array_equal(x, collected(None)[0].sources[0].inputs["image"])
        huge = Feed((Port("image", F32, (-1, 3, 1024, 1024)),), {}, None)
        assert 32 <= collected(None, {"a": huge})[0].sources[0].count < 100
        with pytest.raises(InvalidDataError, match="int64"):
            collected(None, {"a": Feed((Port("ids", np.dtype(np.int64), (-1, 5)),), {}, None)})


class TestFolders:
    def folder(self, path: Path, count: int = 36, size: tuple[int, int] = (12, 8)) -> Path:
        rng = np.random.default_rng(3)
        (path / "inner").mkdir(parents=True)
        for k in range(count):
            array = np.full((size[1], size[0], 3), rng.integers(0, 256, 3), np.uint8)
            Image.fromarray(array).save(path / ("inner" if k % 2 else ".") / f"{k:03d}.png")
        (path / "notes.txt").write_text("no image")
        return path

    def test_colours_and_layouts(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path / "photos")
        first = collected(folder, {"a": Feed((Port("i", F32, (-1, 3, 6, 6)),), {}, None)})[0]
        last = collected(folder, {"a": Feed((Port("i", F32, (-1, 6, 6, 3)),), {}, None)})[0]
        assert first.scaled == (str(folder),)
        x = first.sources[0].inputs["i"]
        assert x.shape == (36, 3, 6, 6) and 0 <= x.min() < x.max() <= 1
        np.testing.assert_array_equal(x.transpose(0, 2, 3, 1), last.sources[0].inputs["i"])
        grey = collected(folder, {"a": FEED})[0].sources[0].inputs["image"]
        weights = np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(grey[:, 0, 0, 0], x[:, :, 0, 0] @ weights, atol=0.5 / 255 + 1e-3)

    def test_the_shorter_side_is_resized_and_the_centre_cut_out(self, tmp_path: Path) -> None:
        path = tmp_path / "photos"
        path.mkdir()
        array = np.zeros((6, 18), np.uint8)
        array[:, 6:12] = 255
        for k in range(32):
            Image.fromarray(array).save(path / f"{k}.png")
        assert collected(path)[0].sources[0].inputs["image"].min() == 1
        half = collected(path, size=12)[0].sources[0].inputs["image"]
        assert half.shape[2:] == (6, 6) and half.min() == 1

    def test_a_cap_reads_some(self, tmp_path: Path) -> None:
        assert collected(self.folder(tmp_path / "p", 50), samples=33)[0].sources[0].count == 33

    def test_an_image_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path / "photos")
        (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
        with pytest.raises(InvalidDataError, match=r"broken\.jpg"):
            collected(folder)

    def test_a_png_whose_parts_cannot_be_told(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path / "photos")
        good = (folder / "000.png").read_bytes()
        (folder / "broken.png").write_bytes(good[:33] + b"\0\0\0\1\x1b\x8d\x0f\xfc" + good[41:])
        with pytest.raises(InvalidDataError, match=r"broken\.png: is no image that can be read"):
            collected(folder)

    @pytest.mark.parametrize(("mode", "name"), [("I;16", "deep.png"), ("I", "deep.tif"), ("F", "deep.tif")])
    def test_more_than_8_bits(self, tmp_path: Path, mode: str, name: str) -> None:
        """Pillow would take all that is brighter than 255 for white."""
        folder = self.folder(tmp_path / "photos")
        Image.new(mode, (12, 8), 40_000).save(folder / name)
        with pytest.raises(InvalidDataError, match=rf"{name}: has more than 8 bits"):
            collected(folder)

    def test_hidden_files(self, tmp_path: Path) -> None:
        """What macOS copies beside images is called like them."""
        folder = self.folder(tmp_path / "photos")
        for place in (folder, folder / "inner"):
            (place / "._000.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
        assert collected(folder)[0].sources[0].count == 36

    def test_links_to_folders(self, tmp_path: Path) -> None:
        folder, linked = self.folder(tmp_path / "photos"), tmp_path / "linked"
        linked.mkdir()
        (linked / "class").symlink_to(folder)
        (folder / "up").symlink_to(linked)
        assert collected(linked)[0].sources[0].count == 36

    def test_an_image_of_hardly_any_height(self, tmp_path: Path) -> None:
        """The centre of a line would be cut out of a picture that no memory holds."""
        folder = self.folder(tmp_path / "photos")
        Image.new("L", (40_000, 1)).save(folder / "line.png")
        with pytest.raises(InvalidDataError, match=r"line\.png: its 40,000 x 1 pixels would become 20,000,000 x 500\."):
            collected(folder, size=500)

    def test_nets_that_take_no_images(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path / "photos", 2)
        with pytest.raises(InvalidDataError, match="takes no images"):
            collected(folder, {"a": Feed((Port("v", F32, (-1, 7)),), {}, None)})
        with pytest.raises(InvalidDataError, match="one input"):
            collected(folder, {"a": Feed((PORT, PORT), {}, None)})


@pytest.mark.parametrize(("shape", "hint"), [((50, 1), "x.reshape(-1)"), ((50, 3), "")])
def test_one_number_a_sample_in_another_shape(shape: tuple[int, ...], hint: str) -> None:
    feed = Feed((PORT, Port("t", F32, (1,))), {}, 4)
    with pytest.raises(InvalidDataError, match=r"input 't' takes samples of shape \[\], these have") as caught:
        collected({"image": X, "t": np.ones(shape, np.float32)}, {"a": feed})
    assert str(caught.value).endswith(hint or "[3]")


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((8, 6, 3), "x.transpose(0, 3, 2, 1)"), ((6, 8, 3), "x.transpose(0, 3, 1, 2)"), ((3, 8, 6), "x.transpose(0, 1, 3, 2)"),
        ((144,), "x.reshape(-1, 3, 6, 8)"), ((1, 3, 6, 8), "x.reshape(-1, 3, 6, 8)"),
    ],
)
def test_samples_whose_axes_stand_otherwise(shape: tuple[int, ...], hint: str) -> None:
    """What is told to do gives the samples that the net takes, and no others that have as many numbers."""
    port = Port("v", F32, (-1, 3, 6, 8))
    with pytest.raises(InvalidDataError) as caught:
        collected(np.ones((9, *shape), np.float32), {"a": Feed((port,), {}, None)})
    assert str(caught.value).endswith(hint)
