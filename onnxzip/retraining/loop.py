"""One course of retraining: steps, the rows that judge, the best weights so far.

    step    losses of all tasks, each over the root of its loss at the start, summed; rate * warm-up * line down to 0
            (measured on LeNet-5, fashion + digits, 1.7 points at the start, 300 steps: over the root 0.7, over the loss 0.9;
            over 1 the easier task falls behind its start and nothing is kept); a task above its start gains weight
    watch   every few steps the held-out rows judge; weights are kept if no task is worse than at the start, and the mean loss
            (over the loss at the start) is the lowest so far
    stop    after the last step, when asked to, or when nothing better has come for long while the rate was low

The weights at the start are the best so far until others are, so no course ends below its start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from onnxzip.fusion.begins import Onward
from onnxzip.peers import ALONE, Peers
from onnxzip.retraining.batches import Stream, batch_at
from onnxzip.retraining.coordinates import Coordinates
from onnxzip.retraining.losses import Judgement, Losses, judge
from onnxzip.retraining.optimizer import Proportional
from onnxzip.retraining.parallel import shared

WARM_UP, LONGEST_WARM_UP = 0.1, 100
WATCHES, LEAST_GAP = 15, 5
PATIENCE, LEAST_PATIENCE = 1 / 3, 200
FLOOR = 1e-3  # of the largest loss at the start: below it a task counts as if it had that much to gain
Weights = dict[str, Tensor]
_KEPT = "rate", "steps", "step", "best", "best_score", "balance", "best_step", "history"  # of a course, in a checkpoint


@dataclass(frozen=True)
class Job:
    """What is trained on what.

    Attributes:
        losses: the net and its losses.
        streams: of all pools.
        start: how the weights at the start were judged.
        accepts: whether a task, judged so, is no worse than judged so at the start.
        coordinates: in which layers are trained, by their weights.
        peers: the processes that train together.
    """

    losses: Losses
    streams: tuple[Stream, ...]
    start: Mapping[str, Judgement]
    accepts: Callable[[Judgement, Judgement], bool]
    coordinates: Mapping[Tensor, Coordinates] = field(default_factory=dict)
    peers: Peers = ALONE

    @cached_property
    def forward(self) -> nn.Module:
        """The losses of a batch, which several processes may share."""
        return shared(self.losses, self.peers)

    def weights(self) -> Weights:
        """A copy of what is trained."""
        return {n: p.detach().clone() for n, p in self.losses.net.params().items() if p.requires_grad}

    @torch.no_grad()
    def put(self, weights: Weights) -> None:
        """Set what is trained."""
        params = self.losses.net.params()
        for name, value in weights.items():
            params[name].copy_(value)

    def judged(self) -> dict[str, Judgement]:
        """The weights as they are, going on from states of their own."""
        for stream in self.streams:
            stream.learn_states(self.losses.net)
        return judge(self.losses, (p for s in self.streams for p in s.judging_here()), self.peers)

    def onward(self) -> list[list[tuple[Tensor, Tensor]] | None]:
        """What each stream goes on from."""
        known = [s.feedback.onward if s.feedback is not None else None for s in self.streams]
        return [None if some is None else [(torch.tensor(o.made), torch.tensor(o.spread)) for o in some] for some in known]

    def go_on(self, onward: Sequence[list[tuple[Tensor, Tensor]] | None]) -> None:
        """Let each stream go on from what it did when `onward` told so."""
        for stream, some in zip(self.streams, onward, strict=True):
            if stream.feedback is not None:
                stream.feedback.onward = None if some is None else [Onward(o.numpy(), e.numpy()) for o, e in some]

    def starts(self) -> list[float]:
        """Each task's loss at the start, none of them negligible."""
        starts = [self.start[t].loss for t in self.losses.tasks]
        floor = max(FLOOR * max(starts), torch.finfo(torch.float32).tiny)
        return [max(s, floor) for s in starts]

    def score(self, now: Mapping[str, Judgement]) -> float:
        """Mean loss, each over its loss at the start."""
        losses = [now[t].loss for t in self.losses.tasks]
        return sum(n / s for n, s in zip(losses, self.starts(), strict=True)) / len(losses)

    def allows(self, now: Mapping[str, Judgement]) -> bool:
        """Whether no task is worse than at the start."""
        return all(self.accepts(now[task], start) for task, start in self.start.items())


