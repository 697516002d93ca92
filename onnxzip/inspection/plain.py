"""Any net as it stands: which of its channels change together, what is pinned and why, what cannot be coupled."""

from __future__ import annotations

from typing import Any

from onnxzip.analysis.coupling import Coupling
from onnxzip.net import Axis, Net

Entry = dict[str, Any]


def plain_entries(net: Net, coupling: Coupling) -> Entry:
    """Spaces and refusals of a net that is no merge's result."""
    return {
        "spaces": [_space(net, coupling, atom) for atom in _in_order(net, coupling)],
        "refusals": [{"where": where, "why": why} for where, why in coupling.refusals],
    }


def _in_order(net: Net, coupling: Coupling) -> list[int]:
    """Spaces whose channels weights produce, in the order in which they first appear."""
    atoms = [
        a for node in net.nodes for v in node.outputs for d in range(len(net.shapes[v]))
        for a in coupling.axes[Axis(v, d)].atoms() if a in coupling.produced
    ]
    return list(dict.fromkeys(atoms))


def _space(net: Net, coupling: Coupling, atom: int) -> Entry:
    axes = [axis for axis, expr in coupling.axes.items() if atom in expr.atoms()]
    carried = {axis.value for axis in axes}
    size = next(abs(e.size) for axis in axes for e in coupling.axes[axis].walk() if e.kind == "atom" and e.atom == atom)
    nodes = [n.name for n in net.nodes if carried & {*n.inputs, *n.outputs}]
    first = next(n.name for n in net.nodes if carried & set(n.outputs))
    return {"name": first, "channels": size, "axes": len(axes), "nodes": nodes, "pinned": coupling.pinned.get(atom)}
