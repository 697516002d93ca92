"""Spaces that linear nodes, or tables, alone make, and linear nodes carry and read: their channels are one basis of many.

The streams between linear bottlenecks (Sandler et al., MobileNetV2, CVPR 2018) are such spaces: with s the channels there,
rows of the nodes that make them times Q and columns of those that read them times Q' leave the net as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxzip.analysis.coupling import Coupling, linear_view, view_of
from onnxzip.analysis.embeddings import lookup_axis
from onnxzip.analysis.plan import Plan
from onnxzip.net import Net, Node, consumers
from onnxzip.ops import Linear, Symmetry, View, find


def turnable(plan: Plan, number: int, task: str) -> bool:
    """Whether a space is such a one in a task's net."""
    atoms, coupling, space = atoms_of(plan, number, task), plan.overlay.couplings[task], plan.spaces[number]
    if len(atoms) != 1 or space.given or space.inside or space.ordered or task in space.refused:
        return False
    (atom,) = atoms
    if atom in coupling.pinned or atom in coupling.ordered or atom in coupling.inside:
        return False
    return all(_is_linear(plan.nets[task], coupling, node, atom) for node in plan.nets[task].nodes)


def atoms_of(plan: Plan, number: int, task: str) -> list[int]:
    """What a task's net has in place of a laid-over space."""
    return [atom for (t, atom), n in plan.overlay.spaces.items() if t == task and n == number]


def _is_linear(net: Net, coupling: Coupling, node: Node, atom: int) -> bool:
    """Whether every linear map of an atom's channels goes through a node, or into its weights."""
    axes = {v: [e for e in coupling.exprs(v) if atom in e.atoms()] for v in (*node.read, *node.outputs)}
    touched = {v for v, exprs in axes.items() if exprs}
    if not touched:
        return True
    if any(e.kind != "atom" for exprs in axes.values() for e in exprs) or any(len(exprs) > 1 for exprs in axes.values()):
        return False
    if lookup_axis(net, node) is not None:
        return _is_alone(net, node)
    found = linear_view(net, node)
    if found is not None:
        return _is_dense(net, node, *found) and _is_alone(net, node)
    known = find(node.op)
    if known is None or touched & set(net.params) or atom in coupling.whole.get(node.name, ()):
        return False
    return known.symmetry_for(view_of(net, node)) is Symmetry.LINEAR


def _is_dense(net: Net, node: Node, linear: Linear, view: View) -> bool:
    return not linear.diagonal(view) and linear.matrix(view, net.params).shape[0] == 1


def _is_alone(net: Net, node: Node) -> bool:
    """Whether nobody else has the params of a node."""
    readers = consumers(net.nodes)
    return all(len(readers[v]) == 1 for v in node.read if v in net.params)


def turned_params(plan: Plan, number: int, task: str, axes: np.ndarray) -> Mapping[str, np.ndarray]:
    """The params of a task's net around a space, for channels z = axes s in place of s.

    Args:
        axes: [channels, channels], orthonormal rows.
    """
    net, coupling = plan.nets[task], plan.overlay.couplings[task]
    (atom,) = atoms_of(plan, number, task)
    found: dict[str, np.ndarray] = {}
    for node in net.nodes:
        columns = lookup_axis(net, node)
        if columns is not None and atom in coupling.axes[columns].atoms():
            table = np.moveaxis(net.params[columns.value], columns.dim, -1)
            turned = np.moveaxis((table.astype(np.float64) @ axes.T).astype(table.dtype), -1, columns.dim)
            found[columns.value] = np.ascontiguousarray(turned)
        linear, view = linear_view(net, node) or (None, None)
        if linear is None or view is None:
            continue
        channels = [coupling.exprs(str(v))[linear.channel(view)].atoms() for v in (node.inputs[0], node.outputs[0])]
        reads, makes = (atom in atoms for atoms in channels)
        if not reads and not makes:
            continue
        name, bias = str(node.inputs[linear.weight]), node.input(linear.bias)
        matrix = linear.matrix(view, net.params).astype(np.float64)
        if reads:
            matrix = matrix @ axes.T
        if makes:
            matrix = np.einsum("ab,gbki->gaki", axes, matrix)
        if makes and bias is not None:
            found[bias] = (axes @ net.params[bias].astype(np.float64)).astype(net.params[bias].dtype)
        found[name] = np.ascontiguousarray(linear.from_matrix(view, matrix), dtype=net.params[name].dtype)
    return found
