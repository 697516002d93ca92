"""The order of the zip: steps, each of which fits all weights that together make one value.

Weights whose products are summed before anything else reads them (a branch and its projection) are one least squares over
the inputs of both. What else is added there (an identity skip) is part of the target. Weights that several nodes read are one
fit for all of them, so that each of these is a step by itself, and the first comes when the inputs of all are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np

from onnxzip.analysis.coupling import makes_kept
from onnxzip.analysis.roles import Overlay, Role
from onnxzip.analysis.spaces import Expr
from onnxzip.ops import Linear, View, find

Origin = frozenset[tuple[str, str]]  # of each task, its param


@dataclass(frozen=True)
class Step:
    """One least squares.

    Attributes:
        name: of the role that makes the value that is fitted.
        sink: the laid-over value that is fitted: what the parts add up to, with the skips.
        parts: roles with weights.
        skips: laid-over values added to the parts' products.
        tasks: the tasks that take this step.
        diagonal: whether each channel is fitted from itself alone.
        spaces: laid-over spaces of the output channels; inside: spaces that lie inside of these.
        bounds: where the sink is read by nothing but one operator that clips: (lowest, highest) of what it lets through.
    """

    name: str
    sink: str
    parts: tuple[Role, ...]
    skips: tuple[str, ...]
    tasks: tuple[str, ...]
    diagonal: bool
    spaces: tuple[int, ...]
    inside: tuple[int, ...]
    bounds: tuple[float, float] | None


def weights_of(overlay: Overlay, role: Role, task: str) -> tuple[Linear, View] | None:
    """How one task's member of a role is a matrix product; None where it has no weights, or none that are fitted."""
    coupling, node = overlay.couplings[task], role.members[task]
    return None if makes_kept(coupling, node) else coupling.weighted.get(node.name)


def linear_of(overlay: Overlay, role: Role, task: str) -> tuple[Linear, View]:
    """How one task's member of a role of a step is a matrix product.

    Raises:
        ValueError: it has no weights.
    """
    found = weights_of(overlay, role, task)
    if found is None:
        raise ValueError(f"role {role.name!r} has no weights in task {task!r}")
    return found


def channels_at(overlay: Overlay, role: Role, task: str, laid: str) -> Expr:
    """The axis of channels of a laid-over value that one task's member of a role of a step reads, or makes."""
    linear, view = linear_of(overlay, role, task)
    return overlay.exprs(laid, task)[linear.channel(view)]


def endless_rows(overlay: Overlay, step: Step, task: str) -> np.ndarray:
    """Which outputs of a step are infinite in one task whatever it is fed with, by its biases: bool [outputs].

    Masked classes are, to which a net adds -inf in front of its Softmax.
    """
    found = np.zeros((), bool)
    for part in step.parts:
        linear, view = linear_of(overlay, part, task)
        node, params = part.members[task], overlay.couplings[task].net.params
        found = found | np.zeros(abs(view.outputs[0][linear.channel(view)]), bool)
        if (bias := node.input(linear.bias)) is not None:
            found = found | np.isinf(params[bias].reshape(-1))
    return found


def groups_of(overlay: Overlay, role: Role, task: str) -> int:
    """In how many groups one task's member of a role of a step works."""
    linear, view = linear_of(overlay, role, task)
    return int(linear.matrix(view, overlay.couplings[task].net.params).shape[0])


def find_steps(overlay: Overlay) -> tuple[Step, ...]:
    """All steps, each behind the ones that it builds on."""
    finder = _Finder(overlay)
    steps, done = [], set[str]()
    for role in overlay.roles:
        if role.name not in done and finder.is_linear(role):
            step = finder.step(role)
            done.update(p.name for p in step.parts)
            steps.append(step)
    place = {v: k for k, role in enumerate(overlay.roles) for v in role.outputs}
    return _tied_together(overlay, sorted(steps, key=lambda s: place[s.sink]))


