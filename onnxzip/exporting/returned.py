"""States of units that tasks share, as a fused file tells of them: which of an original's units stands where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Units(NamedTuple):
    """Units along one axis of what a node goes on from, in the order of the fused net.

    Attributes:
        order: which of the original's units each is.
        runs: [start, step, count] of the numbers of a sample that the first unit has, one run behind the other.
        stride: how far those of the next unit lie behind them.
    """

    order: Sequence[int]
    runs: Sequence[Sequence[int]]
    stride: int

    @classmethod
    def of(cls, at: np.ndarray, order: np.ndarray) -> Units:
        """From the numbers of each unit, int [units, k], each row as far behind the one before it as all are."""
        return cls([int(u) for u in order], _runs(at[0]), int(at[1, 0] - at[0, 0]) if len(at) > 1 else 1)

    @property
    def numbers(self) -> np.ndarray:
        """The numbers of each unit: int [units, k]."""
        first = np.concatenate([start + step * np.arange(count) for start, step, count in self.runs])
        return np.asarray(first + self.stride * np.arange(len(self.order))[:, None])


@dataclass(frozen=True)
class Returned:
    """One state of an original.

    Attributes:
        outputs: that give it back.
        count: of the numbers that a sample of it has.
        units: those of shared spaces.
    """

    outputs: Sequence[str]
    count: int
    units: tuple[Units, ...]

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Returned:
        """From what stands in the metadata."""
        return cls(tuple(entry["outputs"]), int(entry["count"]), tuple(Units(*some) for some in entry["units"]))

    def behind(self, other: Returned | None) -> Returned:
        """The state of an original of a fused net that is merged again, where that net's own state stands as the other."""
        if other is None:
            return self
        mine = {units.numbers.tobytes(): units for units in self.units}
        units = [Units(_followed(mine.pop(u.numbers.tobytes(), None), u.order), u.runs, u.stride) for u in other.units]
        return Returned(self.outputs, self.count, (*units, *mine.values()))

    @property
    def places(self) -> np.ndarray:
        """For each number of a sample as the fused net has it, which one of the original's it is: int [count]."""
        places = np.arange(self.count)
        for units in self.units:
            moved = np.arange(self.count)
            moved[units.numbers] = units.numbers[list(units.order)]
            places = places[moved]
        return places

    @property
    def groups(self) -> list[np.ndarray]:
        """Numbers that go on together: int [k, units] each, k times all units of a node."""
        found: dict[tuple[int, ...], np.ndarray] = {}
        for at in (units.numbers for units in self.units):
            key = tuple(np.sort(at, axis=None).tolist())
            found[key] = _together(found[key], at) if key in found else at.T
        return list(found.values())


def _followed(units: Units | None, order: Sequence[int]) -> list[int]:
    return [int(u) for u in (order if units is None else np.asarray(units.order)[list(order)])]


def _together(at: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Numbers along two axes of units at once: [k, units x others] of [k x others, units] and [others, k x units]."""
    parts = [[at[np.isin(at[:, u], other), u] for other in others] for u in range(at.shape[1])]
    return np.asarray(np.stack([part for some in parts for part in some], axis=1))


def _runs(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers as [start, step, count], one behind the other."""
    found = list[list[int]]()
    for number in map(int, numbers):
        if found and (found[-1][2] == 1 or number == found[-1][0] + found[-1][1] * found[-1][2]):
            start, step, count = found[-1]
            found[-1] = [start, number - start if count == 1 else step, count + 1]
        else:
            found.append([number, 1, 1])
    return found
