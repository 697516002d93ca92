"""retrain_content: the content of a fused file, its teachers and samples -> the same file with better params.

    read -> streams -> judge the start, coordinates -> find the rate -> one course -> the best weights back into the file

Memory: six times the params (weights, gradient, two moments, the best, the copy being made), the layers' coordinates, the
activations of one batch, samples as they are stored, and the teachers' answers, kept as long as they, the six and the
coordinates fit `memory`, else computed anew.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from onnxzip.calibration.rows import Pool
from onnxzip.calibration.samples import HELD_OUT, Source
from onnxzip.config import RetrainOptions, RunOptions
from onnxzip.errors import BackendMissingError, InvalidModelError, UnsupportedError, UsageError
from onnxzip.net import BATCH, Port
from onnxzip.peers import ALONE, Peers
from onnxzip.progress import Progress
from onnxzip.retraining.batches import HELD, Stream, batch_at, parts_of
from onnxzip.retraining.checkpoint import Keeper, belonging
from onnxzip.retraining.coordinates import BATCHES, coordinates_of, room_for
from onnxzip.retraining.heads import Head
from onnxzip.retraining.interrupt import Interrupt, Wish
from onnxzip.retraining.lesson import Lesson, check_loss, taught
from onnxzip.retraining.loop import Course, Job, begun, resumed
from onnxzip.retraining.losses import Judgement, Losses, as_close, as_low, judge
from onnxzip.retraining.module import TorchNet, read_for_batches, write_params
from onnxzip.retraining.objective import Criterion, Distillation, called, custom_loss
from onnxzip.retraining.search import find_rate
from onnxzip.retraining.varying import can_vary
from onnxzip.signals import ENDING

COPIES = 6  # of the params, in memory


@dataclass(frozen=True)
class Retrained:
    """The outcome.

    Attributes:
        content: of the file.
        steps: done, trials included.
        trial_steps: of these, those that found the learning rate.
        kept_step: of the course whose weights were kept; 0 for those of the start.
        learning_rate: fraction of its size that a tensor moved in a step, at most.
        start, end: judgements of the weights at the start and of those that were kept.
        interrupted: whether it was stopped by the user.
        seconds: it took, without what a checkpoint had done before.
    """

    content: bytes = field(repr=False)
    steps: int
    trial_steps: int
    kept_step: int
    learning_rate: float | None
    start: Mapping[str, Judgement]
    end: Mapping[str, Judgement]
    interrupted: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As it stands in reports."""
        names = "steps", "seconds", "trial_steps", "kept_step", "learning_rate", "interrupted"
        tasks = {t: {"start": asdict(self.start[t]), "end": asdict(self.end[t])} for t in self.start}
        return {**{n: getattr(self, n) for n in names}, "tasks": tasks}


