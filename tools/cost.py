"""What a merge costs, and what the merged net saves, against counted floors.

    python tools/cost.py [--family lenet5 ...] [--threads 1]

Merging time is held against the time ONNX Runtime takes to run the calibration set through all original nets plus the time of
the moment products at the machine's measured rate for matrix products. Running time of the merged net (ONNX Runtime, one
thread) is held against the nets run one after the other. Medians of several, ratios within one run. Set OMP_NUM_THREADS for
the BLAS.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.analysis.steps import weights_of
from onnxzip.calibration.gathering import positions_per_image
from onnxzip.loading import load_all

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
TASKS = {"low": "fashion-low", "high": "fashion-high"}
CUBE = 1024


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of a piece of work, after one run that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def product_rate() -> float:
    """float32 multiply-accumulates per second of a square matrix product."""
    a = np.random.default_rng(0).standard_normal((CUBE, CUBE), dtype=np.float32)
    return CUBE**3 / median_seconds(lambda: a @ a, 7)


def moment_products(files: dict[str, Path], samples: int) -> float:
    """Multiply-accumulates of z'z and z'p over all steps and tasks at share 1."""
    plan = analyse(load_all(files))
    total = 0.0
    for step in plan.steps:
        for task in step.tasks:
            columns, rows, positions = 1, 0, 1
            for part in step.parts:
                found = weights_of(plan.overlay, part, task)
                assert found is not None
                linear, view = found
                weight = plan.nets[task].params[str(part.members[task].inputs[linear.weight])]
                groups, outputs, taps, inputs = linear.to_matrix(view, weight).shape
                columns, rows, positions = columns + taps * inputs, outputs * groups, len(linear.taps(view))
            sampled = samples * positions_per_image(samples, positions, columns)
            total += sampled * columns * (columns + rows)
    return total


def session(model: bytes | str, threads: int) -> ort.InferenceSession:
    """A session of one inference thread pool."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def measure(family: str, threads: int, repeats: int, batch: int) -> dict[str, float]:
    """All figures of one family."""
    files = {t: MODELS / f"{family}-{name}.onnx" for t, name in TASKS.items()}
    data = {t: MODELS / "data" / f"{name}-calibration.npz" for t, name in TASKS.items()}
    images = {t: np.load(d)["x"].astype(np.float32) / 255 for t, d in data.items()}
    nets = {t: session(str(f), threads) for t, f in files.items()}
    merged = onnxzip.merge(files, data)

    def run(one: ort.InferenceSession, x: np.ndarray) -> None:
        one.run(None, {one.get_inputs()[0].name: x})

    originals = median_seconds(lambda: [run(nets[t], images[t]) for t in nets], repeats)
    floor = originals + moment_products(files, len(images["low"])) / product_rate()
    merging = median_seconds(lambda: onnxzip.merge(files, data), repeats)
    fused, some = session(merged.content, threads), images["low"][:batch]
    apart = median_seconds(lambda: [run(n, some) for n in nets.values()], 10 * repeats)
    together = median_seconds(lambda: run(fused, some), 10 * repeats)
    share = float(merged.report["merged"]["macs_ratio"])
    return {
        "merge s": merging, "floor s": floor, "merge / floor": merging / floor, "macs ratio": share,
        "time ratio": together / apart, "time / macs": together / apart / share,
        "peak MB": merged.report["peak_rss_bytes"] / 1e6,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row a family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", default=["lenet300", "lenet5", "vgg", "resnet", "mobilenet"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args(arguments)
    for k, family in enumerate(options.family):
        found = measure(family, options.threads, options.repeats, options.batch)
        if k == 0:
            print("| family | " + " | ".join(found) + " |\n|---|" + "--:|" * len(found))
        print(f"| {family} | " + " | ".join(f"{v:.2f}" for v in found.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
