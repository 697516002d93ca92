"""The figures of the README: how much test error a merge adds, without retraining, on the sample nets.

    python tools/figures.py                 prints the table
    python tools/figures.py --write         puts it into README.md between its two markers

Every pair of `PAIRS` in every family is merged on 1,000 unlabelled images a task; the error is counted on 2,000 test images a
task that the merge has not seen.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
import torch

import onnxzip

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
FAMILIES = ("lenet300", "lenet5", "vgg", "resnet", "mobilenet", "lstm")
PAIRS = (("fashion-low", "fashion-high"), ("fashion", "digits"), ("fashion", "fashion-b"), ("digits", "animals"))
BEGIN, END = "<!-- figures: begin (python tools/figures.py --write) -->", "<!-- figures: end -->"


class Outcome(NamedTuple):
    """Increase of test error, mean of both tasks, in percentage points; and the share of both nets' params that is left."""

    increase: float
    size: float


def samples_of(task: str) -> str:
    """Name of the data that a task's nets are trained for: two nets of other seeds share it."""
    return task.removesuffix("-b")


def error(session: ort.InferenceSession, output: str, task: str) -> float:
    """Test error of one output, in percent."""
    with np.load(MODELS / "data" / f"{samples_of(task)}-test.npz") as data:
        images, labels = data["x"].astype(np.float32) / 255, data["y"]
    (logits,) = session.run([output], {session.get_inputs()[0].name: images})
    return 100 * float(np.mean(logits.argmax(axis=1) != labels))


def nets_of(family: str, pair: tuple[str, str]) -> dict[str, Path]:
    """Files of a pair by task."""
    return {name.replace("-", "_"): MODELS / f"{family}-{name}.onnx" for name in pair}


def rises(content: bytes, nets: dict[str, Path], pair: tuple[str, str]) -> list[float]:
    """What a fused file adds to the test error of each of its originals, in percentage points."""
    fused = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = []
    for (task, file), name in zip(nets.items(), pair, strict=True):
        original = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        found.append(error(fused, f"{task}_logits", name) - error(original, "logits", name))
    return found


def put_into_readme(begin: str, text: str, end: str) -> None:
    """Replace what stands between two markers."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(begin)
    readme.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def show(head: Sequence[str], lines: Callable[[Path], Iterable[str]], ends: tuple[str, str] | None) -> None:
    """Print the lines of a table as they come, measured in a temporary folder, in as many threads as OMP_NUM_THREADS says.

    Args:
        ends: the markers in README.md that the table goes between; None to leave that file alone.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    table = list(head)
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(Path(folder)):
            print(line, flush=True)
            table.append(line)
    if ends:
        put_into_readme(ends[0], "\n".join(table), ends[1])


def merged(family: str, pair: tuple[str, str], seed: int, **options: object) -> Outcome:
    """Merge one pair of sample nets and count its errors before and after."""
    nets = nets_of(family, pair)
    data = {task: MODELS / "data" / f"{samples_of(name)}-calibration.npz" for task, name in zip(nets, pair, strict=True)}
    result = onnxzip.merge(nets, data, seed=seed, **options)  # type: ignore[arg-type]
    return Outcome(float(np.mean(rises(result.content, nets, pair))), float(result.report["merged"]["params_ratio"]))


def mean_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Mean over several merges."""
    increases, sizes = zip(*outcomes, strict=True)
    return Outcome(float(np.mean(increases)), float(np.mean(sizes)))


def rows(families: Iterable[str], seeds: int) -> Iterable[list[str]]:
    """One row a family and pair, and one with the family's mean."""
    settings = [
        {"method": "zip", "share": 1.0}, {"method": "mtz", "share": 1.0}, {"method": "average", "share": 1.0},
        {"method": "zip", "share": 0.5}, {"method": "zip", "share": 0.5, "layout": "wide"},
    ]
    for family in families:
        found = [[mean_of(merged(family, p, s, **o) for s in range(seeds)) for o in settings] for p in PAIRS]
        for pair, outcomes in zip(PAIRS, found, strict=True):
            yield [family, " + ".join(pair), *cells(outcomes)]
        yield [f"**{family}**", "**mean**", *cells([mean_of(o) for o in zip(*found, strict=True)])]


def cells(outcomes: list[Outcome]) -> list[str]:
    """Increases at share 1.0 and, in both layouts, at 0.5, each group with its size in front."""
    full, *halves = outcomes[:3], outcomes[3:4], outcomes[4:]
    return [text for part in (full, *halves) for text in (f"{part[0].size:.2f}", *(f"{o.increase:.2f}" for o in part))]


def table(lines: Iterable[list[str]]) -> str:
    """Markdown."""
    halves = ["size, share 0.5", "`zip`", "size, share 0.5, `wide`", "`zip`"]
    head = ["family", "pair", "size, share 1", "`zip`", "`mtz`", "`average`", *halves]
    found = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for line in lines:
        print("| " + " | ".join(line) + " |", flush=True)
        found.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in found)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--seeds", type=int, default=1, help="merges per cell, each with other rows and held-out samples")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    text = table(rows(arguments.families, arguments.seeds))
    if arguments.write:
        put_into_readme(BEGIN, text, END)


if __name__ == "__main__":
    main()
