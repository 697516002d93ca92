"""Which channel spaces there are, who may share each, and what each asks for, before it is decided how much is shared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxzip.analysis.roles import Overlay, Role
from onnxzip.analysis.spaces import Expr
from onnxzip.analysis.steps import Step, channels_at
from onnxzip.analysis.strands import lookups, sharers
from onnxzip.analysis.twins import twins_of
from onnxzip.analysis.weaving import woven_spaces

BESIDE_SCALED = "it is joined with channels that no weights make, but that each task has params of its own for"
BESIDE_GROUPED = "it is joined with channels that no weights make, of which groups behind them have unlike numbers"
BESIDE_KEPT = "it is joined with channels that each task computes for itself, in an order that others behind them need"


@dataclass(frozen=True)
class Proposal:
    """What is known of a channel space before it is decided how much of it is shared.

    Attributes:
        name: of the step that first produces it; free: who may share it; refused: task -> why it may not.
        sizes: channels per task; inside: spaces inside each channel, by number, with their sizes.
        whole: whether some node needs all of its channels at once.
        ordered: whether its channels have neighbours, and keep their order; such a space is whole, too.
        twins: of those who may share it, tasks that have the same channels in the same places.
    """

    name: str
    free: tuple[str, ...]
    refused: Mapping[str, str]
    sizes: Mapping[str, int]
    inside: Mapping[int, int] = field(default_factory=dict)
    whole: bool = False
    ordered: bool = False
    twins: tuple[frozenset[str], ...] = ()

    @property
    def even(self) -> bool:
        """Whether all that may share it have as many channels."""
        return len({self.sizes[t] for t in self.free}) == 1


def proposals_of(laid: Overlay, steps: Sequence[Step]) -> dict[int, Proposal]:
    """Per channel space: name, who may share it, who may not and why, sizes."""
    produced = {laid.spaces[t, a] for t, c in laid.couplings.items() for a in c.produced}
    sizes = laid.sizes
    whole = {laid.spaces[t, a] for t, c in laid.couplings.items() for atoms in c.whole.values() for a in atoms}
    whole |= {n for some in woven_spaces(laid) for n in some}
    ordered = {laid.spaces[t, a] for t, c in laid.couplings.items() for a in c.ordered}
    whole |= ordered
    twins = twins_of(laid)
    found: dict[int, Proposal] = {}
    for number in sorted(produced):
        if _looked_up_alike(laid, steps, number):
            found[number] = Proposal(f"given{number}", (), {}, sizes[number])
            continue
        inside = {n: min(sizes[n].values()) for n, outer in laid.inside.items() if outer == number}
        name, free, refused = sharers(laid, steps, number)
        alike = tuple(some for c in twins.get(number, ()) if len(some := c.intersection(free)) > 1)
        asks = (number in whole, number in ordered)
        found[number] = Proposal(name, free, refused, sizes[number], inside, *asks, alike)
    constant = {laid.spaces[t, a] for t, c in laid.couplings.items() for _, added in c.grown for a in added}
    for number in sorted(_given(laid, produced) - _weighted_inputs(laid, steps) - _kept(laid) - constant):
        found[number] = Proposal(f"given{number}", (), {}, sizes[number])
    return found


def _looked_up_alike(laid: Overlay, steps: Sequence[Step], number: int) -> bool:
    """Whether nothing but tables make a space, and these are the same in all nets."""
    if any(number in step.spaces for step in steps) or not (roles := lookups(laid, number)):
        return False
    for values in (laid.values[str(role.inputs[0])] for role in roles):
        first, *others = (laid.couplings[t].net.params[v] for t, v in values.items())
        if len(values) < len(laid.tasks) or not all(np.array_equal(x, first) for x in others):
            return False
    return True


def _given(laid: Overlay, produced: set[int]) -> set[int]:
    """Spaces that no weights produce but that stand beside produced ones in a concatenation."""
    found: set[int] = set()
    for task, coupling in laid.couplings.items():
        for expr in (e for whole in coupling.axes.values() for e in whole.walk() if e.kind in ("sum", "woven")):
            if not produced.isdisjoint(laid.spaces[task, a] for a in expr.atoms()):
                found.update({laid.spaces[task, p.atom] for p in expr.parts if p.kind == "atom"} - produced)
    return found - _on_another_axis(laid, produced)


def _on_another_axis(laid: Overlay, produced: set[int]) -> set[int]:
    """Spaces on an axis of a value that has produced channels on another one (the one score of each of a layer's boxes): no
    piece of it could be given to all tasks."""
    found: set[int] = set()
    for task, coupling in laid.couplings.items():
        for value in (v for node in coupling.net.nodes for v in node.outputs):
            axes = [{laid.spaces[task, a] for a in e.atoms()} for e in coupling.exprs(value)]
            split = [k for k, numbers in enumerate(axes) if numbers & produced]
            found.update(n for k, numbers in enumerate(axes) if set(split) - {k} for n in numbers)
    return found


def _weighted_inputs(laid: Overlay, steps: Sequence[Step]) -> set[int]:
    """Spaces that no weights produce but that each task has params of its own for, or that weights make together with channels
    that they do produce: they are not the same in all tasks."""
    dense = {part.name for step in steps if not step.diagonal for part in step.parts}
    produced = {laid.spaces[t, a] for t, c in laid.couplings.items() for a in c.produced}
    scaled = {n for role in laid.roles if role.name not in dense for n in _own_along(laid, role, produced)}
    return (scaled | _made_beside(laid, steps, produced)) - produced - laid.inside.keys()


def _own_along(laid: Overlay, role: Role, produced: set[int]) -> set[int]:
    """Spaces along which a role reads params that are not the same in all tasks."""
    found: set[int] = set()
    for value in (v for v in role.inputs if v is not None):
        names = {t: laid.values[value][t] for t in role.members}
        params = [c.net.params[names[t]] for t, c in laid.couplings.items() if t in names and names[t] in c.net.params]
        along = {n for t in names for e in laid.exprs(value, t) for n in e.atoms()} if params else set()
        common = len(params) == len(laid.tasks) and not along & produced
        if not common or not all(np.array_equal(p, params[0]) for p in params[1:]):
            found |= along
    return found


def _made_beside(laid: Overlay, steps: Sequence[Step], produced: set[int]) -> set[int]:
    """Spaces on the output axis of a node with weights on which produced ones lie, too."""
    found: set[int] = set()
    for part in (p for step in steps if not step.diagonal for p in step.parts):
        for task in part.members:
            numbers = set(channels_at(laid, part, task, part.outputs[0]).atoms())
            found |= numbers if numbers & produced else set()
    return found


def _kept(laid: Overlay) -> set[int]:
    """Spaces that weights produce, but that make no strands: their channels keep their order inside of those of others."""
    return {laid.spaces[t, a] for t, c in laid.couplings.items() for a in c.kept}


def beside_own(laid: Overlay, steps: Sequence[Step], own: Collection[int]) -> dict[int, str]:
    """Spaces joined with channels that make no strands and are not given: each task keeps its own there.

    Args:
        own: spaces that could be given, but are read in groups that would not have as many of them.
    """
    because = ((_weighted_inputs(laid, steps), BESIDE_SCALED), (set(own), BESIDE_GROUPED), (_kept(laid), BESIDE_KEPT))
    found: dict[int, str] = {}
    for task, coupling in laid.couplings.items():
        produced = {laid.spaces[task, a] for a in coupling.produced}
        for expr in (laid.expr(e, task) for e in coupling.axes.values() if e.kind in ("sum", "woven")):
            loose = _loose(expr, produced)
            why = next((why for some, why in because if loose & some), None)
            if why is not None:
                found |= dict.fromkeys(produced.intersection(expr.atoms()), why)
    return found


def _loose(expr: Expr, produced: set[int]) -> set[int]:
    """Spaces on an axis, less those that lie inside of each channel of a produced one (of a head), and go where that goes."""
    if expr.kind == "product" and produced.intersection(expr.atoms()):
        return set()
    return {expr.atom} if expr.kind == "atom" else {n for part in expr.parts for n in _loose(part, produced)}
