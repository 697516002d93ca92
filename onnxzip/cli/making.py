"""`merge` and `retrain`: the commands that make a fused net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxzip.asked import read_beside
from onnxzip.bars import Bars
from onnxzip.cli.frame import Config, Fused, Json, Nets, Output, command, emit
from onnxzip.config import (
    DataOptions,
    JobOptions,
    MergeSteps,
    Options,
    OutputOptions,
    PlanOptions,
    RetrainData,
    RetrainOptions,
    RetrainSettings,
    RetrainSteps,
    RunOptions,
    WaitOptions,
    ZipOptions,
)
from onnxzip.distributed.joining import joined
from onnxzip.errors import UsageError
from onnxzip.exporting.naming import named_data, named_files
from onnxzip.exporting.shelf import beside
from onnxzip.exporting.write import check_outputs, check_unread
from onnxzip.inspection import merge_tables, retrain_tables
from onnxzip.matching.methods import find_method
from onnxzip.peers import Peers
from onnxzip.pipeline import merge_files
from onnxzip.progress import Progress, Silent
from onnxzip.teaching import retrain_files


@command
def merge(
    nets: Nets,
    output: Output,
    *,
    data: DataOptions,
    plan: PlanOptions,
    zip: ZipOptions,
    run: RunOptions,
    steps: MergeSteps,
    retrain: RetrainOptions,
    out: OutputOptions,
    job: JobOptions,
    wait: WaitOptions,
    config: Config = None,
    json: Json = False,
) -> None:
    """Merge nets into one: shared trunk, a head per task, checked by ONNX Runtime before it is written."""
    if job.shard is not None and steps.retrain:
        raise UsageError("--retrain cannot meet in a folder: merge with --shard, then `retrain`, alone or under torchrun")
    with joined(job, wait, run.device) as peers:
        files, given = named_files(nets), named_data(data.data)
        find_method(zip.method)
        if peers.leads:
            _check_all_outputs(output, out, retrain, list(files.values()), given, config)
        with _shown(peers) as progress:
            merged = merge_files(files, given, Options(data, plan, zip, run, steps, retrain), progress, peers)
        if peers.leads:
            merged.save(output, out.force, out.report)
            emit(merged.report, merge_tables, json)
    _check_interrupted(merged.report)


@command
def retrain(
    fused: Fused,
    teacher: Annotated[list[str], typer.Option("--teacher", metavar="[NAME=]FILE.onnx", help="The original net of a task.")],
    output: Output,
    *,
    data: RetrainData,
    steps: RetrainSteps,
    options: RetrainOptions,
    run: RunOptions,
    out: OutputOptions,
    wait: WaitOptions,
    config: Config = None,
    json: Json = False,
) -> None:
    """Retrain a fused net, without labels: each original net teaches its own task. Params change, and never for the worse.

    Ctrl-C ends it early: the best weights so far are verified and written, and the exit code is 130. SIGTERM and SIGHUP do the
    same, with exit codes 143 and 129.
    """
    with joined(JobOptions(), wait, run.device) as peers:
        files, given = named_files(teacher), named_data(data.data)
        if peers.leads:
            _check_all_outputs(output, out, options, [fused, *files.values()], given, config)
        with _shown(peers) as progress:
            done = retrain_files(fused, files, given, RetrainSettings(data, steps, options, run), progress, peers)
        if peers.leads:
            done.save(output, out.force, out.report)
            emit(done.report, retrain_tables, json)
    _check_interrupted(done.report)


def _check_interrupted(report: Mapping[str, Any]) -> None:
    """The exit code after a retraining that the user has ended."""
    if report["retrain"] and report["retrain"]["interrupted"]:
        raise KeyboardInterrupt("interrupted; the best weights so far were written")


def _check_all_outputs(
    output: Path, out: OutputOptions, retrain: RetrainOptions, nets: Sequence[Path], data: Mapping[str, str] | None,
    config: Path | None,
) -> None:
    """Net, report and checkpoint, and the file of params that a net beyond 2 GB has beside it."""
    written = [output, *([out.report] if out.report else [])]
    read = [*read_beside(data, retrain), *([config] if config else [])]
    check_outputs(written, nets, read, out.force)
    check_unread([beside(output)], nets, read)
    if retrain.checkpoint:
        check_outputs([retrain.checkpoint], nets, [*read, *written], out.force or retrain.resume)


def _shown(peers: Peers) -> AbstractContextManager[Progress]:
    """Bars, of one process alone."""
    return Bars() if peers.leads else nullcontext(Silent())
