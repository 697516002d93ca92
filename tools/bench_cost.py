"""What methods cost and what a merged net saves, against counted floors; how time and memory grow.

    python tools/benchmark.py cost --work DIR     one file a measurement in DIR, none is made twice

Merges run in processes of their own, one BLAS thread and one of ONNX Runtime each: seconds are of the processor, so that
a busy machine disturbs them little, less those of `onnxzip --version`, which imports all that a merge does; memory is the
process's peak. The floor of a merge is counted: multiply-accumulates of both passes over the samples and of the moments, over
the measured rate of a float32 matrix product; and bytes of live values, written and read once, over the measured bandwidth of
a copy. The floor of running a net is its multiply-accumulates, and its params read once, at the same two rates.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from bench_cases import METHODS
from cost import CUBE, MODELS, TASKS, median_seconds, moment_products, session
from figures import FAMILIES
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.exporting.write import write_atomically
from onnxzip.loading import load_all
from onnxzip.net import macs, per_sample

COPIED = 1 << 26  # bytes
BASE = {"width": 256, "depth": 3, "nets": 2, "samples": 2000}
GROWTH = {"width": (128, 256, 512, 1024), "depth": (2, 4, 8, 16), "nets": (2, 3, 4, 6), "samples": (500, 2000, 8000, 32000)}
INPUTS = 64
STARTS = 5  # of which the median is taken off
Found = dict[str, float]


def processor_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Median time of the processor of a piece of work, after one run that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def rates_here() -> Found:
    """float32 multiply-accumulates per second of a square matrix product, and bytes per second of a copy, counted once."""
    a = np.random.default_rng(0).standard_normal((CUBE, CUBE), dtype=np.float32)
    to, source = np.zeros(COPIED, np.uint8), np.ones(COPIED, np.uint8)
    return {
        "macs/s": CUBE**3 / processor_seconds(lambda: a @ a),
        "bytes/s": COPIED / processor_seconds(lambda: np.copyto(to, source)),
    }


def known(work: Path, name: str, measure: Callable[[], Found]) -> Found:
    """A measurement, made where there is none yet."""
    file = work / f"cost-{name}.json"
    if not file.exists():
        write_atomically(file, json.dumps(measure()).encode(), force=True)
    found: Found = json.loads(file.read_text())
    return found


def process_cost(line: Sequence[object]) -> Found:
    """Processor seconds and peak megabytes of the command line."""
    code = (
        "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss, r.returncode)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, sys.executable, "-m", "onnxzip", *map(str, line)]
    seconds, peak, failed = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout.split()
    if failed != "0":
        raise RuntimeError(f"onnxzip {' '.join(map(str, line))} ended with {failed}")
    return {"seconds": float(seconds), "MB": float(peak) / 1e3}


def merge_cost(files: Mapping[str, Path], data: Mapping[str, Path], *options: object) -> Found:
    """A merge, less what every start costs."""
    with tempfile.TemporaryDirectory() as folder:
        starts = [process_cost(["--version"]) for _ in range(STARTS)]
        start = {n: statistics.median(s[n] for s in starts) for n in starts[0]}
        given = [w for t, p in data.items() for w in ("--data", f"{t}={p}")]
        nets = [f"{t}={p}" for t, p in files.items()]
        found = process_cost(["merge", *nets, *given, "-o", Path(folder) / "m.onnx", *options])
    return {"seconds": found["seconds"] - start["seconds"], "MB": found["MB"], "MB at start": start["MB"]}


def floor_of(files: Mapping[str, Path], samples: int) -> Found:
    """What a merge at share 1 takes at least: multiply-accumulates, and bytes of live values written and read once."""
    nets = load_all(dict(files))
    plan = analyse(nets)
    passes = 2 * samples * sum(macs(n) for n in nets)
    live = 2 * 4 * samples * sum(
        per_sample(plan.nets[t].shapes[plan.overlay.values[s.sink][t]]) for s in plan.steps for t in s.tasks
    )
    return {"macs": passes + moment_products(dict(files), samples), "live bytes": live}


# methods and what they make ---------------------------------------------------------------------------------------------


def pair_of(family: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """Nets and calibration samples of a family's first pair."""
    files = {t: MODELS / f"{family}-{name}.onnx" for t, name in TASKS.items()}
    return files, {t: MODELS / "data" / f"{name}-calibration.npz" for t, name in TASKS.items()}


