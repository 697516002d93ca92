"""The order of the zip: steps, each of which fits all weights that together make one value.

Weights whose products are summed before anything else reads them (a branch and its projection) are one least squares over
the inputs of both. What else is added there (an identity skip) is part of the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxzip.analysis.coupling import linear_view, makes_kept
from onnxzip.analysis.roles import Overlay, Role
from onnxzip.ops import Linear, View, find


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
    found = linear_view(coupling.net, node)
    return None if found is None or found[0].linear is None or makes_kept(coupling, node) else (found[0].linear, found[1])


def linear_of(overlay: Overlay, role: Role, task: str) -> tuple[Linear, View]:
    """How one task's member of a role of a step is a matrix product.

    Raises:
        ValueError: it has no weights.
    """
    found = weights_of(overlay, role, task)
    if found is None:
        raise ValueError(f"role {role.name!r} has no weights in task {task!r}")
    return found


def groups_of(overlay: Overlay, role: Role, task: str) -> int:
    """In how many groups one task's member of a role of a step works."""
    linear, view = linear_of(overlay, role, task)
    weight = overlay.couplings[task].net.params[str(role.members[task].inputs[linear.weight])]
    return int(linear.to_matrix(view, weight).shape[0])


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
    return tuple(sorted(steps, key=lambda s: place[s.sink]))


class _Finder:
    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.maker: Mapping[str, Role] = {v: r for r in overlay.roles for v in r.outputs}
        self.readers: dict[str, list[Role]] = {}
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

    def works_whole(self, role: Role) -> bool:
        """Whether a role with weights works in one group alone."""
        return groups_of(self.overlay, role, next(iter(role.members))) == 1

    def step(self, role: Role) -> Step:
        """The step that a role with weights is part of."""
        sink = role.outputs[0]
        parts, skips = [role], list[str]()
        if not self.is_diagonal(role) and self.works_whole(role):
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
        """Roles with weights, and other values, that add up to a value."""
        maker = self.maker.get(value)
        if maker is None:
            return [], [value]
        if maker.name == role.name:
            return [role], []
        inner = [v for v in maker.inputs if v is not None]
        summed = [v for v in inner if maker.op == "Add" and self.sole_adder(v, role) is maker]
        if summed and set(maker.members) == set(role.members):
            found = [self.addends(v, role) if v in summed else ([], [v]) for v in inner]
            return [p for f in found for p in f[0]], [s for f in found for s in f[1]]
        joins = self.is_linear(maker) and not self.is_diagonal(maker) and self.works_whole(maker)
        if joins and set(maker.members) == set(role.members) and self.sole_adder(value, role) is not None:
            return [maker], []
        return [], [value]
