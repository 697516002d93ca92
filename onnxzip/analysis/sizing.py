"""Plans of one merge for several sizes of the input, joined: what of the fused net follows the sizes, and how.

Every size in the fused net has a value in each plan. A number that differs is written as what it follows: the size of an axis
that is known where it is read, times, over or plus a number, or the sum of two (what is in a cache, and what comes to it), if
that is right in every plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from onnxzip.analysis.following import Many, auto_pad, reshaped, sliced
from onnxzip.analysis.layout import Placed
from onnxzip.analysis.plan import Plan, analyse
from onnxzip.analysis.refusals import Refusal
from onnxzip.errors import UnsupportedError
from onnxzip.loading import Loaded
from onnxzip.net import BATCH, Axis, Measure, Node, Port, Sizes
from onnxzip.ops import find
from onnxzip.runtime.lowering import BATCHED_CONSTANTS


def analyse_sized(loaded: Loaded, shares: Sequence[tuple[str, float]] = (), layout: str = "strands") -> Plan:
    """Plan a merge at the size that it is planned for, and find out what other sizes change.

    Args:
        loaded: the nets at all sizes.
        shares, layout: as of `analyse`.

    Raises:
        UsageError, UnsupportedError: as `analyse`; or tasks have data of different sizes, and the plans for these differ in
            more than numbers.
    """
    first = analyse(loaded.at[0].nets, shares, layout, loaded.inputs)
    refusals = [Refusal(where, why) for where, why in loaded.fixed]
    names = {axis: group.name for group in loaded.groups for axis in group.axes}
    try:
        plans = [first, *(analyse(one.nets, shares, layout, loaded.inputs) for one in loaded.at[1:])]
        for other in plans[1:]:
            _check_same(first, other)
        placed, sizes = _following(plans, names) if names else (first.layout.placed, Sizes())
    except UnsupportedError as error:
        if any(loaded.place.values()):
            both = " and ".join(first.tasks)
            why = f"{both} cannot be merged for inputs of different sizes: {error}"
            raise UnsupportedError(f"{why.rstrip('.')}. Give them data of one size.") from error
        numbers = loaded.at[0].sizes
        refusals += [Refusal(g.where, f"keeps its size, {numbers[g.name]}: {error}") for g in loaded.groups]
        return replace(first, refusals=(*first.refusals, *refusals))
    elsewhere = {t: plans[k] for t, k in loaded.place.items() if k}
    drawn = replace(first.layout, placed=placed)
    others = tuple(plans[1:]) if names else ()
    whole = replace(first, layout=drawn, sizes=sizes, elsewhere=elsewhere, others=others)
    return replace(whole, refusals=(*first.refusals, *refusals))


def _check_same(first: Plan, other: Plan) -> None:
    """Plans for two sizes must be the same but for numbers."""
    mine, theirs = _fixed_parts(first), _fixed_parts(other)
    for what, part in mine.items():
        if part != theirs[what]:
            raise UnsupportedError(f"the {what} of the fused net differ with the size of the input")


def _fixed_parts(plan: Plan) -> dict[str, Any]:
    """What sizes of the input must not change."""
    layout, placed = plan.layout, ((p.node, p.owners, p.role) for p in plan.layout.placed)
    params = [*(w.name for w in layout.weights), *(t.name for t in layout.taken)]
    return {
        "nodes": [(node.name, node.op, node.inputs, node.outputs, owners, role) for node, owners, role in placed],
        "spaces": {s.name: s.strands for s in plan.spaces.values() if not s.given},
        "steps": [(s.name, s.sink, s.skips) for s in plan.steps],
        "params": {name: layout.shapes[name] for name in params},
    }


def _following(plans: Sequence[Plan], names: Mapping[Axis, str]) -> tuple[tuple[Placed, ...], Sizes]:
    """The nodes of the fused net, and what follows the sizes in them."""
    shapes = [plan.layout.shapes for plan in plans]
    many = {Axis(v, d): tuple(s[v][d] for s in shapes) for v, shape in shapes[0].items() for d in range(len(shape))}
    called = {many[axis]: name for axis, name in reversed(list(names.items()))}
    free = {axis: called.get(numbers, "") for axis, numbers in many.items() if len(set(numbers)) > 1}
    sheet = _Sheet(many, set(names), {v: p for p in plans[0].layout.placed for v in p.node.outputs}, plans[0])
    numbers: dict[tuple[str, str], tuple[int | Measure, ...]] = {}
    placed = []
    for same in zip(*(plan.layout.placed for plan in plans), strict=True):
        node = same[0].node
        for key, values in _differing(same):
            written = sheet.written(node, key, values)
            if isinstance(written, str):
                node = replace(node, attrs={**{k: v for k, v in node.attrs.items() if k != key}, "auto_pad": written})
            else:
                numbers[node.name, key] = written
        placed.append(replace(same[0], node=node))
    return tuple(placed), Sizes(free, numbers)


def _differing(same: Sequence[Placed]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Attributes of a node that differ between plans."""
    for key in same[0].node.attrs:
        values = tuple(p.node.attrs[key] for p in same)
        if len({v.tobytes() if isinstance(v, np.ndarray) else v for v in values}) > 1:
            yield key, values


