"""`inspect` and `diff`: the commands that look into a net."""

from __future__ import annotations

import json as json_
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from onnxzip.bars import Bars
from onnxzip.cli.frame import Force, Fused, Json, command, emit
from onnxzip.errors import UsageError
from onnxzip.exporting.naming import named_files
from onnxzip.exporting.originals import originals_of
from onnxzip.exporting.staging import Fill, write, write_together
from onnxzip.exporting.write import check_outputs
from onnxzip.inspection.diff_tables import diff_tables
from onnxzip.inspection.differing import diff as differences
from onnxzip.inspection.inspect_tables import inspect_tables
from onnxzip.inspection.inspecting import inspect_model
from onnxzip.inspection.overlay import node_data
from onnxzip.inspection.paging import page_of
from onnxzip.inspection.viewing import page_report
from onnxzip.loading.files import read_to_look
from onnxzip.progress import Stages


@command
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="A fused net, or any other ONNX net.")],
    *,
    html: Annotated[Path | None, typer.Option("--html", metavar="PAGE", help="Write one self-contained page.")] = None,
    nodes: Annotated[
        Path | None, typer.Option("--node-data", metavar="FILE", help="Write shares as node data for Model Explorer.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="[NAME=]FILE.onnx", help="An original net, whose latency the page shows, too."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="R.json", help="The merge's report, whose fidelity the page shows.")
    ] = None,
    json: Json = False,
    force: Force = False,
) -> None:
    """Tell what is in a net: nodes, spaces, refusals; of a fused one also owners, errors, costs of tasks and of switching."""
    originals = named_files(against or [])
    written = [p for p in (html, nodes) if p is not None]
    check_outputs(written, [file, *originals.values()], [report] if report is not None else [], force)
    if html is None and (originals or report is not None):
        raise UsageError("--against and --report are for the page; give --html PAGE, too")
    model = read_to_look(file)
    found = inspect_model(file, model)
    files: list[tuple[Path, Fill]] = []
    if nodes is not None:
        files.append((nodes, partial(write, (json_.dumps(node_data(found), indent=2) + "\n").encode())))
    if html is not None:
        with Bars() as bars:
            if originals:
                originals_of(file, model, originals, "--against", bars.note)
            with Stages(bars).stage("latency", 1 + len(originals) + len(found.get("tasks", {}))) as tick:
                shown = page_report(found, file, model, originals, report, tick)
        files.append((html, partial(write, page_of(shown).encode())))
    write_together(files, force)
    emit(found, inspect_tables, json)


@command
def diff(
    original: Annotated[Path, typer.Argument(metavar="A.onnx", help="An original net.")],
    fused: Fused,
    *,
    task: Annotated[
        str | None, typer.Option("--task", metavar="NAME", help="Whose original it is. Default: the task made from this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell node by node what a fused net has made of one of its originals: channels shared and moved, change of params."""
    emit(differences(original, fused, task), diff_tables, json)
