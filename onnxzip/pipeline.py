"""The whole flow, from the files of trained nets to a fused net that has been run against them.

load -> analyse -> data -> sweep -> zip [-> retrain] -> verify    (each a stage of the progress, and of the report's `seconds`)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from onnxzip.analysis import Plan, analyse_sized
from onnxzip.analysis.appended import notes_on_caches
from onnxzip.analysis.kinship import notes_on_kinship
from onnxzip.analysis.states import notes_on_states, shares_states
from onnxzip.asked import check_labelled, check_loss_of, checked_plan, read_beside
from onnxzip.calibration.checking import Feed, feed_of
from onnxzip.calibration.fixed import agreed, told_numbers
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.peeking import peeked, wanted_sizes
from onnxzip.calibration.samples import Source, set_apart, wanted
from onnxzip.calibration.sources import Given, Samples, collect
from onnxzip.calibration.store import Store
from onnxzip.config import ALL, DataOptions, MergeSteps, Options, PlanOptions, RetrainOptions, RunOptions, ZipOptions
from onnxzip.errors import UnsupportedError, VerificationError
from onnxzip.exporting.again import data_by_net, kept_tasks
from onnxzip.exporting.describing import checked_bytes, described, shelf_for
from onnxzip.exporting.job import digest_of, job_of
from onnxzip.exporting.naming import checked_files
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.report import merge_report
from onnxzip.exporting.shelf import Shelf
from onnxzip.exporting.shown import shown
from onnxzip.exporting.verifying import Evidence, compare
from onnxzip.exporting.write import check_unread
from onnxzip.fusion.zipped import Zipped
from onnxzip.fusion.zipping import as_it_is, live_plan, zip_nets
from onnxzip.loading import Loaded, family, load_family
from onnxzip.loading.weights import FLOAT32
from onnxzip.matching.methods import Method, find_method, restoring
from onnxzip.merged import Merged
from onnxzip.net import Classes
from onnxzip.ops.lazy import execute, torch
from onnxzip.pairs import Fixes, Number, fixes_of, shares_of
from onnxzip.peers import ALONE, Peers
from onnxzip.progress import Progress, Stages, told
from onnxzip.runtime import entries_of, give_back_freed, provider_for
from onnxzip.values import size_of, texts

UNSHARED_ERROR = 1e-5
# Where weights are rounded to a half type once more, or the original rounds all that it computes: 64 roundings to float16, 8
# to bfloat16, that all go one way. MobileNet in float16 is off by 2e-3.
ROUNDED_ERROR = 3e-2
Files = Mapping[str, str | PathLike[str]]


def merge(
    nets: Files,
    data: Any = None,
    *,
    share: float | Mapping[str, float] = 1.0,
    layout: str = PlanOptions.layout,
    opset: int | None = PlanOptions.opset,
    apart: Sequence[str] = PlanOptions.apart,
    fix: Mapping[str, Number] | Fixes = PlanOptions.fix,
    method: str = ZipOptions.method,
    repair: bool = ZipOptions.repair,
    memory: int | str = ZipOptions.memory,
    samples: int = DataOptions.samples,
    mean: tuple[float, ...] = DataOptions.mean,
    std: tuple[float, ...] = DataOptions.std,
    size: int | None = DataOptions.size,
    seed: int = RunOptions.seed,
    device: str = RunOptions.device,
    retrain: int = MergeSteps.retrain,
    retrain_options: RetrainOptions | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Merge trained nets into one with a shared trunk and a head per task.

    Args:
        nets: two or more ONNX files by task name.
        data: samples for all tasks, or by task: a path (.npz, .npy, folder of images, "module:callable"), an array
            [samples, ...], a mapping input -> array (with labels as "y"), a pair (x, y), or an iterable of such batches (a
            torch DataLoader, an ONNX Runtime CalibrationDataReader). None for seeded noise. Arrays have the axes of the
            inputs, samples in the place of the batch.
        share: fraction of channels to share, for all spaces or by pattern; the last pattern that fits counts.
        layout: `strands` (each task can run alone) or `wide` (every row reads every channel).
        opset: of the result, at least that of every net and 13; None for the highest of theirs.
        apart: inputs, or patterns of them, that are each task's own although the nets have them in common.
        fix: numbers of inputs that are one number for all samples, by input or TASK:INPUT; without it the data say them.
        method: `zip`, or one to compare with: `onnxzip.matching.methods` lists them.
        repair: give each fused channel mean and variance of its originals back (REPAIR).
        memory: bytes for live values, or text as "2G".
        samples: used of each source at most.
        mean, std: of images of folders and uint8 arrays, per channel, after scaling to 0..1; refused where no data are such.
        size: shorter side that images of folders are resized to; refused where there are none.
        seed, device: of everything drawn at random; `auto`, `cpu` or `cuda`.
        retrain: steps of retraining after the zip, on all samples that are given.
        retrain_options: batch, learning rate, loss, checkpoints.
        progress: is told how far the work is.

    Raises:
        UsageError, UnsupportedError, VerificationError, BackendMissingError: see `onnxzip.errors`.
    """
    options = Options(
        DataOptions(samples=samples, mean=mean, std=std, size=size),
        PlanOptions(shares_of(share), layout, opset, texts(apart), fixes_of(fix)),
        ZipOptions(method, repair, size_of(memory)),
        RunOptions(seed, device),
        MergeSteps(retrain),
        RetrainOptions() if retrain_options is None else retrain_options,
    )
    return merge_files(nets, data, options, told(progress))


