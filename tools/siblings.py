"""Siblings and strangers: two small encoders, trained from one start or from two, merged at share 1 without retraining.

    python tools/siblings.py                prints the table
    python tools/siblings.py --write        puts it into README.md between its two markers

The nets and what they learn are those of tests/zoo/siblings.py: 2 layers, 4 heads, width 32. They are merged on 1,000
sequences without labels. The error is that of the logits on 1,000 fresh ones, |fused - original| / |original - its mean|, the
mean of both tasks; agreement is how often both give the same class.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from figures import put_into_readme

import onnxzip

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from zoo.siblings import Bert, accuracy, frequent, last, moved, samples, saved, sibling, started

BEGIN, END = "<!-- siblings: begin (python tools/siblings.py --write) -->", "<!-- siblings: end -->"
WIDTH, START, STEPS = 32, 1000, 200
LABELS = {"frequent": frequent, "last": last}


def outputs(model: bytes | str) -> dict[str, np.ndarray]:
    """All outputs for the fresh sequences."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, samples(1000, 3)), strict=True))


def loss_of(files: dict[str, Path], method: str) -> tuple[float, float]:
    """Error and agreement of a merge, means of both tasks."""
    fused = outputs(onnxzip.merge(files, samples(1000, 2), method=method).content)
    errors, same = [], []
    for task, file in files.items():
        got, want = fused[f"{task}_out"], outputs(str(file))["out"]
        errors.append(np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(axis=0)))
        same.append((got.argmax(1) == want.argmax(1)).mean())
    return float(np.mean(errors)), float(np.mean(same))


def pairs() -> Iterator[tuple[str, dict[str, Bert]]]:
    """Siblings by the rate that they were trained apart with, and two nets from different starts."""
    start, other = (started(WIDTH, START, seed) for seed in (1, 2))
    for rate in (2e-5, 1e-4, 5e-4):
        yield "siblings", {t: sibling(start, f, STEPS, rate, k) for k, (t, f) in enumerate(LABELS.items())}
    both = zip(LABELS.items(), (start, other), strict=True)
    yield "strangers", {t: sibling(s, f, STEPS, 1e-4, k) for k, ((t, f), s) in enumerate(both)}


def rows() -> Iterator[list[str]]:
    """One row a pair."""
    with tempfile.TemporaryDirectory() as folder:
        for name, nets in pairs():
            files = {task: saved(net, Path(folder) / f"{task}.onnx") for task, net in nets.items()}
            found = [loss_of(files, method) for method in ("zip", "mtz", "average")]
            known = np.mean([accuracy(net, LABELS[task]) for task, net in nets.items()])
            apart = f"{100 * moved(*nets.values()):.1f} %"
            yield [name, apart, f"{known:.2f}", *(f"{error:.3f} / {same:.2f}" for error, same in found)]


def table() -> str:
    """Markdown."""
    lines = [["pair", "weights apart", "accuracy", "`zip`", "`mtz`", "`average`"], ["---", *["--:"] * 5]]
    for row in rows():
        print(row, flush=True)
        lines.append(row)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = table()
    if arguments.write:
        put_into_readme(BEGIN, text, END)


if __name__ == "__main__":
    main()
