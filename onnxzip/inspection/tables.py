"""Reports as rich tables: what a merge, a plan or a comparison has found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxzip.analysis.refusals import by_reason, named
from onnxzip.exporting.trial import LEAST

Report = Mapping[str, Any]
SMALL = 0.1  # part of a relative error that is left without the smallness of numbers, below which the table says so
_UNITS = ("B", "kB", "MB", "GB")


def merge_tables(report: Report) -> Iterator[RenderableType]:
    """What a merge has made."""
    yield from noise_line(report, "Zipped")
    yield _task_table(report)
    yield from _small_lines(report)
    yield _size_table(report)
    yield from fixed_lines(report["tasks"])
    yield from _type_line(report)
    if report["spaces"]:
        yield _space_table(report, fitted=True)
    yield from _size_lines(report)
    if report["retrain"]:
        yield _retrain_table(report["retrain"])
    yield from _refusals(report)


def plan_tables(report: Report) -> Iterator[RenderableType]:
    """What a merge would make."""
    if report["spaces"]:
        yield _space_table(report, fitted=False)
    yield _size_table(report)
    yield from fixed_lines(report["tasks"])
    yield from _type_line(report)
    yield from _size_lines(report)
    for note in report["notes"]:
        yield Text(f"{note[:1].upper()}{note[1:]}.")
    yield from _refusals(report)


def verify_tables(report: Report) -> Iterator[RenderableType]:
    """How close a fused net comes to its originals."""
    yield from noise_line(report, "Compared")
    yield _task_table(report)
    yield from _small_lines(report)
    yield from fixed_lines(report["tasks"])


def retrain_tables(report: Report) -> Iterator[RenderableType]:
    """What retraining has brought."""
    yield from noise_line(report, "Retrained")
    yield _task_table(report)
    yield from _small_lines(report)
    yield from fixed_lines(report["tasks"])
    yield _retrain_table(report["retrain"])


def _retrain_table(done: Report) -> Table:
    """Judgements before and after."""
    columns = "loss before", "after", "relative error before", "after", "agreement before", "after"
    table = number_table(_retrain_title(done), "task", *columns)
    for name, task in done["tasks"].items():
        pairs = [(task["start"][key], task["end"][key]) for key in ("loss", "relative_error", "top1_agreement")]
        losses, errors, agreements = pairs
        cells = [f"{x:.4g}" for x in losses] + [f"{x:.3g}" for x in errors] + [percent(x) for x in agreements]
        table.add_row(name, *cells)
    return table


def _retrain_title(done: Report) -> str:
    title = f"Retraining: {done['steps']:,} steps in {done['seconds']:.1f} s"
    if not done["kept_step"]:
        return f"{title}; nothing was better than the start, which was kept"
    trials = f", {done['trial_steps']:,} of them to find the learning rate" if done["trial_steps"] else ""
    return f"{title}{trials}; learning rate {done['learning_rate']:g}; held-out samples"


def noise_line(report: Report, verb: str) -> Iterator[Text]:
    """Says that noise stood in for data."""
    noise = report["noise"]
    if noise is not None:
        count, seed = noise["samples"], noise["seed"]
        yield Text(f"{verb} on {count:,} samples of noise (seed {seed}): no data were given. Use --data.")


def _type_line(report: Report) -> Iterator[Text]:
    """Says that weights have another type in the fused file than they had."""
    merged = report["stored"]["merged"]
    others = by_reason((task, kind) for task, kind in report["stored"]["tasks"].items() if kind != merged)
    if others:
        told = "; ".join(f"{kind} in {', '.join(tasks)}" for kind, tasks in others.items())
        yield Text(f"Weights are {merged} in the fused file ({told}). Convert or quantise it to make it smaller.")


def fixed_lines(tasks: Mapping[str, Report]) -> Iterator[Text]:
    """Which inputs are constants, and what they are; of tasks, or originals, by name."""
    fixed = [(task, name, number) for task, entry in tasks.items() for name, number in entry["fixed"].items()]
    for what, places in by_reason((task, f"{name} is fixed at {number}") for task, name, number in fixed).items():
        told = f"Input {what} ({', '.join(places)})"
        yield Text(f"{told}: a constant of the fused file, which lacks what only other numbers need.")


def _size_lines(report: Report) -> Iterator[Text]:
    """Which axes may have any size, and the sizes they had here."""
    for entry in report["sizes"]:
        sizes = entry["sizes"]
        here = ", ".join(f"{n} for {t}" for t, n in sizes.items()) if len(set(sizes.values())) > 1 else min(sizes.values())
        where = f"Axis {entry['axis']} of input {entry['input']} ({entry['name']})"
        yield Text(f"{where} takes any size that the nets take; here {here}.")


class _NumberTable(Table):
    """A table that breaks no number in two: where there is too little room it is wider than that."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*cells, **options)
        for column, cell in zip(self.columns[1:], cells[1:], strict=False):
            column.min_width = max(column.min_width or 0, len(str(cell)))


