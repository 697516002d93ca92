"""`split`: the commands that take a fused net apart."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxzip.before_after import split
from onnxzip.cli.frame import Force, Fused, Output, check_outputs, command
from onnxzip.exporting.write import write_atomically


@command
def split_(
    fused: Fused,
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="Which task.")],
    output: Output,
    force: Force = False,
) -> None:
    """Cut one task out of a fused net, pruned of everything that only others need."""
    check_outputs([output], [fused], force)
    model = split(fused, task)
    write_atomically(output, model.SerializeToString(deterministic=True), force)
    print(f"{output}: task {task}, {output.stat().st_size:,} of {fused.stat().st_size:,} bytes")
