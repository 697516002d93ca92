"""Spaces whose channels take turns along an axis, behind a channel shuffle: they are shared alike, or not at all.

A shuffle of some strands of all its parts is a shuffle of the whole only where each part has as many channels there.

So are channels and those that a node adds to them: what it gives for a strand are that strand's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxzip.analysis.roles import Overlay
from onnxzip.analysis.strands import SpacePlan

UNEVEN = "its channels take turns with others that cannot be shared alike"
UNEVEN_ADDED = "it is padded with channels that cannot be shared alike"


def woven_spaces(laid: Overlay) -> set[frozenset[int]]:
    """Sets of spaces whose channels take turns along an axis."""
    found: set[frozenset[int]] = set()
    for task, coupling in laid.couplings.items():
        exprs = (e for whole in dict.fromkeys(coupling.axes.values()) for e in whole.walk() if e.kind in ("woven", "stack"))
        found |= {frozenset(laid.expr(e, task).atoms()) for e in exprs}
    return found


def uneven_spaces(woven: Iterable[frozenset[int]], spaces: Mapping[int, SpacePlan]) -> dict[int, str]:
    """Spaces whose channels take turns with others' but are not shared as these are: all by the same tasks, or by none."""
    found: dict[int, str] = {}
    for numbers in woven:
        mine = [spaces[n] for n in numbers if n in spaces]
        strands = {frozenset((s.key, len(s.rows)) for s in p.strands) for p in mine}
        broken = any(sum(t in s.key for s in p.strands) > 1 or len(s.rows) > 1 for p in mine for s in p.strands for t in s.key)
        if len(strands) > 1 or broken:
            found |= {p.number: UNEVEN for p in mine}
    return found


def uneven_added(laid: Overlay, spaces: Mapping[int, SpacePlan]) -> dict[int, str]:
    """Spaces to which a node adds channels that other tasks share than share those that are there, and these channels."""
    found: dict[int, str] = {}
    for task, coupling in laid.couplings.items():
        for both in coupling.grown:
            there, added = ({n for a in atoms if (n := laid.spaces[task, a]) in spaces} for atoms in both)
            mine, others = ({s.key for n in some for s in spaces[n].strands} for some in (there, added))
            if not others <= mine:
                found |= dict.fromkeys(there | added, UNEVEN_ADDED)
    return found
