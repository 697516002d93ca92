"""The learning rate: short courses from the same start, one a rate, judged on held-out rows; the best rate goes the whole way.

Trials are steps like all others: they are taken off the steps that the user has given. Each is a whole small course, with
warm-up and decay, since rates can only be told apart after decay: at its peak a good rate looks worse than the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from onnxzip.retraining.loop import Job, begun

RATES = (0.01, 0.003, 0.03, 0.001)  # fractions of a tensor's size a step; the usual best first
PART, LEAST_TRIAL, LONGEST_TRIAL = 1 / 20, 10, 50
Asked = Callable[[], bool]


@dataclass(frozen=True)
class Found:
    """A learning rate.

    Attributes:
        rate: what to train with.
        steps: what finding it has cost.
        trials: score at the end, by rate.
    """

    rate: float
    steps: int
    trials: dict[float, float]


def find_rate(job: Job, steps: int, asked: Asked, tick: Callable[[int], None]) -> Found:
    """The rate for a course of about so many steps; the job's weights are as before.

    The first rate is tried, then its neighbours; the search goes on to the side where it got better.

    Args:
        job: what is trained.
        steps: that the user has given, trials included.
        asked: whether to stop early.
        tick: called with the number of steps done.
    """
    length = min(LONGEST_TRIAL, int(PART * steps))
    if length < LEAST_TRIAL:
        return Found(RATES[0], 0, {})
    scores: dict[float, float] = {}
    for rate in RATES:
        if asked() or (rate == RATES[-1] and min(scores, key=scores.__getitem__) != RATES[1]):
            break
        scores[rate] = _trial(job, rate, length, asked)
        tick(length)
    finite = {r: s for r, s in scores.items() if math.isfinite(s)} or {RATES[-1]: math.inf}
    return Found(min(finite, key=finite.__getitem__), length * len(scores), scores)


def _trial(job: Job, rate: float, length: int, asked: Asked) -> float:
    before = job.weights()
    course = begun(job, rate, length)
    while course.step < length and not asked():
        course.advance()
    score = job.score(job.judged())
    job.put(before)
    return score
