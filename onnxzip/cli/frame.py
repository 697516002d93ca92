"""What all commands share: the app, commands made of functions, results on stdout, messages on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from typer.core import TyperCommand, TyperGroup

from onnxzip.errors import OnnxzipError, RelayedError, UsageError
from onnxzip.exporting.metadata import own_version
from onnxzip.exporting.report import to_text
from onnxzip.flags import derived
from onnxzip.signals import Ending
from onnxzip.values import file_of

WIDTH = 120  # of tables where stdout is no terminal


class _Command(TyperCommand):
    def make_context(self, *given: Any, **named: Any) -> Any:
        with _asked():
            return super().make_context(*given, **named)


class _Group(TyperGroup):
    def make_context(self, *given: Any, **named: Any) -> Any:
        with _asked():
            return super().make_context(*given, **named)


@contextmanager
def _asked() -> Iterator[None]:
    """While flags are read, and help or version are printed."""
    with Ending() as ending, _Reported(ending), printing():
        yield


app = typer.Typer(
    name="onnxzip",
    cls=_Group,
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
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where the result goes.", parser=file_of)
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="F.yaml", help="Options as `name: value`; flags override them.", parser=file_of),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a sub-command: its option records become flags, its errors messages and exit codes."""
    inner = derived(function)

    def run(**given: Any) -> None:
        with Ending() as ending, _Reported(ending):
            _check_folder()
            inner(**given)

    run.__signature__ = inner.__signature__  # type: ignore[attr-defined]
    run.__annotations__, run.__name__, run.__doc__ = inner.__annotations__, inner.__name__, inner.__doc__
    app.command(function.__name__.rstrip("_"), cls=_Command)(run)
    return function


def _check_folder() -> None:
    """Refuse to work in a folder that is gone: relative paths, and those that are made absolute, would lead nowhere.

    Raises:
        UsageError: it is.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(f"the current folder cannot be found ({error.strerror}). Change to one that exists.") from error


class _ClosedError(UsageError):
    """Whoever was to read stdout has closed it, as `head` does, and need not be told."""


class _Reported:
    """Errors as messages and exit codes. Once a signal to end has come, that is what has ended the command, whatever follows:
    a library that is interrupted may raise anything.
    """

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, (typer.Exit, SystemExit)):
            return
        if isinstance(error, OnnxzipError) and not isinstance(error, RelayedError | _ClosedError):
            say(f"error: {error}")
        if isinstance(error, KeyboardInterrupt) or self._ending.number is not None:
            told = str(error) if isinstance(error, KeyboardInterrupt) else ""
            say(told or "interrupted; nothing was written")
            raise typer.Exit(self._ending.exit_code) from error
        if isinstance(error, OnnxzipError):
            raise typer.Exit(error.exit_code) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        print(own_version(), flush=True)
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
]


@app.callback()
def about(version: Version = False) -> None:
    """Merge trained ONNX nets into one with a shared trunk and a head per task."""


def emit(report: Mapping[str, Any], tables: Callable[[Mapping[str, Any]], Iterable[RenderableType]], as_json: bool) -> None:
    """The result on stdout; all that is written besides is written before.

    Raises:
        UsageError: stdout cannot be written.
    """
    try:
        with printing():
            put(to_text(report, _encoding()) if as_json else _drawn(tables(report)))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted while the result was printed") from error


def put(text: str) -> None:
    """Text on stdout; letters that it has no code for are written as escapes."""
    print(text.encode(_encoding(), "backslashreplace").decode(_encoding()), end="")


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _drawn(tables: Iterable[RenderableType]) -> str:
    """Tables as text for stdout, with colours on a terminal."""
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, markup=False, width=WIDTH)
    with console.capture() as captured:
        for table in tables:
            console.print(table, crop=False)
    return captured.get()


@contextmanager
def printing() -> Iterator[None]:
    """While something is printed: at the end it is where stdout leads to.

    Raises:
        UsageError: stdout cannot be written.
    """
    try:
        yield
        if sys.stdout is not None:  # as it is where it was closed beforehand
            sys.stdout.flush()
    except OSError as error:
        with open(os.devnull, "w") as nowhere:  # for what is left: Python would try once more, and fail, when it ends
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        kind = _ClosedError if isinstance(error, BrokenPipeError) else UsageError
        raise kind(f"stdout: cannot be written: {error.strerror or error}") from error


def say(text: str) -> None:
    print(text, file=sys.stderr)