def number_table(title: str, *columns: str) -> Table:
    """A table whose first column is text, the others numbers."""
    table = _NumberTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for k, column in enumerate(columns):
        longest = max(map(len, column.split()), default=0)
        table.add_column(column, justify="left" if k == 0 else "right", overflow="fold", min_width=longest)
    return table


def _task_table(report: Report) -> Table:
    labelled = any(t["accuracy"] for t in report["tasks"].values())
    columns = ["task", "samples", "relative error", "top-1 agreement", *(["accuracy before", "after"] if labelled else [])]
    table = number_table("Fidelity on held-out samples" if "spaces" in report else "Fidelity", *columns)
    for name, task in report["tasks"].items():
        fidelity, accuracy = task["fidelity"], task["accuracy"]
        row = [name, f"{fidelity['samples']:,}", f"{fidelity['relative_error']:.3g}", percent(fidelity["top1_agreement"])]
        if labelled:
            row += [percent(accuracy and accuracy["before"]), percent(accuracy and accuracy["after"])]
        table.add_row(*row)
    return table


def _small_lines(report: Report) -> Iterator[Text]:
    """Tasks whose relative error is one of numbers near 0, of which rounding alone makes much."""
    for name, task in report["tasks"].items():
        fidelity = task["fidelity"]
        if fidelity["deviation"] < SMALL * fidelity["relative_error"]:
            yield Text(
                f"{name}: the relative error is one of numbers near 0, outputs between -1 and 1 that say next to nothing of "
                f"these samples. Measured against {LEAST}, not against themselves, the error is {fidelity['deviation']:.3g}."
            )


def _size_table(report: Report) -> Table:
    table = number_table("Size", "net", "params", "file", "multiply-adds")
    for name, task in report["tasks"].items():
        table.add_row(name, *size_cells(task))
    merged = report["merged"]
    table.add_row("merged", *size_cells(merged))
    table.add_row("of the sum", *(percent(merged[f"{key}_ratio"]) for key in ("params", "bytes", "macs")))
    return table


def size_cells(entry: Report) -> Sequence[str]:
    """What a net costs: params, bytes of its file, multiply-accumulates."""
    return f"{entry['params']:,}", in_bytes(entry["bytes"]), f"{entry['macs']:,}"


def _space_table(report: Report, fitted: bool) -> Table:
    identical = report["identical"] if fitted else {}
    partly = any("partly" in space for space in report["spaces"])
    columns = [*(["identical"] if identical else []), *(["error", "damping"] if fitted else [])]
    shared = ["shared by all", "by some"] if partly else ["shared"]
    table = number_table("Channels", "space", "of each net", *shared, "fused", *columns)
    for space in report["spaces"]:
        sizes = list(space["channels"].values())
        each = str(sizes[0]) if len(set(sizes)) == 1 else " ".join(map(str, sizes))
        row = [space["name"], each, str(space["shared"])]
        row += [str(sum(some["channels"] for some in space.get("partly", ())))] if partly else []
        row.append(str(space["groups"]))
        row += [str(identical.get(space["name"], 0))] if identical else []
        if fitted:
            row += ["-" if space[key] is None else f"{space[key]:.3g}" for key in ("error", "damping")]
        table.add_row(*row)
    return table


def _refusals(report: Report) -> Iterator[RenderableType]:
    for title, key in (("Extended", "extensions"), ("Left unmerged", "refusals")):
        yield from place_tables(report[key], title)


def place_tables(entries: Sequence[Report], title: str) -> Iterator[RenderableType]:
    """Places with what is to be said of them, once of all of which it is the same; nothing where there are none."""
    if not entries:
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("where", overflow="fold")
    table.add_column("why", overflow="fold")
    for why, places in by_reason((entry["where"], entry["why"]) for entry in entries).items():
        table.add_row(Text(named(places)), Text(why))
    yield table


def percent(value: float | None) -> str:
    """A fraction for people; `-` for none."""
    return "-" if value is None else f"{100 * value:.2f} %"


def in_bytes(count: float) -> str:
    """Bytes for people: 1,234,567 is 1.23 MB."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.3g} {unit}"
        count /= 1000
    raise AssertionError
