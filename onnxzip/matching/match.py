"""What a match is: which channels of which nets make up each fused channel.

For each strand of each space, `Members` tells which original channel of each task a fused channel stands for, and by which
positive factor it is scaled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.roles import Overlay
from onnxzip.analysis.spaces import Expr, positions
from onnxzip.analysis.strands import Owners, SpacePlan

ABSENT = -(1 << 40)


@dataclass(frozen=True)
class Members:
    """Channels of one strand.

    Attributes:
        index: task -> int [size], the original channel; ABSENT where the task has none in that fused channel.
        scale: task -> float [size]; fused channel = scale * original channel.
        cost: float [size], of sharing the channel, as `matching.grouping` counts it; NaN where one task owns it alone, empty
            where nothing was counted.
    """

    index: Mapping[str, np.ndarray]
    scale: Mapping[str, np.ndarray]
    cost: np.ndarray = field(default_factory=lambda: np.zeros(0))


Matches = Mapping[tuple[int, Owners], Members]


def members_of(
    plan: SpacePlan, groups: Sequence[Mapping[str, int]], scales: Sequence[Mapping[str, float]], costs: Sequence[float] = ()
) -> dict[tuple[int, Owners], Members]:
    """Lay groups out in the strands of a space.

    Args:
        groups: per fused channel, the original channel of each of its owners; shared groups only, in order. Channels that
            stand in none become their task's own, in their original order.
        scales: per group, the factor of each member.
        costs: per group, of sharing it; none where nothing was counted.
    """
    known = costs or [float("nan")] * len(groups)
    used: dict[str, set[int]] = {t: {g[t] for g in groups if t in g} for t in plan.sizes}
    own = {t: [i for i in range(n) if i not in used[t]] for t, n in plan.sizes.items()}
    by_owners: dict[Owners, list[tuple[Mapping[str, int], Mapping[str, float], float]]] = {}
    for group, scale, cost in zip(groups, scales, known, strict=True):
        by_owners.setdefault(frozenset(group), []).append((group, scale, cost))
    for task, channels in own.items():
        by_owners.setdefault(frozenset([task]), []).extend(({task: c}, {task: 1.0}, float("nan")) for c in channels)
    found = {}
    for strand in plan.strands:
        entries = [e for rows in strand.rows for e in by_owners[rows.owners]]
        if len(entries) != strand.size:
            raise ValueError(f"space {plan.name}: {len(entries)} channels matched for a strand of {strand.size}")
        index = {t: np.array([g.get(t, ABSENT) for g, _, _ in entries], np.int64) for t in sorted(strand.key)}
        factors = {t: np.array([s.get(t, 1.0) for _, s, _ in entries]) for t in sorted(strand.key)}
        charged = np.array([c for _, _, c in entries] if costs else [], np.float64)
        found[plan.number, strand.key] = Members(index, factors, charged)
    return found


def given_members(plan: SpacePlan) -> dict[tuple[int, Owners], Members]:
    """Members of a space that is identical in all tasks."""
    key = plan.strands[0].key
    size = plan.strands[0].size
    return {(plan.number, key): Members({t: np.arange(size) for t in key}, {t: np.ones(size) for t in key})}


def located(
    overlay: Overlay, expr: Expr, task: str, keys: tuple[Owners, ...], matches: Matches
) -> tuple[np.ndarray, np.ndarray]:
    """Where the channels of some strands lie along an original axis of a task, and their factors.

    Args:
        expr: the axis, over laid-over spaces.

    Returns:
        int [n], negative where the task has no such channel, and float [n].
    """
    chosen: dict[int, np.ndarray] = {}
    factors: dict[int, np.ndarray] = {}
    for number in expr.atoms():
        parts = [matches[number, k] for k in keys if (number, k) in matches]
        if any(n == number for n, _ in matches):
            chosen[number] = np.concatenate([np.zeros(0, np.int64), *(m.index[task] for m in parts)])
            factors[number] = np.concatenate([np.zeros(0), *(m.scale[task] for m in parts)])
    return positions(expr, chosen), _factors(expr, factors)


def channel_places(plan: Plan, expr: Expr, space: SpacePlan, task: str) -> np.ndarray:
    """Where each channel of a space lies along an original axis of a task: int [channels, places of each].

    Args:
        expr: the axis, over laid-over spaces.
    """
    nothing = np.zeros(0, np.int64)
    others = {a: nothing for a in expr.atoms() if a != space.number and expr.kind == "sum" and a in plan.spaces}
    return np.stack([positions(expr, {**others, space.number: np.array([c])}) for c in range(space.sizes[task])])


def _factors(expr: Expr, chosen: Mapping[int, np.ndarray]) -> np.ndarray:
    if expr.kind == "atom":
        return chosen[expr.atom] if expr.atom in chosen else np.ones(abs(expr.size))
    if expr.kind == "sum":
        return np.concatenate([_factors(p, chosen) for p in expr.parts])
    flat = np.ones(1)
    for part in expr.parts:
        flat = (flat[:, None] * _factors(part, chosen)[None, :]).reshape(-1)
    return flat
