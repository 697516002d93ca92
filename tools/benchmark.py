"""Every known method on the same nets: error against size, calibration samples and steps of retraining; and what it costs.

    pip install .[tools]
    python models/fetch.py DATA                                   the data sets, see models/README.md
    python tools/benchmark.py run --work DIR --data DATA          everything: hours; the same line goes on where it stopped
    python tools/benchmark.py run --work DIR --quick              a few minutes, on the committed samples
    python tools/benchmark.py take --work DIR                     results of tools/benchmark.csv, which `run` then leaves out
    python tools/benchmark.py show --work DIR [--write]           CSV, tables and plots of all that has been measured
    python tools/benchmark.py cost --work DIR                     time and memory, of methods and of what they make

A case is one file in --work. Several processes may share the folder: --part 1/2 and --part 2/2 take half of the cases each.
"""

from __future__ import annotations

import argparse
import csv
import os
import warnings
from pathlib import Path

import torch
from ablation import make_known
from bench_cases import METHODS, REFERENCES, Case, full, quick
from bench_cost import measure
from bench_run import Bench, result_of
from bench_show import TOOLS, show
from figures import FAMILIES
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from onnxzip.matching.methods import METHODS as KNOWN

COMMITTED = 1000  # calibration images a task beside the nets


def chosen(arguments: argparse.Namespace) -> list[Case]:
    """The cases that are asked for."""
    cases = quick() if arguments.quick else full(arguments.families, range(arguments.seeds))
    wanted = {
        "method": arguments.methods, "share": arguments.shares, "samples": arguments.samples, "steps": arguments.steps,
        "layout": arguments.layouts, "tasks": tuple(tuple(p.split("+")) for p in arguments.sets),
    }
    cases = [c for c in cases if all(not some or getattr(c, field) in some for field, some in wanted.items())]
    if arguments.data is None:
        cases = [c for c in cases if c.samples <= COMMITTED]
    known = {*KNOWN, *REFERENCES}
    cases = [c for c in cases if c.method.removesuffix("+repair") in known]
    part, of = (int(x) for x in arguments.part.split("/"))
    return cases[part - 1 :: of]


def run(arguments: argparse.Namespace) -> None:
    """Run what is asked for and not known."""
    bench, cases = Bench(arguments.work, arguments.data), chosen(arguments)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(bar, description=f"{case.family} {'+'.join(case.tasks)} {case.method} {case.share:g}")
            bench.run(case)
            progress.advance(bar)


def take(arguments: argparse.Namespace) -> None:
    """Lay results of others into the folder, where there are none."""
    bench = Bench(arguments.work, None)
    with arguments.csv.open(newline="") as rows:
        for case, found in map(result_of, csv.DictReader(rows)):
            if bench.known(case) is None:
                bench.keep(case, found)


def main() -> None:
    """Measure or show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running, taking, showing, costing = (commands.add_parser(name) for name in ("run", "take", "show", "cost"))
    for command in (running, taking, showing, costing):
        command.add_argument("--work", type=Path, required=True, help="folder for results")
    running.add_argument("--data", type=Path, help="folder that models/fetch.py has written; else the committed samples")
    running.add_argument("--quick", action="store_true", help="a few minutes' worth of cases")
    for command in (running, costing):
        command.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    running.add_argument("--methods", nargs="+", default=(), help=f"of {', '.join((*METHODS, *REFERENCES))} and the ablations")
    running.add_argument("--sets", nargs="+", default=(), help="as fashion+digits; all by default")
    running.add_argument("--shares", nargs="+", type=float, default=())
    running.add_argument("--layouts", nargs="+", default=())
    running.add_argument("--samples", nargs="+", type=int, default=())
    running.add_argument("--steps", nargs="+", type=int, default=())
    running.add_argument("--seeds", type=int, default=3)
    running.add_argument("--part", default="1/1", help="K/N: every N-th case from the K-th on")
    taking.add_argument("--csv", type=Path, default=TOOLS / "benchmark.csv")
    showing.add_argument("--write", action="store_true", help="put CSV, tables and plots into tools/")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    make_known()
    if arguments.command == "run":
        run(arguments)
    elif arguments.command == "take":
        take(arguments)
    elif arguments.command == "cost":
        measure(arguments.work, arguments.families)
    else:
        show(arguments.work, arguments.write)


if __name__ == "__main__":
    main()
