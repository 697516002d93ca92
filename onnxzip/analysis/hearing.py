"""What hidden units of one strand hear of those of others, which run without them: a sum in their gates.

    g_own(s) + R_own,shared h_shared(s - 1)        the gates of own units, as a node of their own reads them

So units that are shared read each other alone, as shared rows do everywhere in layout `strands`, and own ones read all.
"""

from __future__ import annotations

import sys

from onnxzip.analysis.drafting import Draft
from onnxzip.analysis.layout import Hearing, Piece, Taken
from onnxzip.analysis.roles import Role, unique
from onnxzip.analysis.strands import Owners
from onnxzip.ops.recurrent import may_part

UNITS = 3  # the axis of units among a node's outputs over time


def heard(draft: Draft, role: Role, key: Owners, owners: Owners) -> dict[str, Piece]:
    """The gates of a strand of a recurrent node's units with what others say, by their laid-over name; nothing where none
    do."""
    if not may_part(role.op, role.inputs, role.outputs):
        return {}
    others = tuple(p for k, p in draft.pieces.get(role.outputs[0], {}).items() if k != key and owners <= k)
    if not others:
        return {}
    gates = draft.pieces[str(role.inputs[0])][key]
    speakers = tuple(k for p in others for k in p.keys)
    everyone = frozenset.intersection(*(p.owners for p in others))
    before = _before(draft, role, draft.concatenated(others, UNITS, everyone), everyone)
    weights = _weights(draft, str(role.inputs[2]), gates, speakers)
    said, both = (unique(f"{gates.name}_{word}", "fused", draft.value_names) for word in ("said", "heard"))
    for value in (said, both):
        draft.shapes[value] = draft.shapes[gates.name]
    draft.place("MatMul", said, [before, weights.name], (said,), {}, owners, None)
    draft.place("Add", both, [gates.name, said], (both,), {}, owners, None)
    draft.hearings[both] = Hearing(gates.name, tuple(p.name for p in others), weights)
    return {gates.laid: Piece(both, gates.laid, gates.task, gates.keys, owners)}


def _before(draft: Draft, role: Role, states: str, owners: Owners) -> str:
    """States in front of each step [steps, samples, units], from those behind each [steps, 1, samples, units]."""
    if ("before", states) in draft.joined:
        return draft.joined["before", states]
    back = next(iter(role.members.values())).attrs["direction"] == "reverse"
    steps, _, samples, units = draft.shapes[states]
    flat, cut, before = (unique(f"{states}_{word}", "fused", draft.value_names) for word in ("flat", "cut", "before"))
    draft.shapes[flat] = draft.shapes[before] = (steps, samples, units)
    draft.shapes[cut] = (steps - 1, samples, units)
    most = {"starts": (1,), "ends": (sys.maxsize,)} if back else {"starts": (0,), "ends": (-1,)}
    pads = (0, 0, 0, 1, 0, 0) if back else (1, 0, 0, 0, 0, 0)
    draft.place("Squeeze", flat, [states], (flat,), {"axes": (1,)}, owners, None)
    draft.place("Slice", cut, [flat], (cut,), {**most, "axes": (0,), "steps": (1,)}, owners, None)
    draft.place("Pad", before, [cut], (before,), {"pads": pads, "mode": "constant", "constant_value": 0.0}, owners, None)
    draft.joined["before", states] = before
    return before


def _weights(draft: Draft, laid: str, gates: Piece, speakers: tuple[Owners, ...]) -> Taken:
    """Announce what units of some strands say to those of a strand."""
    _, rows, units = draft.overlay.exprs(laid, gates.task)
    name = draft.fresh(f"{draft.base_name(laid, gates.owners)}_heard", gates.owners, False, draft.value_names)
    draft.shapes[name] = (draft.sizes.restrict(units, speakers).size, draft.sizes.restrict(rows, gates.keys).size)
    draft.taken.append(Taken(name, laid, gates.keys, gates.owners, speakers))
    return draft.taken[-1]
