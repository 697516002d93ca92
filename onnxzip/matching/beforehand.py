"""Matches of all spaces that are decided before the zip, from what the original nets are: likeness in, groups out.

Groups are formed as those of the zip, net after net (see `grouping`): the cost of a group is the sum over its pairs of
2 (1 - likeness), likeness at most 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.calibration.features import Features
from onnxzip.matching.grouping import Assign, Terms, group_channels
from onnxzip.matching.match import Members, members_of
from onnxzip.matching.twins import with_twins, without_twins

Groups = list[dict[str, int]]
Gather = Callable[[], Features]
Beforehand = Callable[[Plan, Gather], Mapping[tuple[int, Owners], Members]]
Likeness = Mapping[tuple[str, str], np.ndarray]  # (task, task) -> [channels, channels], at most 1; both orders


def matched_spaces(plan: Plan) -> tuple[SpacePlan, ...]:
    """Spaces of which channels are shared and that steps make, in the order of the zip."""
    place = {n: k for k, s in reversed(list(enumerate(plan.steps))) for n in s.spaces}
    some = [s for n, s in plan.spaces.items() if n in place and not s.ordered and sharing(s)]
    return tuple(sorted(some, key=lambda s: place[s.number]))


def sharing(space: SpacePlan) -> tuple[str, ...]:
    """The tasks that share channels of a space."""
    return tuple(t for t in space.sizes if any(t in owners and len(owners) > 1 for owners in space.counts))


def group_alike(space: SpacePlan, likeness: Likeness, assign: Assign) -> Groups:
    """Groups of channels that are most alike, as many of each owner set as the space's plan has."""
    alone = without_twins(space)
    sizes = {t: space.sizes[t] for t in sharing(alone)}
    pairs = {(t, u): likeness[t, u] - 1 if t != u else np.zeros((n, n)) for t, n in sizes.items() for u in sizes}
    nothing, ones = ({t: make(n) for t, n in sizes.items()} for make in (np.zeros, np.ones))
    counts = {o: n for o, n in alone.counts.items() if len(o) > 1}
    groups, _ = with_twins(space, *group_channels(counts, Terms(nothing, lambda some: pairs, ones), assign))
    return groups


def members_alike(space: SpacePlan, likeness: Likeness, assign: Assign) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of a space, from such groups, in the order of the first task's channels."""
    return members_of(space, sorted(group_alike(space, likeness, assign), key=lambda group: sorted(group.items())))
