"""What streaming nets lose that share the channels of caches: causal convolutions over the rows of an image, some a call.

    python models/fetch.py DATA                     the data sets, see models/README.md
    python tools/frames.py --data DATA [--write]    prints the table; into README.md between its two markers

Two nets are trained on whole images (some minutes). Samples are calls in the midst of streams, one of each calibration image,
with the caches of the original net. Each net then goes through the test images on caches of its own; the increase of test
error is the mean of both tasks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from figures import MODELS, show
from streams import Arrays, data_of
from torch import Tensor, nn
from torch.nn import functional

import onnxzip

sys.path.insert(0, str(MODELS))
from tasks import TASKS, read_task

BEGIN, END = "<!-- frames: begin (python tools/frames.py --write) -->", "<!-- frames: end -->"
PAIR, CALLS, METHODS = ("fashion", "digits"), (28, 7, 4, 1), ("zip", "mtz")
SIDE, WIDTH, CLASSES, DILATIONS = 28, 48, 10, (1, 2, 4, 6)
CACHES, AFTER = tuple(f"c{k}" for k in range(len(DILATIONS))), tuple(f"n{k}" for k in range(len(DILATIONS)))
IMAGES, EPOCHS, BATCH, RATE = 30_000, 4, 128, 4e-3


class Causal(nn.Module):
    """A stem and residual blocks of causal convolutions; the class is read from the last row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(SIDE, WIDTH, 1), nn.Linear(WIDTH, CLASSES)
        self.wide = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, dilation=d) for d in DILATIONS)
        self.narrow = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 1) for _ in DILATIONS)

    def forward(self, x: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Scores [N, classes] of rows [N, rows, 28], and the caches [N, channels, frames] for the next call."""
        y, after = functional.relu(self.stem(x.transpose(1, 2))), []
        for wide, narrow, cache in zip(self.wide, self.narrow, caches, strict=True):
            z = torch.cat([cache, y], 2)
            after.append(z[:, :, -cache.shape[2] :])
            y = functional.relu(y + narrow(functional.relu(wide(z))))
        return self.head(y[:, :, -1]), *after


def empty(count: int) -> list[np.ndarray]:
    """Caches that a stream begins with."""
    return [np.zeros((count, WIDTH, 2 * d), np.float32) for d in DILATIONS]


def trained(data: Path, task: str, seed: int) -> Causal:
    """A net that reads whole images of a task."""
    known, draw = read_task(data, TASKS[task]), np.random.default_rng(seed)
    which = draw.permutation(len(known.train_x))[:IMAGES]
    x = torch.from_numpy(known.train_x[which].reshape(-1, SIDE, SIDE).astype(np.float32) / 255)
    y = torch.from_numpy(known.train_y[which].astype(np.int64))
    torch.manual_seed(seed)
    net, steps, caches = Causal(), EPOCHS * len(x) // BATCH, [*map(torch.from_numpy, empty(BATCH))]
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in range(steps):
        some = torch.from_numpy(draw.integers(0, len(x), BATCH))
        optimizer.zero_grad()
        functional.cross_entropy(net(x[some], *caches)[0], y[some]).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def export(net: Causal, rows: int, file: Path) -> None:
    """Write a net that reads so many rows a call."""
    inputs, outputs = ["x", *CACHES], ["y", *AFTER]
    torch.onnx.export(
        net, (torch.zeros(2, rows, SIDE), *map(torch.from_numpy, empty(2))), file, input_names=inputs, output_names=outputs,
        dynamic_axes={name: {0: "N"} for name in (*inputs, *outputs)}, opset_version=17, dynamo=False,
    )


def run(content: bytes, images: np.ndarray, rows: int, prefix: str = "") -> tuple[np.ndarray, list[Arrays]]:
    """What a net says of whole images, and what each call has read."""
    session, calls = ort.InferenceSession(content, providers=["CPUExecutionProvider"]), list[Arrays]()
    scores, now = np.zeros(0), empty(len(images))
    for k in range(0, SIDE, rows):
        calls.append({"x": images[:, k : k + rows], **dict(zip(CACHES, now, strict=True))})
        scores, *now = session.run([f"{prefix}{name}" for name in ("y", *AFTER)], calls[-1])
    return scores, calls


def calibration(content: bytes, task: str, rows: int) -> Arrays:
    """One call of each image, drawn at random."""
    images = data_of(task, "calibration")["x"]
    _, calls = run(content, images, rows)
    which = np.random.default_rng(0).integers(0, len(calls), len(images))
    return {name: np.stack([calls[k][name][n] for n, k in enumerate(which)]) for name in calls[0]}


def increases(nets: dict[str, Causal], rows: int, folder: Path) -> list[float]:
    """Points by method, mean of both tasks."""
    files = {task: folder / f"{task}-{rows}.onnx" for task in nets}
    for task, net in nets.items():
        export(net, rows, files[task])
    data, found = {task: calibration(file.read_bytes(), task, rows) for task, file in files.items()}, []
    for method in METHODS:
        merged, more = onnxzip.merge(files, data, method=method), []
        for task, file in files.items():
            test, both = data_of(task, "test"), ((file.read_bytes(), ""), (merged.content, f"{task}_"))
            before, after = (run(content, test["x"], rows, prefix)[0] for content, prefix in both)
            more.append(np.mean(before.argmax(1) == test["y"]) - np.mean(after.argmax(1) == test["y"]))
        found.append(100 * float(np.mean(more)))
    return found


def lines(data: Path, folder: Path) -> Iterator[str]:
    """Of the table, below its heading."""
    nets = {task: trained(data, task, seed) for seed, task in enumerate(PAIR)}
    for rows in CALLS:
        yield f"| {rows} | " + " | ".join(f"{found:.1f}" for found in increases(nets, rows, folder)) + " |"


def main() -> None:
    """Print the table, and write it where asked."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, required=True, help="folder that models/fetch.py has written")
    options.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = options.parse_args()
    head = ["| rows a call | zip | `mtz` |", "| --: | --: | --: |"]
    show(head, lambda folder: lines(arguments.data, folder), (BEGIN, END) if arguments.write else None)


if __name__ == "__main__":
    main()
