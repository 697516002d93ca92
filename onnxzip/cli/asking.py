"""`plan` and `verify`: the commands that ask and write nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxzip.bars import Bars
from onnxzip.before_after import FailedBounds, plan_files, verify_files
from onnxzip.cli.frame import Config, Fused, Json, Nets, command, emit
from onnxzip.config import DataOptions, PlanOptions, RunOptions, VerifyOptions
from onnxzip.exporting.naming import named_data, named_files
from onnxzip.inspection import plan_tables, verify_tables


@command
def plan(nets: Nets, *, options: PlanOptions, config: Config = None, json: Json = False) -> None:
    """Tell what a merge would share, save and refuse, and why. Looks at no data and writes nothing."""
    emit(plan_files(named_files(nets), options), plan_tables, json)


@command
def verify(
    fused: Fused,
    against: Annotated[list[str], typer.Option("--against", metavar="[NAME=]FILE.onnx", help="An original net.")],
    *,
    data: DataOptions,
    run: RunOptions,
    bounds: VerifyOptions,
    config: Config = None,
    json: Json = False,
) -> None:
    """Compare a fused net with the original nets on data; exit code 1 where an output is not finite or a bound is broken."""
    try:
        with Bars() as bars:
            report = verify_files(fused, named_files(against), named_data(data.data), data, run, bounds, bars)
    except FailedBounds as error:
        emit(error.report, verify_tables, json)
        raise
    emit(report, verify_tables, json)
