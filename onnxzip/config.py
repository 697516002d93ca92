"""One frozen record of options per stage. Flags of the command line and keys of the YAML file are derived from these.

A field says what it is once: name, default, help, and how a value is read from text or from YAML. Every record checks itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxzip.errors import UsageError
from onnxzip.pairs import Fixes, fixes_of, shares_of
from onnxzip.values import (
    check_records,
    check_scale,
    code,
    file_of,
    flags_in,
    folder_of,
    number,
    numbers,
    option,
    settle,
    shard_of,
    size_of,
    texts,
    whole_number,
    yes_or_no,
)

LEAST_SAMPLES = 32
ALL = 1 << 62  # samples
MOST_PIXELS = 10_000  # along the shorter side of an image


@dataclass(frozen=True)
class DataOptions:
    """What the nets are calibrated or compared with."""

    data: tuple[str, ...] = option(
        (), "Samples: .npz, .npy, a folder of images, or module:callable; without NAME= for all tasks. Default: noise.",
        texts, "[NAME=]FILE", many=True,
    )
    samples: int = option(2000, "Samples used of each source at most, drawn at random.", whole_number, "N")
    mean: tuple[float, ...] = option(
        (), "Subtracted per channel from images in 0..1, of folders and uint8 arrays; other numbers stay.", numbers, "M,M,M"
    )
    std: tuple[float, ...] = option((), "Divides images after --mean, per channel.", numbers, "S,S,S")
    size: int | None = option(
        None, "Shorter side that images of a folder are resized to before the centre is cut out.", whole_number, "PIXELS"
    )

    def __post_init__(self) -> None:
        settle(self)
        if self.samples < LEAST_SAMPLES:
            raise UsageError(f"--samples {self.samples} is too few; use at least {LEAST_SAMPLES}")
        if self.size is not None and not 1 <= self.size <= MOST_PIXELS:
            raise UsageError(f"--size {self.size} is not a number of pixels from 1 to {MOST_PIXELS:,}")
        check_scale("mean", self.mean, positive=False)
        check_scale("std", self.std, positive=True)


@dataclass(frozen=True)
class RetrainData(DataOptions):
    """What a net is retrained with: everything, unless less is asked for."""

    samples: int = option(ALL, "Samples used of each source at most.", whole_number, "N", shown="all")


@dataclass(frozen=True)
class ExportData(DataOptions):
    """What a shipped net is compared with, sample by sample where its runtime takes one at a time."""

    samples: int = option(100, "Samples used of each source at most, drawn at random.", whole_number, "N")


@dataclass(frozen=True)
class ExportOptions:
    """What is shipped, and in which form."""

    task: str | None = option(None, "Which task alone. Default: all.", str, "NAME")
    before_end: bool = option(False, "Up to what an end reads that no target is given (NonMaxSuppression).", yes_or_no)
    static_batch: int | None = option(
        None, "Samples that the file takes at once. Default: 1 for phones, any number for ort and openvino.", whole_number, "N"
    )
    opset: int | None = option(None, "Opset of ort and onnx-mobile. Default: the net's own; from 13 on.", whole_number, "N")
    quantize: bool = option(False, "Weights and activations in int8, calibrated with --data.", yes_or_no)
    tolerance: float | None = option(
        None, "Largest deviation that passes, over an output's largest value. Default: 1e-4, ncnn 1e-3; any with --quantize.",
        number, "F",
    )
    python: Path | None = option(None, "A Python that has the target's packages.", file_of, "FILE")  # noqa: RUF009

    def __post_init__(self) -> None:
        settle(self)
        for name, value in (("static-batch", self.static_batch), ("opset", self.opset)):
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value} is below 1")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise UsageError(f"--tolerance {self.tolerance:g} is negative")


@dataclass(frozen=True)
class PlanOptions:
    """What is shared, and how the fused net is laid out and written."""

    share: tuple[tuple[str, float], ...] = option(
        (("*", 1.0),), "Fraction of channels to share, for all or for spaces that GLOB fits.", shares_of, "[GLOB=]F", many=True
    )
    layout: str = option("strands", "strands: each task can run alone; wide: all rows read all channels.", str, "strands|wide")
    opset: int | None = option(
        None, "Opset of the result, at least that of every net. Default: the highest of theirs, and 13.", whole_number, "N"
    )
    apart: tuple[str, ...] = option((), "Inputs of which each task has its own: states, caches.", texts, "INPUT", many=True)
    fix: Fixes = option((), "Inputs of one number, and what it is.", fixes_of, "[TASK:]INPUT=NUMBER", many=True)  # noqa: RUF009

    def __post_init__(self) -> None:
        settle(self)
        if self.layout not in ("strands", "wide"):
            raise UsageError(f"layout {self.layout!r} is not known; use strands or wide")
        if self.opset is not None and self.opset < 1:
            raise UsageError(f"--opset {self.opset} is below 1")


@dataclass(frozen=True)
class ZipOptions:
    """How channels are matched and weights are found."""

    method: str = option(
        "zip", "How channels are matched and weights are found.", str,
        "zip|mtz|average|permute|rebasin|otfusion|zipit|regmean",
    )
    repair: bool = option(False, "Give each fused channel mean and variance of its originals back (REPAIR).", yes_or_no)
    memory: int = option(
        1 << 30, "Memory for live values; what is beyond goes to a scratch file. As 500M or 2G.", size_of, "BYTES", shown="1G"
    )

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True)
class RunOptions:
    """What nets run on, and where chance comes from."""

    seed: int = option(0, "Of everything that is drawn at random.", whole_number, "N")
    device: str = option("auto", "Where nets run.", str, "auto|cpu|cuda")

    def __post_init__(self) -> None:
        settle(self)
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is negative")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"device {self.device!r} is not known; use auto, cpu or cuda")


@dataclass(frozen=True)
class MergeSteps:
    """How long `merge` retrains after the zip."""

    retrain: int = option(0, "Steps of retraining after the zip.", whole_number, "STEPS")

    def __post_init__(self) -> None:
        settle(self)
        if self.retrain < 0:
            raise UsageError(f"--retrain {self.retrain} is negative")


@dataclass(frozen=True)
class RetrainSteps:
    """How long `retrain` retrains, and on how much."""

    steps: int = option(1000, "Steps; some of them find the learning rate.", whole_number, "N")
    memory: int = option(
        1 << 30, "Memory for params, optimizer and kept answers of the teachers. As 500M or 2G.", size_of, "BYTES", shown="1G"
    )
    any_teacher: bool = option(False, "Take teachers that are not the files the net was made from.", yes_or_no)

    def __post_init__(self) -> None:
        settle(self)
        if self.steps < 0:
            raise UsageError(f"--steps {self.steps} is negative")


@dataclass(frozen=True)
class RetrainOptions:
    """How a fused net is retrained."""

    batch: int = option(64, "Samples of each task a step.", whole_number, "N")
    learning_rate: float | None = option(None, "Fraction of its size a weight moves in a step. Default: found.", number, "F")
    temperature: float = option(2.0, "Of logits, where probabilities are compared.", number, "T")
    head: tuple[str, ...] = option(
        (), "What an output of the fused net says, where its graph does not tell.", texts,
        "OUTPUT=logits|probabilities|values", many=True,
    )
    label_weight: float = option(0.0, "Part of the loss that labels 'y' make up, where they were given.", number, "F")
    loss: str | Callable[..., Any] = option(  # noqa: RUF009 - a field
        "", "A loss of your own: f(outputs, teacher's outputs, labels) -> scalar.", code, "module:callable"
    )
    unvaried: bool = option(False, "Train on samples as they are; none that comes again is blended or shifted.", yes_or_no)
    checkpoint: Path | None = option(None, "Where to keep what --resume goes on from.", file_of, "FILE")  # noqa: RUF009
    checkpoint_every: int = option(100, "Steps between two checkpoints.", whole_number, "N")
    resume: bool = option(False, "Go on from the checkpoint.", yes_or_no)

    def __post_init__(self) -> None:
        settle(self)
        for name, count in (("batch", self.batch), ("checkpoint-every", self.checkpoint_every)):
            if count < 1:
                raise UsageError(f"--{name} {count} is below 1")
        for name, value in (("learning-rate", self.learning_rate), ("temperature", self.temperature)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name} {value:g} is not positive")
        if not 0 <= self.label_weight <= 1:
            raise UsageError(f"--label-weight {self.label_weight:g} is not between 0 and 1")
        if self.resume and self.checkpoint is None:
            raise UsageError("--resume needs --checkpoint FILE: the checkpoint to go on from")


@dataclass(frozen=True)
class JobOptions:
    """One job in several processes that meet in a folder; see also torchrun."""

    shard: tuple[int, int] | None = option(
        None, "Take the K-th of N parts of the data; the others find its moments in --exchange.", shard_of, "K/N"
    )
    exchange: Path | None = option(None, "Folder that all shards see; keep it until all are done.", folder_of, "DIR")  # noqa: RUF009

    def __post_init__(self) -> None:
        if (self.shard is None) != (self.exchange is None):
            raise UsageError("--shard K/N and --exchange DIR belong together; give both or none")


@dataclass(frozen=True)
class WaitOptions:
    """How long a job in several processes waits for one of them."""

    exchange_timeout: float = option(1800.0, "How long to wait for another process, in seconds.", number, "SECONDS")

    def __post_init__(self) -> None:
        if not self.exchange_timeout > 0:
            raise UsageError(f"--exchange-timeout {self.exchange_timeout:g} is not a positive number of seconds")


@dataclass(frozen=True)
class OutputOptions:
    """What is written besides the net."""

    report: Path | None = option(None, "Write the report there, as JSON.", file_of, "FILE")  # noqa: RUF009 - a field
    force: bool = option(False, "Replace files that exist.", yes_or_no)


@dataclass(frozen=True)
class VerifyOptions:
    """When a comparison fails."""

    tolerance: float | None = option(None, "Largest relative error that passes.", number, "F")
    min_agreement: float | None = option(None, "Smallest top-1 agreement that passes.", number, "F")

    def __post_init__(self) -> None:
        settle(self)
        for name, value in (("tolerance", self.tolerance), ("min-agreement", self.min_agreement)):
            if value is not None and not value >= 0:
                raise UsageError(f"--{name} {value:g} is negative")
        if self.min_agreement is not None and self.min_agreement > 1:
            raise UsageError(f"--min-agreement {self.min_agreement:g} is above 1: it is a fraction")


@dataclass(frozen=True)
class Options:
    """All options of a merge."""

    data: DataOptions = field(default_factory=DataOptions)
    plan: PlanOptions = field(default_factory=PlanOptions)
    zip: ZipOptions = field(default_factory=ZipOptions)
    run: RunOptions = field(default_factory=RunOptions)
    steps: MergeSteps = field(default_factory=MergeSteps)
    retrain: RetrainOptions = field(default_factory=RetrainOptions)

    def __post_init__(self) -> None:
        check_records(self)
        if not self.steps.retrain and (given := flags_in(replace(self.retrain, head=()))):
            raise UsageError(f"{', '.join(given)}: for retraining only; give --retrain STEPS, too, or leave this out")


@dataclass(frozen=True)
class RetrainSettings:
    """All options of a retraining."""

    data: RetrainData = field(default_factory=RetrainData)
    steps: RetrainSteps = field(default_factory=RetrainSteps)
    retrain: RetrainOptions = field(default_factory=RetrainOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        check_records(self)
