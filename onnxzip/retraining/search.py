"""The learning rate: the usual one for so good a start, or the highest below it that does no lasting harm.

    usual rate = POOR * relative error of the outputs at the start, mean of all tasks; between GOOD and POOR
                 of what that is above GOOD, SHORT / steps in courses of more
                 of it all, batch / FULL for batches of fewer samples

In the coordinates of `onnxzip.retraining.coordinates` one rate serves courses of any length. Held-out loss over the start's,
zips of six families, halves of `fashion`, one seed: after 30 steps 0.004 and 0.0055 are best (0.837 / 0.841 LeNet-300-100,
0.912 / 0.900 LeNet-5, 0.907 / 0.896 VGG-like, 0.733 / 0.748 ResNet-like, 0.698 / 0.690 MobileNetV2-like, 0.785 / 0.745 LSTM),
after 300 0.003 to 0.004 for LeNet-300-100 and LSTM (0.40 and 0.30; at 0.008 0.55 and 0.44), 0.006 for LeNet-5 (0.51; at 0.004
0.53), 0.005 and 0.008 alike for the MobileNetV2-like net (0.315), of which 1,000 steps at 0.005 leave 0.262, at 0.008 0.282.
From random weights, 300 steps at 0.005 / 0.01 / 0.02, points of test error: LeNet-300-100 3.8 / 1.3 / 0.5, LeNet-5 1.7 / 0.8
/ 0.6, VGG-like 2.0 / 1.3 / 0.9, LSTM 41 / 20 / 10, but MobileNetV2-like 2.2 / 2.2 / 7.4; that one 0.7 / 1.1 after
1,000, and 4.6 after 3,000 at 0.01.

All steps are of one length, however little a small batch knows of where to go. Held-out loss over the start's, zips of the
halves of `fashion`, one seed, batches of 8 / 16 / 32, at 0.005: 1.00 / 0.91 / 0.82 VGG-like (100 steps) and 1.00 / 0.92 / 0.65
MobileNetV2-like (60 steps; 1.00 and no gain are the same), at 0.0025 0.96 / 0.90 / 0.85 and 1.00 / 0.82 / 0.66, at 0.00125
0.96 / 0.92 / 0.89 and 0.95 / 0.86 / 0.74. More momentum, or coordinates from more samples, do not help there.

A rate that is too high destroys a good start within a few steps; one that is low looks best in a short trial and then learns
less in the whole course. So a trial asks for no gain, only that the held-out loss after it is below `HARMLESS` times the
start's. Trials have warm-up and decay of their own, and are taken off the steps that the user has given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxzip.retraining.loop import Job, begun

GOOD, POOR, SHORT = 0.005, 0.01, 300  # two fractions of a tensor's size a step; steps
FULL = 32  # samples of each task, of a batch that knows where to go
FALL, LOWEST = 1 / 2, 1e-4  # from one trial to the next, and where trials end
PART, LEAST_TRIAL, LONGEST_TRIAL = 1 / 20, 5, 50
HARMLESS = 1.1
Asked = Callable[[], bool]


def find_rate(job: Job, steps: int, batch: int, asked: Asked, tick: Callable[[int], None]) -> tuple[float, int]:
    """The rate for a course of about so many steps, and the steps that finding it has cost; the job's weights are as before.

    The usual rate is tried, then lower ones until one does no harm; with too few steps for trials the usual one is taken.

    Args:
        job: what is trained.
        steps: that the user has given, trials included.
        batch: samples of each task a step.
        asked: whether to stop early.
        tick: called with the number of steps done.
    """
    length, cost = min(LONGEST_TRIAL, int(PART * steps)), 0
    rate = usual_rate([judged.relative_error for judged in job.start.values()], steps, batch)
    while length >= LEAST_TRIAL and rate > LOWEST and not asked():
        cost, loss = cost + length, _trial(job, rate, length, asked)
        tick(length)
        if loss <= HARMLESS:
            break
        rate *= FALL
    return rate, cost


def usual_rate(errors: Sequence[float], steps: int, batch: int) -> float:
    """The rate for a start with these relative errors, for so many steps and samples of each task, that is tried first."""
    rate = float(np.clip(POOR * np.nan_to_num(np.mean(errors), nan=1.0), GOOD, POOR))
    return (GOOD + (rate - GOOD) * min(1.0, SHORT / max(steps, 1))) * min(1.0, batch / FULL)


def _trial(job: Job, rate: float, length: int, asked: Asked) -> float:
    """Held-out loss over the start's; NaN where everything is lost."""
    before, onward = job.weights(), job.onward()
    course = begun(job, rate, length)
    while course.step < length and not asked():
        course.advance()
    score = job.score(job.judged())
    job.put(before)
    job.go_on(onward)
    return score
