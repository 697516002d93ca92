"""How alike two nets' channels are by their weights, once all other channels stand in pairs.

    L_ij = sum over params of <A[.., i, ..], B[.., j, ..]>,   the other axes of A and B in the order of the pairs

i and j run over the rows of the nodes that write the space and over the columns of those that read it; every row has its bias
beside it. Rows that the nets do not share (heads) are left out: nothing tells which of them correspond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.roles import Role
from onnxzip.analysis.spaces import Expr, positions
from onnxzip.analysis.steps import weights_of
from onnxzip.analysis.strands import SpacePlan
from onnxzip.matching.match import channel_places

Pairs = Mapping[int, tuple[np.ndarray, np.ndarray]]  # space -> channels of the first net, channels of the second one


@dataclass(frozen=True)
class _Weights:
    """One net's member of a role as rows: float64 [outputs, taps, inputs of all groups], with bias; exprs of both axes."""

    rows: np.ndarray
    bias: np.ndarray
    written: Expr
    read: Expr
    diagonal: bool


class Aligned:
    """Two nets of a plan.

    Args:
        plan: of the merge.
        tasks: the two.
    """

    def __init__(self, plan: Plan, tasks: tuple[str, str]) -> None:
        self.plan, self.tasks = plan, tasks
        roles = [r for r in plan.overlay.roles if all(t in r.members for t in tasks)]
        found = {r.name: [_weights(plan, r, t) for t in tasks] for r in roles}
        self.roles = {name: (a, b) for name, (a, b) in found.items() if a is not None and b is not None}

    def written(self, space: SpacePlan, pairs: Pairs) -> np.ndarray:
        """L over the rows that write a space: [channels of the first net, channels of the second one]."""
        return self._sum(space, pairs, self._rows)

    def all(self, space: SpacePlan, pairs: Pairs) -> np.ndarray:
        """L over the rows that write a space and the columns that read it."""
        return self._sum(space, pairs, lambda s, p, a, b: self._rows(s, p, a, b) + self._columns(s, p, a, b))

    def _sum(
        self, space: SpacePlan, pairs: Pairs, of: Callable[[SpacePlan, Pairs, _Weights, _Weights], np.ndarray]
    ) -> np.ndarray:
        first, second = (space.sizes[t] for t in self.tasks)
        total = np.zeros((first, second))
        for a, b in self.roles.values():
            total += of(space, pairs, a, b)
        return total

    def _rows(self, space: SpacePlan, pairs: Pairs, a: _Weights, b: _Weights) -> np.ndarray:
        if space.number not in a.written.atoms() or space.number not in b.written.atoms():
            return np.zeros(())
        at, other = (channel_places(self.plan, w.written, space, t) for w, t in zip((a, b), self.tasks, strict=True))
        left, right = (self._columns_of(w, pairs, side) for side, w in enumerate((a, b)))
        return np.asarray(np.sum([left[i] @ right[j].T for i, j in zip(at.T, other.T, strict=True)], axis=0))

    def _columns(self, space: SpacePlan, pairs: Pairs, a: _Weights, b: _Weights) -> np.ndarray:
        number = space.number
        if a.diagonal or number not in a.read.atoms() or number not in b.read.atoms() or _unpaired(a, b, pairs):
            return np.zeros(())
        at, other = (channel_places(self.plan, w.read, space, t) for w, t in zip((a, b), self.tasks, strict=True))
        i, j = (positions(w.written, self._chosen(pairs, side)) for side, w in enumerate((a, b)))
        left, right = (np.moveaxis(w.rows[k], 2, 0) for w, k in ((a, i), (b, j)))
        flat = zip(at.T, other.T, strict=True)
        return np.asarray(np.sum([left[p].reshape(len(p), -1) @ right[q].reshape(len(q), -1).T for p, q in flat], axis=0))

    def _columns_of(self, w: _Weights, pairs: Pairs, side: int) -> np.ndarray:
        """Rows over the columns that stand in pairs, in the pairs' order: [outputs, columns]; the bias comes last."""
        at = np.zeros(1, np.int64) if w.diagonal else positions(w.read, self._chosen(pairs, side))
        return np.concatenate([w.rows[:, :, at].reshape(len(w.rows), -1), w.bias[:, None]], axis=1)

    def _chosen(self, pairs: Pairs, side: int) -> dict[int, np.ndarray]:
        """Channels of every space that stand in pairs: none where nothing is paired yet, or ever."""
        nothing = {n: np.zeros(0, np.int64) for n, s in self.plan.spaces.items() if not s.given}
        return {**nothing, **{number: both[side] for number, both in pairs.items()}}


def _unpaired(a: _Weights, b: _Weights, pairs: Pairs) -> bool:
    """Whether rows are written to a space of which nothing tells how the channels of two nets correspond."""
    return any(n not in pairs for n in (*a.written.atoms(), *b.written.atoms()))


def _weights(plan: Plan, role: Role, task: str) -> _Weights | None:
    """A role's member as rows; None where it has no weights."""
    found = weights_of(plan.overlay, role, task)
    if found is None:
        return None
    linear, view = found
    node, params = role.members[task], plan.nets[task].params
    matrix = linear.matrix(view, params).astype(np.float64)
    groups, outputs, taps, inputs = matrix.shape
    diagonal = linear.diagonal(view)
    rows = np.zeros((groups * outputs, taps, inputs if diagonal else groups * inputs))
    for g in range(groups):
        read = slice(inputs) if diagonal else slice(g * inputs, (g + 1) * inputs)
        rows[g * outputs : (g + 1) * outputs, :, read] = matrix[g]
    bias = np.zeros(len(rows))
    if (name := node.input(linear.bias)) is not None:
        bias = params[name].astype(np.float64).reshape(-1)
    axis = linear.channel(view)
    exprs = [plan.overlay.exprs(str(v), task)[axis] for v in (role.outputs[0], role.inputs[0])]
    return _Weights(rows, bias, exprs[0], exprs[1], diagonal)
