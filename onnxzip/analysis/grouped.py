"""Spaces along which a node works in groups: of every strand, all groups have as many channels, or none is shared.

    in groups of 8:  [a 4 | b 4] [c 8]      a tenth of each is 0 + 0 and 1: no grouped node can read that
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxzip.analysis.layout import Sizes
from onnxzip.analysis.roles import Overlay
from onnxzip.analysis.spaces import Expr
from onnxzip.analysis.steps import Step, channels_at, groups_of
from onnxzip.analysis.strands import SpacePlan

UNEVEN = "a node works on it in groups, of which not all would share as many channels"

Groups = Mapping[str, tuple[tuple[Expr, ...], ...]]  # task -> what each group has of an axis


def grouped_axes(laid: Overlay, steps: Sequence[Step]) -> list[Groups]:
    """The axes that nodes with weights read or write group by group."""
    found: list[Groups] = []
    for part in (p for step in steps if not step.diagonal for p in step.parts):
        for value in (str(part.inputs[0]), part.outputs[0]):
            by_task = {t: _groups(channels_at(laid, part, t, value), groups_of(laid, part, t)) for t in part.members}
            if any(len(groups) > 1 for groups in by_task.values()):
                found.append(by_task)
    return found


def _groups(expr: Expr, count: int) -> tuple[tuple[Expr, ...], ...]:
    """What each group has of an axis; nothing where a part reaches over several groups."""
    size, start = abs(expr.size) // count, 0
    found: list[list[Expr]] = [[] for _ in range(count)]
    for part in expr.parts if expr.kind == "sum" else (expr,):
        group, start = start // size, start + abs(part.size)
        if start > (group + 1) * size:
            return ()
        found[group].append(part)
    return tuple(map(tuple, found))


def uneven_groups(grouped: Iterable[Groups], spaces: Mapping[int, SpacePlan]) -> dict[int, str]:
    """Spaces of which the groups of some node have not as many channels in every strand."""
    sizes, found = Sizes(spaces), dict[int, str]()
    for by_task in grouped:
        numbers = {n for groups in by_task.values() for some in groups for e in some for n in sizes.carried(e)}
        for key in {s.key for n in numbers for s in spaces[n].strands}:
            lengths = (
                [sum(sizes.restrict(e, (key,)).size for e in some) for some in groups]
                for task, groups in by_task.items() if task in key
            )
            if any(len(set(some)) > 1 for some in lengths):
                found |= dict.fromkeys(numbers, UNEVEN)
    return found
