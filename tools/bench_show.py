"""CSV, tables and plots of the benchmark, from its result files.

An increase is in percentage points of test error, mean of a set's tasks; a cell is the mean over the sets that all cells of
its family in the same table have been measured on, with the deviation over seeds where there are several. Empty cells have
not been measured.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ablation import ABLATIONS, LABELS
from bench_cases import ABLATED, MANY, METHODS, PAPER, REFERENCES, SAMPLES, STEPS, USUAL, Case
from bench_cost import cost_tables, grown_of, plot_growth
from bench_run import row_of
from figures import FAMILIES, PAIRS, ROOT, put_into_readme

from onnxzip.exporting.write import write_atomically

TOOLS = ROOT / "tools"
SEEDS = 10  # at most
LOWEST = 0.05  # points, of what a picture shows
SHARES = (("strands", 1.0), ("strands", 0.8), ("strands", 0.5), ("strands", 0.25), ("wide", 0.5))
COURSES = {"zip": ("zip", USUAL), f"zip, {MANY:,} images": ("zip", MANY), "mtz": ("mtz", USUAL),
           "first net's trunk": ("trunk", USUAL), "from scratch": ("scratch", USUAL)}  # of the README
RETRAINING = "<!-- retraining: begin (python tools/benchmark.py show --write) -->", "<!-- retraining: end -->"
Results = dict[Case, dict[str, object]]


class Column(NamedTuple):
    """A column of a table, or a point of a line: its heading, and the case that it asks for, given all else."""

    heading: str
    case: Callable[[str, tuple[str, ...], str, int], Case]


def results_of(work: Path) -> Results:
    """All that has been measured."""
    found: Results = {}
    for file in sorted(set(work.glob("*.json")) - set(work.glob("cost-*.json"))):
        family, tasks, method, share, layout, samples, steps, seed = file.stem.split("_")
        case = Case(family, tuple(tasks.split("~")), method, float(share), layout, int(samples), int(steps), int(seed))
        found[case] = json.loads(file.read_text())
    return found


def to_csv(results: Results) -> str:
    """One line a case."""
    text = io.StringIO()
    rows = [row_of(case, found) for case, found in sorted(results.items())]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def common_sets(
    results: Results, family: str, methods: Sequence[str], columns: Sequence[Column]
) -> list[tuple[str, ...]]:
    """The sets of nets that every column and method of a family has been measured on, of those measured at all."""
    sets = dict.fromkeys(c.tasks for c in results if c.family == family)
    found = {s: {(m, c.heading) for c in columns for m in methods if seeds_of(results, c, family, s, m)} for s in sets}
    every = set().union(*found.values())
    return [s for s, cells in found.items() if cells == every]


def seeds_of(results: Results, column: Column, family: str, tasks: tuple[str, ...], method: str) -> list[float]:
    """What has been measured of a cell on one set, by seed."""
    asked = (column.case(family, tasks, method, seed) for seed in range(SEEDS))
    return [float(str(results[c]["increase"])) for c in asked if c in results]


def cell(results: Results, column: Column, family: str, sets: Sequence[tuple[str, ...]], method: str) -> str:
    """Mean over some sets, and its deviation over the seeds that all of them have."""
    by_set = [seeds_of(results, column, family, s, method) for s in sets]
    rounds = min(map(len, by_set), default=0)
    if not rounds:
        return ""
    means = [float(np.mean([seeds[k] for seeds in by_set])) for k in range(rounds)]
    return f"{np.mean(means):.2f}" + (f" ± {np.std(means, ddof=1):.2f}" if rounds > 1 else "")


def table(results: Results, families: Sequence[str], methods: Sequence[str], columns: Sequence[Column]) -> str:
    """Markdown: one line a family and method, and how many sets of nets the family's means are over."""
    lines = ["| family | sets | method | " + " | ".join(c.heading for c in columns) + " |",
             "|---|--:|---|" + "--:|" * len(columns)]
    for family in families:
        sets = common_sets(results, family, methods, columns)
        for method in methods:
            texts = [cell(results, c, family, sets, method) for c in columns]
            if any(texts):
                lines.append(f"| {family} | {len(sets)} | `{method}` | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def method_table(results: Results) -> str:
    """Markdown: every method at share 1, one column a family."""
    (whole,) = (c for c in by_share() if c.heading == "1")
    sets = {f: common_sets(results, f, METHODS, [whole]) for f in FAMILIES}
    lines = ["| method | " + " | ".join(FAMILIES) + " |", "|---|" + "--:|" * len(FAMILIES)]
    for method in METHODS:
        texts = [cell(results, whole, f, sets[f], method) for f in FAMILIES]
        if any(texts):
            lines.append(f"| `{method}` | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "| *sets* | " + " | ".join(f"*{len(sets[f])}*" for f in FAMILIES) + " |"])


def retraining_table(results: Results) -> str:
    """Markdown, for the README: courses of retraining by family and pair, from several starts where these were measured."""
    lines = ["| family | pair | start | " + " | ".join(f"{c.heading} steps" for c in by_steps()) + " |"]
    lines.append("| --- | --- | --- |" + " --: |" * len(by_steps()))
    for family, tasks in product(FAMILIES, (*PAIRS, PAPER)):
        for label, (method, samples) in COURSES.items():
            texts = [cell(results, c, family, [tasks], method) for c in by_steps(samples)]
            if any(texts[1:]):
                lines.append(f"| {family} | {' + '.join(tasks)} | {label} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def by_share() -> list[Column]:
    """Error against size."""
    return [
        Column(f"{share:g}" if layout == "strands" else f"{share:g}, wide",
               lambda f, s, m, seed, share=share, layout=layout: Case(f, s, m, share, layout, seed=seed))  # type: ignore[misc]
        for layout, share in SHARES
    ]


def by_samples() -> list[Column]:
    """Error against calibration samples."""
    return [
        Column(f"{n:,}", lambda f, s, m, seed, n=n: Case(f, s, m, samples=n, seed=seed))  # type: ignore[misc]
        for n in SAMPLES
    ]


def by_steps(samples: int = USUAL) -> list[Column]:
    """Error against steps of retraining."""
    return [
        Column(f"{n:,}", lambda f, s, m, seed, n=n: Case(f, s, m, samples=samples, steps=n, seed=seed))  # type: ignore[misc]
        for n in (0, *STEPS)
    ]


def ablation_table(results: Results) -> str:
    """Markdown: what the zip loses without each of its parts."""
    methods = ("zip", *ABLATIONS)
    columns = [(f, c) for f in ABLATED for c in by_share() if c.heading in ("1", "0.5")]
    sets = {(f, c.heading): common_sets(results, f, methods, [c]) for f, c in columns}
    headings = (f"{f}, share {c.heading}" for f, c in columns)
    lines = ["| the zip | " + " | ".join(headings) + " |", "|---|" + "--:|" * len(columns)]
    for method in methods:
        label = LABELS.get(method, "as it is")
        texts = (cell(results, c, f, sets[f, c.heading], method) for f, c in columns)
        lines.append(f"| {label} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "| *sets* | " + " | ".join(f"*{len(s)}*" for s in sets.values()) + " |"])


def tables(results: Results) -> dict[str, str]:
    """All tables by name."""
    retrained = {c.method for c in results if c.steps}
    sampled = {c.method for c in results if c.samples != USUAL}
    sized = {c.method for c in results if c.share != 1}
    return {
        "methods": method_table(results),
        "sizes": table(results, FAMILIES, [m for m in METHODS if m in sized], by_share()),
        "samples": table(results, FAMILIES, [m for m in METHODS if m in sampled], by_samples()),
        "steps": table(results, FAMILIES, [m for m in (*METHODS, *REFERENCES) if m in retrained], by_steps()),
        "steps from more": table(results, FAMILIES, ["zip"], by_steps(MANY)),
        "ablation": ablation_table(results),
    }


def plot(results: Results, file: Path, label: str, columns: Sequence[Column], x: Callable[[Case, dict[str, object]], float],
         logarithmic: bool) -> None:
    """One panel a family, one line a method: the mean over the sets that all points of a family have."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "onnxzip"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(FAMILIES), figsize=(3.0 * len(FAMILIES), 3.4), sharey=True)
    for axis, family in zip(axes, FAMILIES, strict=True):
        for method in (*METHODS, *REFERENCES):
            points = []
            for column in columns:
                asked = [c for s in PAIRS for seed in range(SEEDS) if (c := column.case(family, s, method, seed)) in results]
                if asked:
                    mean = float(np.mean([results[c]["increase"] for c in asked]))  # type: ignore[arg-type]
                    points.append((float(np.mean([x(c, results[c]) for c in asked])), max(mean, LOWEST)))
            if points:
                axis.plot(*zip(*sorted(points), strict=True), "o-", ms=3, lw=1, label=method)
        axis.set(title=family, xlabel=label, yscale="log", xscale="log" if logarithmic else "linear")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("increase of test error, points")
    handles = {name: h for a in axes for h, name in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=7, ncols=8, loc="lower center")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def put_into(page: Path, name: str, text: str) -> None:
    """Replace what stands between two markers of a page."""
    begin, end = f"<!-- {name}: begin (python tools/benchmark.py show --write) -->", f"<!-- {name}: end -->"
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def show(work: Path, write: bool) -> None:
    """Print the tables, and write CSV, tables and plots where asked."""
    results = results_of(work)
    found = tables(results) | cost_tables(work)
    for name, text in found.items():
        print(f"\n{name}\n\n{text}")
    write_atomically(work / "benchmark.csv", to_csv(results).encode(), force=True)
    if not write:
        return
    write_atomically(TOOLS / "benchmark.csv", to_csv(results).encode(), force=True)
    for name, text in found.items():
        if text.count("\n") > 1:  # of what has not been measured here, what stands there stays
            put_into(TOOLS / "FINDINGS.md", name, text)
    put_into_readme(RETRAINING[0], retraining_table(results), RETRAINING[1])
    plain = [c for c in by_share() if "wide" not in c.heading]
    plot(results, TOOLS / "benchmark-sizes.svg", "size", plain, lambda c, found: float(str(found["size"])), False)
    if any(c.samples != USUAL for c in results):
        plot(results, TOOLS / "benchmark-samples.svg", "samples a task", by_samples(), lambda c, found: c.samples, True)
    if any(c.steps for c in results):
        plot(results, TOOLS / "benchmark-steps.svg", "steps + 10", by_steps(), lambda c, found: c.steps + 10, True)
    if grown := grown_of(work):
        plot_growth(grown, TOOLS / "benchmark-growth.svg")
