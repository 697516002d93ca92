"""Arrays as read against the inputs they are for: names, shapes, number formats, finite values, labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxzip.calibration.images import normalised
from onnxzip.config import DataOptions
from onnxzip.errors import InvalidDataError
from onnxzip.loading.fixing import Fixed
from onnxzip.net import Classes, Port

X, Y = "x", "y"
_KINDS = {"U": "strings", "S": "strings", "T": "strings", "O": "Python objects", "c": "complex numbers"}


@dataclass(frozen=True)
class Feed:
    """What a task is fed with.

    Attributes:
        ports: inputs, by the names that sources use.
        aliases: other name of an input -> its port's.
        classes: number of classes of the output that labels are compared with; 0 where nobody says how many, None where there
            is no such output.
        doubtful: outputs that labels may be meant for, where there are several; the last one is taken.
        inside: as `aliases`, of each task in a fused net that is fed as one.
        alone: whether it shares its samples with nobody, whoever has the same data.
        fixed: input that is a constant now -> its number: data need not hold it, and no other.
    """

    ports: tuple[Port, ...]
    aliases: Mapping[str, str]
    classes: int | None
    doubtful: tuple[str, ...] = ()
    inside: tuple[Mapping[str, str], ...] = ()
    alone: bool = False
    fixed: Fixed = field(default_factory=dict)

    @property
    def lent(self) -> set[str]:
        """Inputs that not all tasks in a fused net have: what the data of one lack, those of another lend."""
        return {p.name for p in self.ports if any(p.name not in known.values() for known in self.inside)}

    @property
    def axes(self) -> dict[str, int]:
        """Name of an array -> axis along which the input that it is for has the samples."""
        axes = {p.name: p.axis for p in self.ports}
        others = {name: axes[port] for known in (self.aliases, *self.inside) for name, port in known.items()}
        return others | axes | ({X: self.ports[0].axis} if len(self.ports) == 1 else {})

    def meant(self, name: str) -> set[str]:
        """The inputs that an array of a name is for; none where it is called as an input of other tasks."""
        return {known[name] for known in (self.aliases, *self.inside) if name in known}


def feed_of(
    ports: tuple[Port, ...], aliases: Mapping[str, str], classes: Classes, alone: bool, fixed: Fixed,
    inside: Iterable[Mapping[str, str]] = (),
) -> Feed:
    """What a task is fed with whose outputs say this of classes."""
    count = None if classes.labelled is None else classes.count
    return Feed(ports, aliases, count, classes.doubtful, tuple(inside), alone, fixed)


def ports_of_all(feeds: Iterable[Feed]) -> tuple[Port, ...]:
    """The inputs of tasks that are fed together."""
    found: list[Port] = []
    for feed in feeds:
        known = {p.name for p in found}
        found += [p for p in feed.ports if p.name not in known]
    return tuple(found)


def axes_of_all(feeds: Iterable[Feed]) -> dict[str, int]:
    """`Feed.axes` of tasks that are fed together; of arrays for several, those of the first one."""
    found: dict[str, int] = {}
    for feed in feeds:
        found = feed.axes | found
    return found


def go_together(feed: Feed, others: Iterable[Feed]) -> bool:
    """Whether inputs that a task has in common with others have the same sizes there."""
    known = {p.name: p for p in ports_of_all(others)}
    return all(known.get(p.name, p) == p for p in feed.ports)


def named(
    arrays: Mapping[str, np.ndarray], feeds: Collection[Feed], where: str, lent: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Arrays by port, and labels. One array may stand for the inputs of several tasks, each of which calls its own so.

    Args:
        lent: inputs that may be missing.

    Raises:
        InvalidDataError: there is none for an input.
    """
    ports = ports_of_all(feeds)
    names = {p.name for p in ports}
    meant = {k: set().union(*(f.meant(k) for f in feeds)) or {k} for k in (*arrays, Y)}
    found = {name: a for k, a in arrays.items() for name in meant[k] if name in names}
    found |= {k: a for k, a in arrays.items() if k in names and meant[k] == {k}}
    if not found and X in arrays and len(names) == 1:
        found = {ports[0].name: arrays[X]}
    labels = arrays[Y] if Y in arrays and not names.intersection(meant[Y]) else None
    missing = [n for n in names if n not in found and n not in lent]
    if missing:
        known = ", ".join(repr(p.name) for p in ports)
        raise InvalidDataError(
            f"{where}: has no array for input {missing[0]!r}; it holds {', '.join(map(repr, arrays)) or 'nothing'}. "
            f"Name the arrays as the inputs ({known})" + (", or a single one 'x'." if len(names) == 1 else ".")
        )
    return {p.name: found[p.name] for p in ports if p.name in found}, labels


