"""Readers of samples: .npz, .npy, `module:callable`, arrays, iterables of batches. Each gives arrays by name.

An array without a name of its own is called `x`, labels are called `y`. Nothing is ever unpickled.

Arrays have the axes of the inputs that they are for, samples in the place of the batch: [layers, samples, units] for states of
recurrent nodes. Such arrays with their samples in front are taken, too, where the number of samples tells so.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.calibration.images import images_in
from onnxzip.calibration.spool import spooled
from onnxzip.errors import InvalidDataError
from onnxzip.foreign import blamed, in_short, module_files, named_callable

Arrays = dict[str, np.ndarray]
Axes = Mapping[str, int]  # name of an array -> axis along which it has the samples; the first where it is not named
FIRST: Axes = {}
_NUMBERS = (int, float, np.generic)
_NPY, _ZIP = b"\x93NUMPY", b"PK"
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class Together:
    """Several items that serve one net.

    Attributes:
        orders: of each, input -> for each number of a sample as the net wants it, which one of the item's it is.
    """

    items: tuple[Any, ...]
    orders: tuple[Mapping[str, np.ndarray], ...]


class Taken(Arrays):
    """Arrays that have been read, all with their samples in front."""


def without_data(task: str) -> InvalidDataError:
    """The refusal of a task that no data are given for."""
    return InvalidDataError(f"no data for {task!r}. Give --data {task}=FILE, or one --data FILE for all.")


def where_of(item: Any) -> str:
    """What messages call an item."""
    if isinstance(item, Together):
        return " and ".join(where_of(i) for i in item.items)
    kind = dict if isinstance(item, Taken) else type(item)
    return str(item) if isinstance(item, (str, PathLike)) else f"data ({kind.__name__})"


def is_folder(item: Any) -> bool:
    """Whether an item is a folder of images."""
    return isinstance(item, (str, PathLike)) and os.path.isdir(item)


def files_of(item: Any) -> list[Path]:
    """The files that an item is read from, as far as they are known before: images of a folder, the module of a callable."""
    if not isinstance(item, (str, PathLike)):
        return []
    if is_folder(item):
        return list(images_in(Path(item)))
    return module_files(str(item)) if _is_callable(item) else [Path(item)]


def files_given(data: Any) -> tuple[Path, ...]:
    """The same of all data of a command, for all tasks or by task; they stay where they are when the folder changes."""
    items = data.values() if isinstance(data, Mapping) else [data]
    return tuple(file.absolute() for item in items for file in files_of(item))


def _is_callable(item: str | PathLike[str]) -> bool:
    return not os.path.exists(item) and _CALLABLE.fullmatch(str(item)) is not None


def is_array(item: Any) -> bool:
    """Whether an item is an array, or a torch tensor or a number, which are taken as such."""
    return isinstance(item, (np.ndarray, *_NUMBERS)) or hasattr(item, "detach")


def read(item: Any, limit: int, where: str = "", axes: Axes = FIRST) -> Arrays:
    """Arrays by name, samples in front, from whatever holds samples, but for folders of images.

    Args:
        item: a path, `module:callable`, an array, a mapping of arrays, (x, y), or something that yields batches.
        limit: batches are taken until so many samples are there.
        where: what messages call it.
        axes: along which arrays have the samples.

    Raises:
        InvalidDataError: it cannot be read.
    """
    where = where or where_of(item)
    if isinstance(item, Taken):
        return item
    if isinstance(item, (str, PathLike)):
        return _read_path(item, limit, axes)
    if is_array(item) or isinstance(item, Mapping) or _is_pair(item):
        return in_front(_arrays(item, where), axes)
    if callable(getattr(item, "get_next", None)):
        return _gathered(_reader_batches(item), limit, where, axes)
    if isinstance(item, Iterable):
        return _gathered(item, limit, where, axes)
    hint = ". Give a DataLoader of it" if hasattr(item, "__getitem__") and hasattr(item, "__len__") else ""
    raise InvalidDataError(f"{where}: is neither a file, nor an array, nor an iterable of batches{hint}")


def in_front(arrays: Arrays, axes: Axes) -> Arrays:
    """Arrays with their samples in front, which may be so already."""
    return {n: a if n in standing_first(arrays, axes) else np.moveaxis(a, axes[n], 0) for n, a in arrays.items()}


def standing_first(arrays: Arrays, axes: Axes) -> set[str]:
    """Arrays with their samples in front: those of which nothing else is said, and those that others tell the number of."""
    behind = {name: axes[name] for name, array in arrays.items() if 0 < axes.get(name, 0) < array.ndim}
    counts = {len(array) for name, array in arrays.items() if array.ndim and name not in behind}
    told = {name for name, axis in behind.items() if arrays[name].shape[axis] not in counts and len(arrays[name]) in counts}
    return arrays.keys() - (behind.keys() - told)


def _read_path(item: str | PathLike[str], limit: int, axes: Axes) -> Arrays:
    path = Path(item)
    if _is_callable(item):
        return _read_callable(str(item), limit, axes)
    if not os.path.exists(path):
        raise InvalidDataError(f"{path}: no such file. Give a .npz or .npy file, a folder of images or module:callable.")
    if path.suffix.lower() not in (".npz", ".npy"):
        raise InvalidDataError(f"{path}: data of this kind are not known. Give a .npz or .npy file, or a folder of images.")
    try:
        with path.open("rb") as file:
            head = file.read(len(_NPY))
            if not head:
                raise InvalidDataError(f"{path}: the file is empty")
            if head == _NPY:
                return in_front({"x": _mapped(path)}, axes)
            if not head.startswith(_ZIP):
                raise InvalidDataError(f"{path}: is no .npz and no .npy file, whatever its name. Save it with NumPy.")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return in_front({name: archive[name] for name in archive.files}, axes)
    except _BROKEN as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise InvalidDataError(f"{path}: holds Python objects, which are never unpickled. Save plain numbers.") from error
        raise InvalidDataError(f"{path}: cannot be read, or is no NumPy file ({in_short(error)}). Save it again.") from error


def _mapped(path: Path) -> np.ndarray:
    """A .npy file, mapped: of a large one only the samples that are drawn are ever read."""
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _read_callable(text: str, limit: int, axes: Axes) -> Arrays:
    with blamed(text, "its module fails", InvalidDataError):
        try:
            found = named_callable(text)
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidDataError(f"{text}: no such file, and no such Python callable ({in_short(error)})") from error
    with blamed(text, "failed when it was called without arguments", InvalidDataError):
        given = found()
    return read(given, limit, text, axes)


def _reader_batches(reader: Any) -> Iterator[Any]:
    """Batches of an ONNX Runtime CalibrationDataReader."""
    while (batch := reader.get_next()) is not None:
        yield batch


def _gathered(batches: Iterable[Any], limit: int, where: str, axes: Axes) -> Arrays:
    """Batches one after the other, until there are enough samples."""
    found = spooled(_batches(batches, where, axes), limit, where)
    if not found:
        raise InvalidDataError(f"{where}: is empty: it gives no batch. An iterator gives its batches once; make a new one.")
    return found


def _batches(batches: Iterable[Any], where: str, axes: Axes) -> Iterator[Arrays]:
    names: set[str] | None = None
    for batch in _foreign(batches, where):
        arrays = _arrays(batch, where)
        if names is not None and set(arrays) != names:
            raise InvalidDataError(f"{where}: a batch holds {', '.join(arrays)}, those before it {', '.join(sorted(names))}")
        names = set(arrays)
        if all(array.ndim == 0 for array in arrays.values()):
            raise InvalidDataError(f"{where}: a batch holds no more than single numbers; an array of samples is needed")
        axes = {name: axis for name, axis in axes.items() if name not in standing_first(arrays, axes)}
        arrays = in_front(arrays, axes)
        count = next(len(array) for array in arrays.values() if array.ndim)
        yield {name: array if array.ndim else np.repeat(array, count) for name, array in arrays.items()}


def _foreign(batches: Iterable[Any], where: str) -> Iterator[Any]:
    """Batches of the user's own code, which runs while one is asked for, and no longer."""
    end, what = object(), "failed to give a batch"
    with blamed(where, what, InvalidDataError):
        asked = iter(batches)
    while True:
        with blamed(where, what, InvalidDataError):
            batch = next(asked, end)
        if batch is end:
            return
        yield batch


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2


def _arrays(item: Any, where: str) -> Arrays:
    """One batch: an array, a mapping of arrays, or (x, y)."""
    if isinstance(item, Mapping):
        return {str(name): _array(value, where) for name, value in item.items()}
    if isinstance(item, (tuple, list)) and len(item) in (1, 2):
        first = item[0]
        arrays = _arrays(first, where) if isinstance(first, Mapping) else {"x": _array(first, where)}
        return arrays if len(item) == 1 else arrays | {"y": _array(item[1], where)}
    return {"x": _array(item, where)}


def _array(value: Any, where: str) -> np.ndarray:
    """An array, or a torch tensor or a number as one."""
    if hasattr(value, "detach"):
        with blamed(where, "holds a tensor that NumPy cannot take", InvalidDataError):
            value = value.detach().cpu().numpy()
    if isinstance(value, _NUMBERS):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise InvalidDataError(f"{where}: holds {type(value).__name__} where an array is needed")
    return value
