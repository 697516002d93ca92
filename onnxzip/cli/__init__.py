"""The command line: results on stdout, progress and messages on stderr, exit codes as in `errors`.

Each module holds a few commands; `commands` brings them together.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from onnxzip.signals import ENDING, Handled, leave


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with Handled(ENDING, leave):
        from typer.main import get_command

        from onnxzip.cli.commands import app

        run = get_command(app)
    try:
        run(args=None if arguments is None else list(arguments), prog_name="onnxzip")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # behind the command, which has said all
        return 128 + signal.SIGINT
    return 0


__all__ = ["main"]
