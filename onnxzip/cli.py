"""The command line: results on stdout, progress and messages on stderr, exit codes as in `errors`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from onnxzip.bars import Bars
from onnxzip.before_after import FailedBounds, plan_files, split, verify_files
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
    VerifyOptions,
    WaitOptions,
    ZipOptions,
)
from onnxzip.distributed.joining import joined
from onnxzip.errors import OnnxzipError, RelayedError, UsageError
from onnxzip.exporting.metadata import own_version
from onnxzip.exporting.naming import named_data, named_files
from onnxzip.exporting.report import to_text
from onnxzip.exporting.write import check_writable, write_atomically
from onnxzip.flags import derived
from onnxzip.inspection import merge_tables, plan_tables, retrain_tables, verify_tables
from onnxzip.matching.methods import find_method
from onnxzip.peers import Peers
from onnxzip.pipeline import Merged, merge_files
from onnxzip.progress import Progress, Silent
from onnxzip.teaching import retrain_files

INTERRUPTED = 130
WIDTH = 120  # of tables where stdout is no terminal

app = typer.Typer(
    name="onnxzip",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Nets = Annotated[
    list[str], typer.Argument(metavar="[NAME=]FILE.onnx...", help="Trained nets; a task is named by NAME, else by its file.")
]
Fused = Annotated[Path, typer.Argument(metavar="M.onnx", help="A net that `onnxzip merge` has made.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where the result goes.")]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="F.yaml", help="Options as `name: value`; flags override them.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a sub-command: its option records become flags, its errors messages and exit codes."""
    inner = derived(function)

    def run(**given: Any) -> None:
        try:
            inner(**given)
        except RelayedError as error:
            raise typer.Exit(error.exit_code) from error
        except OnnxzipError as error:
            _say(f"error: {error}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _say("interrupted; nothing was written")
            raise typer.Exit(INTERRUPTED) from error

    run.__signature__ = inner.__signature__  # type: ignore[attr-defined]
    run.__annotations__, run.__name__, run.__doc__ = inner.__annotations__, inner.__name__, inner.__doc__
    app.command(function.__name__.rstrip("_"))(run)
    return function


def _print_version(wanted: bool) -> None:
    if wanted:
        print(own_version())
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
]


@app.callback()
def about(version: Version = False) -> None:
    """Merge trained ONNX nets into one with a shared trunk and a head per task."""


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
            _check_all_outputs(output, out, retrain, [*files.values(), *map(Path, (given or {}).values())])
        with _shown(peers) as progress:
            merged = merge_files(files, given, Options(data, plan, zip, run, steps, retrain), progress, peers)
        if peers.leads:
            _save(merged, output, out)
            _emit(merged.report, merge_tables, json)
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

    Ctrl-C ends it early: the best weights so far are verified and written, and the exit code is 130.
    """
    with joined(JobOptions(), wait, run.device) as peers:
        files, given = named_files(teacher), named_data(data.data)
        if peers.leads:
            _check_all_outputs(output, out, options, [fused, *files.values(), *map(Path, (given or {}).values())])
        with _shown(peers) as progress:
            done = retrain_files(fused, files, given, RetrainSettings(data, steps, options, run), progress, peers)
        if peers.leads:
            _save(done, output, out)
            _emit(done.report, retrain_tables, json)
    _check_interrupted(done.report)


@command
def plan(nets: Nets, *, options: PlanOptions, config: Config = None, json: Json = False) -> None:
    """Tell what a merge would share, save and refuse, and why. Looks at no data and writes nothing."""
    _emit(plan_files(named_files(nets), options), plan_tables, json)


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
        _emit(error.report, verify_tables, json)
        raise
    _emit(report, verify_tables, json)


@command
def split_(
    fused: Fused,
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="Which task.")],
    output: Output,
    force: Force = False,
) -> None:
    """Cut one task out of a fused net, pruned of everything that only others need."""
    _check_outputs([output], [fused], force)
    model = split(fused, task)
    write_atomically(output, model.SerializeToString(deterministic=True), force)
    print(f"{output}: task {task}, {output.stat().st_size:,} of {fused.stat().st_size:,} bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="onnxzip")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _check_outputs(outputs: Sequence[Path], inputs: Iterable[Path], force: bool) -> None:
    """Refuse before long work what could not be written after it, and what would overwrite an input."""
    read = {p.resolve() for p in inputs}
    for k, path in enumerate(outputs):
        if path.resolve() in read:
            raise UsageError(f"{path}: is read by this command; write to another file")
        if path.resolve() in {p.resolve() for p in outputs[:k]}:
            raise UsageError(f"{path}: is given twice as a place to write to")
        check_writable(path, force)


def _check_interrupted(report: Mapping[str, Any]) -> None:
    """The exit code after a retraining that the user has ended."""
    if report["retrain"] and report["retrain"]["interrupted"]:
        _say("interrupted; the best weights so far were written")
        raise typer.Exit(INTERRUPTED)


def _check_all_outputs(output: Path, out: OutputOptions, retrain: RetrainOptions, inputs: Sequence[Path]) -> None:
    """Net, report and checkpoint."""
    _check_outputs([output, *([out.report] if out.report else [])], inputs, out.force)
    _check_outputs([retrain.checkpoint] if retrain.checkpoint else [], [*inputs, output], out.force or retrain.resume)


def _save(result: Merged, output: Path, out: OutputOptions) -> None:
    result.save(output, out.force)
    if out.report:
        result.save_report(out.report, out.force)


def _shown(peers: Peers) -> AbstractContextManager[Progress]:
    """Bars, of one process alone."""
    return Bars() if peers.leads else nullcontext(Silent())


def _emit(report: Mapping[str, Any], tables: Callable[[Mapping[str, Any]], Iterable[RenderableType]], as_json: bool) -> None:
    """The result on stdout."""
    if as_json:
        sys.stdout.write(to_text(report))
        return
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, markup=False, width=WIDTH)
    for table in tables(report):
        console.print(table)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
