"""The recipe of the example nets: train every family on every task, export, and record the result in index.json.

    python models/train.py --data DIR [--family F] [--task T] [--force] -o models

Every net has its own explicit seed and shares nothing with another, neither initial weights nor the order of images.
Training is AdamW under a one-cycle schedule on one thread; the whole set takes about an hour. A net that is there
is left alone unless ``--force`` is given, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from atomic import atomic_path
from export import OPSET, check_equal, export, logits
from nets import FAMILIES
from tasks import TASKS, TEST_SEED, Split, Task, read_task, test_sample
from torch import nn

BATCH = 128
WEIGHT_DECAY = 0.02
LARGEST_RATE = {"lenet300": 2e-3, "lenet5": 3e-3, "vgg": 6e-3, "resnet": 1e-2, "mobilenet": 1e-2, "lstm": 5e-3}
EPOCHS = {
    "lenet300": {
        "fashion-low": 14, "fashion-high": 14, "fashion": 10, "digits": 30, "fashion-b": 10, "animals": 30, "digits-b": 30,
    },
    "lenet5": {
        "fashion-low": 5, "fashion-high": 5, "fashion": 6, "digits": 10, "fashion-b": 6, "animals": 12, "digits-b": 10,
    },
    "vgg": {"fashion-low": 4, "fashion-high": 4, "fashion": 3, "digits": 8, "fashion-b": 3, "animals": 12},
    "resnet": {"fashion-low": 2, "fashion-high": 2, "fashion": 2, "digits": 6, "fashion-b": 2, "animals": 10},
    "mobilenet": {"fashion-low": 4, "fashion-high": 4, "fashion": 3, "digits": 8, "fashion-b": 3, "animals": 14},
    "lstm": {"fashion-low": 6, "fashion-high": 6, "fashion": 5, "digits": 20, "fashion-b": 5, "animals": 25},
}
# Data sets of 8,000 images are seen many times, so they are shifted by up to this many pixels at random.
SHIFT = {"digits": 1, "animals": 2, "fashion": 0}


def seed_of(family: str, task: str) -> int:
    """Return the seed of one net: 100 x the family's number + the task's number, both from 1."""
    return 100 * (1 + list(FAMILIES).index(family)) + 1 + list(TASKS).index(task)


def augmented(images: np.ndarray, task: Task, rng: np.random.Generator) -> np.ndarray:
    """Shift each image of [B, 1, 28, 28] at random, and mirror half of them where the task allows it."""
    count, reach = len(images), SHIFT[task.dataset]
    if reach:
        padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        rows, columns = (rng.integers(0, 2 * reach + 1, (count, 1)) + np.arange(28) for _ in range(2))
        images = padded[np.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
    if task.mirror:
        images = np.where(rng.random((count, 1, 1, 1)) < 0.5, images[..., ::-1], images)
    return images


def batches(split: Split, task: Task, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give one epoch of shuffled float32 batches; an incomplete last batch is dropped."""
    order = rng.permutation(len(split.train_x))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        images = augmented(split.train_x[chosen], task, rng).astype(np.float32) / 255
        labels = torch.from_numpy(split.train_y[chosen])
        yield torch.from_numpy(images).contiguous(memory_format=torch.channels_last), labels


def trained(family: str, task: Task, split: Split, seed: int) -> nn.Module:
    """Return a net of the family trained on the task from its seed."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = FAMILIES[family](task.classes).to(memory_format=torch.channels_last)
    epochs = EPOCHS[family][task.name]
    rate = LARGEST_RATE[family]
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(split.train_x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    for epoch in range(epochs):
        losses = []
        for images, labels in batches(split, task, rng):
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"{family}-{task.name}: epoch {epoch + 1}/{epochs}, train loss {np.mean(losses):.4f}", flush=True)
    return net.eval()


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images an exported net classifies rightly."""
    return float(np.mean(logits(path, images).argmax(1) == labels))


def record(family: str, task: Task, path: Path, net: nn.Module, split: Split) -> dict[str, object]:
    """Return the index entry of an exported net, measured on its file."""
    return {
        "file": path.name,
        "family": family,
        "task": task.name,
        "classes": task.classes,
        "samples": task.samples,
        "seed": seed_of(family, task.name),
        "epochs": EPOCHS[family][task.name],
        "params": sum(parameter.numel() for parameter in net.parameters()),
        "bytes": path.stat().st_size,
        "test_accuracy": round(accuracy(path, split.test_x, split.test_y), 4),
        "test_images": len(split.test_y),
        "sample_accuracy": round(accuracy(path, *test_sample(split, np.random.default_rng(TEST_SEED))), 4),
        "opset": OPSET,
    }


def update_index(path: Path, entry: dict[str, object]) -> None:
    """Put an entry into the index in place of the file's earlier one, in the order of the recipe."""
    entries = json.loads(path.read_text()) if path.exists() else []
    kept = [other for other in entries if other["file"] != entry["file"]] + [entry]
    families, tasks = list(FAMILIES), list(TASKS)
    kept.sort(key=lambda other: (families.index(other["family"]), tasks.index(other["task"])))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n")


def is_done(path: Path, index: Path) -> bool:
    """Return whether a net is exported and recorded; a run cut off between the two does it again."""
    return path.exists() and index.exists() and any(e["file"] == path.name for e in json.loads(index.read_text()))


def main() -> None:
    """Train the nets asked for, in the order of the recipe."""
    parser = argparse.ArgumentParser(description="Train and export the example nets.")
    parser.add_argument("--data", type=Path, required=True, help="the folder fetch.py filled")
    parser.add_argument("--family", choices=FAMILIES, help="only this family")
    parser.add_argument("--task", choices=TASKS, help="only this task")
    parser.add_argument("--force", action="store_true", help="train a net again though its file is there")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the nets and index.json go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for family in [arguments.family] if arguments.family else FAMILIES:
        for task in [TASKS[arguments.task]] if arguments.task else TASKS.values():
            path = arguments.out / f"{family}-{task.name}.onnx"
            done = is_done(path, arguments.out / "index.json") and not arguments.force
            if task.name not in EPOCHS[family] or done:
                continue
            start = time.perf_counter()
            split = read_task(arguments.data, task)
            net = trained(family, task, split, seed_of(family, task.name))
            export(net, path)
            difference = check_equal(net, path, split.test_x[:200])
            entry = record(family, task, path, net, split)
            update_index(arguments.out / "index.json", entry)
            seconds = time.perf_counter() - start
            print(f"{path.name}: accuracy {entry['test_accuracy']}, {difference:.1e} from torch, {seconds:.0f} s")


if __name__ == "__main__":
    main()
