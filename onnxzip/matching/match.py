"""What a match is: which channels of which nets make up each fused channel.

For each strand of each space, `Members` tells which original channel of each task a fused channel stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
        more: task -> int [most members beyond the first, size], further channels of the task in the same group: the fused
            channel stands for their mean. Empty where no group has any.
        leads: task -> bool [size], whether the fused channel follows the task's own one before those of the others. Empty
            where channels follow the mean of their originals.
        cost: float [size], of sharing the channel, as `matching.grouping` counts it; NaN where one task owns it alone, empty
            where nothing was counted.
    """

    index: Mapping[str, np.ndarray]
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    leads: Mapping[str, np.ndarray] = field(default_factory=dict)
    cost: np.ndarray = field(default_factory=lambda: np.zeros(0))


Group = Mapping[str, tuple[int, ...]]  # task -> its channels
Matches = Mapping[tuple[int, Owners], Members]
Places = Mapping["int | None", np.ndarray]  # space inside (None: nothing inside) -> int [channels, inside, rows of each]


def members_of(plan: SpacePlan, groups: Sequence[Mapping[str, int]]) -> dict[tuple[int, Owners], Members]:
    """Lay groups out in the strands of a space.

    Args:
        groups: per fused channel, the original channel of each of its owners; shared groups only, in order. Channels that
            stand in none become their task's own, in their original order.
    """
    by_owners = singles(plan, groups)
    for group in groups:
        by_owners.setdefault(frozenset(group), []).append({t: (c,) for t, c in group.items()})
    return laid_groups(plan, by_owners)


def charged(
    found: Mapping[tuple[int, Owners], Members], groups: Sequence[Mapping[str, int]], costs: Sequence[float]
) -> dict[tuple[int, Owners], Members]:
    """Members that tell what each of some groups costs."""
    known = {frozenset(group.items()): cost for group, cost in zip(groups, costs, strict=True)}
    by_place = {place: np.stack(list(m.index.values()), axis=1) for place, m in found.items()}
    keys = {
        place: [frozenset((t, int(c)) for t, c in zip(found[place].index, row, strict=True) if c >= 0) for row in rows]
        for place, rows in by_place.items()
    }
    nothing = float("nan")
    return {p: replace(m, cost=np.array([known.get(k, nothing) for k in keys[p]], np.float64)) for p, m in found.items()}


def singles(plan: SpacePlan, groups: Sequence[Mapping[str, int]]) -> dict[Owners, list[Group]]:
    """Channels that stand in none of some groups, by the task that owns them, in their original order."""
    used: dict[str, set[int]] = {t: {g[t] for g in groups if t in g} for t in plan.sizes}
    return {frozenset([t]): [{t: (i,)} for i in range(n) if i not in used[t]] for t, n in plan.sizes.items()}


def laid_groups(plan: SpacePlan, groups: Mapping[Owners, Sequence[Group]]) -> dict[tuple[int, Owners], Members]:
    """Lay groups of any members out in the strands of a space.

    Args:
        groups: for the rows of each owner set; a group need not have members of all owners.
    """
    found = {}
    for strand in plan.strands:
        entries = [e for rows in strand.rows for e in groups[rows.owners]]
        if len(entries) != strand.size:
            raise ValueError(f"space {plan.name}: {len(entries)} channels matched for a strand of {strand.size}")
        tasks = sorted(strand.key)
        depth = max((len(c) for g in entries for c in g.values()), default=1)
        index = {
            t: np.array([[c[k] if k < len(c := g.get(t, ())) else ABSENT for g in entries] for k in range(depth)], np.int64)
            for t in tasks
        }
        more = {t: i[1:] for t, i in index.items()} if depth > 1 else {}
        found[plan.number, strand.key] = Members({t: i[0] for t, i in index.items()}, more)
    return found


def led(members: Mapping[tuple[int, Owners], Members], leads: Mapping[str, np.ndarray]) -> dict[tuple[int, Owners], Members]:
    """Members of one space with what their channels follow.

    Args:
        leads: task -> bool [channels of the original], whether the channel's group follows it.
    """
    return {
        key: replace(m, leads={t: leads[t][np.maximum(i, 0)] & (i != ABSENT) for t, i in m.index.items() if t in leads})
        for key, m in members.items()
    }


