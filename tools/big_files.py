"""Two nets of 2.5 GB each, planned, merged and taken apart: how long it takes, and how much memory it needs.

    python tools/big_files.py FOLDER                makes the nets there (13 GB of disk with all results), and all else
    python tools/big_files.py FOLDER --layers 14 --share 0.5     a fused net beyond 2 GB, a task of which is one file
    python tools/big_files.py FOLDER --layers 2     a small pair, to try it
    python tools/big_files.py FOLDER --steps split bundle        of a pair that is merged already

Each net is a chain of 3 x 3 convolutions and Relu, 2,048 wide, with its weights in a file beside it; the second one is the
first with 3 % of noise on its weights, as if it had been trained further. Each step runs in a process of its own. *Peak* is
the largest resident memory, mapped pages of the nets' files among it, which the system takes back when it needs them; *own* is
without them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from onnx import TensorProto, helper

import onnxzip
from onnxzip.taking_apart import split_to

STEPS = ("plan", "merge", "split", "bundle")
WIDTH, INPUTS, CLASSES, SIDE = 2048, 16, 10, 3
SAMPLES = 64


def layer(seed: int, shape: tuple[int, ...], noise: float) -> np.ndarray:
    """Weights of one layer; those of both nets differ by the noise alone."""
    scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
    weights = np.random.default_rng(seed).standard_normal(shape, np.float32) * scale
    if noise:
        weights += np.random.default_rng(seed + 1_000_000).standard_normal(shape, np.float32) * (np.float32(noise) * scale)
    return weights


def make(path: Path, layers: int, noise: float) -> None:
    """Write one net, layer by layer."""
    nodes, tensors, value = [], [], "x"
    with path.with_suffix(".bin").open("wb") as file:
        for k in range(layers):
            tensors += params(file, k, (WIDTH, WIDTH if k else INPUTS, 3, 3), noise)
            nodes.append(helper.make_node("Conv", [value, f"w{k}", f"b{k}"], [f"h{k}"], f"conv{k}", pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"h{k}"], [f"r{k}"], f"relu{k}"))
            value = f"r{k}"
        tensors += params(file, layers, (CLASSES, WIDTH), noise)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", f"w{layers}", f"b{layers}"], ["y"], "head", transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUTS, SIDE, SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, "big", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def params(file: BinaryIO, k: int, shape: tuple[int, ...], noise: float) -> list[TensorProto]:
    """Weights of a layer, written to the file, and its bias."""
    weights = layer(k, shape, noise)
    tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, entry in (("location", Path(file.name).name), ("offset", file.tell()), ("length", weights.nbytes)):
        tensor.external_data.add(key=key, value=str(entry))
    file.write(weights.data)
    return [tensor, helper.make_tensor(f"b{k}", TensorProto.FLOAT, shape[:1], np.full(shape[0], 0.01, np.float32))]


def status(key: str) -> int:
    """A number of bytes from what the system says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def watched(work: Callable[[], dict[str, object]]) -> dict[str, object]:
    """What some work says, how long it took, and the memory it needed: peak, and peak without mapped files."""
    own, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            own[0] = max(own[0], status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        found = work()
    finally:
        done.set()
        watcher.join()
    return {"seconds": time.perf_counter() - start, "peak": status("VmHWM"), "own": own[0], **found}


def plan(files: dict[str, Path]) -> dict[str, object]:
    """Plan the merge."""
    report = onnxzip.plan(files)
    return {"shared": sum(s["shared"] for s in report["spaces"])}


def merge(files: dict[str, Path], out: Path, share: float) -> dict[str, object]:
    """Merge and write."""
    x = np.random.default_rng(5).standard_normal((SAMPLES, INPUTS, SIDE, SIDE)).astype(np.float32)
    merged = onnxzip.merge(files, x, samples=SAMPLES, share=share)
    merged.save(out, force=True)
    errors = {t: e["fidelity"]["relative_error"] for t, e in merged.report["tasks"].items()}
    return {"bytes": merged.report["merged"]["bytes"], "errors": errors, "stages": dict(merged.report["seconds"])}


def split(fused: Path) -> dict[str, object]:
    """Write one task alone."""
    files = split_to(fused, "first", fused.with_name("split.onnx"), force=True)
    return {"bytes": sum(file.stat().st_size for file in files), "files": len(files)}


def bundle(fused: Path) -> dict[str, object]:
    """Write all tasks, and their weights once."""
    return {"bytes": onnxzip.bundle(fused, fused.with_name("bundle"), force=True)["bytes"]}


def main() -> None:
    """Make what is missing, then run each step in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="which of them, one after the other")
    parser.add_argument("--step", choices=STEPS, help="run one step here, and print what it says")
    arguments = parser.parse_args()
    files = {name: arguments.folder / f"{name}-{arguments.layers}.onnx" for name in ("first", "second")}
    if arguments.step:
        fused = arguments.folder / f"merged-{arguments.layers}.onnx"
        work = {
            "plan": lambda: plan(files), "merge": lambda: merge(files, fused, arguments.share),
            "split": lambda: split(fused), "bundle": lambda: bundle(fused),
        }
        print(json.dumps(watched(work[arguments.step])))
        return
    for (_, path), noise in zip(files.items(), (0.0, 0.03), strict=True):
        if not path.exists():
            make(path, arguments.layers, noise)
    options = ["--layers", str(arguments.layers), "--share", str(arguments.share)]
    for step in arguments.steps:
        command = [sys.executable, __file__, str(arguments.folder), *options, "--step", step]
        said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        rest = {k: v for k, v in said.items() if k not in ("seconds", "peak", "own")}
        memory = f"peak {said['peak'] / 1e9:.2f} GB, own {said['own'] / 1e9:.2f} GB"
        print(f"{step}: {said['seconds']:.1f} s, {memory}; {rest}", flush=True)


if __name__ == "__main__":
    main()
