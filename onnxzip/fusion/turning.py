"""Spaces whose basis is free, in their principal axes: what matters most comes first, so that half of them is nearly all.

Channels of a linear stream as training has left them are about equally important: half of them is half of the stream. Along
the principal axes, the eigenvectors of the covariance of its channels, the first half has most of the variance (89 to 98 % in
MobileNetV2-like nets). They are ranked as they stand (see `keeping`): of two nets that share a space each leads with its first
axes, which take the places of the last axes of the other.

The inputs of a layer along principal axes, to leave out the last of them: Ashkboos et al., SliceGPT, ICLR 2024 (arXiv
2401.15024).

Measured, MobileNetV2-like nets, 1,000 images a task, two seeds, increase of error in points, mean of four pairs, channels as
they were / along principal axes: share 1 2.59 / 1.86. Axes of the covariance weighted by what reads the stream, M^1/2 C M^1/2
with M the sum of W' W, or its root: 1.91 and 1.85. Principal axes matched as all other channels are: 2.14 at share 1, and no
difference at share 0.5.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.strands import SpacePlan
from onnxzip.analysis.turning import turnable, turned_params
from onnxzip.calibration.frontier import Frontier
from onnxzip.fusion.keeping import room_of
from onnxzip.fusion.pairing import akin_channels
from onnxzip.fusion.work import Work
from onnxzip.linalg.principal import principal_axes
from onnxzip.matching.beforehand import sharing
from onnxzip.matching.match import Matches
from onnxzip.matching.twins import by_unit, without_twins
from onnxzip.peers import Peers


def may_turn(work: Work, space: SpacePlan, matches: Matches) -> bool:
    """Whether a space has no basis of its own, and no channels that do the same in several nets."""
    room = room_of(without_twins(space).counts, ())
    if not room or not all(turnable(work.plan, space.number, t) for t in sharing(space)):
        return False
    return not akin_channels(work, space, room, (), matches)


def turned(plan: Plan, frontier: Frontier, space: SpacePlan, peers: Peers) -> Plan:
    """The plan with a space along its principal axes, in all nets that share it; targets that wait are turned, too."""
    nets = dict(plan.nets)
    for twins in by_unit(space, sharing(space)):
        steps = {t: [s for s in plan.steps if space.number in s.spaces and t in s.tasks] for t in twins}
        found = [frontier.covariance(s, t, peers, np.asarray) for t in sorted(twins) for s in steps[t]]
        axes = principal_axes(np.mean(found, axis=0))
        for task in twins:
            frontier.turn(steps[task], task, axes)
            params = turned_params(plan, space.number, task, axes)
            nets[task] = replace(nets[task], params={**nets[task].params, **params})
    return replace(plan, nets=nets)
