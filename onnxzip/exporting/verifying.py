"""A fused file against the original files, run by ONNX Runtime on the same samples.

relative error = ||fused - original|| / ||original||    top-1 agreement = fraction of samples with the same argmax
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.calibration.samples import Source
from onnxzip.errors import InvalidDataError, VerificationError
from onnxzip.exporting.opening import opened
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.tally import Tally
from onnxzip.exporting.trial import LEAST
from onnxzip.net import Classes, rows_per_sample
from onnxzip.peers import ALONE, Peers
from onnxzip.runtime import Session

BATCH, BATCH_BYTES = 64, 32 << 20
_FLOATS: dict[str, np.dtype] = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Evidence:
    """How close one task of a fused net comes to its original.

    Attributes:
        samples: compared.
        relative_error: of the worst output that is no class number, and of a tail's that are floats; where there is none,
            fraction of those that differ.
        agreement: top-1 of scores, or fraction of equal class numbers, or of samples for which a tail computes the same (of
            floats: as many), of the worst such output; None where there is none.
        before, after: accuracies of the original and of the fused net; None without labels.
        deviation: relative_error without what small numbers near 0 are rounded by (`trial`): tells a net from its copy.
    """

    samples: int
    relative_error: float
    agreement: float | None
    before: float | None
    after: float | None
    deviation: float


@dataclass
class _Comparison:
    """One task while it is compared."""

    task: str
    origin: Origin
    session: Session
    classes: Classes
    tallies: dict[str, Tally] = field(init=False)
    right: list[int] = field(default_factory=lambda: [0, 0])
    labelled: int = 0
    samples: int = 0

    def __post_init__(self) -> None:
        self.tallies = {name: Tally() for name in self.origin.compared}

    def add(self, feeds: Mapping[str, np.ndarray], fused: Mapping[str, np.ndarray], labels: np.ndarray | None) -> None:
        found = run_rows(self.session, self.origin.fed(feeds))
        self.samples += len(next(iter(feeds.values())))
        for name, fused_name in self.origin.compared.items():
            if name in self.classes.loose:
                self._add_loose(name, as_array(fused[fused_name]), as_array(found[name]))
                continue
            _check(self.task, fused_name, fused[fused_name], found[name])
            self.tallies[name].add(fused[fused_name], found[name])
            if name in (*self.classes.scores, *self.classes.numbers):
                self.tallies[name].add_classes(*(self._chosen(name, a) for a in (fused[fused_name], found[name])))
        scored = self.classes.labelled
        if labels is not None and scored is not None:
            self.labelled += len(labels)
            for k, output in enumerate((found[scored], fused[self.origin.outputs[scored]])):
                self.right[k] += int((self._chosen(scored, output).reshape(len(labels)) == labels).sum())

    def _add_loose(self, name: str, fused: np.ndarray, original: np.ndarray) -> None:
        if fused.size and original.size and fused.dtype.kind != original.dtype.kind:
            raise VerificationError(f"task {self.task!r}: output {name!r} is {fused.dtype}, the original's {original.dtype}")
        _check_numbers(self.task, self.origin.outputs[name], fused, original)
        self.tallies[name].add_loose(fused, original)

    def _chosen(self, name: str, output: np.ndarray) -> np.ndarray:
        """The classes that an output tells, as numbers."""
        return output if name in self.classes.numbers else np.asarray(output.argmax(axis=1))

    def sums(self) -> dict[str, np.ndarray]:
        """All that is counted, as arrays that add up."""
        tallies = {f"tally.{n}": np.array(list(vars(t).values())) for n, t in self.tallies.items()}
        return {**tallies, "right": np.array([*self.right, self.labelled, self.samples])}

    def take(self, sums: Mapping[str, np.ndarray]) -> None:
        """Go on from what `sums` has told, here or in all processes together."""
        for name in self.tallies:
            wrong, energy, *counts = sums[f"tally.{name}"].tolist()
            self.tallies[name] = Tally(wrong, energy, *map(int, counts))
        *self.right, self.labelled, self.samples = sums["right"].tolist()

    def evidence(self) -> Evidence:
        """What has been found.

        Raises:
            VerificationError: the fused net is infinite where the original never is.
        """
        for name, tally in self.tallies.items():
            if tally.parted and not tally.infinite:
                raise VerificationError(_not_finite(self.task, "the fused net's", self.origin.outputs[name]))
        agreements = [t.agreement for t in self.tallies.values() if t.agreement is not None]
        before, after = (r / self.labelled if self.labelled else None for r in self.right)
        numbers = {*self.classes.numbers, *(n for n in self.classes.loose if not self.tallies[n].floats)}
        floats = {n: t for n, t in self.tallies.items() if n not in numbers}
        differing = 1 - min(agreements, default=1.0)
        return Evidence(
            self.samples,
            max((t.relative_error for t in floats.values()), default=differing),
            min(agreements) if agreements else None,
            before,
            after,
            max((t.deviation(LEAST if n in self.classes.bounded else 0.0) for n, t in floats.items()), default=differing),
        )


def compare(
    fused: bytes | Path,
    originals: Mapping[str, tuple[Path, Origin]],
    sources: tuple[Source, ...],
    rows: Callable[[Source], np.ndarray],
    device: str,
    tick: Tick,
    classes: Mapping[str, Classes],
    peers: Peers = ALONE,
) -> dict[str, Evidence]:
    """Run a fused file and the original files on the same samples.

    Args:
        fused: the file, or what will be written to it.
        originals: by task: file, and what the fused net calls its inputs and outputs.
        sources: samples by names of the fused net's inputs; every task in exactly one.
        rows: which samples of a source.
        device: of ONNX Runtime.
        tick: called with the number of samples done.
        classes: what the outputs of each task say of classes, by their names in the original.
        peers: the processes that compare the other samples; all find the same.

    Raises:
        VerificationError: an output is missing, has another shape, or is NaN; or infinite, where the original never is.
    """
    session = opened("fused", fused, device)
    for task, (_, origin) in originals.items():
        lost = [n for n in origin.outputs.values() if n not in session.outputs]
        if lost:
            raise VerificationError(f"task {task!r}: the fused net has no output {lost[0]!r}")
    found: dict[str, Evidence] = {}
    for source in sources:
        tasks = [t for t in source.tasks if t in originals]
        names = tuple(n for t in tasks for n in originals[t][1].outputs.values())
        mine = {t: originals[t] for t in tasks}
        sessions = {t: opened(str(file), file, device, o.axes, o.fixed) for t, (file, o) in mine.items()}
        work = [_Comparison(t, originals[t][1], sessions[t], classes[t]) for t in tasks]
        for part in _batches(source, np.flatnonzero(rows(source)), 1 if any(one.classes.loose for one in work) else BATCH):
            feeds = {k: v[part] for k, v in source.inputs.items()}
            asked = originals[tasks[0]][1].asked(feeds)  # who has states of shared units has samples for itself
            outputs = run_rows(replace(session, outputs=names), asked)
            for one in work:
                one.add(feeds, outputs, source.labels[one.task][part] if one.task in source.labels else None)
            tick(len(part))
        for one in work:
            one.take(peers.sum(f"evidence of {one.task}", one.sums()))
        found |= {one.task: one.evidence() for one in work}
    return {t: found[t] for t in originals}


def _batches(source: Source, rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
    per_sample = sum(v[:1].nbytes for v in source.inputs.values())
    size = max(1, min(most, BATCH_BYTES // max(per_sample, 1)))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def run_rows(session: Session, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs for some samples, in portions of the size that a net with a fixed batch asks for.

    Inputs that the samples lack are those of other tasks, which no output that is looked at reads: they are fed with zeros.

    Raises:
        InvalidDataError: the net takes samples of another size.
        UnsupportedError: ONNX Runtime gives up on them.
    """
    _check_sizes(session, feeds)
    feeds = _complete(session, _in_own_floats(session, feeds))
    declared = next(iter(session.shapes().values()))[0]
    count = len(next(iter(feeds.values())))
    if not isinstance(declared, int) or declared == count:
        return session.run(feeds)
    portions = []
    for start in range(0, count, declared):
        index = np.minimum(np.arange(start, start + declared), count - 1)
        portions.append(session.run({k: v[index] for k, v in feeds.items()}))
    return {n: _joined([p[n] for p in portions], declared, count) for n in session.outputs}


