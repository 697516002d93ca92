"""How options are given: what a flag says of itself, and how values are read from text or from YAML."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.errors import UsageError

LARGEST = 3.4e38  # that float32 holds
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Flag:
    """How an option is given.

    Attributes:
        help: one line.
        read: text, or a list of texts, or what YAML holds -> value.
        metavar: what stands for the value in the help.
        many: whether it may be given more than once.
        shown: the default in the help, where it is not the value itself.
    """

    help: str
    read: Callable[[Any], Any]
    metavar: str = ""
    many: bool = False
    shown: str = ""


def option(
    default: Any, help: str, read: Callable[[Any], Any], metavar: str = "", many: bool = False, shown: str = ""
) -> Any:
    """A field of an option record; the arguments are its default and those of `Flag`."""
    return field(default=default, metadata={"flag": Flag(help, read, metavar, many, shown)})


def flag_of(metadata: Mapping[str, Any]) -> Flag:
    """The flag in a field's metadata."""
    flag = metadata["flag"]
    assert isinstance(flag, Flag)
    return flag


def size_of(raw: Any) -> int:
    """A number of bytes from 1000000, "500M" or "2G" (powers of 1024).

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(raw).strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"memory {raw!r} is not an amount of memory. Write it as 500M or 2G.")
    return int(float(found[1]) * _SIZES[found[2].upper()])


def whole_number(raw: Any) -> int:
    """An int.

    Raises:
        UsageError: it is none.
    """
    if isinstance(raw, bool) or not re.fullmatch(r"[+-]?\d+", str(raw).strip()):
        raise UsageError(f"{raw!r} is not a whole number")
    return int(raw)


def dashed(name: str) -> str:
    """What a field is called among flags and YAML keys."""
    return name.replace("_", "-")


def read_option(entry: Field[Any], raw: Any) -> Any:
    """The value of a field from text, from YAML or from Python.

    Raises:
        UsageError: it cannot be used; the message names the option.
    """
    flag, name = flag_of(entry.metadata), dashed(entry.name)
    try:
        return flag.read(raw)
    except UsageError as error:
        raise error if str(error).startswith(name) else UsageError(f"--{name}: {error}") from error
    except TypeError as error:
        wanted = f"; give {flag.metavar}" if flag.metavar else ""
        raise UsageError(f"--{name}: {raw!r} cannot be used{wanted}") from error


def settle(record: Any) -> None:
    """Let an option record hold every value in its field's own type, however Python code has given it.

    Raises:
        UsageError: a value cannot be used; texts are not taken for whole numbers, nor None where no default is None.
    """
    for one in fields(record):
        value = getattr(record, one.name)
        if value is one.default:
            continue
        flag, name = flag_of(one.metadata), dashed(one.name)
        if value is None:
            raise UsageError(f"--{name}: None cannot be used; leave it out for {flag.shown or one.default}")
        if flag.read is whole_number and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise UsageError(f"--{name} {value!r} is not a whole number")
        object.__setattr__(record, one.name, read_option(one, value))


def flags_in(record: Any) -> list[str]:
    """The flags of an option record that say something else than their defaults."""
    return [f"--{dashed(one.name)}" for one in fields(record) if getattr(record, one.name) != one.default]


def check_records(whole: Any) -> None:
    """Refuse something else where a record holds other records.

    Raises:
        UsageError: with the record that is wanted.
    """
    for one in fields(whole):
        value, kind = getattr(whole, one.name), one.default_factory
        assert isinstance(kind, type)
        if not isinstance(value, kind):
            raise UsageError(f"options: give {kind.__name__}(name=value, ..), not a {type(value).__name__}")


def shard_of(raw: Any) -> tuple[int, int]:
    """Which of how many shards, from "2/3".

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", str(raw).strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"shard {raw!r} is none. Write the second of three as 2/3.")
    return int(found[1]), int(found[2])


def file_of(raw: Any) -> Path:
    """The place of a file, which a name that ends as those of folders do is not.

    Raises:
        UsageError: it is none.
    """
    text = str(raw)
    if not text.strip():
        raise UsageError(f"{text!r} names no file")
    if text.endswith(("/", os.sep)):
        raise UsageError(f"{text}: names a folder. Give the name of a file.")
    return Path(raw)


def folder_of(raw: Any) -> Path:
    """A folder, which must have a name: an empty one is where a variable of a script was not set.

    Raises:
        UsageError: it has none.
    """
    if not str(raw).strip():
        raise UsageError(f"{raw!r} is no folder. Write '.' for the current one.")
    return Path(raw)


def numbers(raw: Any) -> tuple[float, ...]:
    """Floats from 0.5, "0.1,0.2,0.3" or a list.

    Raises:
        UsageError: they are none.
    """
    several = isinstance(raw, Iterable) and not isinstance(raw, str)
    try:
        return tuple(float(p) for p in (raw if several else str(raw).split(",")))
    except (TypeError, ValueError):
        raise UsageError(f"{raw!r} is not a number, or some with commas between them") from None


def check_scale(name: str, given: Sequence[float], positive: bool) -> None:
    """Refuse numbers that images cannot be shifted or divided by.

    Raises:
        UsageError: with the flag.
    """
    least, kind = (1 / LARGEST, "positive and finite") if positive else (-LARGEST, "finite")
    if not all(least <= v <= LARGEST for v in given):
        raise UsageError(f"--{name} {','.join(f'{v:g}' for v in given)} is not {kind} in float32")


def number(raw: Any) -> float:
    """A single float.

    Raises:
        UsageError: it is none, or there are several.
    """
    found = numbers(raw)
    if len(found) != 1:
        raise UsageError(f"{raw!r} is not a number")
    return found[0]


def code(raw: Any) -> str | Callable[..., Any]:
    """The user's own code: `module:callable`, or from Python the callable itself.

    Raises:
        UsageError: it is neither.
    """
    if not (callable(raw) or isinstance(raw, str)):
        raise UsageError(f"{raw!r} is no callable, and no text that names one as module:callable")
    found: str | Callable[..., Any] = raw
    return found


def texts(raw: Any) -> tuple[str, ...]:
    """Strings from one, from a list, or from a mapping (as NAME=VALUE)."""
    if isinstance(raw, Mapping):
        return tuple(f"{k}={v}" for k, v in raw.items())
    return tuple(str(r) for r in raw) if isinstance(raw, (list, tuple)) else (str(raw),)


def yes_or_no(raw: Any) -> bool:
    """A bool.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(raw, (bool, np.bool_)):
        raise UsageError(f"{raw!r} is neither true nor false")
    return bool(raw)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one was most likely meant for; None where none is near."""
    folded = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), list(folded), 1, 0.4)
    return folded[near[0]] if near else None
