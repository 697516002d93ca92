"""The report of `inspect` as rich tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxzip.inspection.tables import Report, fixed_lines, in_bytes, number_table, percent, place_tables, size_cells


def inspect_tables(report: Report) -> Iterator[RenderableType]:
    """What is in a file."""
    yield _headline(report)
    for entry in report["sizes"]:
        where = f"Axis {entry['axis']} of input {entry['input']}" + (f" ({entry['name']})" if entry["name"] else "")
        yield Text(f"{where} has no number; what is told here is for {entry['size']}.")
    if report["unused"]["nodes"] or report["unused"]["params"]:
        unused = report["unused"]
        yield Text(
            f"No output needs {unused['nodes']:,} of its nodes and {unused['params']:,} of its params "
            f"({in_bytes(unused['bytes'])})."
        )
    merged = report["kind"] == "merged"
    if merged:
        yield _cost_table(report)
        yield from fixed_lines(report["tasks"])
        yield _owner_table(report)
        if report["switches"]:
            yield _switch_table(report)
    yield _fused_spaces(report) if merged else _plain_spaces(report)
    yield _node_table(report, list(report.get("tasks", {})))
    yield from place_tables(report["refusals"], "Left unmerged" if merged else "Not coupled")


def _headline(report: Report) -> Text:
    file = report["file"]
    told = f"{file['source']}: {file['params']:,} params, {in_bytes(file['bytes'])}, {file['macs']:,} multiply-adds"
    if report["kind"] == "merged":
        merge = report["merge"]
        shares = ", ".join(f"{share:g}" if glob == "*" else f"{glob}={share:g}" for glob, share in merge["shares"])
        told += f"; merged by onnxzip {merge['version']}: {merge['method']}, {merge['layout']}, share {shares}"
    return Text(told)


def _cost_table(report: Report) -> Table:
    table = number_table("Each task: its original, and what it costs alone", "task", "params", "file", "multiply-adds")
    known = [task["original"] for task in report["tasks"].values() if task["original"] is not None]
    for name, task in report["tasks"].items():
        if task["original"] is not None:
            table.add_row(f"{name}, original", *size_cells(task["original"]))
    table.add_row("this file", *size_cells(report["file"]))
    if len(known) == len(report["tasks"]):
        sums = {key: sum(size[key] for size in known) for key in ("params", "bytes", "macs")}
        table.add_row("of the sum", *(percent(report["file"][k] / s if s else None) for k, s in sums.items()))
    for name, task in report["tasks"].items():
        table.add_row(f"{name}, taken out alone", *size_cells(task["alone"]))
    return table


def _owner_table(report: Report) -> Table:
    table = number_table("Who needs what", "tasks", "nodes", "params", "bytes", "multiply-adds")
    for entry in report["owners"]:
        table.add_row(" + ".join(entry["tasks"]), f"{entry['nodes']:,}", *size_cells(entry))
    return table


def _switch_table(report: Report) -> Table:
    table = number_table("Switching tasks", "from", "to", "bytes to load", "of the task's", "")
    for s in report["switches"]:
        fraction = percent(s["bytes"] / s["of"] if s["of"] else None)
        table.add_row(s["from"], s["to"], in_bytes(s["bytes"]), in_bytes(s["of"]), fraction)
    return table


def _fused_spaces(report: Report) -> Table:
    tasks = list(report["tasks"])
    table = number_table("Channels", "space", *tasks, "shared", "fused", "error", "damping", "dearest pair")
    for space in report["spaces"]:
        costs = [pair["cost"] for pair in space["pairs"] if pair["cost"] is not None]
        each = [f"{space['channels'].get(t, 0):,}" for t in tasks]
        numbers = [_short(v) for v in (space["error"], space["damping"], max(costs, default=None))]
        table.add_row(space["name"], *each, f"{space['shared']:,}", f"{space['groups']:,}", *numbers)
    return table


def _plain_spaces(report: Report) -> Table:
    table = number_table("Channel spaces", "space", "channels", "nodes", "stays as it is, since")
    for space in report["spaces"]:
        table.add_row(space["name"], f"{space['channels']:,}", f"{len(space['nodes']):,}", space["pinned"] or "-")
    return table


def _node_table(report: Report, tasks: Sequence[str]) -> Table:
    """One row a node; of a fused net with the channels that it has of each task alone, and of several."""
    owned = ["shared", *tasks, "error", "damping"] if tasks else ["channels"]
    table = number_table("Nodes", "node", "operator", *owned, "params", "bytes", "multiply-adds")
    for node in report["nodes"]:
        row = [node["name"], node["op"]]
        row += [*_rows(node, tasks), _short(node["error"]), _short(node["damping"])] if tasks else [f"{node['channels']:,}"]
        table.add_row(*row, f"{node['params']:,}", in_bytes(node["bytes"]), f"{node['macs']:,}")
    return table


def _rows(node: Report, tasks: Sequence[str]) -> list[str]:
    """Channels that several tasks own, and those of each alone; of a node without channels who needs it."""
    if not node["rows"]:
        return ["yes" if len(node["owners"]) > 1 else "", *("yes" if node["owners"] == [t] else "" for t in tasks)]
    shared = sum(row["channels"] for row in node["rows"] if len(row["tasks"]) > 1)
    own = {row["tasks"][0]: row["channels"] for row in node["rows"] if len(row["tasks"]) == 1}
    return [f"{shared:,}" if shared else "", *(f"{own[t]:,}" if t in own else "" for t in tasks)]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
