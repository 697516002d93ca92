"""`split` and `bundle`: the commands that take a fused net apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxzip.cli.frame import Force, Fused, Json, Output, command, emit, printing, put
from onnxzip.inspection import bundle_tables
from onnxzip.loading.beside import bytes_read
from onnxzip.taking_apart import bundle as bundle_files
from onnxzip.taking_apart import split_to
from onnxzip.values import folder_of


@command
def split_(
    fused: Fused,
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="Which task.")],
    output: Output,
    force: Force = False,
) -> None:
    """Cut one task out of a fused net, pruned of everything that only others need, and run against it."""
    written = sum(file.stat().st_size for file in split_to(fused, task, output, force))
    sizes = f"{written:,} of {bytes_read(fused):,} bytes"
    with printing():
        put(f"{output}: task {task}, {sizes}\n")


@command
def bundle(
    fused: Fused,
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.", parser=folder_of)],
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
    json: Json = False,
) -> None:
    """Write a small net per task that all read one file of weights, each run against the fused net before."""
    emit(bundle_files(fused, folder, force), bundle_tables, json)
