"""retrain: a fused file, its original nets as teachers, samples -> the fused file with better params.

load -> data -> retrain -> verify      (each a stage of the progress, and of `seconds` in the report)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxzip.asked import check_labelled, read_beside
from onnxzip.calibration.rows import Pool
from onnxzip.calibration.seen import NOBODY, judged
from onnxzip.calibration.sources import Given, Note, collect
from onnxzip.config import ALL, RetrainData, RetrainOptions, RetrainSettings, RetrainSteps, RunOptions
from onnxzip.errors import UsageError
from onnxzip.exporting.metadata import own_version, read_origins, read_seen
from onnxzip.exporting.naming import files_by_task, path_of
from onnxzip.exporting.originals import Originals, classes_in, fed_by, originals_of, ports_in
from onnxzip.exporting.report import SCHEMA_VERSION, evidence_entry, fused_entry, original_entry, sha256_of, versions
from onnxzip.exporting.shown import Teaching, shown
from onnxzip.exporting.verifying import Evidence, compare
from onnxzip.exporting.write import check_unread
from onnxzip.loading.faithful import content_of, fitting
from onnxzip.loading.files import read
from onnxzip.merged import Merged
from onnxzip.ops.lazy import execute, torch
from onnxzip.peers import ALONE, Peers
from onnxzip.pipeline import part_of
from onnxzip.progress import Progress, Stages, told
from onnxzip.retraining.heads import kinds_from
from onnxzip.runtime import entries_of, peak_rss_bytes, provider_for
from onnxzip.values import size_of

Path_ = str | PathLike[str]


def retrain(
    fused: Path_,
    teachers: Mapping[str, Path_],
    data: Any = None,
    *,
    steps: int = RetrainSteps.steps,
    memory: int | str = RetrainSteps.memory,
    any_teacher: bool = RetrainSteps.any_teacher,
    options: RetrainOptions | None = None,
    samples: int = ALL,
    mean: tuple[float, ...] = RetrainData.mean,
    std: tuple[float, ...] = RetrainData.std,
    size: int | None = RetrainData.size,
    seed: int = RunOptions.seed,
    device: str = RunOptions.device,
    progress: Progress | None = None,
) -> Merged:
    """Retrain a fused net: each original net teaches its own task on unlabelled samples; only params change.

    Args:
        fused: a file that `merge` has made.
        teachers: the original file of every task.
        data, mean, std, size, seed, device, progress: as of `merge`; all samples are used, `samples` of each source at most.
        steps: of training, those that find the learning rate included; 0 gives the same bytes back.
        memory: bytes for params, optimizer and the teachers' kept answers, or text as "2G".
        any_teacher: whether a teacher may be another file than the one that the task was made from.
        options: batch, learning rate, loss, checkpoints.

    Returns:
        The net and the report. On held-out samples, which the merge was not made from, no task is worse than before.

    Raises:
        UsageError: a teacher is missing or is another file, or an option cannot be used.
        UnsupportedError: an operator cannot be differentiated.
    """
    settings = RetrainSettings(
        RetrainData(samples=samples, mean=mean, std=std, size=size),
        RetrainSteps(steps, size_of(memory), any_teacher),
        RetrainOptions() if options is None else options,
        RunOptions(seed, device),
    )
    return retrain_files(fused, teachers, data, settings, told(progress))


def retrain_files(
    fused: Path_, teachers: Mapping[str, Path_], data: Any, settings: RetrainSettings, progress: Progress,
    peers: Peers = ALONE,
) -> Merged:
    """`retrain` with its options in records.

    Args:
        peers: the processes that retrain together, each with its part of every batch; all come to the same result.
    """
    execute(torch)
    from onnxzip.retraining.lesson import Lesson
    from onnxzip.retraining.student import judging_sources, retrain_content
    from onnxzip.retraining.teachers import teachers_of

    path, stages, run = path_of(fused, "fused net"), Stages(progress), settings.run
    files = files_by_task(teachers, "teachers", "teacher")
    nets, beside = _left_alone([path, *files.values()], data, settings.retrain)
    provider_for(run.device)
    with stages.stage("load", len(files)):
        content = content_of(path, model := read(fitting(path)))
        originals = originals_of(path, model, files, "--teacher", _differing(settings.steps.any_teacher, progress))
        _check_complete(read_origins(entries_of(model), str(path)), originals)
    says, teaching = _asked(path, content, originals, settings, peers)
    with stages.stage("data"):
        given, pools = _collected(path, model, originals, data, settings, progress)
    peers.begin(lambda: _job(path, originals, pools, settings), lambda: "")
    lesson = Lesson(teachers_of(teaching, run.device), pools, settings.steps.memory, says)
    with stages.stage("retrain", settings.steps.steps):
        done = retrain_content(content, lesson, settings.steps.steps, settings.retrain, run, progress, peers)
    sources, mine = judging_sources(pools), partial(part_of, peers=peers)
    with stages.stage("verify", 2 * sum(int(mine(s).sum()) for s in sources)) as tick:
        both, classes = (content, done.content), classes_in(model, originals, kinds_from(settings.retrain.head))
        before, after = (compare(c, originals, sources, mine, run.device, tick, classes, peers) for c in both)
    report = {
        "schema_version": SCHEMA_VERSION,
        "fused": fused_entry(path),
        "tasks": _tasks(originals, before, after),
        "retrain": done.as_dict(),
        **_data_entry(given, pools, run.seed),
        "seconds": stages.measured(),
        "peak_rss_bytes": peak_rss_bytes(),
        "seed": run.seed,
        "versions": versions(),
    }
    return Merged(done.content, report, made_from=nets, read=beside)


def _asked(
    path: Path, content: bytes, originals: Originals, settings: RetrainSettings, peers: Peers
) -> tuple[bytes, Teaching]:
    """The fused net and its originals with all that teaches, unless something could not be done in the end."""
    from onnxzip.retraining.request import check_request

    says, teaching = shown(content, originals)
    ports, batch = ports_in(ModelProto.FromString(says))
    outputs = {task: [ports[new] for new in origin.outputs.values()] for task, (_, origin) in teaching.items()}
    check_request(outputs, batch, settings.retrain, settings.run, peers)
    return says, teaching


def _left_alone(
    files: Iterable[Path_], data: Any, options: RetrainOptions
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Files of nets, and others beside them, that nothing may be written to, and the checkpoint is not."""
    nets, beside = tuple(Path(f).absolute() for f in files), read_beside(data, options)
    check_unread([options.checkpoint] if options.checkpoint else [], nets, beside)
    return nets, beside


