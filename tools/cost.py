"""What a merge costs, and what the merged net saves, against counted floors.

    python tools/cost.py [--family lenet5 ...] [--threads 1]
    python tools/cost.py --places cpu graph cuda [--family vgg ...]

Merging time is held against the time ONNX Runtime takes to run the calibration set through all original nets plus the time of
the moment products at the machine's measured rate for matrix products. Running time of the merged net (ONNX Runtime, one
thread) is held against the nets run one after the other. Medians of several, ratios within one run. Set OMP_NUM_THREADS for
the BLAS.

With --places: what sweep and zip cost where live values wait and moments are computed, and how much came back to the host from
there: `cpu` (numpy), `cuda` (a graph on the GPU, values stay there), `graph` (that same graph on the CPU).
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
from onnxzip.analysis.standing import taps_of
from onnxzip.analysis.steps import weights_of
from onnxzip.calibration.device import DevicePlace
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.gathering import positions_per_image
from onnxzip.calibration.places import HostPlace
from onnxzip.calibration.samples import Source
from onnxzip.calibration.store import Store
from onnxzip.fusion.zipping import zip_nets
from onnxzip.loading import load_all
from onnxzip.matching.methods import ZIP

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
                groups, outputs, taps, inputs = linear.matrix(view, plan.nets[task].params).shape
                columns, rows, positions = columns + taps * inputs, outputs * groups, len(taps_of(linear, view))
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


def measure_place(family: str, name: str, repeats: int) -> dict[str, float]:
    """Seconds of sweep and zip, and what came back, in one place."""
    files = {t: MODELS / f"{family}-{task}.onnx" for t, task in TASKS.items()}
    plan = analyse(load_all(files))
    (port,) = plan.nets["low"].inputs
    images = {t: np.load(MODELS / "data" / f"{task}-calibration.npz")["x"] for t, task in TASKS.items()}
    sources = [Source((t,), {port.name: x.astype(np.float32) / 255}, {}) for t, x in images.items()]
    device = "cpu" if name == "graph" else name
    returned = 0

    def work() -> None:
        nonlocal returned
        with Store(1 << 30) as store:
            place = HostPlace(store) if name == "cpu" else DevicePlace(store, device, 0)
            frontier = Frontier(plan, sources, store, device, 0, 0, place)
            frontier.sweep(plan.steps, False, lambda count: None)
            zip_nets(plan, ZIP, frontier, tick=lambda count: None)
            returned = place.returned if isinstance(place, DevicePlace) else 0

    return {"sweep + zip s": median_seconds(work, repeats), "MB back": returned / 1e6}


def print_row(first: str, found: dict[str, float], heading: str | None) -> None:
    """One row of a Markdown table, under its heading where it is the first."""
    if heading is not None:
        print(f"| {heading} | " + " | ".join(found) + " |\n|---|" + "--:|" * len(found))
    print(f"| {first} | " + " | ".join(f"{v:.2f}" for v in found.values()) + " |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row a family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", default=["lenet300", "lenet5", "vgg", "resnet", "mobilenet"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--places", nargs="+", choices=["cpu", "graph", "cuda"])
    options = parser.parse_args(arguments)
    if options.places:
        rows = [(f"{f} {p}", measure_place(f, p, options.repeats)) for f in options.family for p in options.places]
    else:
        rows = [(f, measure(f, options.threads, options.repeats, options.batch)) for f in options.family]
    for k, (name, found) in enumerate(rows):
        print_row(name, found, "family" if k == 0 else None)


if __name__ == "__main__":
    main()
