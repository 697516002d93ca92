"""The one list of operators: every module of this package registers its family here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from onnxzip.ops.records import Operator

_OPERATORS: dict[str, Operator] = {}


def register(operator: Operator) -> Operator:
    """Add an operator.

    Raises:
        ValueError: there is one of that name already.
    """
    if operator.name in _OPERATORS:
        raise ValueError(f"operator {operator.name} is registered twice")
    _OPERATORS[operator.name] = operator
    return operator


def find(name: str) -> Operator | None:
    """The operator's record; None where nobody registered it."""
    return _OPERATORS.get(name)


def registered() -> Iterator[Operator]:
    """All records, by name."""
    yield from (_OPERATORS[name] for name in sorted(_OPERATORS))


def discover() -> None:
    """Import every module of the package, so that each family registers itself."""
    package = Path(__file__).parent
    for module in pkgutil.iter_modules([str(package)]):
        importlib.import_module(f"onnxzip.ops.{module.name}")