def _collected(
    path: Path, model: ModelProto, originals: Originals, data: Any, settings: RetrainSettings, progress: Progress
) -> tuple[Given, tuple[Pool, ...]]:
    """What was given, and of each of its sources the rows that are used."""
    data, feeds = fed_by(model, originals, data, limit := _limit(settings), kinds_from(settings.retrain.head))
    rng = np.random.default_rng(settings.run.seed)
    given = collect(data, feeds, settings.data, rng, progress.note, limit=limit)
    check_labelled(given, feeds, settings.retrain)
    inputs = [origin.inputs for _, origin in originals.values()]
    return given, _judged(given, settings.data.samples, read_seen(entries_of(model), str(path)), inputs, progress.note)


def _judged(
    given: Given, samples: int, seen: Mapping[str, np.ndarray] | None, inputs: Collection[Collection[str]], note: Note
) -> tuple[Pool, ...]:
    """Pools of so many samples at most, judged by some that the merge was not made from.

    Args:
        seen: task -> fingerprints of those that it was made from; None where nobody knows.
        inputs: of each task.
    """
    from onnxzip.retraining.batches import parted

    if seen is None:
        note("the fused net does not tell which samples it was made from: they may be among those that judge the retraining")
        return tuple(replace(p, order=p.order[:samples]) for p in given.pools)
    pools = []
    for pool in given.pools:
        marks = np.concatenate([NOBODY, *(seen.get(t, NOBODY) for t in pool.tasks)])
        pools.append(judged(pool, samples, marks, parted, inputs))
        if pools[-1].judges is None:
            note(
                f"the merge was made from all samples of {', '.join(pool.tasks)}: those that judge the retraining are not new "
                "to it. Give more samples, or others."
            )
    return tuple(pools)


def _limit(settings: RetrainSettings) -> int:
    """Samples that are taken from iterables."""
    from onnxzip.retraining.student import wanted_rows

    return min(settings.data.samples, wanted_rows(settings.steps.steps, settings.retrain))


def _job(path: Path, originals: Originals, pools: tuple[Pool, ...], settings: RetrainSettings) -> dict[str, object]:
    """All that must be the same in every process; files of checkpoints are the first one's alone."""
    return {
        "onnxzip": own_version(),
        "sha256 of the net": sha256_of(path),
        **{f"sha256 of the teacher of {t}": sha256_of(file) for t, (file, _) in originals.items()},
        **{f"samples of {', '.join(p.tasks)}": p.rows.count for p in pools},
        **{f"hash of the first samples of {', '.join(p.tasks)}": p.mark() for p in pools},
        "options": str((settings.steps.steps, replace(settings.retrain, checkpoint=None, resume=False), settings.run)),
    }


def _differing(any_teacher: bool, progress: Progress) -> Callable[[str], None]:
    """What becomes of a teacher that is not the file its task was made from: a note, or an error."""

    def differs(text: str) -> None:
        if not any_teacher:
            raise UsageError(f"{text}. Give that file, or use --any-teacher if this one is to teach.")
        progress.note(text)

    return differs


def _check_complete(tasks: Iterable[str], originals: Originals) -> None:
    """Every task needs its teacher.

    Raises:
        UsageError: one has none.
    """
    for task in tasks:
        if task not in originals:
            raise UsageError(f"task {task!r} has no teacher and would forget what it can. Give --teacher {task}=FILE.onnx.")


def _data_entry(given: Given, pools: Sequence[Pool], seed: int) -> dict[str, Any]:
    """What was taught with."""
    return {
        "noise": {"samples": len(pools[0].order), "seed": seed} if given.noise else None,
        "scaled_uint8": list(given.scaled),
        "samples": {t: len(pool.order) for pool in pools for t in pool.tasks},
    }


def _tasks(originals: Originals, before: Mapping[str, Evidence], after: Mapping[str, Evidence]) -> dict[str, Any]:
    return {
        task: original_entry(file, origin) | {"start": evidence_entry(before[task])} | evidence_entry(after[task])
        for task, (file, origin) in originals.items()
    }
