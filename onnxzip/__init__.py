"""onnxzip merges several trained ONNX nets into one ordinary ONNX net: a shared trunk, and a head per task.

loading      files become nets in canonical form
analysis     nets are laid over each other: what corresponds, what can be shared, what is refused
calibration  samples go once through the original nets and once through the fused one
matching     channels of different nets that do the same work are brought together
fusion       shared weights are fitted to what the original nets compute; everything behind is refitted
exporting    the result is run against the originals, described and written
retraining   a net is a torch module, and its params go back into its file
shipping     the file is converted for other runtimes, run there and compared

merged = onnxzip.merge({"tops": "a.onnx", "shoes": "b.onnx"}, {"tops": "a.npz", "shoes": "b.npz"})
merged.save("both.onnx")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxzip.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """What `public` lists, imported when one of its names is first used: so the command line can end well while that loads."""
    if name.startswith("_") and name not in ("__all__", "__version__"):
        raise AttributeError(name)
    public = import_module("onnxzip.public")
    globals().update({listed: getattr(public, listed) for listed in public.__all__}, __all__=public.__all__)
    if name in globals():  # a module of the package, too
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("onnxzip.public").__all__})