@dataclass
class _Sheet:
    """Sizes of all axes in all plans, and who makes what.

    Attributes:
        many: axis -> its size in each plan.
        inputs: free axes of inputs.
        makers: value -> who makes it.
        plan: the first one.
    """

    many: Mapping[Axis, Many]
    inputs: set[Axis]
    makers: Mapping[str, Placed]
    plan: Plan

    def written(self, node: Node, key: str, values: Sequence[Any]) -> tuple[int | Measure, ...] | str:
        """An attribute for any size.

        Raises:
            UnsupportedError: it cannot be told from sizes that are known at the node.
        """
        operator = find(node.op)
        x = str(node.inputs[0])
        read = [self.many[Axis(x, d)] for d in range(len(self.plan.layout.shapes[x]))]
        if key == "pads" and (found := auto_pad(node, values, read)) is not None:
            return found
        whole = all(isinstance(v, tuple) and all(isinstance(n, int) for n in v) for v in values)
        if operator is None or key not in operator.constants.values() or not whole:
            raise UnsupportedError(f"{key} of {node.op} {node.name!r} follows the size of the input, and must be a number")
        if node.op == "Reshape":  # its attribute says -1 for any multiple of the batch
            out = node.outputs[0]
            whole_shape = [self.many[Axis(out, d)] for d in range(len(values[0]))]
            return reshaped(whole_shape, read, lambda numbers: self.measure(node, key, numbers))
        entries = [tuple(v[k] for v in values) for k in range(len(values[0]))]
        if node.op == "Slice" and (short := sliced(node, key, entries, read)) is not None:
            return tuple(n if n is not None else self.measure(node, key, e) for n, e in zip(short, entries, strict=True))
        return tuple(self.measure(node, key, e) for e in entries)

    def measure(self, node: Node, key: str, numbers: Many) -> int | Measure:
        """A number for any size: the first axis that it follows, those of inputs before others."""
        if len(set(numbers)) == 1:
            return self._batch(node, -numbers[0]) if numbers[0] < 0 and node.op in BATCHED_CONSTANTS else numbers[0]
        mine = {p.name for p in self._ports(node)}
        axes = [*sorted(a for a in self.inputs if a.value in mine), *(a for v in self.before(node) for a in self._axes(v))]
        for found in (_equal, _part, _shifted):
            for axis in axes:
                if min(self.many[axis]) > 0 and (measure := found(axis, self.many[axis], numbers)) is not None:
                    return measure
        free = [a for a in axes if a in self.inputs]
        for one, other in combinations(free, 2):
            rest = tuple(n - s for n, s in zip(numbers, self.many[other], strict=True))
            if (measure := _shifted(one, self.many[one], rest)) is not None:
                return measure._replace(other=other)
        raise UnsupportedError(f"{key} of {node.op} {node.name!r} follows the size of the input in a way that is not known")

    def _batch(self, node: Node, times: int) -> Measure:
        return Measure(next(Axis(p.name, p.shape.index(BATCH)) for p in self._ports(node) if BATCH in p.shape), times)

    def _ports(self, node: Node) -> list[Port]:
        """The inputs that all have who run a node: those of others go where one of its tasks is taken out."""
        owners = self.makers[node.outputs[0]].owners
        return [p for p in self.plan.inputs if owners <= self.plan.overlay.values[p.name].keys()]

    def _axes(self, value: str) -> Iterator[Axis]:
        for d in range(len(self.plan.layout.shapes[value])):
            if len(set(self.many[Axis(value, d)])) > 1:
                yield Axis(value, d)

    def before(self, node: Node) -> Iterator[str]:
        """Values that a node's inputs are made of, the nearest first: whoever needs the node needs them anyway."""
        waiting = list(node.read)
        seen = set(waiting)
        while waiting:
            value = waiting.pop(0)
            if value in self.plan.layout.shapes:
                yield value
            maker = self.makers.get(value)
            for v in maker.node.read if maker is not None else ():
                if v not in seen:
                    seen.add(v)
                    waiting.append(v)


def _equal(axis: Axis, sizes: Many, numbers: Many) -> Measure | None:
    return Measure(axis) if sizes == numbers else None


def _part(axis: Axis, sizes: Many, numbers: Many) -> Measure | None:
    """A multiple of a size, or a fraction of it."""
    times, over = numbers[0] // sizes[0], sizes[0] // numbers[0] if numbers[0] > 0 else 0
    if times and all(n == times * s for n, s in zip(numbers, sizes, strict=True)):
        return Measure(axis, times)
    if over and all(s == over * n for n, s in zip(numbers, sizes, strict=True)):
        return Measure(axis, 1, over)
    return None


def _shifted(axis: Axis, sizes: Many, numbers: Many) -> Measure | None:
    shifts = {n - s for n, s in zip(numbers, sizes, strict=True)}
    return Measure(axis, plus=shifts.pop()) if len(shifts) == 1 else None
