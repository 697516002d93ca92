"""export: a fused file for another runtime, run there and compared with the fused net before anything is written.

target -> its Python -> net -> samples [-> int8] -> conversion -> the target's runtime against the fused net -> files
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.calibration.samples import Source
from onnxzip.calibration.sources import Samples, gather
from onnxzip.config import LEAST_SAMPLES, ExportData, ExportOptions, RunOptions
from onnxzip.exporting.naming import path_of
from onnxzip.exporting.report import SCHEMA_VERSION, fused_entry, samples_entry
from onnxzip.exporting.staging import put, staged
from onnxzip.ops.lazy import execute, torch
from onnxzip.progress import Progress, Stages, told
from onnxzip.runtime import open_file
from onnxzip.shipping.backends import Backend, backend_for
from onnxzip.shipping.comparing import ANY, Likeness, compare_with_fused
from onnxzip.shipping.preparing import Prepared, prepare_net
from onnxzip.shipping.records import PROGRAM, Arrays, Job, Target, Tensor, names_file, run_in_portions
from onnxzip.shipping.requests import check_request, find_target

SOURCES = {PROGRAM: "net.pt2"}  # what a target is handed is called; else net.onnx


def export(
    fused: str | PathLike[str],
    target: str,
    path: str | PathLike[str],
    data: Any = None,
    *,
    task: str | None = ExportOptions.task,
    before_end: bool = ExportOptions.before_end,
    static_batch: int | None = ExportOptions.static_batch,
    opset: int | None = ExportOptions.opset,
    quantize: bool = ExportOptions.quantize,
    tolerance: float | None = ExportOptions.tolerance,
    python: str | PathLike[str] | None = ExportOptions.python,
    samples: int = ExportData.samples,
    mean: tuple[float, ...] = ExportData.mean,
    std: tuple[float, ...] = ExportData.std,
    size: int | None = ExportData.size,
    seed: int = RunOptions.seed,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Convert a fused file for another runtime, run it there and compare it with the fused net before anything is written.

    Args:
        fused: a file that `merge` or `split` has made.
        target: `ort`, `onnx-mobile`, `openvino`, `ncnn`, `executorch`, `tflite` or `coreml`.
        path: main file of the result, with the target's ending; others stand beside it.
        data, samples, mean, std, size, seed, progress: as of `merge`.
        task: which alone; None for all.
        before_end: whether the file ends in what an end reads that is kept as it is (boxes before a NonMaxSuppression).
        static_batch: samples that the file takes at once; None for 1, or any number for `ort` and `openvino`.
        opset: of the ONNX file that the target is made from, or is.
        quantize: whether to use int8 weights and activations; needs data, a fifth of which tell how close the result is.
        tolerance: largest deviation that passes, over an output's largest value; None for the target's.
        python: has the target's packages; None for what the environment names, else this one.
        force: whether files may be replaced.

    Returns:
        The report: files with their sizes, and per task how close they are.

    Raises:
        VerificationError: the files do not compute what the fused net does; nothing is left.
        BackendMissingError: packages of the target are missing; the message says how to get them.
        UsageError, UnsupportedError: see `onnxzip.errors`.
    """
    shape = task, before_end, static_batch, opset
    options = ExportOptions(*shape, quantize, tolerance, python)  # type: ignore[arg-type]  # it makes a Path of text
    data_options, run = ExportData(samples=samples, mean=mean, std=std, size=size), RunOptions(seed)
    file, output = path_of(fused, "fused net"), Path(path)
    return export_files(file, target, output, data, options, data_options, run, told(progress), force)


def export_files(
    fused: Path,
    name: str,
    output: Path,
    data: Any,
    options: ExportOptions,
    data_options: ExportData,
    run: RunOptions,
    progress: Progress,
    force: bool = False,
    others: Sequence[Path] = (),
) -> dict[str, Any]:
    """`export` with its options in records.

    Args:
        others: files that are read besides the net and the data, and are not to be written to.
    """
    target, stages = find_target(name), Stages(progress)
    check_request(target, fused, output, options, data, force, others)
    backend = backend_for(target, options.python)
    with stages.stage("load"):
        batch = options.static_batch or target.batch
        prepared = prepare_net(fused, options.task, batch, options.opset, options.before_end, target.opset)
        samples = _samples(prepared, data, options, data_options, run, progress)
    if options.quantize:
        with stages.stage("quantize"):
            from onnxzip.shipping.quantizing import quantized

            prepared = quantized(prepared, samples)
    with staged(output) as stage:
        with stages.stage("convert"):
            job = backend.convert(_handed(prepared, target, stage, output))
        with stages.stage("compare"):
            likeness = _compared(backend, job, prepared, samples, options)
        if target.renames:
            names_file(job.output).write_text(_name_map(target, job), encoding="utf-8")
        put(dict(zip(target.files(job.output), target.files(output), strict=True)))
    return _report(backend, prepared, likeness, samples, options, output, run, stages)


