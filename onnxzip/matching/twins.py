"""Twins in a space: matched as if the first of them stood for all, the others' channels beside its own (`analysis.twins`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxzip.analysis.strands import Owners, SpacePlan, strands_of


def without_twins(space: SpacePlan) -> SpacePlan:
    """The space without all but the first of each twins; its strands are of no layout."""
    if not space.twins:
        return space
    others = _others(space)
    counts = {o - others: n for o, n in space.counts.items()}
    return replace(space, strands=strands_of(counts, False), twins=())


def with_twins(
    space: SpacePlan, groups: Sequence[Mapping[str, int]], costs: Sequence[float]
) -> tuple[list[dict[str, int]], list[float]]:
    """Groups of a space without twins and what each costs, with these; and behind them what twins alone own, for nothing."""
    owned = owned_by_twins(space, groups)
    return [_whole(space, g) for g in groups] + owned, [*costs, *[0.0] * len(owned)]


def owned_by_twins(space: SpacePlan, groups: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """Groups of channels that stand in none of the others of their twins: as many as the plan has, all that is left."""
    found = []
    for twins in (t for t in space.twins if t in space.counts):
        used = {g[t] for g in groups for t in twins if t in g}
        found += [dict.fromkeys(sorted(twins), c) for c in range(space.sizes[min(twins)]) if c not in used]
    return found


def led_by_twins(space: SpacePlan, leads: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the first of twins leads, all of them lead."""
    return {**leads, **{t: leads[first] for t, first in _firsts(space).items() if first in leads}}


def same_of_twins(space: SpacePlan) -> int:
    """How many channels are owned by twins alone: these are the same in all their nets."""
    return sum(space.counts.get(twins, 0) for twins in space.twins)


def by_unit(space: SpacePlan, tasks: Sequence[str]) -> list[Owners]:
    """Some tasks, twins together."""
    return list(dict.fromkeys(next((c for c in space.twins if t in c), frozenset([t])) for t in tasks))


def _firsts(space: SpacePlan) -> dict[str, str]:
    """Twin -> the one that stands for it: the first in the order of names."""
    return {t: min(twins) for twins in space.twins for t in twins}


def _others(space: SpacePlan) -> Owners:
    return frozenset(t for t, first in _firsts(space).items() if t != first)


def _whole(space: SpacePlan, group: Mapping[str, int]) -> dict[str, int]:
    return {**{t: group[first] for t, first in _firsts(space).items() if first in group}, **group}
