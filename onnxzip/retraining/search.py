"""The learning rate: the highest that does no lasting harm, found by short courses from the same start.

A rate that is too high destroys a good start within a few steps; one that is low looks best in a short trial and then learns
less in the whole course, where the noise of a higher rate has time to decay. So a trial asks for no gain: the rate that is
taken is the highest at which the held-out loss after the trial is below `HARMLESS` times the start's. Trials have warm-up and
decay of their own, and are taken off the steps that the user has given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxzip.retraining.loop import Job, begun

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)  # fractions of a tensor's size a step
FIRST = 3  # of the rates: the usual one, taken where there are too few steps for trials
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

    The usual rate is tried, then higher ones until one does harm, or lower ones until one does none.

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

    place = FIRST
    if length >= LEAST_TRIAL and harmless(RATES[place]):
        while place + 1 < len(RATES) and not asked() and harmless(RATES[place + 1]):
            place += 1
    elif length >= LEAST_TRIAL:
        place -= 1
        while place > 0 and not asked() and not harmless(RATES[place]):
            place -= 1
    return Found(RATES[place], length * len(trials), trials)


def _trial(job: Job, rate: float, length: int, asked: Asked) -> float:
    """Held-out loss over the start's; NaN where everything is lost."""
    before = job.weights()
    course = begun(job, rate, length)
    while course.step < length and not asked():
        course.advance()
    score = job.score(job.judged())
    job.put(before)
    return score
