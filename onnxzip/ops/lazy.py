"""torch, imported when one of its names is first used: `onnxzip --help` and `plan` answer without it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

from onnxzip.signals import undisturbed


class _Waiting(ModuleType):
    """A module that is executed when one of its names is first used.

    Its `__spec__` is no such name: the import statement looks at it, and drops whatever is raised then, Ctrl-C as well. (That
    is why this is not `importlib.util.LazyLoader`.)
    """

    def __getattribute__(self, name: str) -> Any:
        spec = object.__getattribute__(self, "__spec__")
        if name == "__spec__":
            return spec
        self.__class__ = ModuleType  # type: ignore[assignment]
        with undisturbed():  # what is executed by half cannot be executed again
            spec.loader.exec_module(self)
        return getattr(self, name)


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
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    module.__class__ = _Waiting
    return module


torch = lazy_module("torch")
