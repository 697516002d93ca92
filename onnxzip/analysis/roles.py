"""Nets laid over each other: roles that nodes of several nets play together, and the values and spaces they have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, count

import numpy as np

from onnxzip.analysis.coupling import Coupling
from onnxzip.analysis.spaces import Expr
from onnxzip.loading.inputs import Laid
from onnxzip.net import Node

Atom = tuple[str, int]
AKIN = 0.25  # of the params' size: further training moves them less; nets of different starts are 1.3 apart


@dataclass(frozen=True)
class Role:
    """The same part played by one node of each of some nets.

    Attributes:
        name: unique; the first member's node name where that is free.
        members: task -> node.
        inputs, outputs: names of laid-over values and params; None for omitted inputs.
        order: task -> for each input of the role, its position among the member's inputs.
    """

    name: str
    op: str
    members: Mapping[str, Node]
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    order: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Overlay:
    """All nets laid over each other.

    Attributes:
        couplings: per task.
        roles: in topological order.
        values: laid-over value or param -> task -> that net's value or param.
        spaces: (task, atom) -> number of the laid-over space.
        partings: (where, why) for places where a net leaves the others.
        inputs: task -> input of the fused net -> its own.
    """

    couplings: Mapping[str, Coupling]
    roles: tuple[Role, ...]
    values: Mapping[str, Mapping[str, str]]
    spaces: Mapping[Atom, int]
    partings: tuple[tuple[str, str], ...]
    inputs: Laid

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.couplings)

    def fed(self, task: str) -> dict[str, str]:
        """A net's own inputs, and what the fused net calls them."""
        return {own: fused for fused, own in self.inputs[task].items()}

    def owners_of(self, number: int) -> frozenset[str]:
        """Who has the channels of a space that no weights make: those whose inputs have it, where not all tasks have these."""
        return self._of_own_inputs.get(number, frozenset(self.tasks))

    @cached_property
    def _of_own_inputs(self) -> Mapping[int, frozenset[str]]:
        """Spaces of inputs that not all tasks have, and of no other ones: number -> who has them."""
        found: dict[int, frozenset[str]] = {}
        for task, names in self.inputs.items():
            for name in names:
                for number in (n for e in self.exprs(name, task) for n in e.atoms()):
                    found[number] = found.get(number, frozenset()).union(self.values[name])
        return {n: owners for n, owners in found.items() if len(owners) < len(self.tasks)}

    @cached_property
    def inside(self) -> Mapping[int, int]:
        """Spaces that lie inside another one in every net: number -> number of the other."""
        found: dict[int, set[int | None]] = {}
        for (task, atom), number in self.spaces.items():
            outer = self.couplings[task].inside.get(atom)
            found.setdefault(number, set()).add(None if outer is None else self.spaces[task, outer])
        return {n: outer for n, outers in found.items() if len(outers) == 1 for outer in outers if outer is not None}

    @cached_property
    def sizes(self) -> Mapping[int, Mapping[str, int]]:
        """Channels of every space in each net: number -> task -> channels."""
        found: dict[int, dict[str, int]] = {}
        for task, coupling in self.couplings.items():
            waiting = list(coupling.axes.values())
            while waiting:
                expr = waiting.pop()
                waiting.extend(expr.parts)
                if expr.kind == "atom":
                    found.setdefault(self.spaces[task, expr.atom], {})[task] = expr.size
        return found

    @cached_property
    def _unlike(self) -> frozenset[str]:
        """Params that carry no channels and are not the same in all nets that have them."""
        found = set[str]()
        for laid, by_task in self.values.items():
            params = [(self.couplings[t], v) for t, v in by_task.items() if v in self.couplings[t].net.params]
            arrays = [c.net.params[v] for c, v in params]
            if any(a in c.produced for c, v in params for e in c.exprs(v) for a in e.atoms()):
                continue
            if not all(np.array_equal(arrays[0], other) for other in arrays[1:]):
                found.add(laid)
        return frozenset(found)

    def is_one(self, laid: str, tasks: Collection[str]) -> bool:
        """Whether a param without channels is the same in the nets of some tasks."""
        if laid not in self._unlike:
            return True
        first, *others = (self.couplings[t].net.params[v] for t, v in self.values[laid].items() if t in tasks)
        return all(np.array_equal(first, other) for other in others)

    def are_akin(self, tasks: Collection[str]) -> bool:
        """Whether all such params of some nets together are nearly the same: those of nets of one start."""
        return all(frozenset(pair) in self._akin for pair in combinations(tasks, 2))

    @cached_property
    def _akin(self) -> frozenset[frozenset[str]]:
        """Pairs of nets of which that is so."""
        found = set[frozenset[str]]()
        for one, other in combinations(self.tasks, 2):
            distance = size = 0.0
            for by_task in (v for laid in self._unlike if {one, other} <= (v := self.values[laid]).keys()):
                mine, theirs = (self.couplings[t].net.params[by_task[t]].astype(np.float64) for t in (one, other))
                distance += float(np.square(mine - theirs).sum()) if mine.shape == theirs.shape else np.inf
                size += float(np.square(mine).sum() + np.square(theirs).sum()) / 2
            if distance <= AKIN**2 * size:
                found.add(frozenset((one, other)))
        return frozenset(found)

    def exprs(self, value: str, task: str) -> tuple[Expr, ...]:
        """Spaces of a value's axes as one task sees them, over laid-over space numbers."""
        return tuple(self.expr(e, task) for e in self.couplings[task].exprs(self.values[value][task]))

    def expr(self, expr: Expr, task: str) -> Expr:
        """A net's expression with its atoms replaced by laid-over spaces."""
        return expr.mapped(lambda a: Expr("atom", a.size, self.spaces[task, a.atom]))


def unique(name: str, task: str, taken: set[str]) -> str:
    """`name`, or with the task in front of it where it is taken; `taken` grows by what is returned."""
    candidates = chain([name, f"{task}_{name}"], (f"{task}_{name}_{k}" for k in count(2)))
    chosen = next(c for c in candidates if c not in taken)
    taken.add(chosen)
    return chosen
