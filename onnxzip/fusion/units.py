"""Hidden units of a fused recurrent node: which original ones they stand for, and what those say to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Hearing, Placed
from onnxzip.analysis.roles import Role
from onnxzip.analysis.spaces import Expr
from onnxzip.fusion.keeping import by_leaders
from onnxzip.fusion.work import by_owners
from onnxzip.matching.match import Matches, leads_along, located
from onnxzip.net import BATCH, Node
from onnxzip.ops.recurrent import GATES, STATES, takes_gates
from onnxzip.ops.selecting import ORDER


@dataclass(frozen=True)
class Some:
    """Rows of one system: gates x units.

    Attributes:
        owners: the tasks that have these units; leaders: whom they follow.
        system: the first of all rows that read the same.
        at: rows.
    """

    owners: tuple[str, ...]
    leaders: tuple[str, ...]
    system: int
    at: np.ndarray


def resets_in_front(node: Node) -> bool:
    """Whether the last gate reads states that another gate has reset."""
    return node.op == "GRU" and not node.attrs.get("linear_before_reset")


@dataclass(frozen=True)
class Units:
    """Those of one node.

    Attributes:
        matches: of its hidden units, at least, where anything but names is asked for.
    """

    plan: Plan
    placed: Placed
    matches: Matches

    @cached_property
    def role(self) -> Role:
        """What the originals' nodes are to each other."""
        return next(r for r in self.plan.overlay.roles if r.name == self.placed.role)

    @property
    def hearing(self) -> Hearing | None:
        """What they hear of units that run apart from them."""
        return self.plan.layout.hearings.get(str(self.placed.node.inputs[0]))

    @property
    def tasks(self) -> list[str]:
        """Those that have any of them."""
        return [t for t in self.plan.tasks if t in self.placed.owners]

    @property
    def names(self) -> tuple[str, ...]:
        """Of R, of b, and of the weights for what they hear, where they do."""
        node = self.placed.node
        return str(node.inputs[2]), str(node.inputs[3]), *([self.hearing.weights.name] if self.hearing is not None else [])

    @property
    def gates(self) -> str:
        """What their layer makes."""
        return self.hearing.gates if self.hearing is not None else str(self.placed.node.inputs[0])

    @property
    def others(self) -> tuple[str, ...]:
        """States of the units that they hear."""
        return self.hearing.states if self.hearing is not None else ()

    @cached_property
    def size(self) -> int:
        """How many they are."""
        return self.plan.layout.shapes[self.names[0]][2]

    def systems(self) -> list[slice]:
        """Rows that read the same."""
        rows = GATES[self.placed.node.op] * self.size
        return [slice(0, 2 * self.size), slice(2 * self.size, rows)] if resets_in_front(self.placed.node) else [slice(0, rows)]

    def places(self, task: str) -> np.ndarray:
        """Which unit of a task each one stands for; negative where the task has none."""
        keys = next(t.keys for t in self.plan.layout.taken if t.name == self.names[0])
        return located(self.plan.overlay, self._along(task), task, keys, self.matches)

    def order(self, task: str) -> np.ndarray:
        """All units of a task: those behind the node's own, in their order, those that it hears, and the rest."""
        mine = self.places(task)
        if self.hearing is not None:
            heard = self.hearing.weights.heard
            mine = np.concatenate([mine, located(self.plan.overlay, self._along(task), task, heard, self.matches)])
        mine = mine[mine >= 0]
        return np.concatenate([mine, np.setdiff1d(np.arange(abs(self._along(task).size)), mine)])

    @cached_property
    def begins_outside(self) -> bool:
        """Whether what they begin with is what the caller feeds back to them."""
        made = {v: p.node for p in self.plan.layout.placed for v in p.node.outputs}
        begins = [v for k in STATES if (v := self.placed.node.input(k)) is not None]
        return bool(begins) and all(v in made and made[v].attrs.get(ORDER) for v in begins)

    @cached_property
    def rows(self) -> Mapping[str, np.ndarray]:
        """Per task, which of its rows each of the node's stands for; negative where the task has none."""
        gates, found = np.arange(GATES[self.placed.node.op])[:, None], {}
        for task in self.tasks:
            at = self.places(task)
            found[task] = np.where(at >= 0, gates * abs(self._along(task).size) + at, -1).reshape(-1)
        return found

    def some(self, follow: bool) -> Iterator[Some]:
        """All rows, by whose they are and whom they follow.

        Args:
            follow: whether units follow one of their originals at all.
        """
        gates = GATES[self.placed.node.op]
        leads = {}
        for task in self.tasks:
            at = self.places(task)
            units = leads_along(self.plan, self._along(task), task, self.matches)[np.maximum(at, 0)]
            leads[task] = np.tile(units & (at >= 0) & follow, gates)
        for part in self.systems():
            rows = np.arange(part.start, part.stop)
            for owners, at in by_owners({t: mine[part] for t, mine in self.rows.items()}).items():
                for leaders, found in by_leaders(owners, [leads[t][part][at] for t in owners], rows[at]):
                    yield Some(owners, leaders, part.start, found)

    def original(self, task: str) -> np.ndarray:
        """A task's R and b for the node's rows, its units as they stand in `order`: [gates x units, units + 1]."""
        node, params, rows = self.role.members[task], self.plan.nets[task].params, np.maximum(self.rows[task], 0)
        r, b = params[str(node.inputs[2])][0, rows], params[str(node.inputs[3])][0, rows]
        whole: np.ndarray = np.concatenate([r[:, self.order(task)], b[:, None]], axis=1)
        return whole

    def _along(self, task: str) -> Expr:
        return self.plan.overlay.exprs(str(self.role.inputs[2]), task)[2]


def units_in_time(plan: Plan) -> dict[str, Units]:
    """Hidden units that a merge changes and that read each other, by the name of their R: of several tasks, or hearing such;
    they run over samples of one length, and have the samples where ONNX wants them."""
    found = {}
    for placed in (p for p in plan.layout.placed if takes_gates(p.node.op, p.node.inputs) and p.node.input(4) is None):
        units = Units(plan, placed, {})
        usual = not resets_in_front(placed.node) or not placed.node.attrs.get("activations")
        usual &= plan.layout.shapes[units.gates][1] in (1, BATCH)
        if usual and (len(placed.owners) > 1 or units.hearing is not None):
            found[units.names[0]] = units
    return found
