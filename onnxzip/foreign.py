"""Code of the user's: callables by name, and errors that are theirs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from onnxzip.errors import OnnxzipError


def named_callable(text: str) -> Callable[..., Any]:
    """What `module:callable` names; the current folder is searched, too.

    Raises:
        ImportError, AttributeError, ValueError: there is no callable of that name.
    """
    module, _, attribute = text.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    finally:
        sys.path.remove(here)
    for part in attribute.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise AttributeError(f"{attribute!r} is not callable")
    return found  # type: ignore[no-any-return]


def module_files(text: str) -> list[Path]:
    """Files of the module in `module:callable` and of the packages that it is in, found without running any of them."""
    found: list[Path] = []
    places: Sequence[str] = [str(Path.cwd()), *sys.path]
    names = text.partition(":")[0].split(".")
    for k in range(len(names)):
        spec = PathFinder.find_spec(".".join(names[: k + 1]), places)
        if spec is None:
            break
        if spec.has_location and spec.origin is not None:
            found.append(Path(spec.origin))
        places = spec.submodule_search_locations or []
    return found


def name_of(found: Callable[..., Any]) -> str | None:
    """`module:callable` of a callable that is found under this name; None of a lambda, an inner function or an object."""
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    there: Any = sys.modules.get(module)
    for part in name.split("."):
        there = getattr(there, part, None)
    return f"{module}:{name}" if there is found else None


@contextmanager
def blamed(where: str, what: str, kind: type[OnnxzipError]) -> Iterator[None]:
    """While the user's own code runs: its errors, and its wish to exit, are reported as that code's, as `kind`.

    What it prints goes to stderr, as stdout is for results alone. It may not leave the folder that paths are relative to.
    """
    here = os.getcwd()
    try:
        with redirect_stdout(sys.stderr):
            yield
    except OnnxzipError:
        raise
    except (Exception, SystemExit) as error:
        raise kind(f"{where}: {what}: {type(error).__name__}: {in_short(error)}") from error
    finally:
        there = _moved_from(here)
    if there is not None:
        raise kind(f"{where}: changes the current folder to {there}, and paths would lead elsewhere. Let it not do so.")


def _moved_from(folder: str) -> str | None:
    """The current folder, where it is another one; it no longer is."""
    there = os.getcwd()
    if there == folder:
        return None
    os.chdir(folder)
    return there


def in_short(error: BaseException) -> str:
    """What an error says, in one line of bounded length, without a stop at its end."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