def retrain_content(
    content: bytes,
    lesson: Lesson,
    steps: int,
    options: RetrainOptions,
    run: RunOptions,
    progress: Progress,
    peers: Peers = ALONE,
) -> Retrained:
    """Retrain a fused net.

    Args:
        content: a file that `merge` has made.
        lesson: teachers and samples.
        steps: trials of learning rates included; 0 gives the same file back.
        options, run: as of the command line.
        progress: is told of every step.
        peers: the processes that retrain together, each with its part of every batch; all come to the same params.

    Raises:
        UsageError: heads, a loss or a checkpoint that cannot be used.
        UnsupportedError: an operator has no torch function, a task has no output that teaches, or nothing can be trained.
        InvalidDataError: samples that the nets cannot be fed with.
    """
    started = time.perf_counter()
    net = _pupil(lesson.says or content, run, progress)
    heads, lesson = taught(net.reading.net, lesson, options, progress.note)
    check_loss(lesson, options, device_for(run.device))
    streams = _streams(net, lesson, options, run, peers)
    _check_shapes(net, streams)
    losses = Losses(net, heads, _criteria(heads, streams, options))
    start = _first_look(losses, streams, progress, peers)
    steps = steps if all(s.teaches for s in streams) else 0
    _check_start(start, options)
    coordinates = coordinates_of(losses, [batch_at(streams, k) for k in range(BATCHES)], peers) if steps else {}
    job = Job(losses, streams, start, as_low if options.loss or options.label_weight else as_close, coordinates, peers)
    belongs = belonging(content, _telling(steps, options, run), streams) if options.checkpoint else ""
    keeper = Keeper(options.checkpoint, options.checkpoint_every, belongs, peers, progress.note)
    with Interrupt(ENDING if peers.size == 1 else (signal.SIGINT,)) as interrupt:  # torchrun itself ends others by SIGTERM
        wish = Wish(lambda: peers.any(interrupt.asked))
        course, trials = _begun(job, steps, options, keeper, wish, progress)
        _complete(course, trials, keeper, wish, progress)
    job.put(course.best)
    kept = course.best_step > 0
    return Retrained(
        write_params(net, content) if kept else content,
        course.step + trials,
        trials,
        course.best_step,
        course.rate if steps else None,
        job.start,
        job.judged() if kept else job.start,
        wish.granted,
        time.perf_counter() - started,
    )


def _pupil(content: bytes, run: RunOptions, progress: Progress) -> TorchNet:
    """The net that is retrained, on its device.

    Raises:
        UnsupportedError: an operator has no torch function, or nothing can be trained.
    """
    net = read_for_batches(content).to(device_for(run.device))
    if net.batch != BATCH:
        progress.note(f"the fused net takes {net.batch} of the samples of a step at a time, and cannot be made to take more")
    if not any(p.requires_grad for p in net.parameters()):
        raise UnsupportedError("the fused net has no weights that can be trained")
    return net


def wanted_rows(steps: int, options: RetrainOptions) -> int:
    """Samples of a source that so many steps can see, those that are held out included."""
    return steps * options.batch + HELD * HELD_OUT


def judging_sources(pools: Sequence[Pool]) -> tuple[Source, ...]:
    """The rows that judge, one source a pool."""
    return tuple(replace(p, order=parts_of(p)[1]).source(HELD) for p in pools)


def device_for(name: str) -> torch.device:
    """The device of torch for `auto`, `cpu` or `cuda`.

    Raises:
        BackendMissingError: CUDA was asked for and torch cannot use it.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendMissingError("device cuda: torch cannot use one here. Install torch with CUDA, or use --device cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _streams(
    net: TorchNet, lesson: Lesson, options: RetrainOptions, run: RunOptions, peers: Peers
) -> tuple[Stream, ...]:
    size = sum(4 * p.numel() for p in net.parameters())
    room = max(0, lesson.memory - COPIES * size - room_for(net.parameters())) // len(lesson.pools)
    device = next(iter(net.parameters())).device
    return tuple(
        Stream(
            pool,
            tuple(lesson.teachers[t] for t in pool.tasks),
            options.batch,
            (run.seed, number),
            room,
            device,
            _may_vary(pool, net.inputs, options),
            peers,
        )
        for number, pool in enumerate(lesson.pools)
    )


def _may_vary(pool: Pool, ports: Sequence[Port], options: RetrainOptions) -> bool:
    """Whether a pool's rows may be varied: what labels say is true of the rows as they are."""
    labelled = pool.labels and (options.loss or options.label_weight)
    return can_vary(ports) and not (options.unvaried or labelled)


def _check_shapes(net: TorchNet, streams: Sequence[Stream]) -> None:
    """Refuse teachers that say something else than the net.

    Raises:
        InvalidModelError: an output has another shape.
    """
    ports = {p.name: p for p in net.reading.net.outputs}
    for stream in streams:
        for name, answer in next(stream.judging()).targets.items():
            have, want = tuple(answer.shape[1:]), tuple(ports[name].shape[1:])
            if have != want:
                raise InvalidModelError(
                    f"output {name!r}: the fused net gives {list(want)} for a sample, the teacher {list(have)}. Give the "
                    "original net of that task."
                )