def leads_along(plan: Plan, expr: Expr, task: str, matches: Matches) -> np.ndarray:
    """Which positions along an original axis of a task are led by it: bool [length].

    Args:
        expr: the axis, over laid-over spaces.
    """
    found = np.zeros(abs(expr.size), bool)
    for space in (plan.spaces[a] for a in dict.fromkeys(expr.atoms()) if a in plan.spaces):
        known = [m for s in space.strands if (m := matches.get((space.number, s.key))) is not None and task in m.leads]
        if any(m.leads[task].any() for m in known):
            places = channel_places(plan, expr, space, task)
            for m in known:
                found[places[m.index[task][m.leads[task]]]] = True
    return found


def ordered_groups(plan: SpacePlan) -> list[dict[str, int]]:
    """Groups of a space whose channels keep their order: the k-th with the k-th."""
    shared = [(owners, count) for owners, count in plan.counts.items() if len(owners) > 1]
    return [dict.fromkeys(sorted(owners), k) for owners, count in shared for k in range(count)]


def in_order_of_first(members: Matches, tasks: Sequence[str]) -> dict[tuple[int, Owners], Members]:
    """Members whose fused channels stand as the channels of the first of some tasks that has them do; those inside of others
    as in the channel of that task that they lie inside of."""
    found = {}
    for (number, key), m in members.items():
        order = np.argsort(m.index[next(t for t in tasks if t in key)], kind="stable")
        index = {t: np.take_along_axis(a, order, axis=-1) for t, a in m.index.items()}
        more, leads = ({t: a[..., order] for t, a in some.items()} for some in (m.more, m.leads))
        found[number, key] = Members(index, more, leads, m.cost[order] if len(m.cost) else m.cost)
    return found


def given_members(plan: SpacePlan) -> dict[tuple[int, Owners], Members]:
    """Members of a space that is identical in all tasks."""
    key = plan.strands[0].key
    size = plan.strands[0].size
    return {(plan.number, key): Members({t: np.arange(size) for t in key})}


def located(overlay: Overlay, expr: Expr, task: str, keys: tuple[Owners, ...], matches: Matches) -> np.ndarray:
    """Where the channels of some strands lie along an original axis of a task.

    Args:
        expr: the axis, over laid-over spaces.

    Returns:
        int [n], negative where the task has no such channel.
    """
    chosen: dict[int, np.ndarray | Inside] = {}
    for number in expr.atoms():
        parts = [matches[number, k] for k in keys if (number, k) in matches]
        if number in overlay.inside:
            if parts:
                chosen[number] = Inside(overlay.inside[number], np.concatenate([m.index[task] for m in parts]))
        elif any(n == number for n, _ in matches):
            chosen[number] = np.concatenate([np.zeros(0, np.int64), *(m.index[task] for m in parts)])
    return positions(expr, chosen)


def located_all(
    overlay: Overlay, expr: Expr, task: str, keys: tuple[Owners, ...], matches: Matches
) -> list[np.ndarray]:
    """The same of the first members of every group, of the second ones, and so on; one alone where no group has more."""
    mine = [(number, key) for number in expr.atoms() for key in keys if (number, key) in matches]
    depth = max((len(more) for place in mine for more in matches[place].more.values()), default=0)
    further = [{**matches, **{place: _further(matches[place], k) for place in mine}} for k in range(depth)]
    return [located(overlay, expr, task, keys, m) for m in (matches, *further)]


def _further(members: Members, k: int) -> Members:
    """Members beyond the first, as if they were the first."""
    index = {
        t: members.more[t][k] if k < len(members.more.get(t, ())) else np.full_like(i, ABSENT)
        for t, i in members.index.items()
    }
    return Members(index)


def in_place(space: SpacePlan, number: int, size: int) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of a space that lies inside another one, all in their original order.

    Args:
        space: the other one; number, size: of the space inside.
    """
    return {
        (number, s.key): Members({t: np.tile(np.arange(size), (s.size, 1)) for t in sorted(s.key)}) for s in space.strands
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
    nothing, beside, factors = np.zeros(0, np.int64), set[int](), set[int]()
    for whole in expr.walk():
        others = {a for p in whole.parts if space.number not in p.atoms() for a in p.atoms()}
        if any(space.number in p.atoms() for p in whole.parts):
            (factors if whole.kind == "product" else beside).update(others)
    return {a: nothing for a in beside - factors if a in plan.spaces}
