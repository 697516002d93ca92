"""The one list of targets: every module of this package registers its own here. Any Python loads it, as `records`."""

from __future__ import annotations

import importlib
import pkgutil

from onnxzip.shipping.records import Target

_TARGETS: dict[str, Target] = {}


def register(target: Target) -> Target:
    """Add a target.

    Raises:
        ValueError: there is one of that name already.
    """
    if target.name in _TARGETS:
        raise ValueError(f"target {target.name} is registered twice")
    _TARGETS[target.name] = target
    return target


def known_targets() -> dict[str, Target]:
    """All targets by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {name: _TARGETS[name] for name in sorted(_TARGETS)}
