"""`export` and `doctor`: the commands that take a fused net to other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxzip.bars import Bars
from onnxzip.cli.frame import Config, Force, Fused, Json, command, emit
from onnxzip.config import ExportData, ExportOptions, RunOptions
from onnxzip.exporting.naming import named_data
from onnxzip.inspection import doctor_tables, export_tables
from onnxzip.shipping.doctor import examine
from onnxzip.shipping.shipment import export_files


@command
def export(
    fused: Fused,
    target: Annotated[str, typer.Option("--target", metavar="TARGET", help="Which runtime; `onnxzip doctor` lists them.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="Main file of the result.")],
    *,
    options: ExportOptions,
    data: ExportData,
    run: RunOptions,
    force: Force = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Convert a fused net for another runtime, run it there and compare it with the fused net before anything is written."""
    given = named_data(data.data)
    with Bars() as bars:
        report = export_files(fused, target, output, given, options, data, run, bars, force, [config] if config else [])
    emit(report, export_tables, json)


@command
def doctor(
    python: Annotated[Path | None, typer.Option("--python", metavar="FILE", help="A Python to look for targets in.")] = None,
    json: Json = False,
) -> None:
    """Tell which targets, providers and GPUs can be used here, and how to get the others."""
    emit(examine(python), doctor_tables, json)