def _samples(
    prepared: Prepared, data: Any, options: ExportOptions, data_options: ExportData, run: RunOptions, progress: Progress
) -> Samples:
    """What the net is quantised and compared with."""
    least = LEAST_SAMPLES if options.quantize else 1
    return gather(data, prepared.feeds, data_options, np.random.default_rng(run.seed), progress.note, least)


def _handed(prepared: Prepared, target: Target, stage: Path, output: Path) -> Job:
    """The job, with the net in a file as the target wants it."""
    work, made = stage / "work", stage / "made"
    work.mkdir()
    made.mkdir()
    source = work / SOURCES.get(target.source, "net.onnx")
    content = prepared.model.SerializeToString(deterministic=True)
    if target.source == PROGRAM:
        execute(torch)
        from onnxzip.shipping.programs import write_program

        write_program(content, prepared.inputs, source)
    else:
        source.write_bytes(content)
    return Job(source, made / output.name, prepared.inputs, prepared.outputs, {})


def _compared(backend: Backend, job: Job, prepared: Prepared, samples: Samples, options: ExportOptions) -> dict[str, Likeness]:
    """Likeness of every task: in the target's runtime, else of the net that was handed to it."""
    target = backend.target
    run = partial(backend.run, job) if target.run is not None else partial(_run_source, job)
    default = ANY if options.quantize else target.tolerance
    tolerance = default if options.tolerance is None else options.tolerance
    rows = Source.held if options.quantize else _all_rows
    return compare_with_fused(f"target {target.name}", run, prepared, samples.sources, rows, tolerance)


def _all_rows(source: Source) -> np.ndarray:
    return np.ones(source.count, bool)


def _run_source(job: Job, feeds: Arrays) -> dict[str, np.ndarray]:
    """Outputs of the net that a target was handed."""
    if job.source.name != SOURCES[PROGRAM]:
        return run_in_portions(job, feeds, open_file("net", job.source, "cpu").run)
    from onnxzip.shipping.programs import open_program

    return run_in_portions(job, feeds, open_program(job.source, [t.name for t in job.outputs]))


def _without(tensor: Tensor) -> list[int]:
    """A shape without the axis of the batch."""
    return [size for k, size in enumerate(tensor.shape) if k != tensor.axis]


def _name_map(target: Target, job: Job) -> str:
    """What the runtime calls inputs and outputs."""
    drops = target.batches == (1,)
    ends = {
        key: [
            {"net": t.name, "runtime": job.names[t.name], "shape": _without(t) if drops else list(t.shape), "dtype": t.dtype}
            for t in getattr(job, key)
        ]
        for key in ("inputs", "outputs")
    }
    found = {"schema_version": SCHEMA_VERSION, "target": target.name, "batch_axis": not drops, **ends}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _report(
    backend: Backend,
    prepared: Prepared,
    likeness: Mapping[str, Likeness],
    samples: Samples,
    options: ExportOptions,
    output: Path,
    run: RunOptions,
    stages: Stages,
) -> dict[str, Any]:
    target = backend.target
    return {
        "schema_version": SCHEMA_VERSION,
        "target": target.name,
        "fused": fused_entry(prepared.fused),
        "files": {str(path): size_on_disk(path) for path in target.files(output)},
        "quantized": options.quantize,
        "not_run": target.not_run or None,
        "tasks": {task: asdict(found) for task, found in likeness.items()},
        "inputs": [asdict(t) for t in prepared.inputs],
        "packages": dict(backend.versions),
        "python": str(backend.python),
        **samples_entry(samples, run.seed),
        "seconds": stages.measured(),
    }


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
