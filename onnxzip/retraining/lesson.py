"""Who teaches what: the heads of a fused net that its teachers can teach, on the samples at hand, towards which loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from onnxzip.calibration.rows import Pool
from onnxzip.calibration.sources import Note
from onnxzip.config import RetrainOptions
from onnxzip.errors import UnsupportedError
from onnxzip.exporting.trial import error_of
from onnxzip.net import Net
from onnxzip.retraining.heads import Head, heads_of, kinds_from
from onnxzip.retraining.objective import try_loss
from onnxzip.retraining.teachers import Teacher

ALIKE = 1e-2  # rows of one sample alone and in company: far above rounding


@dataclass(frozen=True)
class Lesson:
    """What a net is retrained with.

    Attributes:
        teachers: by task.
        pools: samples; every task stands in exactly one.
        memory: bytes for params, their companions and kept answers.
        says: the fused net with all outputs that the teachers teach, where it has fewer.
    """

    teachers: Mapping[str, Teacher]
    pools: Sequence[Pool]
    memory: int
    says: bytes | None = None


def taught(net: Net, lesson: Lesson, options: RetrainOptions, note: Note) -> tuple[tuple[Head, ...], Lesson]:
    """The heads that teach, and the lesson whose teachers say no more than what these are taught.

    Args:
        net: the fused one.
        note: is told of what does not teach, and of labels that train nothing.

    Raises:
        UsageError: a head that cannot be used.
        UnsupportedError: a task has no output that teaches.
    """
    origins = {t: x.origin for t, x in lesson.teachers.items()}
    heads = _in_order(heads_of(net, origins, kinds_from(options.head), note), lesson, note)
    if options.label_weight and not options.loss:
        _note_unlabelled(heads, lesson, note)
    return heads, replace(lesson, teachers={t: _saying(x, heads) for t, x in lesson.teachers.items()})


def check_loss(lesson: Lesson, options: RetrainOptions, device: torch.device) -> None:
    """Refuse a loss of the user's that nothing can be trained by: it is tried for every task, on a batch of samples.

    Raises:
        UsageError: see `try_loss`.
    """
    if not options.loss:
        return
    for pool in lesson.pools:
        rows = pool.order[: options.batch]
        feeds = pool.rows.take(rows)
        for task in pool.tasks:
            teacher, labels = lesson.teachers[task], pool.labels.get(task)
            said = {name: torch.tensor(x, device=device) for name, x in teacher.answers(feeds).items()}
            own = {name: said[new] for name, new in teacher.origin.outputs.items() if new in said}
            try_loss(options.loss, task, own, None if labels is None else torch.tensor(labels[rows], device=device))


def _in_order(heads: Sequence[Head], lesson: Lesson, note: Note) -> tuple[Head, ...]:
    """Heads whose rows stand sample by sample: of those with several rows a sample, which the first rows of a pool tell.

    Raises:
        UnsupportedError: a task has none.
    """
    mixed = set()
    for task in {h.task for h in heads if h.rows > 1}:
        teacher, pool = lesson.teachers[task], next(p for p in lesson.pools if task in p.tasks)
        feeds = pool.rows.take(pool.order[:3])
        whole, part = teacher.answers(feeds), teacher.answers({k: x[:1] for k, x in feeds.items()})
        names = [h.output for h in heads if h.task == task and h.rows > 1]
        mixed |= {n for n in names if error_of(whole[n][: len(part[n])], part[n]) > ALIKE}
    for output in sorted(mixed):
        note(f"output {output!r} does not teach: its rows do not stand sample by sample")
    left = tuple(h for h in heads if h.output not in mixed)
    for task in {h.task for h in heads} - {h.task for h in left}:
        raise UnsupportedError(
            f"task {task!r}: the rows of its outputs do not stand sample by sample: nothing can teach. Merge it without "
            "retraining."
        )
    return left


def _saying(teacher: Teacher, heads: Sequence[Head]) -> Teacher:
    """A teacher that says what heads are taught, and no more."""
    return replace(teacher, silent=frozenset(teacher.origin.outputs.values()) - {h.output for h in heads})


def _note_unlabelled(heads: Sequence[Head], lesson: Lesson, note: Note) -> None:
    """Tell whose labels have no output that they could train."""
    labelled = {h.task for h in heads if h.labelled}
    for task in (t for pool in lesson.pools for t in pool.labels if t not in labelled):
        note(f"labels 'y' do not train {task!r}: none of its outputs is known for logits or probabilities of them. Say "
             "--head OUTPUT=logits or probabilities.")
