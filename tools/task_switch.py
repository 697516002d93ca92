"""What a switch from one task to another loads: from a bundle, against separate nets.

    python tools/task_switch.py                                  sample nets, six at a time; large random ones
    python tools/task_switch.py M.onnx low=a.onnx high=b.onnx    a fused file and the nets that it was made from

The first task is opened and run on one sample, so that what it needs is in memory. Then the page cache forgets what the second
task has and the first has not: its graph and own params in a bundle, the whole file of a separate net. Then the second task is
opened and run, which is timed. ONNX Runtime maps the weights of a bundle, so what both tasks share is found in memory. It then
copies weights into an order of its own, unless `session.disable_prepacking` lets it use them in place; both are timed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise, permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from figures import FAMILIES, MODELS, samples_of

import onnxzip
from onnxzip.exporting.bundling import WEIGHTS, Bundle, bundled
from onnxzip.exporting.naming import named_files

TASKS = ("fashion-low", "fashion-high", "fashion", "digits", "animals", "fashion-b")
SHARES = (1.0, 0.5)
REPEATS = 5
WIDTH = 2048  # of the nets with random weights


class Span(NamedTuple):
    """Part of a file, in bytes."""

    path: Path
    offset: int
    length: int


class Cost(NamedTuple):
    """Of one switch: bytes that must be loaded, seconds, and seconds where weights are used as they lie in the file."""

    bytes: float
    seconds: float
    in_place: float


def forget(spans: Iterable[Span]) -> None:
    """Drop parts of files from the page cache."""
    for span in spans:
        handle = os.open(span.path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, span.offset, span.length, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def opened(path: Path, in_place: bool) -> ort.InferenceSession:
    """A net that has computed its outputs once; by default ONNX Runtime copies weights into the order that suits it best."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", str(int(in_place)))
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ports = session.get_inputs()
    shapes = [[d if isinstance(d, int) else 1 for d in p.shape] for p in ports]
    session.run(None, {p.name: np.zeros(s, np.float32) for p, s in zip(ports, shapes, strict=True)})
    return session


def switch(first: Path, second: Path, differs: list[Span]) -> Cost:
    """Opening the second net while the first is open; best of several times."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for in_place, found in seconds.items():
        for _ in range(REPEATS):
            kept = opened(first, in_place)
            forget(differs)
            start = time.perf_counter()
            opened(second, in_place)
            found.append(time.perf_counter() - start)
            del kept
    return Cost(sum(s.length for s in differs), min(seconds[False]), min(seconds[True]))


def whole(path: Path) -> Span:
    """All of a file."""
    return Span(path, 0, path.stat().st_size)


def own_spans(parts: Path, bundle: Bundle, first: str, second: str) -> list[Span]:
    """Graph and params of the second task that the first does not need."""
    placed = (p for p in bundle.placed.values() if second in p.owners and first not in p.owners)
    return [whole(parts / bundle.graphs[second]), *(Span(parts / WEIGHTS, p.offset, p.length) for p in placed)]


def mean_costs(fused: Path, nets: Mapping[str, Path], folder: Path) -> tuple[Cost, Cost]:
    """Mean over all switches: of separate nets, and of the bundle."""
    apart, parts = {task: folder / f"{task}.onnx" for task in nets}, folder / "parts"
    for task, path in nets.items():
        apart[task].write_bytes(path.read_bytes())
    onnxzip.bundle(fused, parts)
    bundle = bundled(onnx.load(fused), str(fused))
    costs: tuple[list[Cost], list[Cost]] = [], []
    for first, second in permutations(nets, 2):
        costs[0].append(switch(apart[first], apart[second], [whole(apart[second])]))
        graphs = (parts / bundle.graphs[t] for t in (first, second))
        costs[1].append(switch(*graphs, own_spans(parts, bundle, first, second)))
    mean_apart, mean_bundle = (Cost(*np.mean(c, axis=0).tolist()) for c in costs)
    return mean_apart, mean_bundle


def line(name: str, fused: Path, nets: Mapping[str, Path]) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        apart, together = mean_costs(fused, nets, Path(folder))
        size = sum(p.stat().st_size for p in (Path(folder) / "parts").iterdir())
    cells = [name, str(len(nets)), f"{size / fused.stat().st_size:.3f}"]
    a, b = apart.bytes, together.bytes
    cells.append(f"{a / 1000:,.0f} kB, {b / 1000:,.0f} kB: {a / b:.1f} x")
    for key in ("seconds", "in_place"):
        a, b = getattr(apart, key), getattr(together, key)
        cells.append(f"{1e3 * a:.1f} ms, {1e3 * b:.1f} ms: {a / b:.2f} x")
    return "| " + " | ".join(cells) + " |"


def sample_lines(families: tuple[str, ...], folder: Path) -> Iterator[str]:
    """Rows of the sample nets."""
    for family in families:
        for share in SHARES:
            nets = {name.replace("-", "_"): MODELS / f"{family}-{name}.onnx" for name in TASKS}
            data = {t: MODELS / "data" / f"{samples_of(n)}-calibration.npz" for t, n in zip(nets, TASKS, strict=True)}
            fused = folder / f"{family}-{share}.onnx"
            onnxzip.merge(nets, data, share=share, samples=200).save(fused)
            yield line(f"{family}, share {share:g}", fused, nets)


def random_net(path: Path, seed: int) -> Path:
    """A net of four Gemm with random weights, large enough for loading them to take longer than anything else."""
    rng, graph = np.random.default_rng(seed), "n (float[N,784] image) => (float[N,10] logits) {"
    names = ["image", "a", "b", "c", "logits"]
    arrays = {}
    for k, (inner, outer) in enumerate(pairwise([784, WIDTH, WIDTH, WIDTH, 10])):
        arrays[f"w{k}"] = (rng.standard_normal((outer, inner)) / np.sqrt(inner)).astype(np.float32)
        out = names[k + 1] if k == 3 else f"g{k}"
        graph += f" {out} = Gemm <transB = 1> ({names[k]}, w{k})" + ("" if k == 3 else f" {names[k + 1]} = Relu ({out})")
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph} }}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    path.write_bytes(model.SerializeToString())
    return path


def random_lines(folder: Path) -> Iterator[str]:
    """Rows of two large nets with random weights."""
    nets = {t: random_net(folder / f"{t}.onnx", seed) for seed, t in enumerate(("one", "two"))}
    for share in SHARES:
        fused = folder / f"random-{share}.onnx"
        onnxzip.merge(nets, share=share, method="average", samples=32).save(fused)
        yield line(f"random Gemm, share {share:g}", fused, nets)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fused", nargs="?", type=Path, help="a fused file; without it the sample nets")
    parser.add_argument("nets", nargs="*", metavar="NAME=FILE.onnx", help="the nets that it was made from")
    parser.add_argument("--families", nargs="+", default=("lenet300", "resnet"), choices=FAMILIES)
    arguments = parser.parse_args()
    print("| nets | tasks | bundle / fused file | a switch loads | takes | takes, weights in place |")
    print("| --- | --: | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        lines = (
            [line(arguments.fused.stem, arguments.fused, named_files(arguments.nets))]
            if arguments.fused
            else chain(sample_lines(tuple(arguments.families), Path(folder)), random_lines(Path(folder)))
        )
        for text in lines:
            print(text, flush=True)


if __name__ == "__main__":
    main()