def _check_start(start: Mapping[str, Judgement], options: RetrainOptions) -> None:
    """Refuse a loss of the user's that is no number at the start: nothing could be told to be better.

    Raises:
        UsageError: naming the task.
    """
    for task, judged in start.items():
        if options.loss and not math.isfinite(judged.loss):
            where = f"--loss {called(options.loss)}: task {task!r}: the loss"
            raise UsageError(f"{where} is {judged.loss:g} at the start. Let your callable return finite numbers.")


def _first_look(
    losses: Losses, streams: Sequence[Stream], progress: Progress, peers: Peers
) -> dict[str, Judgement]:
    """How the weights at hand are judged."""
    for stream in streams:
        stream.begin_states(losses.net, progress.note)
    return judge(losses, (p for s in streams for p in s.judging_here()), peers)


def _criteria(heads: tuple[Head, ...], streams: Sequence[Stream], options: RetrainOptions) -> dict[str, Criterion]:
    """The loss of every task."""
    tasks = dict.fromkeys(h.task for h in heads)
    if options.loss:
        return dict.fromkeys(tasks, custom_loss(options.loss))
    variances = {name: v for stream in streams for name, v in _variances(stream).items()}
    found: dict[str, Criterion] = {}
    for task in tasks:
        own = tuple(h for h in heads if h.task == task)
        found[task] = Distillation(own, {h.name: variances[h.output] for h in own}, options.temperature, options.label_weight)
    return found


def _variances(stream: Stream) -> dict[str, float]:
    """Variance of each output of the teachers over the rows that judge, mean of all its numbers; infinite ones have none."""
    portions = list(stream.judging())
    found = {}
    for name in portions[0].targets:
        values = torch.cat([p.targets[name] for p in portions]).double()
        found[name] = float(_variance(values))
    return found


def _variance(values: Tensor) -> Tensor:
    known = values.isfinite()
    if known.all():
        return values.var(dim=0, unbiased=False).mean()
    mean = values.where(known, 0.0).sum(dim=0) / known.sum(dim=0).clamp_min(1)
    return (values - mean).where(known, 0.0).square().mean()


def _telling(steps: int, options: RetrainOptions, run: RunOptions) -> tuple[object, ...]:
    """All options that the result depends on."""
    o = options
    return steps, o.batch, o.learning_rate, o.temperature, o.head, o.label_weight, called(o.loss), o.unvaried, run.seed


def _begun(
    job: Job, steps: int, options: RetrainOptions, keeper: Keeper, wish: Wish, progress: Progress
) -> tuple[Course, int]:
    """The course, at its start or where a checkpoint left it, and the steps that trials took."""
    if options.resume:
        state = keeper.load()
        course, trials = resumed(job, state), int(state["trials"])
        progress.advance(course.step + trials)
        return course, trials
    rate, cost = (options.learning_rate, 0) if options.learning_rate is not None else find_rate(
        job, steps, options.batch, wish.asked, progress.advance
    )
    return begun(job, rate, steps - cost), cost


def _complete(course: Course, trials: int, keeper: Keeper, wish: Wish, progress: Progress) -> None:
    """All steps of a course that are left and that pay."""
    while not course.over and not wish.asked():
        losses = course.advance()
        if course.due:
            course.watch()
        if course.step % keeper.every == 0:
            keeper.save(course.state() | {"trials": trials})
        progress.advance(1)
        progress.detail("  ".join(f"{t} {x:.4f}" for t, x in zip(course.job.losses.tasks, losses, strict=True)))
    if wish.granted and course.step < course.steps:
        keeper.save(course.state() | {"trials": trials})  # before a look that an uninterrupted course would not take
        course.watch()
