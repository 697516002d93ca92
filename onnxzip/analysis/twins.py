"""Twins: tasks whose nets are the same up to some place. What they share there costs nothing, so they share all of it.

Two nets compute the same in a node of one role if they read the same there: the merge's own inputs, params that are equal in
place, and what nodes before it compute alike. Twins in a channel space compute the same in every value that has its axis.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from onnxzip.analysis.roles import Overlay, Role

Labels = dict[str, dict[str, Hashable]]  # laid-over value -> task -> what it computes there: equal where it is the same
FIRST = 4096  # elements that tell most params apart: of large ones nothing else is read


def twins_of(laid: Overlay) -> dict[int, tuple[frozenset[str], ...]]:
    """Tasks that are twins, two or more each, by laid-over space."""
    labels: Labels = {}
    values: dict[int, set[str]] = {}
    for role in laid.roles:
        found = _computed(laid, role, labels)
        for k, out in enumerate(role.outputs):
            labels[out] = {t: (role.name, k, label) for t, label in found.items()}
            for task in role.members:
                for number in {a for e in laid.exprs(out, task) for a in e.atoms()}:
                    values.setdefault(number, set()).add(out)
    return {n: some for n, made in values.items() if (some := _classes(laid, [labels[v] for v in made]))}


def _classes(laid: Overlay, labels: list[dict[str, Hashable]]) -> tuple[frozenset[str], ...]:
    """Tasks that have a value in common, and the same in every value that they have in common."""
    found: list[list[str]] = []
    for task in laid.tasks:
        known = next((c for c in found if all(_are_twins(labels, task, other) for other in c)), None)
        if known is None:
            found.append([task])
        else:
            known.append(task)
    return tuple(frozenset(c) for c in found if len(c) > 1)


def _are_twins(labels: list[dict[str, Hashable]], task: str, other: str) -> bool:
    both = [by_task for by_task in labels if task in by_task and other in by_task]
    return bool(both) and all(by_task[task] == by_task[other] for by_task in both)


def _computed(laid: Overlay, role: Role, labels: Labels) -> dict[str, int]:
    """What each member of a role computes: the number of the first one that computes the same."""
    inputs = [v for v in role.inputs if v is not None]
    params = {t: [_param(laid, v, t) for v in inputs] for t in role.members}
    read = {
        t: [None if p is not None else labels.get(v, {}).get(t, "input") for v, p in zip(inputs, params[t], strict=True)]
        for t in role.members
    }
    firsts: list[str] = []
    found: dict[str, int] = {}
    for task in role.members:
        same = (k for k, t in enumerate(firsts) if read[t] == read[task] and all(map(_equal, params[t], params[task])))
        found[task] = next(same, len(firsts))
        if found[task] == len(firsts):
            firsts.append(task)
    return found


def _param(laid: Overlay, value: str, task: str) -> np.ndarray | None:
    """A task's param of a laid-over name; None where that is a value."""
    params: Mapping[str, np.ndarray] = laid.couplings[task].net.params
    return params.get(laid.values[value][task])


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or not np.array_equal(a.flat[:FIRST], b.flat[:FIRST]):
        return False
    return np.array_equal(a, b)
