"""What a match is: which channels of which nets make up each fused channel.

For each strand of each space, `Members` tells which original channel of each task a fused channel stands for, and by which
positive factor it is scaled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.roles import Overlay
from onnxzip.analysis.spaces import Expr, Inside, positions
from onnxzip.analysis.strands import Owners, SpacePlan

ABSENT = -(1 << 40)


@dataclass(frozen=True)
class Members:
    """Channels of one strand.

    Attributes:
        index: task -> int [size], the original channel; ABSENT where the task has none in that fused channel. Of a space that
            lies inside another one: int [size of the other's strand, channels], an order for each channel of the other.
        scale: task -> float [size]; fused channel = scale * original channel. Empty for a space inside another one.
    """

    index: Mapping[str, np.ndarray]
    scale: Mapping[str, np.ndarray]


Matches = Mapping[tuple[int, Owners], Members]
Rows = Mapping["int | None", np.ndarray]  # space inside (None: rows of nothing inside) -> int [channels, inside, rows of each]


def members_of(
    plan: SpacePlan, groups: Sequence[Mapping[str, int]], scales: Sequence[Mapping[str, float]]
) -> dict[tuple[int, Owners], Members]:
    """Lay groups out in the strands of a space.

    Args:
        groups: per fused channel, the original channel of each of its owners; shared groups only, in order. Channels that
            stand in none become their task's own, in their original order.
        scales: per group, the factor of each member.
    """
    used: dict[str, set[int]] = {t: {g[t] for g in groups if t in g} for t in plan.sizes}
    own = {t: [i for i in range(n) if i not in used[t]] for t, n in plan.sizes.items()}
    by_owners: dict[Owners, list[tuple[Mapping[str, int], Mapping[str, float]]]] = {}
    for group, scale in zip(groups, scales, strict=True):
        by_owners.setdefault(frozenset(group), []).append((group, scale))
    for task, channels in own.items():
        by_owners.setdefault(frozenset([task]), []).extend(({task: c}, {task: 1.0}) for c in channels)
    found = {}
    for strand in plan.strands:
        entries = [e for rows in strand.rows for e in by_owners[rows.owners]]
        if len(entries) != strand.size:
            raise ValueError(f"space {plan.name}: {len(entries)} channels matched for a strand of {strand.size}")
        index = {t: np.array([g.get(t, ABSENT) for g, _ in entries], np.int64) for t in sorted(strand.key)}
        factors = {t: np.array([s.get(t, 1.0) for _, s in entries]) for t in sorted(strand.key)}
        found[plan.number, strand.key] = Members(index, factors)
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
    chosen: dict[int, np.ndarray | Inside] = {}
    factors: dict[int, np.ndarray] = {}
    for number in expr.atoms():
        parts = [matches[number, k] for k in keys if (number, k) in matches]
        if number in overlay.inside:
            if parts:
                chosen[number] = Inside(overlay.inside[number], np.concatenate([m.index[task] for m in parts]))
        elif any(n == number for n, _ in matches):
            chosen[number] = np.concatenate([np.zeros(0, np.int64), *(m.index[task] for m in parts)])
            factors[number] = np.concatenate([np.zeros(0), *(m.scale[task] for m in parts)])
    return positions(expr, chosen), _factors(expr, factors)


def in_place(space: SpacePlan, number: int, size: int) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of a space that lies inside another one, all in their original order.

    Args:
        space: the other one; number, size: of the space inside.
    """
    return {
        (number, s.key): Members({t: np.tile(np.arange(size), (s.size, 1)) for t in sorted(s.key)}, {}) for s in space.strands
    }


def channel_places(plan: Plan, expr: Expr, space: SpacePlan, task: str) -> np.ndarray:
    """Where each channel of a space lies along an original axis of a task: int [channels, places of each].

    Args:
        expr: the axis, over laid-over spaces.
    """
    others = _others(plan, expr, space)
    return np.stack([positions(expr, {**others, space.number: np.array([c])}) for c in range(space.sizes[task])])


def inner_places(plan: Plan, expr: Expr, space: SpacePlan, number: int | None, task: str) -> np.ndarray:
    """The same for each channel of a space inside it, or for what has none: int [channels, inside, places of each]."""
    nothing = {n: Inside(space.number, np.zeros((1, 0), np.int64)) for n in space.inside if n != number}
    if number is None and not nothing:
        return channel_places(plan, expr, space, task)[:, None, :]
    others: dict[int, np.ndarray | Inside] = {**_others(plan, expr, space), **nothing}
    found = []
    for c in range(space.sizes[task]):
        chosen = {**others, space.number: np.array([c])}
        if number is None:
            found.append(positions(expr, chosen)[None])
        else:
            ones = [Inside(space.number, np.array([[k]])) for k in range(space.inside[number])]
            found.append(np.stack([positions(expr, {**chosen, number: one}) for one in ones]))
    return np.stack(found)


def _others(plan: Plan, expr: Expr, space: SpacePlan) -> dict[int, np.ndarray]:
    """No channels of the spaces that stand beside a space in a concatenation."""
    nothing = np.zeros(0, np.int64)
    return {a: nothing for a in expr.atoms() if a != space.number and expr.kind == "sum" and a in plan.spaces}


def _factors(expr: Expr, chosen: Mapping[int, np.ndarray]) -> np.ndarray:
    if expr.kind == "atom":
        return chosen[expr.atom] if expr.atom in chosen else np.ones(abs(expr.size))
    if expr.kind == "sum":
        return np.concatenate([_factors(p, chosen) for p in expr.parts])
    flat = np.ones(1)
    for part in expr.parts:
        flat = (flat[:, None] * _factors(part, chosen)[None, :]).reshape(-1)
    return flat
