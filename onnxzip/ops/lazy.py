"""torch, imported when one of its names is first used: `onnxzip --help` and `plan` answer without it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from onnxzip.signals import undisturbed


def lazy_module(name: str) -> ModuleType:
    """The module `name`, executed at the first access to one of its attributes.

    Raises:
        ModuleNotFoundError: at import time, where the module is not installed.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}")
    loader = importlib.util.LazyLoader(spec.loader)
    spec.loader = loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def execute(module: ModuleType) -> None:
    """Execute a lazy module now; a signal that comes meanwhile is handled behind it.

    Call this before anything is imported that imports the module: an import statement executes it, too, but drops whatever is
    raised meanwhile, Ctrl-C as well, and goes on with half a module.
    """
    with undisturbed():
        getattr(module, "__doc__")  # noqa: B009 - any name will do


torch = lazy_module("torch")
