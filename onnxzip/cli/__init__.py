"""The command line: results on stdout, progress and messages on stderr, exit codes as in `errors`.

Each module holds a few commands; importing it registers them, in the order of `--help`.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxzip.cli import asking, looking, making, parting, shipping
from onnxzip.cli.frame import app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="onnxzip")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


__all__ = ["app", "asking", "looking", "main", "making", "parting", "shipping"]
