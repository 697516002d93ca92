"""From a file to a torch module and back; torch is imported when one of these is called."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from onnxzip.errors import UsageError
from onnxzip.exporting.naming import Model, path_of, path_or_content
from onnxzip.exporting.write import check_writable, write_atomically
from onnxzip.ops.lazy import execute, torch

if TYPE_CHECKING:
    from onnxzip.retraining.module import TorchNet


def to_torch(net: str | PathLike[str] | Model) -> TorchNet:
    """An ONNX file as a torch module with one Parameter per float param.

    A file for one sample takes several, too: all at once where that gives the same as each alone, else one after the other.

    Args:
        net: the file, beside which external data are looked for, or what is in one.

    Raises:
        UsageError: it is neither.
        InvalidModelError: it is no valid ONNX net.
        UnsupportedError: operators in it have no torch function (all of them are named); with its external data it is above
            the 2 GB that one file can hold.
    """
    execute(torch)
    from onnxzip.retraining.module import read_for_batches

    return read_for_batches(path_or_content(net, "net"))


def from_torch(module: TorchNet, path: str | PathLike[str], force: bool = False) -> None:
    """Write the file that a module was read from with the module's params: nothing else in it changes.

    Args:
        module: made by `to_torch`.
        path: of the new file; it is written completely or not at all.
        force: whether it may replace a file.

    Raises:
        UsageError: the module is another one; the file exists (without force) or cannot be written; a param has another shape
            than the file's.
        InvalidDataError: a param is NaN or infinite.
    """
    execute(torch)
    from onnxzip.retraining.module import TorchNet, write_params

    if not isinstance(module, TorchNet):
        raise UsageError(f"module: give one that to_torch has made, not a {type(module).__name__}")
    place = path_of(path, "from_torch")
    check_writable(place, force)
    write_atomically(place, write_params(module), force)
