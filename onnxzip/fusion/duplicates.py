"""Channels that are the same in several nets: equal original rows over inputs that the fused net computes exactly for all.

They are matched before any data are looked at, and their row is taken over bit for bit: what nets have in common from a frozen
backbone stays as it is, in whatever order its channels stand. Rows are compared in the fused order of their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import reduce

import numpy as np

from onnxzip.analysis.steps import channels_at
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.fusion.problem import Reads, original_rows
from onnxzip.fusion.work import Exact, Work
from onnxzip.matching.match import Matches, Places, located


def same_groups(
    work: Work, reads: Reads, group: int, rows: Mapping[str, Places], space: SpacePlan, exact: Exact, matches: Matches
) -> list[dict[str, int]]:
    """Groups of channels of a space that are the same in all nets of an owner set: no more than each set is to share.

    Args:
        reads: what shared rows read; group: of the node.
        rows: task -> rows of the group that make each channel.
        exact: value of the fused net -> tasks for which it is what their originals compute.
        matches: of the spaces that the step reads.
    """
    tasks = [t for t in rows if reads_exactly(work, reads, t, exact, matches)]
    if len(tasks) < 2:
        return []
    known = {t: _by_content(original_rows(work.plan, work.step, reads, group, t, matches), rows[t]) for t in tasks}
    used: dict[str, set[int]] = {t: set() for t in tasks}
    found: list[dict[str, int]] = []
    for owners, count in sorted(space.counts.items(), key=lambda item: -len(item[0])):
        if len(owners) >= 2 and owners <= set(tasks):
            for made in _common(known, owners, used)[:count]:
                found.append(made)
                for task, channel in made.items():
                    used[task].add(channel)
    return found


def same_inside(
    work: Work, reads: Reads, group: int, rows: Mapping[str, Places], number: int, exact: Exact, matches: Matches
) -> Callable[[Mapping[str, int]], dict[str, np.ndarray]]:
    """What tells, of one head of each of some tasks, the orders in which the channels inside are the same.

    Args:
        number: of the space inside; the others as of `same_groups`.

    Returns:
        task -> head, to task -> int [channels]; to nothing where they are not the same.
    """
    tasks = [t for t in rows if reads_exactly(work, reads, t, exact, matches)]
    known = {t: original_rows(work.plan, work.step, reads, group, t, matches) for t in tasks}

    def same(head: Mapping[str, int]) -> dict[str, np.ndarray]:
        if not set(head) <= set(tasks):
            return {}
        parts = {t: [_content(known[t], at) for at in rows[t][number][c]] for t, c in head.items()}
        if len({tuple(sorted(p)) for p in parts.values()}) > 1:
            return {}
        return {t: np.array(sorted(range(len(p)), key=p.__getitem__), np.int64) for t, p in parts.items()}

    return same


def _by_content(rows: np.ndarray, places: Places) -> dict[Hashable, list[int]]:
    """Channels by their rows; what lies inside of them may stand in any order."""
    found: dict[Hashable, list[int]] = {}
    for channel in range(len(next(iter(places.values())))):
        content = tuple(tuple(sorted(_content(rows, at) for at in inner[channel])) for inner in places.values())
        found.setdefault(content, []).append(channel)
    return found


def _content(rows: np.ndarray, at: np.ndarray) -> bytes:
    """A zero has no sign."""
    return bytes((rows[at] + 0.0).tobytes())


def _common(
    known: Mapping[str, Mapping[Hashable, Sequence[int]]], owners: Owners, used: Mapping[str, set[int]]
) -> list[dict[str, int]]:
    """Channels of the same content in all of some nets, in the first one's order."""
    tasks = [t for t in known if t in owners]
    groups = []
    for content in known[tasks[0]]:
        free = [[c for c in known[t].get(content, ()) if c not in used[t]] for t in tasks]
        groups += [dict(zip(tasks, channels, strict=True)) for channels in zip(*free, strict=False)]
    return sorted(groups, key=lambda g: g[tasks[0]])


def reads_exactly(work: Work, reads: Reads, task: str, exact: Exact, matches: Matches) -> bool:
    """Whether a task's original rows, cut to what a strand reads, lose nothing and read what they read in the original net."""
    if not work.is_exact(reads, task, exact):
        return False
    for k, part in enumerate(work.step.parts):
        expr = channels_at(work.plan.overlay, part, task, str(part.inputs[0]))
        keys = tuple(dict.fromkeys(key for b in reads.blocks if b.part == k for key in b.piece.keys))
        at = located(work.plan.overlay, expr, task, keys, matches)
        if len(np.unique(at[at >= 0])) < abs(expr.size):
            return False
    return True


def equal_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Which rows are the same in all of some arrays of one shape: bool [rows]."""
    axes = tuple(range(1, rows[0].ndim))
    return reduce(np.logical_and, [(r == rows[0]).all(axis=axes) for r in rows[1:]], np.ones(len(rows[0]), bool))