def _in_own_floats(session: Session, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Samples of floats in the type that a net takes: a net of float16 may have been merged with one of float32."""
    found = dict(feeds)
    for port in session.inputs:
        if port.type in _FLOATS and port.name in found and found[port.name].dtype.kind == "f":
            found[port.name] = found[port.name].astype(_FLOATS[port.type], copy=False)
    return found


def _complete(session: Session, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Samples, and zeros for inputs that they lack, at the sizes that others have where these are called the same."""
    shapes = session.shapes()
    if shapes.keys() <= feeds.keys():
        return feeds
    given = [(dims, feeds[name].shape) for name, dims in shapes.items() if name in feeds]
    sizes = {name: n for dims, shape in given for name, n in zip(dims, shape, strict=False) if isinstance(name, str)}
    count, dtypes, found = len(next(iter(feeds.values()))), session.dtypes(), dict(feeds)
    for name in (n for n in shapes if n not in feeds):
        shape = (count, *(d if isinstance(d, int) else sizes.get(d or "", 1) for d in shapes[name][1:]))
        found[name] = np.zeros(shape, dtypes[name])
    return found


def as_array(output: Any) -> np.ndarray:
    """An output as one array: of maps and sequences all that they hold, one behind the other."""
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list) and output:
        return np.concatenate([np.ravel(as_array(part)) for part in output])
    return np.asarray(output)


def _joined(portions: Sequence[np.ndarray], size: int, count: int) -> np.ndarray:
    """What portions of a size say of so many samples; one row a portion where an output has no rows of samples."""
    rows = rows_per_sample(portions[0].shape, size)
    return np.concatenate(portions)[: rows * count] if rows else np.stack(portions)


def _check_sizes(session: Session, feeds: Mapping[str, np.ndarray]) -> None:
    """An original may take one size only, whatever the fused net takes."""
    for name, shape in session.shapes().items():
        have = feeds[name].shape[1:] if name in feeds else ()
        if any(isinstance(want, int) and want != size for want, size in zip(shape[1:], have, strict=False)):
            wanted = ", ".join(map(str, shape[1:]))
            raise InvalidDataError(
                f"{session.name}: input {name!r} takes samples of shape [{wanted}], these have {list(have)}. Give each "
                "task data of its own size with --data NAME=FILE."
            )


def _check(task: str, name: str, fused: np.ndarray, original: np.ndarray) -> None:
    if fused.shape != original.shape or fused.dtype != original.dtype:
        raise VerificationError(
            f"task {task!r}: output {name!r} is {fused.dtype} {list(fused.shape)}, "
            f"the original's {original.dtype} {list(original.shape)}"
        )
    _check_numbers(task, name, fused, original)


def _check_numbers(task: str, name: str, fused: np.ndarray, original: np.ndarray) -> None:
    for what, array in (("the original net's", original), ("the fused net's", fused)):
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise VerificationError(_not_finite(task, what, name))


def _not_finite(task: str, what: str, name: str) -> str:
    return f"task {task!r}: {what} output {name!r} holds NaN or Inf on these samples"