def check_counts(arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str) -> int:
    """The number of samples.

    Raises:
        InvalidDataError: it differs from array to array.
    """
    every = {**arrays, **({} if labels is None else {Y: labels})}
    for name, array in every.items():
        if array.ndim == 0:
            raise InvalidDataError(f"{where}: {name!r} is a single number, not an array of samples")
    counts = {name: len(a) for name, a in every.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {n:,}" for name, n in counts.items())
        raise InvalidDataError(f"{where}: the numbers of samples differ: {listed}")
    return next(iter(counts.values()))


def check_shape(array: np.ndarray, port: Port, where: str) -> None:
    """Refuse samples of another shape or of no numbers.

    Raises:
        InvalidDataError: saying both shapes.
    """
    if array.shape[1:] != tuple(port.shape[1:]):
        wanted = ", ".join(str(d) for d in port.shape[1:])
        raise InvalidDataError(
            f"{where}: input {port.name!r} takes samples of shape [{wanted}], these have {list(array.shape[1:])}"
            f"{_hint(array.shape[1:], tuple(port.shape[1:]))}"
        )
    if array.dtype.kind not in "biuf":
        raise InvalidDataError(f"{where}: input {port.name!r} takes numbers, these are {_kind(array.dtype)}")


def _kind(dtype: np.dtype) -> str:
    return _KINDS.get(dtype.kind, str(dtype))


def _hint(have: tuple[int, ...], want: tuple[int, ...]) -> str:
    if want and (have == (*want[1:], want[0]) or _rotated(have, want)):
        return ". Move their channels to the front" + (": x.transpose(0, 3, 1, 2)" if len(want) == 3 else "")
    if want and have == (want[-1], *want[:-1]):
        return ". Move their channels to the end"
    if want and have == want[1:] and want[0] != 1:
        return ". The first axis counts the samples: give batches of them, a single one as x[None]"
    if sorted(have) == sorted(want) and [d for d in have if d != 1] != [d for d in want if d != 1]:
        order = (0, *(1 + have.index(d) for d in want)) if len(set(have)) == len(have) else None
        return ". Their axes stand in another order" + (f": x.transpose({', '.join(map(str, order))})" if order else "")
    if [d for d in have if d != 1] == [d for d in want if d != 1] or int(np.prod(have)) == int(np.prod(want)):
        return f". Reshape them: x.reshape({', '.join(map(str, (-1, *want)))})"
    return ""


def _rotated(have: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Whether samples have their channels last where sizes of the input were taken from the samples themselves."""
    if len(have) != len(want) or have[-1:] != want[:1] or have[:1] == want[:1]:
        return False
    return all(want[k] in (have[k - 1], have[k]) for k in range(1, len(want)))


def converted(array: np.ndarray, port: Port, options: DataOptions, where: str) -> np.ndarray:
    """Samples in the number format of an input; uint8 for a float input are images.

    Raises:
        InvalidDataError: NaN, Inf, or numbers that the input's format cannot hold.
    """
    if port.dtype.kind == "f" and array.dtype == np.uint8:
        return normalised(array, port, options).astype(port.dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(array, dtype=port.dtype)
        lossy = port.dtype.kind in "iu" and not np.array_equal(result, array)
    if lossy:
        raise InvalidDataError(f"{where}: input {port.name!r} is {port.dtype}, and these {array.dtype} do not fit into it")
    if result.dtype.kind == "f" and not np.isfinite(result).all():
        bad = ~np.isfinite(result).reshape(len(result), -1).all(axis=1)
        large = np.isfinite(array).all()
        what = f"numbers above {np.finfo(port.dtype).max:,.6g}, the largest of {port.dtype}" if large else "NaN or Inf"
        raise InvalidDataError(
            f"{where}: samples of input {port.name!r} hold {what}, at least {int(bad.sum()):,} of them. Remove these."
        )
    return result


def checked_labels(labels: np.ndarray, classes: int, task: str, where: str) -> np.ndarray:
    """Labels as int64 [samples].

    Args:
        classes: how many there are; 0 where nobody says.

    Raises:
        InvalidDataError: no integers, of another shape, or out of range.
    """
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise InvalidDataError(
            f"{where}: labels 'y' must be one integer per sample, these are {_kind(labels.dtype)} of shape "
            f"{list(labels.shape)}"
        )
    if flat.size and (int(flat.min()) < 0 or (classes and int(flat.max()) >= classes)):
        meant = f"{task!r} has {classes} classes, 0 to {classes - 1}" if classes else f"the classes of {task!r} begin at 0"
        raise InvalidDataError(f"{where}: labels 'y' run from {int(flat.min())} to {int(flat.max())}, but {meant}")
    return flat.astype(np.int64)
