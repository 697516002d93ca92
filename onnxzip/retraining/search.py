"""The learning rate: the usual one for so many steps, or the highest below it that does no lasting harm.

    usual rate = USUAL * root(steps / FULL) for courses shorter than FULL, at least LEAST; USUAL for all others

The noise that a rate leaves decays with the rate, and the longer the course the more of it: a short one wants a lower peak.
The root is a rule of thumb between measured ones (LeNet-300-100, mean of four pairs, held-out loss over the start's: of 0.001,
0.002 and 0.004 the best is 0.002 for 30 steps and 0.004 for 100; for 300, 0.009 is little better than 0.006). Long courses get
to the same place by a low rate, with less noise: after 1,000 steps at 0.015, 0.008 and 0.004 LeNet-5 is at 0.59, 0.53 and 0.54
of the loss at its start, and a MobileNetV2-like net at 1.39, 1.21 and 1.81 points of test error from random weights; merged by
`mtz`, at 2.42 points by 0.015 and 1.03 by 0.005.

A rate that is too high destroys a good start within a few steps; one that is low looks best in a short trial and then learns
less in the whole course. So a trial asks for no gain, only that the held-out loss after it is below `HARMLESS` times the
start's. Trials have warm-up and decay of their own, and are taken off the steps that the user has given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from onnxzip.retraining.loop import Job, begun

USUAL, LEAST = 0.008, 0.001  # fractions of a tensor's size a step
FULL = 300  # steps
FALL, LOWEST = 1 / 2, 1e-4  # from one trial to the next, and where trials end
PART, LEAST_TRIAL, LONGEST_TRIAL = 1 / 20, 10, 50
HARMLESS = 1.1
Asked = Callable[[], bool]


@dataclass(frozen=True)
class Found:
    """A learning rate.

    Attributes:
        rate: what to train with.
        steps: what finding it has cost.
        trials: held-out loss at the end over that at the start, by rate.
    """

    rate: float
    steps: int
    trials: dict[float, float]


def find_rate(job: Job, steps: int, asked: Asked, tick: Callable[[int], None]) -> Found:
    """The rate for a course of about so many steps; the job's weights are as before.

    The usual rate is tried, then lower ones until one does no harm; with too few steps for trials the usual one is taken.

    Args:
        job: what is trained.
        steps: that the user has given, trials included.
        asked: whether to stop early.
        tick: called with the number of steps done.
    """
    length = min(LONGEST_TRIAL, int(PART * steps))
    trials: dict[float, float] = {}

    def harmless(rate: float) -> bool:
        trials[rate] = _trial(job, rate, length, asked)
        tick(length)
        return trials[rate] <= HARMLESS

    rate = usual_rate(steps)
    while length >= LEAST_TRIAL and rate > LOWEST and not asked() and not harmless(rate):
        rate *= FALL
    return Found(rate, length * len(trials), trials)


def usual_rate(steps: int) -> float:
    """The rate for so many steps that is tried first."""
    return max(LEAST, USUAL * math.sqrt(min(1, steps / FULL)))


def _trial(job: Job, rate: float, length: int, asked: Asked) -> float:
    """Held-out loss over the start's; NaN where everything is lost."""
    before = job.weights()
    course = begun(job, rate, length)
    while course.step < length and not asked():
        course.advance()
    score = job.score(job.judged())
    job.put(before)
    return score