def _tied_together(overlay: Overlay, steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, those with the same weights behind all that any of them reads, where the others allow it."""
    number = {p.name: k for k, s in enumerate(steps) for p in s.parts}
    before: dict[str, int] = {}  # value -> the steps that it needs, one bit each
    needs = [0] * len(steps)
    for role in overlay.roles:
        found = 0
        for value in role.inputs:
            found |= before.get(value, 0) if value is not None else 0
        if role.name in number:
            needs[number[role.name]] |= found
            found |= 1 << number[role.name]
        before |= dict.fromkeys(role.outputs, found)
    for k, step in enumerate(steps):
        for value in step.skips:
            needs[k] |= before.get(value, 0)
    groups: dict[Origin, list[int]] = {}
    for k, step in enumerate(steps):
        groups.setdefault(_weights_of_all(overlay, step), []).append(k)
    if all(len(group) == 1 for group in groups.values()):
        return tuple(steps)
    wanted = list(needs)
    for group in groups.values():
        together = reduce(or_, (needs[k] for k in group))
        wanted = [w if k not in group else w | together for k, w in enumerate(wanted)]
    done, order = 0, list[int]()
    while len(order) < len(steps):
        left = [k for k in range(len(steps)) if not done >> k & 1]
        k = next((k for k in left if not wanted[k] & ~done), next(k for k in left if not needs[k] & ~done))
        done |= 1 << k
        order.append(k)
    return tuple(steps[k] for k in order)


def _weights_of_all(overlay: Overlay, step: Step) -> Origin:
    """The params that are the weights of a step in the nets that take it."""
    return frozenset(
        (task, str(node.inputs[linear_of(overlay, part, task)[0].weight])) for part in step.parts
        for task, node in part.members.items()
    )


class _Finder:
    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.maker: Mapping[str, Role] = {v: r for r in overlay.roles for v in r.outputs}
        self.readers: dict[str, list[Role]] = {}
        self.uses = Counter((t, v) for r in overlay.roles for t, n in r.members.items() for v in n.read)
        for role in overlay.roles:
            for value in dict.fromkeys(v for v in role.inputs if v is not None):
                self.readers.setdefault(value, []).append(role)
        self.ends = {
            laid
            for laid, by_task in overlay.values.items()
            for task, value in by_task.items()
            if value in {p.name for p in overlay.couplings[task].net.outputs}
        }

    def is_linear(self, role: Role) -> bool:
        return all(weights_of(self.overlay, role, t) is not None for t in role.members)

    def is_diagonal(self, role: Role) -> bool:
        found = weights_of(self.overlay, role, next(iter(role.members)))
        return found is not None and found[0].diagonal(found[1])

    def sums(self, role: Role) -> bool:
        """Whether a role may be fitted with others whose products are added to its own: one that has its weights for itself,
        and works in one group."""
        task = next(iter(role.members))
        linear, _ = linear_of(self.overlay, role, task)
        tied = any(self.uses[t, str(node.inputs[linear.weight])] > 1 for t, node in role.members.items())
        return not tied and not self.is_diagonal(role) and groups_of(self.overlay, role, task) == 1

    def step(self, role: Role) -> Step:
        """The step that a role with weights is part of."""
        sink = role.outputs[0]
        parts, skips = [role], list[str]()
        if self.sums(role):
            while (adder := self.sole_adder(sink, role)) is not None:
                sink = adder.outputs[0]
            parts, skips = self.addends(sink, role)
        task = next(iter(role.members))
        linear, view = linear_of(self.overlay, role, task)
        axis = linear.channel(view)
        expr = self.overlay.exprs(sink, task)[axis]
        net = self.overlay.couplings[task]
        own = {self.overlay.spaces[task, a] for a in net.produced}
        spaces = tuple(dict.fromkeys(a for a in expr.atoms() if a in own))
        inside = tuple(dict.fromkeys(a for a in expr.atoms() if a in self.overlay.inside))
        bounds = None if skips else self.bounds(sink)
        tasks, diagonal = tuple(role.members), self.is_diagonal(role)
        return Step(role.name, sink, tuple(parts), tuple(skips), tasks, diagonal, spaces, inside, bounds)

    def bounds(self, sink: str) -> tuple[float, float] | None:
        """What the only reader of a value lets through; None where there are others, or it does more than clip."""
        readers = self.readers.get(sink, [])
        operator = find(readers[0].op) if len(readers) == 1 and sink not in self.ends else None
        if operator is None or operator.bounds is None:
            return None
        return operator.bounds(next(iter(readers[0].members.values())))

    def sole_adder(self, value: str, role: Role) -> Role | None:
        """The Add of two equal shapes that alone reads a value; None where there is none."""
        readers = self.readers.get(value, [])
        if value in self.ends or len(readers) != 1 or readers[0].op != "Add":
            return None
        adder = readers[0]
        if set(adder.members) != set(role.members) or adder.inputs[0] == adder.inputs[1]:
            return None
        for task, node in adder.members.items():
            net = self.overlay.couplings[task].net
            if any(v in net.params or net.shape_of(v) != net.shapes[node.outputs[0]] for v in node.inputs):
                return None
        return adder

    def addends(self, value: str, role: Role) -> tuple[list[Role], list[str]]:
        """Roles with weights, and other values, that add up to a value; a sum of others alone is one of them."""
        maker = self.maker.get(value)
        if maker is None:
            return [], [value]
        if maker.name == role.name:
            return [role], []
        inner = [v for v in maker.inputs if v is not None]
        summed = [v for v in inner if maker.op == "Add" and self.sole_adder(v, role) is maker]
        if summed and set(maker.members) == set(role.members):
            found = [self.addends(v, role) if v in summed else ([], [v]) for v in inner]
            parts = [p for f in found for p in f[0]]
            return (parts, [s for f in found for s in f[1]]) if parts else ([], [value])
        joins = self.is_linear(maker) and self.sums(maker)
        if joins and set(maker.members) == set(role.members) and self.sole_adder(value, role) is not None:
            return [maker], []
        return [], [value]
