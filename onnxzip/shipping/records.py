"""What a target is, and what it is handed. Any Python loads this module: it needs numpy and nothing of onnxzip.

A target's functions run in a process of their own, in the Python that has its packages (see `worker`): they import these
packages when they are called, and may warn, print or crash without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ONNX, PROGRAM = "onnx", "program"  # what a target is handed: an ONNX file, or a file of torch.export
NAMES_SUFFIX = ".names.json"
SAMPLES_AT_ONCE = 64  # by runtimes that take any number
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: in the net that is shipped.
        shape: of an input, the number along its axis is the batch; -1 there is any number of samples.
        dtype: name of the numpy type.
        axis: along which samples lie.
        rows: that a sample has there.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axis: int = 0
    rows: int = 1


@dataclass(frozen=True)
class Job:
    """What a target is handed.

    Attributes:
        source: the net, as the target's `source` says.
        output: the main file (or folder) to make; the others stand beside it.
        inputs, outputs: in the net's order.
        names: what the runtime calls them, by name; as conversion has told.
    """

    source: Path
    output: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    names: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        ends = {key: [{**asdict(t), "shape": list(t.shape)} for t in getattr(self, key)] for key in ("inputs", "outputs")}
        return {"source": str(self.source), "output": str(self.output), "names": dict(self.names), **ends}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Job:
        """The inverse of `as_json`."""
        inputs, outputs = (
            tuple(Tensor(**{**t, "shape": tuple(t["shape"])}) for t in values[key]) for key in ("inputs", "outputs")
        )
        return Job(Path(values["source"]), Path(values["output"]), inputs, outputs, values["names"])

    def beside(self, suffix: str) -> Path:
        """The file beside the main one with another ending."""
        return self.output.with_suffix(suffix)

    def portions(self, feeds: Arrays) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Samples in portions of the net's batch, the last filled up with its last sample: (samples that count, feeds).

        Args:
            feeds: samples in front; those that are given have them where the net has.
        """
        first, count = self.inputs[0], len(next(iter(feeds.values())))
        declared = first.shape[first.axis]
        size = declared if declared > 0 else min(SAMPLES_AT_ONCE, count)
        for start in range(0, count, size):
            wanted = min(size, count - start)
            index = np.minimum(np.arange(start, start + (size if declared > 0 else wanted)), count - 1)
            yield wanted, {t.name: np.ascontiguousarray(np.moveaxis(feeds[t.name][index], 0, t.axis)) for t in self.inputs}


def names_file(output: Path) -> Path:
    """Where the names are told that a runtime has for inputs and outputs: `m.pte.names.json` of `m.pte`."""
    return output.with_name(output.name + NAMES_SUFFIX)


def run_in_portions(job: Job, feeds: Arrays, run: Callable[[Arrays], Arrays]) -> dict[str, np.ndarray]:
    """All outputs for all samples by a function that takes one portion of them."""
    found: dict[str, list[np.ndarray]] = {t.name: [] for t in job.outputs}
    for count, portion in job.portions(feeds):
        outputs = run(portion)
        for tensor in job.outputs:
            found[tensor.name].append(np.take(outputs[tensor.name], range(count * tensor.rows), tensor.axis))
    return {t.name: np.concatenate(found[t.name], t.axis) for t in job.outputs}


@dataclass(frozen=True)
class Target:
    """A runtime that a net can be shipped to.

    Attributes:
        name: on the command line.
        makes: what it writes, in a few words.
        suffix: of the main file; beside: endings of the others.
        source: ONNX or PROGRAM.
        batch: samples that the file takes at once, unless the user says otherwise; None for any number.
        batches: which numbers can be asked for; None for all.
        opset: the oldest that the net is brought to, unless the user says otherwise; None for its own.
        packages: that convert and run, as they are imported; all must be there.
        extra: of onnxzip that installs them; empty where they come with onnxzip itself.
        tolerance: largest error of an output that passes.
        quantizes: whether it takes the int8 net of ONNX Runtime.
        convert: makes the files; returns the runtime's names of inputs and outputs where they differ.
        run: outputs by name for samples; None where the runtime cannot be had, for the reason `not_run`.
        folder: where the main file is a folder, the name of a file in it that tells so.
        renames: whether the runtime has names of its own for inputs and outputs.
    """

    name: str
    makes: str
    suffix: str
    source: str
    packages: tuple[str, ...]
    extra: str
    convert: Callable[[Job], Mapping[str, str]]
    run: Callable[[Job, Arrays], Arrays] | None
    beside: tuple[str, ...] = ()
    batch: int | None = 1
    batches: tuple[int, ...] | None = None
    opset: int | None = None
    tolerance: float = 1e-4
    quantizes: bool = False
    renames: bool = False
    not_run: str = ""
    folder: str = ""

    def files(self, output: Path) -> tuple[Path, ...]:
        """All that is written, the main file last."""
        names = (names_file(output),) if self.renames else ()
        return (*(output.with_suffix(s) for s in self.beside), *names, output)