def merge_files(nets: Files, data: Any, options: Options, progress: Progress, peers: Peers = ALONE) -> Merged:
    """`merge` with its options in records.

    Args:
        peers: the processes that merge together, each with its part of the data; all come to the same result.
    """
    files, stages, beside = checked_files(nets), Stages(progress), read_beside(data, options.retrain)
    check_unread([c] if (c := options.retrain.checkpoint) else [], files.values(), beside)
    method = method_of(options.zip)
    provider_for(options.run.device)
    rng = np.random.default_rng(options.run.seed)
    with stages.stage("load", len(files)):
        loaded, data = _loaded(files, data, options)
        give_back_freed()
    with stages.stage("analyse"):
        plan = _planned(loaded, options.plan, progress)
    if (shelf := shelf_for(plan)) is not None and options.steps.retrain:
        raise UnsupportedError("a fused net beyond 2 GB cannot be retrained: leave out --retrain, or share more.")
    classes = checked_plan(plan, files, options, peers)
    with stages.stage("data"):
        feeds = feeds_of(plan, classes)
        given = collect(data, feeds, options.data, rng, progress.note, limit=_limit(options))
        if options.steps.retrain:
            check_labelled(given, feeds, options.retrain)
            check_loss_of(plan, files, given, options)
        seen, judging = _parted(given, options)
        samples, judges = seen.drawn(options.data.samples, peers), judging.drawn(ALL)
    peers.begin(lambda: job_of(plan, files, samples, options), lambda: digest_of(samples))
    with Store(options.zip.memory) as store:
        zipped = _zip(plan, live_plan(plan, method), method, samples, options.run, store, stages, peers, shelf)
    net, origins = described(plan, zipped, files, samples.sources if method.needs_data else (), options, peers)
    originals = {t: (files[t], origins[t]) for t in files}
    content, retrained = checked_bytes(plan, zipped, net, shelf), None
    if options.steps.retrain:
        content, retrained = _retrained(content, originals, given, options, stages, peers)
    rows = partial(part_of, peers=peers)
    with stages.stage("verify", sum(int(rows(s).sum()) for s in judges.sources)) as tick:
        fused = content if shelf is None else shelf.graph
        evidence = compare(fused, originals, judges.sources, rows, options.run.device, tick, classes, peers)
    _check(plan, evidence, retrained is not None)
    large = 0 if shelf is None else shelf.size
    report = merge_report(plan, net, content, large, originals, evidence, zipped, samples, stages.measured(), options)
    return Merged(content, report | {"retrain": retrained}, shelf, tuple(p.absolute() for p in files.values()), beside)


def _loaded(files: Mapping[str, Path], data: Any, options: Options) -> tuple[Loaded, Any]:
    """The nets at the sizes and numbers of their data, and the data by net."""
    nets = family(files, options.plan.opset, options.plan.apart, options.plan.fix)
    data = data_by_net(data, kept_tasks({t: entries_of(model) for t, (_, model) in nets.models.items()}))
    if not (nets.groups or nets.lone):
        return load_family(nets), data
    data, shapes, ranges = peeked(data, {task: nets.axes_by_name(task) for task in nets.tasks}, _limit(options))
    nets = nets.fixed_at(told_numbers(nets, ranges))
    return load_family(nets, wanted_sizes(nets, shapes, options.data.size)), data


