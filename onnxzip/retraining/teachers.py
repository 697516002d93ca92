"""Original nets as teachers: each runs in ONNX Runtime on the samples of its task, once where answers can be kept.

Samples are always answered in the same companies (blocks of a fixed partition), so that an answer is the same bits whether it
was kept or is computed again after an interruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxzip.calibration.rows import Pool
from onnxzip.errors import InvalidDataError
from onnxzip.exporting.opening import opened
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.shown import Teaching
from onnxzip.exporting.verifying import run_rows
from onnxzip.runtime import Session

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Teacher:
    """An original net.

    Attributes:
        task: what it teaches.
        origin: what the fused net calls its inputs and outputs.
        session: the net in ONNX Runtime.
        silent: outputs of the fused net that teach nothing.
    """

    task: str
    origin: Origin
    session: Session
    silent: frozenset[str] = frozenset()

    def answers(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Outputs that teach by the fused net's names, from inputs by the fused net's names.

        Raises:
            InvalidDataError: an output is NaN. Infinite numbers are places that a net masks: they teach nothing.
        """
        found = self.origin.said(run_rows(self.session, self.origin.fed(feeds)))
        for name, array in found.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise InvalidDataError(
                    f"task {self.task!r}: the original's output {name!r} holds NaN on these samples. Are they scaled as the "
                    "net wants them?"
                )
        return {fused: found[name] for name, fused in self.origin.outputs.items() if fused not in self.silent}


def teachers_of(originals: Teaching, device: str) -> dict[str, Teacher]:
    """Teachers by task from their files, or from what would be in such.

    Raises:
        UnsupportedError: ONNX Runtime cannot run one of them.
    """
    names = {t: origin.source if isinstance(file, bytes) else str(file) for t, (file, origin) in originals.items()}
    return {t: Teacher(t, o, opened(names[t], file, device, o.axes, o.fixed)) for t, (file, o) in originals.items()}


class Answers:
    """What all teachers of a pool say of some of its rows.

    Args:
        pool: the samples.
        rows: row numbers, in blocks of `block`.
        teachers: of the pool's tasks.
        block: rows that are answered together.
        room: bytes for answers; where all of them do not fit none is kept.
    """

    def __init__(self, pool: Pool, rows: np.ndarray, teachers: tuple[Teacher, ...], block: int, room: int) -> None:
        self.pool, self.rows, self.teachers, self.block = pool, rows, teachers, block
        first = self._run(rows[:block])
        count = min(block, len(rows))
        self.bytes = sum(a.nbytes // count for a in first.values()) * len(rows)
        self.keeps = self.bytes <= room
        self._kept: Arrays = {}
        self._known = np.zeros(-(-len(rows) // block), bool)
        if self.keeps:
            self._kept = {n: np.empty((len(rows), len(a) // count, *a.shape[1:]), a.dtype) for n, a in first.items()}
            self._keep(0, first)

    def take(self, places: np.ndarray, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Answers for some rows.

        Args:
            places: positions in `rows`.
            feeds: the same rows' inputs.
        """
        if not self.keeps:
            return self.anew(feeds)
        for number in np.unique(places // self.block):
            if not self._known[number]:
                own = np.arange(number * self.block, min((number + 1) * self.block, len(self.rows)))
                same = np.array_equal(own, places)
                self._keep(int(number), self.anew(feeds) if same else self._run(self.rows[own]))
        return {name: kept[places].reshape(-1, *kept.shape[2:]) for name, kept in self._kept.items()}

    def anew(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Answers to any samples, computed now."""
        return {name: array for teacher in self.teachers for name, array in teacher.answers(feeds).items()}

    def _keep(self, number: int, answers: Arrays) -> None:
        start = number * self.block
        for name, array in answers.items():
            kept = self._kept[name]
            count = len(array) // kept.shape[1]
            kept[start : start + count] = array.reshape(count, *kept.shape[1:])
        self._known[number] = True

    def _run(self, rows: np.ndarray) -> Arrays:
        return self.anew(self.pool.rows.take(rows))
