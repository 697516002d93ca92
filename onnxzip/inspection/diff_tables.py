"""The report of `diff` as rich tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxzip.inspection.tables import Report, fixed_lines, number_table, percent


def diff_tables(report: Report) -> Iterator[RenderableType]:
    """What has become of an original."""
    original, summary, channels = report["original"], report["summary"], report["summary"]["channels"]
    if not original["same_source"]:
        yield Text(f"{original['source']} is not byte for byte the file that task {report['task']} was made from.")
    yield Text(
        f"{original['source']} in {report['fused']['source']}, task {report['task']}: {summary['nodes']:,} nodes, "
        f"{summary['shared']:,} with shared channels, {summary['missing']:,} gone; channels of weights: "
        f"{channels['shared']:,} shared, {channels['own']:,} own, {channels['moved']:,} at another place; params changed by "
        f"{percent(summary['change'])}, {percent(summary['dropped'])} dropped."
    )
    yield from fixed_lines({report["task"]: original})
    yield _nodes(report)


def _nodes(report: Report) -> Table:
    columns = "shared", "own", "moved", "change of params", "dropped", "foreign"
    table = number_table("Nodes of the original", "node", "operator", "fused into", *columns)
    for node in report["nodes"]:
        channels = node["channels"] or {}
        row = [node["name"], node["op"], f"{len(node['fused'])}"]
        row += ["" if channels.get(key) is None else f"{channels[key]:,}" for key in ("shared", "own", "moved")]
        parts = [node[key] for key in ("change", "dropped", "foreign")]
        row += [node["why"] or ""] if all(part is None for part in parts) else map(percent, parts)
        table.add_row(*row)
    return table