def method_cost(family: str, method: str) -> Found:
    """Merging by one method."""
    extra = ["--repair"] if method.endswith("+repair") else []
    return merge_cost(*pair_of(family), "--method", method.removesuffix("+repair"), *extra)


def running_cost(family: str, repeats: int = 15) -> Found:
    """The merged net beside the two it was made from: milliseconds, resident megabytes, megabytes of file."""
    files, data = pair_of(family)
    merged = onnxzip.merge(files, data)
    found: Found = {}
    for threads in (1, 2):
        apart, fused = [session(str(f), threads) for f in files.values()], session(merged.content, threads)
        for batch in (1, 8):
            x = np.random.default_rng(0).random((batch, 1, 28, 28), dtype=np.float32)
            two, one = (1e3 * median_seconds(partial(run_all, some, x), repeats) for some in (apart, [fused]))
            found |= {f"apart ms, {threads} thr., batch {batch}": two, f"merged ms, {threads} thr., batch {batch}": one}
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        Path(file.name).write_bytes(merged.content)
        found |= {"apart MB resident": resident([str(f) for f in files.values()]), "merged MB resident": resident([file.name])}
    apart_bytes = sum(f.stat().st_size for f in files.values())
    return found | {"apart MB file": apart_bytes / 1e6, "merged MB file": len(merged.content) / 1e6}


def run_all(sessions: Sequence[InferenceSession], x: np.ndarray) -> None:
    """Run nets one after the other."""
    for one in sessions:
        one.run(None, {one.get_inputs()[0].name: x})


