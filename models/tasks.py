"""The tasks the example nets are trained on: what each sees, its labels, and its train and test split.

A task is a data set, a run of its classes, and nothing else. Fashion-MNIST keeps its own split; digits and animals
have none: repeated images are dropped (animals has 284, which a split would put on both sides), the rest are shuffled
with a fixed seed, and the last 2,000 are the test split.

    python models/tasks.py --data DIR -o models/data

writes the committed samples of every task: ``TASK-calibration.npz`` (1,000 unlabelled train images) and
``TASK-test.npz`` (2,000 labelled test images).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from atomic import atomic_path

SPLIT_SEED = 20
CALIBRATION_SEED = 21
TEST_SEED = 22
TEST_IMAGES = 2000
CALIBRATION_IMAGES = 1000


@dataclass(frozen=True)
class Task:
    """A data set restricted to the classes ``first .. first + classes - 1``, relabelled from 0.

    Attributes:
        name: the task's name in file names.
        dataset: ``digits``, ``fashion`` or ``animals``.
        first: the data set's label that becomes 0.
        classes: the number of classes.
        samples: the name of the committed samples (a second net of a task shares them).
        mirror: whether a mirrored image keeps its class.
    """

    name: str
    dataset: str
    first: int
    classes: int
    samples: str
    mirror: bool


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 1, 28, 28] and labels int64 [N] of both halves of a task."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


TASKS = {
    task.name: task
    for task in (
        Task("fashion-low", "fashion", 0, 5, "fashion-low", mirror=True),
        Task("fashion-high", "fashion", 5, 5, "fashion-high", mirror=True),
        Task("fashion", "fashion", 0, 10, "fashion", mirror=True),
        Task("digits", "digits", 0, 10, "digits", mirror=False),
        Task("fashion-b", "fashion", 0, 10, "fashion", mirror=True),
        Task("animals", "animals", 0, 10, "animals", mirror=True),
        Task("digits-b", "digits", 0, 10, "digits", mirror=False),
    )
}


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of one file that ``fetch.py`` wrote."""
    with np.load(path) as archive:
        return archive["x"], archive["y"]


def read_dataset(data: Path, name: str) -> Split:
    """Return a data set under its own labels, split into train and test."""
    if name == "fashion":
        halves = [*read_npz(data / "fashion-train.npz"), *read_npz(data / "fashion-test.npz")]
    else:
        images, labels = read_npz(data / f"{name}.npz")
        distinct = np.sort(np.unique(images.reshape(len(images), -1), axis=0, return_index=True)[1])
        order = np.random.default_rng(SPLIT_SEED).permutation(distinct)
        train, test = order[:-TEST_IMAGES], order[-TEST_IMAGES:]
        halves = [images[train], labels[train], images[test], labels[test]]
    return Split(halves[0][:, None], halves[1].astype(np.int64), halves[2][:, None], halves[3].astype(np.int64))


def read_task(data: Path, task: Task) -> Split:
    """Return the images of a task's classes, labelled from 0."""
    whole = read_dataset(data, task.dataset)
    train = (whole.train_y >= task.first) & (whole.train_y < task.first + task.classes)
    test = (whole.test_y >= task.first) & (whole.test_y < task.first + task.classes)
    return Split(whole.train_x[train], whole.train_y[train] - task.first, whole.test_x[test], whole.test_y[test] - task.first)


def calibration_sample(split: Split, rng: np.random.Generator) -> np.ndarray:
    """Draw the unlabelled train images that are committed beside the nets."""
    return split.train_x[rng.permutation(len(split.train_x))[:CALIBRATION_IMAGES]]


def test_sample(split: Split, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the labelled test images that are committed beside the nets."""
    order = rng.permutation(len(split.test_x))[:TEST_IMAGES]
    return split.test_x[order], split.test_y[order]


def main() -> None:
    """Write the samples of every task that has its own."""
    parser = argparse.ArgumentParser(description="Write the committed samples of every task.")
    parser.add_argument("--data", type=Path, required=True, help="the folder fetch.py filled")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the samples go")
    arguments = parser.parse_args()
    for task in (task for task in TASKS.values() if task.samples == task.name):
        split = read_task(arguments.data, task)
        with atomic_path(arguments.out / f"{task.name}-calibration.npz") as temporary:
            np.savez_compressed(temporary, x=calibration_sample(split, np.random.default_rng(CALIBRATION_SEED)))
        images, labels = test_sample(split, np.random.default_rng(TEST_SEED))
        with atomic_path(arguments.out / f"{task.name}-test.npz") as temporary:
            np.savez_compressed(temporary, x=images, y=labels)
        print(f"{task.name}: {len(split.train_x)} train, {len(split.test_x)} test images")


if __name__ == "__main__":
    main()
