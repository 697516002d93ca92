"""How fast retraining repairs a merge, beside other places to start from (see rivals.py).

    pip install .[tools]                                    for the plot
    python models/fetch.py ...                              unpacks the data sets, see models/README.md
    python tools/retraining.py run --data DIR --work DIR    measures; every course is one file in --work, none is run twice
    python tools/retraining.py run ... --images 500         `merge --retrain` with no more than so many images a task
    python tools/retraining.py show --work DIR [--write]    prints the tables; into README.md with the plot

Increase of test error in percentage points, mean of both tasks, after 0, 30, 100, 300 and 1,000 steps of 64 samples a task,
everything shared, teachers alone, no labels. Each number of steps is a course of its own, with its own decay. The zip finds
its learning rate by itself; the others get the best of `RATES` by their test error after 100 steps with the first seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from figures import FAMILIES, MODELS, PAIRS, ROOT, nets_of, put_into_readme, rises, samples_of
from onnx import ModelProto
from rivals import STARTS, train

import onnxzip
from onnxzip.exporting.write import write_atomically

ALL_PAIRS = (*PAIRS, ("digits", "digits-b"))  # the last as in the paper's first experiment, of the families that have it
STEPS = (0, 30, 100, 300, 1000)
RATES = (0.0003, 0.001, 0.003)
TRIAL = 100  # steps by which a rival's rate is chosen
SAMPLES = 5000  # images a task that the merge is calibrated with
WHOLE = "<!-- retraining: begin (python tools/retraining.py show --write) -->", "<!-- retraining: end -->"
LABELS = {"zip": "zip", "mtz": "mtz", "trunk": "first net's trunk", "scratch": "from scratch"}
FEW = "<!-- few images: begin (python tools/retraining.py show --write) -->", "<!-- few images: end -->"
FEW_IMAGES = 500  # a task
ALL = 0  # images a task: all there are
Found = dict[tuple[str, str, str], dict[int, list[float]]]


class Case(NamedTuple):
    """One course of retraining; `rate` None where it is found; `images` a task, of `ALL`, drawn by the seed."""

    family: str
    pair: tuple[str, str]
    start: str
    seed: int
    steps: int
    rate: float | None
    images: int = ALL

    @property
    def name(self) -> str:
        """Of the merge that it starts from."""
        few = f".of{self.images}" if self.images else ""
        return f"{self.family}.{'+'.join(self.pair)}.{self.start}.{self.seed}{few}"

    @property
    def file(self) -> str:
        """Name of the file with its result."""
        rate = "found" if self.rate is None else f"{self.rate:g}"
        return f"{self.name}.{self.steps}.{rate}.json"


class Bench:
    """Courses and their results.

    Args:
        data: folder with the unpacked data sets; None where no course is to be run.
        work: folder for results.
    """

    def __init__(self, data: Path | None, work: Path) -> None:
        self.data, self.work = data, work
        work.mkdir(parents=True, exist_ok=True)

    def increase(self, case: Case) -> float | None:
        """The increase of test error; run if it is not known and data are there."""
        file = self.work / case.file
        if not file.exists() and self.data is not None:
            write_atomically(file, json.dumps(self._run(case)).encode(), force=True)
            print(case.file, file.read_text(), file=sys.stderr, flush=True)
        return float(json.loads(file.read_text())["increase"]) if file.exists() else None

    def best_rate(self, family: str, pair: tuple[str, str], start: str) -> float | None:
        """The rate that a rival runs with; None where it is found, or not known."""
        if start == "zip":
            return None
        found = {r: self.increase(Case(family, pair, start, 0, TRIAL, r)) for r in RATES}
        known = {r: x for r, x in found.items() if x is not None}
        return min(known, key=lambda r: known[r]) if known else None

    def _run(self, case: Case) -> dict[str, object]:
        nets, data = self._files(case)
        if case.images:
            done = onnxzip.merge(nets, data, retrain=case.steps, seed=case.seed)
            return self._result(case, nets, done.content, done.report["retrain"])
        start = self.work / f"{case.name}.onnx"
        if not start.exists():
            model: ModelProto = STARTS[case.start](nets, data, SAMPLES, case.seed)
            write_atomically(start, model.SerializeToString(deterministic=True), force=True)
        content, report = start.read_bytes(), None
        if case.steps and case.rate is None:
            done = onnxzip.retrain(start, nets, data, steps=case.steps, seed=case.seed)
            content, report = done.content, done.report["retrain"]
        elif case.steps and case.rate is not None:
            content = train(start, nets, data, case.steps, case.rate, case.seed)
        return self._result(case, nets, content, report)

    def _result(
        self, case: Case, nets: dict[str, Path], content: bytes, report: dict[str, object] | None
    ) -> dict[str, object]:
        found = rises(content, nets, case.pair)
        return {"increase": float(np.mean(found)), "rises": found, "retrain": report}

    def _files(self, case: Case) -> tuple[dict[str, Path], dict[str, Path]]:
        """Original nets and unlabelled training images by task."""
        nets = nets_of(case.family, case.pair)
        return nets, {t: self._images(samples_of(n), case) for t, n in zip(nets, case.pair, strict=True)}

    def _images(self, task: str, case: Case) -> Path:
        """The training images of a task, without their labels."""
        file = self._all_images(task)
        if not case.images:
            return file
        part = self.work / f"{task}-train-{case.images}-{case.seed}.npz"
        if not part.exists():
            with np.load(file) as given:
                chosen = np.random.default_rng(case.seed).choice(given["x"], case.images, replace=False)
            np.savez(part, x=chosen)
        return part

    def _all_images(self, task: str) -> Path:
        file = self.work / f"{task}-train.npz"
        if not file.exists():
            assert self.data is not None
            sys.path.insert(0, str(MODELS))
            from tasks import TASKS, read_task  # of the recipe

            part = file.with_suffix(".part.npz")
            np.savez(part, x=read_task(self.data, TASKS[task]).train_x)
            part.replace(file)
        return file


def cases(families: Iterable[str], pairs: Iterable[tuple[str, str]], starts: Iterable[str], seeds: int) -> Iterator[
    tuple[str, tuple[str, str], str, int]
]:
    """Everything but the steps."""
    for family, pair, start, seed in product(families, pairs, starts, range(seeds)):
        if all(file.exists() for file in nets_of(family, pair).values()):
            yield family, pair, start, seed


def run(bench: Bench, arguments: argparse.Namespace) -> None:
    """Measure what is asked for."""
    pairs = [p for p in ALL_PAIRS if not arguments.pairs or "+".join(p) in arguments.pairs]
    for family, pair, start, seed in cases(arguments.families, pairs, arguments.starts, arguments.seeds):
        rate = bench.best_rate(family, pair, start)
        for steps in arguments.steps:
            bench.increase(Case(family, pair, start, seed, steps, rate if steps else None, arguments.images))


def gathered(bench: Bench, starts: Iterable[str] = STARTS, images: int = ALL) -> Found:
    """(family, pair, start) -> steps -> increases of all seeds that were measured."""
    found: Found = {}
    for family, pair, start, seed in cases(FAMILIES, ALL_PAIRS, starts, 10):
        rate = bench.best_rate(family, pair, start)
        for steps in STEPS:
            value = bench.increase(Case(family, pair, start, seed, steps, rate if steps else None, images))
            if value is not None:
                found.setdefault((family, " + ".join(pair), start), {}).setdefault(steps, []).append(value)
    return found


def table(found: Found) -> str:
    """Markdown: one line a family, pair and start, of the numbers of steps that were measured."""
    asked = [s for s in STEPS if any(s in by_steps for by_steps in found.values())]
    lines = ["| family | pair | start | " + " | ".join(f"{s:,} steps" for s in asked) + " | seeds |"]
    lines.append("| --- | --- | --- | " + "--: | " * (len(asked) + 1))
    for (family, pair, start), by_steps in found.items():
        values = [f"{np.mean(by_steps[s]):.2f}" if s in by_steps else "" for s in asked]
        seeds = min(len(v) for v in by_steps.values())
        lines.append(f"| {family} | {pair} | {LABELS[start]} | " + " | ".join(values) + f" | {seeds} |")
    return "\n".join(line.rstrip() for line in lines)


def plot(found: Found, file: Path) -> None:
    """Error against steps, one panel a family and pair that was measured from several starts."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "onnxzip"
    from matplotlib import pyplot

    keys = [(family, pair) for family, pair, _ in found]
    panels = [k for k in dict.fromkeys(keys) if keys.count(k) > 1]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.2), sharey=True, squeeze=False)
    for axis, (family, pair) in zip(axes[0], panels, strict=True):
        for start in STARTS:
            by_steps = found.get((family, pair, start), {})
            x = [s for s in STEPS if s in by_steps]
            axis.plot([max(s, 10) for s in x], [max(np.mean(by_steps[s]), 0.05) for s in x], "o-", ms=3, label=LABELS[start])
        axis.set_title(f"{family}\n{pair}", fontsize=9)
        axis.set(xscale="log", yscale="log", xlabel="steps")
        axis.set_xticks([10, 30, 100, 300, 1000], ["0", "30", "100", "300", "1,000"])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("increase of test error, points")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def show(bench: Bench, write: bool) -> None:
    """Print the tables, and write tables and plot where asked."""
    found = gathered(bench)
    texts = table(found), table(gathered(bench, ["zip"], FEW_IMAGES))
    print(*texts, sep="\n\n")
    if write:
        plot(found, ROOT / "tools" / "retraining.svg")
        for (begin, end), text in zip((WHOLE, FEW), texts, strict=True):
            put_into_readme(begin, text, end)


def main() -> None:
    """Measure or show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "show"):
        command = commands.add_parser(name)
        command.add_argument("--work", type=Path, required=True, help="folder for results")
        if name == "show":
            command.add_argument("--write", action="store_true", help="put the table into README.md, write the plot")
            continue
        command.add_argument("--data", type=Path, required=True, help="folder that models/fetch.py has written")
        command.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
        command.add_argument("--pairs", nargs="+", default=(), help="as fashion+digits; all by default")
        command.add_argument("--starts", nargs="+", default=tuple(STARTS), choices=tuple(STARTS))
        command.add_argument("--steps", nargs="+", type=int, default=STEPS)
        command.add_argument("--seeds", type=int, default=3)
        command.add_argument("--images", type=int, default=ALL, help="unlabelled images a task; all by default")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if arguments.command == "run":
        run(Bench(arguments.data, arguments.work), arguments)
    else:
        show(Bench(None, arguments.work), arguments.write)


if __name__ == "__main__":
    main()
