"""Options that are values by name: NAME=VALUE in text, mappings in YAML and in Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxzip.errors import UsageError

Number = int | float | bool
Fixes = tuple[tuple[str, Number], ...]  # input, or TASK:INPUT, and what it is


def shares_of(raw: Any) -> tuple[tuple[str, float], ...]:
    """Shares by pattern from 0.5, {"stage3*": 0.3}, "stage3*=0.3" or a list of such; the last that fits counts.

    Raises:
        UsageError: no number, or not in 0..1.
    """
    return tuple((glob or "*", _share(v)) for glob, v in _pairs(raw, "share", "Write F for all spaces or GLOB=F for some."))


def fixes_of(raw: Any) -> Fixes:
    """Numbers by input from {"sr": 16000}, "sr=16000", "TASK:sr=8000" or a list of such; the last for an input counts.

    Raises:
        UsageError: there is no input, or no finite number.
    """
    way = "Write INPUT=NUMBER, or TASK:INPUT=NUMBER for one net."
    pairs = _pairs(raw, "fix", way)
    for value in (value for name, value in pairs if not name):
        raise UsageError(f"fix {value!r} names no input. {way}")
    return tuple((name, _number(name, value)) for name, value in pairs)


def _pairs(raw: Any, what: str, way: str) -> tuple[tuple[str, Any], ...]:
    """(name, value) of a mapping, of text as `NAME=VALUE` or `VALUE`, whose name is empty, or of a list of such.

    Args:
        what, way: it is, and how it is written, for messages.
    """
    if isinstance(raw, Mapping):
        return tuple((str(name), value) for name, value in raw.items())
    if isinstance(raw, (list, tuple)):
        return tuple(pair for item in raw for pair in ([item] if _is_pair(item) else _pairs(item, what, way)))
    name, found, value = str(raw).rpartition("=")
    if found and not name:
        raise UsageError(f"{what} {raw!r}: nothing stands before '='. {way}")
    return ((name, value),)


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], (int, float))


def _share(value: Any) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"share {value!r} is not a number. Give a fraction from 0 to 1.") from None
    if not 0 <= share <= 1:
        raise UsageError(f"share {value} is not between 0 and 1. Give the fraction of channels to share.")
    return share


def _number(name: str, value: Any) -> Number:
    text = str(value).strip().lower()
    if text in ("true", "false"):
        return text == "true"
    try:
        number = int(text) if re.fullmatch(r"[+-]?\d{1,19}", text) else float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise UsageError(f"fix {name}={value}: {value} is not a finite number")
    return number
