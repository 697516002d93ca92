"""What data say of inputs that are one number for all samples: which number it is, or that they are for no other one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxzip.calibration.checking import Feed
from onnxzip.calibration.reading import Arrays
from onnxzip.errors import InvalidDataError
from onnxzip.loading import Family
from onnxzip.loading.fixing import Fixed, held_by, kind_of
from onnxzip.pairs import Number

HALF_DIGITS = 1e-3  # by which the numbers of float16 are off
Ranges = Mapping[str, tuple[Number, Number]]  # name of an array -> its least and its largest number


def ranges_of(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[Number, Number]]:
    """Of those arrays that hold one number, or one a sample."""
    return {n: (a.min().item(), a.max().item()) for n, a in arrays.items() if a.ndim < 2 and a.size and a.dtype.kind in "biuf"}


def told_numbers(nets: Family, ranges: Mapping[str, Ranges]) -> dict[str, dict[str, Number]]:
    """By task, the numbers of inputs without axes that nobody has fixed yet, as far as the task's data tell.

    Raises:
        InvalidDataError: samples differ in it, or it is no number that the input takes.
    """
    found: dict[str, dict[str, Number]] = {task: {} for task in nets.tasks}
    for task, port in ((t, p) for t, ports in nets.lone.items() for p in ports if p.name in ranges.get(t, {})):
        least, most = ranges[task][port.name]
        if least != most:
            raise InvalidDataError(
                f"data for {task!r}: {port.name!r} runs from {least} to {most}, and the net takes one number for all samples. "
                f"Merge for one of them: give samples of that, with --data {task}=FILE."
            )
        held = held_by(port, least)
        if held is None:
            raise InvalidDataError(f"data for {task!r}: {port.name!r} is {least}, and the net's input {kind_of(port)}")
        found[task][port.name] = held
    return found


def agreed(tasks: Iterable[Fixed]) -> dict[str, Number]:
    """Of inputs of several tasks that are fed together, those of one number wherever there is such an input."""
    known = list(tasks)
    return {name: n for fixed in known for name, n in fixed.items() if all(other.get(name, n) == n for other in known)}


def without_fixed(arrays: Arrays, feeds: Mapping[str, Feed], where: str) -> Arrays:
    """Arrays without those for inputs that are constants.

    Raises:
        InvalidDataError: one of those holds another number.
    """
    fed = {name for feed in feeds.values() for name in (*(p.name for p in feed.ports), *feed.aliases)}
    fixed = [(t, name, number) for t, f in feeds.items() for name, number in f.fixed.items() if name in arrays.keys() - fed]
    for task, name, number in fixed:
        array, digits = arrays[name], HALF_DIGITS if isinstance(number, float) else 0
        if array.dtype.kind not in "biuf" or not np.allclose(array, number, rtol=digits, atol=0):
            raise InvalidDataError(
                f"{where}: {name!r} is not {number} throughout, at which it is fixed for {task!r}. Give other data, for this "
                f"task alone with --data {task}=FILE, or leave {name!r} out of them."
            )
    gone = {name for _, name, _ in fixed}
    return {name: array for name, array in arrays.items() if name not in gone}
