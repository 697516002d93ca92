"""Nets and data as users give them: files by the names of tasks, which become part of the names of outputs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path

from onnx import ModelProto

from onnxzip.errors import UsageError

Model = ModelProto
_NAME = re.compile(r"\w[\w.+-]*")


def check_name(name: str) -> None:
    """Refuse a name that cannot stand in the name of an output.

    Raises:
        UsageError: letters, digits and . _ + - only, and no sign first.
    """
    if not isinstance(name, str):
        raise UsageError(f"task name {name!r} is no text: give the nets by task name, as {{'shoes': 'shoes.onnx', ..}}")
    if not _NAME.fullmatch(name):
        raise UsageError(f"task name {name!r} cannot be used: write letters, digits, '_', '-', '+' or '.', as NAME=FILE.onnx")


def path_or_content(given: str | PathLike[str] | ModelProto, what: str) -> Path | bytes:
    """The path of a file, or what would be in the file of a model that is at hand.

    Raises:
        UsageError: as `path_of`.
    """
    return given.SerializeToString() if isinstance(given, ModelProto) else path_of(given, what)


def path_of(given: str | PathLike[str], what: str, of: str = "an ONNX file") -> Path:
    """A path as it was given.

    Args:
        what, of: it is of, for messages.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(given, (str, PathLike)):
        kind = type(given).__name__
        hint = "; write it to one with onnx.save first" if hasattr(given, "SerializeToString") else ""
        raise UsageError(f"{what}: give the path of {of}, not {'an' if kind[:1] in 'aeiou' else 'a'} {kind}{hint}")
    return Path(given)


def checked_files(nets: Mapping[str, str | PathLike[str]]) -> dict[str, Path]:
    """Files by task.

    Raises:
        UsageError: fewer than two, a name that cannot be used, or no path.
    """
    files = files_by_task(nets, "nets", "net")
    if len(files) < 2:
        raise UsageError(f"a merge takes at least two nets, got {len(files)}")
    for name in files:
        check_name(name)
    return files


def files_by_task(given: Mapping[str, str | PathLike[str]], what: str, one: str) -> dict[str, Path]:
    """Files by task.

    Args:
        what, one: they are, together and each, for messages.

    Raises:
        UsageError: no mapping, or no paths.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"{what}: give paths by task name, as {{'shoes': 'shoes.onnx', ..}}, not a {type(given).__name__}")
    return {task: path_of(path, f"{one} {task!r}") for task, path in given.items()}


def named_files(texts: Iterable[str]) -> dict[str, Path]:
    """Files by task from texts as `NAME=FILE` or `FILE`, which is named by its stem.

    Raises:
        UsageError: two of one name, or a name that cannot be used.
    """
    files: dict[str, Path] = {}
    for text in texts:
        name, path = split_name(text)
        task = Path(path).stem if name is None else name
        check_name(task)
        if task in files:
            raise UsageError(f"two tasks are called {task!r} ({files[task]} and {path}): name them apart as NAME=FILE.onnx")
        files[task] = Path(path)
    return files


def named_data(texts: Iterable[str]) -> dict[str, str] | None:
    """Data by task from texts as `NAME=FILE` or `FILE`, which stands under ""; None where there are none.

    Raises:
        UsageError: two for one task.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, path = split_name(text)
        task = name or ""
        if task in found:
            which = f"task {task!r}" if task else "all tasks"
            raise UsageError(f"two data for {which}: {found[task]} and {path}. Give each task its own as NAME=FILE.")
        found[task] = path
    return found or None


def split_name(text: str) -> tuple[str | None, str]:
    """`NAME=FILE` -> both; a text without a name, or one that is a file as it stands, -> (None, text).

    Raises:
        UsageError: there is no file in it.
    """
    name, found, path = text.partition("=")
    if not (path if found else name):
        raise UsageError(f"{text!r} names no file. Write FILE or NAME=FILE.")
    if not found or os.path.exists(text) or "/" in name:
        return None, text
    return name, path
