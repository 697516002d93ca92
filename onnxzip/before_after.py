"""plan: what a merge would do. verify: how close a fused file is to its originals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.analysis import analyse_sized
from onnxzip.calibration.sources import Samples, gather
from onnxzip.config import DataOptions, PlanOptions, RunOptions, VerifyOptions
from onnxzip.errors import UsageError, VerificationError
from onnxzip.exporting.naming import checked_files, files_by_task, path_of
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.originals import classes_in, fed_by, originals_of
from onnxzip.exporting.report import SCHEMA_VERSION, evidence_entry, fused_entry, original_entry, plan_report, samples_entry
from onnxzip.exporting.stored import stored_model
from onnxzip.exporting.tails import attach, with_tails
from onnxzip.exporting.verifying import Evidence, compare
from onnxzip.fusion.assembling import assemble, check_ports
from onnxzip.loading import family, load_family
from onnxzip.loading.files import read_to_run
from onnxzip.net import Classes, in_file
from onnxzip.pairs import Fixes, Number, fixes_of, shares_of
from onnxzip.progress import Progress, Stages, told
from onnxzip.runtime import provider_for
from onnxzip.values import texts

Path_ = str | PathLike[str]


def plan(
    nets: Mapping[str, Path_], *, share: float | Mapping[str, float] = 1.0, layout: str = PlanOptions.layout,
    opset: int | None = PlanOptions.opset, apart: Sequence[str] = PlanOptions.apart,
    fix: Mapping[str, Number] | Fixes = PlanOptions.fix,
) -> dict[str, Any]:
    """What a merge would share, save and refuse, and why; looks at no data and writes nothing.

    Args:
        nets, share, layout, opset, apart, fix: as of `merge`.

    Returns:
        The report: tasks, merged (expected sizes), spaces, refusals.

    Raises:
        UsageError, UnsupportedError: as `merge`.
    """
    return plan_files(nets, PlanOptions(shares_of(share), layout, opset, texts(apart), fixes_of(fix)))


def plan_files(nets: Mapping[str, Path_], options: PlanOptions) -> dict[str, Any]:
    """`plan` with its options in a record."""
    files = checked_files(nets)
    found = analyse_sized(load_family(family(files, options.opset, options.apart, options.fix)), options.share, options.layout)
    check_ports(found)
    net = in_file(with_tails(found, assemble(found, {})))
    attach(skeleton := stored_model(net), net)
    return plan_report(found, files, skeleton, options.layout)


def verify(
    fused: Path_,
    against: Mapping[str, Path_],
    data: Any = None,
    *,
    tolerance: float | None = None,
    min_agreement: float | None = None,
    samples: int = DataOptions.samples,
    mean: tuple[float, ...] = DataOptions.mean,
    std: tuple[float, ...] = DataOptions.std,
    size: int | None = DataOptions.size,
    seed: int = RunOptions.seed,
    device: str = RunOptions.device,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a fused file and original files on the same samples.

    Args:
        fused: a file that `merge` or `split` has made.
        against: original files by task; not all tasks need be there.
        data, samples, mean, std, size, seed, device, progress: as of `merge`.
        tolerance: largest relative error that passes; None for any.
        min_agreement: smallest top-1 agreement that passes; None for any.

    Returns:
        The report: per task fidelity, and accuracy where labels were given.

    Raises:
        VerificationError: an output is not finite, has the wrong shape, or a bound is broken.
        UsageError: an agreement is asked for of a task without classes.
    """
    options = DataOptions(samples=samples, mean=mean, std=std, size=size), RunOptions(seed, device)
    return verify_files(fused, against, data, *options, VerifyOptions(tolerance, min_agreement), told(progress))


def verify_files(
    fused: Path_,
    against: Mapping[str, Path_],
    data: Any,
    data_options: DataOptions,
    run: RunOptions,
    bounds: VerifyOptions,
    progress: Progress,
) -> dict[str, Any]:
    """`verify` with its options in records."""
    path, stages = path_of(fused, "fused net"), Stages(progress)
    files = files_by_task(against, "against", "original net")
    provider_for(run.device)
    with stages.stage("load", len(files)):
        model = read_to_run(path)
        originals = originals_of(path, model, files, "--against", progress.note)
        classes = classes_in(model, originals)
        _check_bounds(classes, bounds)
    with stages.stage("data"):
        rng = np.random.default_rng(run.seed)
        data, feeds = fed_by(model, originals, data, data_options.samples)
        samples = gather(data, feeds, data_options, rng, progress.note, least=1)
    with stages.stage("verify", sum(s.count for s in samples.sources)) as tick:
        evidence = compare(path, originals, samples.sources, lambda s: np.ones(s.count, bool), run.device, tick, classes)
    report = _report(path, originals, evidence, samples, run, stages)
    _check(evidence, bounds, report)
    return report


def _report(
    path: Path,
    originals: Mapping[str, tuple[Path, Origin]],
    evidence: Mapping[str, Evidence],
    samples: Samples,
    run: RunOptions,
    stages: Stages,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "fused": fused_entry(path),
        "tasks": {t: original_entry(*originals[t]) | evidence_entry(evidence[t]) for t in originals},
        **samples_entry(samples, run.seed),
        "seconds": stages.measured(),
    }


def _check_bounds(classes: Mapping[str, Classes], bounds: VerifyOptions) -> None:
    """Refuse a bound for agreements of which there will be none.

    Raises:
        UsageError: naming the task.
    """
    for task, found in classes.items():
        if bounds.min_agreement is not None and not (found.scores or found.numbers):
            raise UsageError(
                f"--min-agreement {bounds.min_agreement:g} cannot be applied to task {task!r}: none of its outputs tells "
                "classes. Give --tolerance in its place, or leave that task out."
            )


def _check(evidence: Mapping[str, Evidence], bounds: VerifyOptions, report: Mapping[str, Any]) -> None:
    broken = []
    for task, found in evidence.items():
        if bounds.tolerance is not None and not found.relative_error <= bounds.tolerance:
            broken.append(f"task {task!r}: relative error {found.relative_error:.3g} is above {bounds.tolerance:g}")
        if bounds.min_agreement is not None and found.agreement is not None and not found.agreement >= bounds.min_agreement:
            broken.append(f"task {task!r}: top-1 agreement {found.agreement:.4f} is below {bounds.min_agreement:g}")
    if broken:
        raise FailedBounds("; ".join(broken), report)


class FailedBounds(VerificationError):
    """A comparison that was made and whose bounds are broken; it carries its report."""

    def __init__(self, message: str, report: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.report = report