def resident(paths: Sequence[str]) -> float:
    """Megabytes that sessions of some files add to a process, after one run each."""
    code = (
        "import resource, sys\nimport numpy as np\nimport onnxruntime as ort\n"
        "def rss():\n    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 1e6\n"
        "def opened(p):\n"
        "    s = ort.InferenceSession(p, providers=['CPUExecutionProvider'])\n"
        "    s.run(None, {s.get_inputs()[0].name: np.zeros((1, 1, 28, 28), np.float32)})\n"
        "    return s\n"
        "first = opened(sys.argv[1])\nbefore = rss()\nkept = [opened(p) for p in sys.argv[1:]]\nprint(rss() - before)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    return float(ran.stdout)


# growth -----------------------------------------------------------------------------------------------------------------


def write_mlp(path: Path, width: int, depth: int, seed: int) -> Path:
    """A net of so many dense hidden layers, with weights drawn at random."""
    rng, value, nodes, params = np.random.default_rng(seed), "x", [], []
    for k in range(depth + 1):
        inputs, outputs = INPUTS if k == 0 else width, 10 if k == depth else width
        w = rng.standard_normal((outputs, inputs)).astype(np.float32) * np.float32(np.sqrt(2 / inputs))
        params += [numpy_helper.from_array(w, f"w{k}"), numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{k}")]
        made = "logits" if k == depth else f"a{k}"
        nodes.append(helper.make_node("Gemm", [value, f"w{k}", f"b{k}"], [made], f"dense{k}", transB=1))
        if k < depth:
            nodes.append(helper.make_node("Relu", [made], [f"h{k}"], f"relu{k}"))
        value = f"h{k}"
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", size]) for n, size in (("x", INPUTS), ("logits", 10))]
    graph = helper.make_graph(nodes, "mlp", ports[:1], ports[1:], params)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def growth_cost(settings: Mapping[str, int]) -> Found:
    """A merge of dense nets, and what it takes at least."""
    with tempfile.TemporaryDirectory() as folder:
        files = {
            f"t{k}": write_mlp(Path(folder) / f"{k}.onnx", settings["width"], settings["depth"], k)
            for k in range(settings["nets"])
        }
        data = {}
        for k, task in enumerate(files):
            data[task] = Path(folder) / f"{task}.npz"
            rng = np.random.default_rng(k)
            np.savez(data[task], x=rng.standard_normal((settings["samples"], INPUTS), dtype=np.float32))
        found = merge_cost(files, data, "--samples", settings["samples"])
        return found | floor_of(files, settings["samples"])


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the last three points in logarithms: how y grows where fixed costs matter little."""
    return float(np.polyfit(np.log(x[-3:]), np.log(np.maximum(y[-3:], 1e-6)), 1)[0])


# showing ----------------------------------------------------------------------------------------------------------------


def rows_text(heading: str, rows: Mapping[str, Found]) -> str:
    """Markdown."""
    names = list(next(iter(rows.values())))
    lines = [f"| {heading} | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    return "\n".join([*lines, *(f"| {k} | " + " | ".join(f"{r[n]:.3g}" for n in names) + " |" for k, r in rows.items())])


def growth_rows(grown: Mapping[str, Mapping[int, Found]]) -> dict[str, Found]:
    """Exponents by what grows."""
    found = {}
    for what, by_size in grown.items():
        x = list(by_size)
        added = {n: r["MB"] - r["MB at start"] for n, r in by_size.items()}
        found[what] = {
            "from": float(x[0]), "to": float(x[-1]), "seconds, smallest": by_size[x[0]]["seconds"],
            "seconds, largest": by_size[x[-1]]["seconds"], "floor s, largest": by_size[x[-1]]["arithmetic s"],
            "time exponent": exponent(x, [r["seconds"] for r in by_size.values()]),
            "floor exponent": exponent(x, [r["arithmetic s"] for r in by_size.values()]),
            "MB above start, largest": added[x[-1]], "memory exponent": exponent(x, list(added.values())),
        }
    return found


def plot_growth(grown: Mapping[str, Mapping[int, Found]], file: Path) -> None:
    """Time and floors against width, depth, nets and samples."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "onnxzip"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(grown), figsize=(3.2 * len(grown), 3.2), sharey=True)
    for axis, (what, by_size) in zip(axes, grown.items(), strict=True):
        for name in ("seconds", "arithmetic s", "traffic s"):
            axis.loglog(list(by_size), [r[name] for r in by_size.values()], "o-", ms=3, label=name)
        axis.set(xlabel=what)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("seconds of a merge")
    axes[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def measure(work: Path, families: Sequence[str]) -> None:
    """Measure what is not known."""
    work.mkdir(parents=True, exist_ok=True)
    known(work, "rates", rates_here)
    for family in families:
        known(work, f"{family}-running", partial(running_cost, family))
    for what, sizes in GROWTH.items():
        for size in sizes:
            known(work, f"{what}-{size}", partial(growth_cost, BASE | {what: size}))
    for family in families:
        for method in METHODS:
            known(work, f"{family}-{method}", partial(method_cost, family, method))


def cost_tables(work: Path) -> dict[str, str]:
    """Tables of all that has been measured, by name."""
    found = {f.stem.removeprefix("cost-"): json.loads(f.read_text()) for f in work.glob("cost-*.json")}
    methods = {f"{f} `{m}`": found[f"{f}-{m}"] for f in FAMILIES for m in METHODS if f"{f}-{m}" in found}
    running = {f: found[f"{f}-running"] for f in FAMILIES if f"{f}-running" in found}
    rates = {"here": found["rates"]} if "rates" in found else {}
    grown = growth_rows(grown_of(work))
    named = {
        "rates": ("machine, one thread", rates), "cost of methods": ("merge", methods), "cost of running": ("family", running),
        "growth": ("what grows", grown),
    }
    return {name: rows_text(heading, rows) if rows else "" for name, (heading, rows) in named.items()}


def grown_of(work: Path) -> dict[str, dict[int, Found]]:
    """What has been measured of growth, where there are three sizes or more."""
    files = {what: {n: work / f"cost-{what}-{n}.json" for n in sizes} for what, sizes in GROWTH.items()}
    grown = {w: {n: json.loads(f.read_text()) for n, f in some.items() if f.exists()} for w, some in files.items()}
    several = {what: by_size for what, by_size in grown.items() if len(by_size) > 2}
    rates = json.loads((work / "cost-rates.json").read_text()) if several else {}
    return {
        what: {
            n: r | {"arithmetic s": r["macs"] / rates["macs/s"], "traffic s": r["live bytes"] / rates["bytes/s"]}
            for n, r in by_size.items()
        }
        for what, by_size in several.items()
    }