@dataclass
class Course:
    """Training from the weights at hand.

    Attributes:
        job: what is trained.
        rate: peak of the learning rate.
        steps: in all.
        step: done.
        best, best_score, best_step: the best weights so far.
        balance: what each task's loss is multiplied by.
        history: [step, score] of every watch.
    """

    job: Job
    rate: float
    steps: int
    best: Weights
    best_score: float
    balance: list[float]
    step: int = 0
    best_step: int = 0
    history: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        trained = [p for p in self.job.losses.net.params().values() if p.requires_grad]
        self.optimizer = Proportional(trained, self.rate, self.job.coordinates)

    def advance(self) -> list[float]:
        """One step; returns the loss of every task."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * shape_of_rate(self.step, self.steps)
        self.optimizer.zero_grad()
        batch = batch_at(self.job.streams, self.step)
        self.job.peers.any(False)  # whoever has no batch says so before the others wait for its gradients
        losses = self.job.forward(batch)
        (losses * torch.tensor(self.balance, device=losses.device)).sum().backward()
        self.optimizer.step()
        self.step += 1
        return [float(x) for x in losses.detach().cpu()]

    @property
    def due(self) -> bool:
        """Whether it is time to judge."""
        gap = max(LEAST_GAP, math.ceil(self.steps / WATCHES))
        return self.step % gap == 0 or self.step == self.steps

    def watch(self) -> None:
        """Judge, and keep the weights if they are the best."""
        judged = self.job.judged()
        score = self.job.score(judged)
        self.balance = rebalanced([judged[t].loss for t in self.job.losses.tasks], self.job.starts())
        self.history.append([self.step, score])
        if score < self.best_score and self.job.allows(judged):
            self.best, self.best_score, self.best_step = self.job.weights(), score, self.step

    @property
    def over(self) -> bool:
        """Whether more steps would not pay."""
        if self.step >= self.steps or (self.history and not math.isfinite(self.history[-1][1])):
            return True
        return self.best_step > 0 and stale(self.step, self.best_step, self.steps)

    def state(self) -> dict[str, Any]:
        """All that changes in the course, for a checkpoint."""
        return {
            "weights": self.job.weights(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "onward": self.job.onward(),
            **{name: getattr(self, name) for name in _KEPT},
        }


def begun(job: Job, rate: float, steps: int) -> Course:
    """A course from the job's weights at the start."""
    return Course(job, rate, steps, job.weights(), job.score(job.start), rebalanced(job.starts(), job.starts()))


def rebalanced(losses: Sequence[float], starts: Sequence[float]) -> list[float]:
    """What tasks with these losses are multiplied by: one over the root of the start, more for a task above its start.

    Nothing is carried over from one look to the next: weights that add up would go on punishing the other tasks when all are
    below their starts (measured on LeNet-5, fashion + digits, 300 steps: 1.0 points instead of 0.8).
    """
    if not math.isfinite(sum(losses)):
        losses = starts
    above = [max(1.0, loss / start) for loss, start in zip(losses, starts, strict=True)]
    mean = sum(above) / len(above)
    return [a / mean / math.sqrt(start) for a, start in zip(above, starts, strict=True)]


def resumed(job: Job, state: Mapping[str, Any]) -> Course:
    """The course that a checkpoint holds."""
    job.put(state["weights"])
    job.go_on(state["onward"])
    course = Course(job, **{name: state[name] for name in _KEPT})
    course.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return course


def stale(step: int, best_step: int, steps: int) -> bool:
    """Whether nothing better has come for long: in the second half of the course, where the rate is low.

    In the first one the noise of a high rate hides what its fall brings to light: a MobileNetV2-like net trained from random
    weights for 3,000 steps had its best weights at step 394 and then none better up to 1,394, at 5 points of test error.
    """
    return step - max(best_step, steps / 2) >= max(LEAST_PATIENCE, PATIENCE * steps)


def shape_of_rate(step: int, steps: int) -> float:
    """Fraction of the peak rate at a step: up over the first tenth, on a straight line down to 0 behind the last step.

    Measured on LeNet-300-100, mean of four pairs, 300 steps (one seed, S of the objective 1, momentum 0.95): 1.9 % of the test
    images get another class than the teacher's at rates 0.004 and 0.006, with a cosine 2.0 % at 0.003 and 2.1 % at 0.01.
    """
    warm = max(1, min(LONGEST_WARM_UP, int(WARM_UP * steps)))
    return min(1.0, (step + 1) / warm) * (1 - step / steps)
