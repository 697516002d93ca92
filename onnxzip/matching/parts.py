"""Fused channels in the order of the parts that they are computed in: those that follow one net stand together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Part
from onnxzip.analysis.leading import parts_of
from onnxzip.analysis.strands import Owners
from onnxzip.matching.match import ABSENT, Members

Made = Mapping[tuple[int, Owners], Members]


def in_parts(plan: Plan, made: Made) -> dict[tuple[int, Owners], Members]:
    """Members, those of spaces that fall into parts in the order of these; channels that follow no net stand where there is
    room."""
    cut = {part.space for part in plan.layout.parts.values()}
    found = dict(made)
    for number, key in (place for place in made if place[0] in cut):
        space, members = plan.spaces[number], made[number, key]
        parts = parts_of(space, next(s for s in space.strands if s.key == key))
        found[number, key] = _ordered(members, _order(members, parts))
    return found


def _order(members: Members, parts: tuple[Part, ...]) -> np.ndarray:
    """Channels in the order of their parts: int [size]."""
    owned = {t: i != ABSENT for t, i in members.index.items()}
    nobody = np.zeros(len(next(iter(owned.values()))), bool)
    led = {t: members.leads.get(t, nobody) for t in owned}
    of = [np.all([owned[t] == (t in p.owners) for t in owned], axis=0) for p in parts]
    first = [np.flatnonzero(mine & np.any([led[t] for t in p.led], axis=0)) for mine, p in zip(of, parts, strict=True)]
    rest = [np.setdiff1d(np.flatnonzero(mine), np.concatenate(first)) for mine in of]
    order = np.zeros(0, np.int64)
    for part, mine, others in zip(parts, first, rest, strict=True):
        free = np.setdiff1d(others, order)[: part.size - len(mine)]
        order = np.concatenate([order, mine, free])
    return order


def _ordered(members: Members, order: np.ndarray) -> Members:
    return Members(
        {t: i[order] for t, i in members.index.items()}, {t: i[:, order] for t, i in members.more.items()},
        {t: i[order] for t, i in members.leads.items()}, members.cost[order] if len(members.cost) else members.cost,
    )
