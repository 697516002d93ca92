"""What a merge can do with few unlabelled images in all, for the zip and for retraining after it.

    python models/fetch.py DATA                         the data sets, see models/README.md
    python tools/few_images.py --data DATA [--write]    prints the table; into README.md between its two markers

Every seed draws other images; the increase of test error is counted on whole test splits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from bench_cases import PAPER, REPAIRED
from bench_run import error, whole
from figures import MODELS, PAIRS, nets_of, samples_of, show

import onnxzip

sys.path.insert(0, str(MODELS))
from tasks import TASKS, read_task

BEGIN, END = "<!-- few images: begin (python tools/few_images.py --write) -->", "<!-- few images: end -->"
IMAGES = 500  # a task
STEPS = (0, REPAIRED)
FAMILIES = ("lenet5", "vgg")


def drawn(data: Path, task: str, seed: int, folder: Path) -> Path:
    """A file with a few training images of a task, without their labels."""
    file = folder / f"{task}-{seed}.npz"
    if not file.exists():
        images = read_task(data, TASKS[task]).train_x
        np.savez(file, x=np.random.default_rng(seed).choice(images, IMAGES, replace=False))
    return file


def increases(data: Path, family: str, pair: tuple[str, str], seed: int, folder: Path) -> list[float]:
    """Points after each of `STEPS`, mean of both tasks."""
    nets = nets_of(family, pair)
    images = {t: drawn(data, samples_of(n), seed, folder) for t, n in zip(nets, pair, strict=True)}
    before = np.array([error(data, p.read_bytes(), "logits", n) for p, n in zip(nets.values(), pair, strict=True)])
    found = []
    for steps in STEPS:
        content = whole(onnxzip.merge(nets, images, retrain=steps, seed=seed))
        after = np.array([error(data, content, f"{t}_logits", n) for t, n in zip(nets, pair, strict=True)])
        found.append(float(np.mean(after - before)))
    return found


def lines(data: Path, seeds: int, folder: Path) -> Iterator[str]:
    """Of the table, below its heading."""
    for family, pair in product(FAMILIES, (*PAIRS, PAPER)):
        if all(file.exists() for file in nets_of(family, pair).values()):
            found = np.array([increases(data, family, pair, seed, folder) for seed in range(seeds)])
            texts = [f"{m:.2f} ± {d:.2f}" for m, d in zip(found.mean(axis=0), found.std(axis=0, ddof=1), strict=True)]
            yield f"| {family} | {' + '.join(pair)} | " + " | ".join(texts) + " |"


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that models/fetch.py has written")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    head = ["| family | pair | " + " | ".join(f"{s} steps" for s in STEPS) + " |", "| --- | --- |" + " --: |" * len(STEPS)]
    show(head, lambda folder: lines(arguments.data, arguments.seeds, folder), (BEGIN, END) if arguments.write else None)


if __name__ == "__main__":
    main()
