"""What a switch from one task to another loads: from a bundle, against separate nets.

    python tools/task_switch.py                                  sample nets, six at a time
    python tools/task_switch.py M.onnx low=a.onnx high=b.onnx    a fused file and the nets that it was made from

Before each measurement the page cache forgets all files. Then the first task is opened and run on one sample, so that what it
needs is in memory; then the second, which is timed. ONNX Runtime maps the weights of a bundle, so the second task finds there
what it shares with the first one. Bytes are counted twice: those of the graph and of the params that the second task has and
the first has not; and those that the kernel has read from the disk meanwhile, ahead of need as it does.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from figures import FAMILIES, MODELS, samples_of

import onnxzip
from onnxzip.exporting.bundling import Bundle, bundled
from onnxzip.exporting.naming import named_files

TASKS = ("fashion-low", "fashion-high", "fashion", "digits", "animals", "fashion-b")
SHARES = (1.0, 0.5)
REPEATS = 5


class Cost(NamedTuple):
    """Of one switch: bytes that differ, bytes read from the disk, seconds."""

    bytes: float
    read: float
    seconds: float


def forget(folder: Path) -> None:
    """Drop all files of a folder from the page cache."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read_bytes() -> int:
    """Bytes that this process has made the kernel read from the disk so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes:")))


def opened(path: Path) -> ort.InferenceSession:
    """A net that has computed its outputs once."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ports = session.get_inputs()
    shapes = [[d if isinstance(d, int) else 1 for d in p.shape] for p in ports]
    session.run(None, {p.name: np.zeros(s, np.float32) for p, s in zip(ports, shapes, strict=True)})
    return session


def switch(first: Path, second: Path) -> tuple[float, float]:
    """(bytes read, seconds) of opening the second net while the first is open; best of several times."""
    found = []
    for _ in range(REPEATS):
        forget(first.parent)
        kept = opened(first)
        before, start = read_bytes(), time.perf_counter()
        opened(second)
        found.append((read_bytes() - before, time.perf_counter() - start))
        del kept
    return min(f[0] for f in found), min(f[1] for f in found)


def own_bytes(bundle: Bundle, first: str, second: str) -> int:
    """Graph and params of the second task that the first does not need."""
    params = sum(p.length for p in bundle.placed.values() if second in p.owners and first not in p.owners)
    return params + len(bundle.files[bundle.graphs[second]])


def mean_costs(fused: Path, nets: Mapping[str, Path], folder: Path) -> tuple[Cost, Cost]:
    """Mean over all switches: of separate nets, and of the bundle."""
    apart, parts = folder / "apart", folder / "parts"
    apart.mkdir()
    for task, path in nets.items():
        (apart / f"{task}.onnx").write_bytes(path.read_bytes())
    onnxzip.bundle(fused, parts)
    bundle = bundled(onnx.load(fused), str(fused))
    costs: tuple[list[Cost], list[Cost]] = [], []
    for first, second in permutations(nets, 2):
        costs[0].append(Cost(nets[second].stat().st_size, *switch(*(apart / f"{t}.onnx" for t in (first, second)))))
        graphs = (parts / bundle.graphs[t] for t in (first, second))
        costs[1].append(Cost(own_bytes(bundle, first, second), *switch(*graphs)))
    mean_apart, mean_bundle = (Cost(*np.mean(c, axis=0).tolist()) for c in costs)
    return mean_apart, mean_bundle


def line(name: str, fused: Path, nets: Mapping[str, Path]) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        apart, together = mean_costs(fused, nets, Path(folder))
        size = sum(p.stat().st_size for p in (Path(folder) / "parts").iterdir())
    cells = [name, str(len(nets)), f"{size / fused.stat().st_size:.3f}"]
    for key in ("bytes", "read"):
        a, b = getattr(apart, key), getattr(together, key)
        cells.append(f"{a / 1000:,.0f} kB, {b / 1000:,.0f} kB: {a / max(b, 1):.1f} x")
    cells.append(f"{1e3 * apart.seconds:.1f} ms, {1e3 * together.seconds:.1f} ms: {apart.seconds / together.seconds:.2f} x")
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fused", nargs="?", type=Path, help="a fused file; without it the sample nets")
    parser.add_argument("nets", nargs="*", metavar="NAME=FILE.onnx", help="the nets that it was made from")
    parser.add_argument("--families", nargs="+", default=("lenet300", "lenet5", "resnet"), choices=FAMILIES)
    arguments = parser.parse_args()
    print("| nets | tasks | bundle / fused file | a switch differs in | reads from the disk | takes |")
    print("| --- | --: | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        lines = (
            [line(arguments.fused.stem, arguments.fused, named_files(arguments.nets))]
            if arguments.fused
            else sample_lines(tuple(arguments.families), Path(folder))
        )
        for text in lines:
            print(text, flush=True)


if __name__ == "__main__":
    main()