def _planned(loaded: Loaded, options: PlanOptions, progress: Progress) -> Plan:
    """The plan of the merge; the user is told what may not be meant."""
    plan = analyse_sized(loaded, options.share, options.layout)
    for note in (*notes_on_states(plan), *notes_on_caches(plan), *notes_on_kinship(plan)):
        progress.note(note)
    return plan


def method_of(options: ZipOptions) -> Method:
    """The method that is asked for.

    Raises:
        UsageError: there is none of that name, or --repair does not go with it.
    """
    method = find_method(options.method)
    return restoring(method) if options.repair else method


def _zip(
    plan: Plan, live: Plan, method: Method, samples: Samples, run: RunOptions, store: Store, stages: Stages, peers: Peers,
    shelf: Shelf | None,
) -> Zipped:
    """Calibrate, match and fuse."""
    threads = 0 if peers.neighbours == 1 else max(1, (os.cpu_count() or 1) // peers.neighbours)
    frontier = Frontier(live, samples.sources, store, run.device, threads, run.seed) if method.needs_data else None
    if frontier is not None and method.needs_targets:
        with stages.stage("sweep", sum(s.count * len(s.tasks) for s in samples.sources)) as tick:
            frontier.sweep(live.steps, not method.repair_skips, tick)
            give_back_freed()
    with stages.stage("zip", len(plan.steps)) as tick:
        keep = as_it_is if shelf is None else shelf.keep
        return zip_nets(plan, method, frontier, tick=tick, peers=peers, keep=keep)


def _limit(options: Options) -> int:
    """Samples that are taken from iterables."""
    if not options.steps.retrain:
        return wanted(options.data.samples)
    execute(torch)
    from onnxzip.retraining.student import wanted_rows

    return max(options.data.samples, wanted_rows(options.steps.retrain, options.retrain))


def _parted(given: Given, options: Options) -> tuple[Given, Given]:
    """What the zip may see, and what judges the result; with retraining the rows that judge that, too."""
    if not options.steps.retrain:
        return given.parted(partial(set_apart, samples=options.data.samples))
    from onnxzip.retraining.batches import parted

    return given.parted(parted)


def part_of(source: Source, peers: Peers) -> np.ndarray:
    """Which samples one of several processes compares, of a source that all of them have: bool [samples]."""
    return np.asarray(np.arange(source.count) % peers.size == peers.place)


def _retrained(
    content: bytes,
    originals: Mapping[str, tuple[Path, Origin]],
    given: Given,
    options: Options,
    stages: Stages,
    peers: Peers,
) -> tuple[bytes, dict[str, Any]]:
    """The content with better params, and what the report says of it."""
    from onnxzip.retraining.lesson import Lesson
    from onnxzip.retraining.student import retrain_content
    from onnxzip.retraining.teachers import teachers_of

    with stages.stage("retrain", options.steps.retrain):
        says, teaching = shown(content, originals)
        lesson = Lesson(teachers_of(teaching, options.run.device), given.pools, options.zip.memory, says)
        done = retrain_content(content, lesson, options.steps.retrain, options.retrain, options.run, stages.progress, peers)
    return done.content, done.as_dict()


def feeds_of(plan: Plan, classes: Mapping[str, Classes]) -> dict[str, Feed]:
    """What each task of a plan is fed with."""
    found = {}
    for task in plan.tasks:
        names = plan.overlay.fed(task)
        ports = tuple(p for p in plan.at(task).inputs if p.name in names.values())
        inside = kept_tasks({task: plan.nets[task].metadata}).get(task, {}).values()
        fixed = {**plan.nets[task].fixed, **agreed(o.fixed for o in inside)}
        found[task] = feed_of(
            ports, names, classes[task], shares_states(plan, task), fixed,
            [{own: names[mid] for mid, own in o.inputs.items() if mid in names} for o in inside],
        )
    return found


def _check(plan: Plan, evidence: Mapping[str, Evidence], retrained: bool) -> None:
    """A task that shares nothing must be its original; after retraining of others its own params may have moved, too."""
    sharing = {t for space in plan.spaces.values() if not space.given for s in space.strands if len(s.key) > 1 for t in s.key}
    if sharing and retrained:
        return
    for task, found in evidence.items():
        rounded = {plan.stored, plan.nets[task].computed} != {FLOAT32}
        allowed = ROUNDED_ERROR if rounded else UNSHARED_ERROR
        if task not in sharing and not found.deviation < allowed:
            raise VerificationError(
                f"task {task!r}: nothing is shared with it, yet the fused net is off by {found.deviation:.2g} of its "
                f"output (allowed: {allowed:g}). Nothing was written. Please report this with the nets."
            )
