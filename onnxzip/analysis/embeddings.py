"""Embedding tables that make channels of their own: columns that nothing but look-ups write, and that nodes with weights read.

A table E [tokens, channels] is a linear node over one-hot inputs. Where its channels are those of a residual stream, other
weights make them, too; where they are not (a text CNN, the categories of a table of data), the table alone does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from onnxzip.analysis.spaces import Expr
from onnxzip.net import Axis, Net, Node, consumers


def lookup_axis(net: Net, node: Node) -> Axis | None:
    """The columns of the table of floats in which a node looks up rows; None for any other node."""
    if node.op != "Gather" or node.inputs[0] not in net.params or node.inputs[1] in net.params:
        return None
    table = str(node.inputs[0])
    if len(net.shapes[table]) != 2 or net.dtypes[table].kind != "f":
        return None
    return Axis(table, 1 - int(node.attrs.get("axis", 0)) % 2)


def embedded(net: Net, axes: Mapping[Axis, Expr], fitted: Collection[str], made: Collection[int]) -> frozenset[int]:
    """Atoms that tables make, and that none but fitted weights sum over: a fit can take other channels in their place.

    Sums that do nothing but scale and shift the same channels (mean and variance of a norm that is spelled out) are none.

    Args:
        fitted: nodes whose weights are fitted.
        made: atoms that weights make, too, or that are an input's.
    """
    tables = {axes[axis] for node in net.nodes if (axis := lookup_axis(net, node)) is not None}
    columns, users = {e.atom for e in tables if e.kind == "atom"}.difference(made), consumers(net.nodes)
    read, bound = set[int](), set[int]()
    for node in net.nodes:
        gone = columns & _summed(net, axes, node)
        if node.name in fitted:
            read |= gone
        else:
            bound |= {a for a in gone if not _comes_back(net, axes, a, node.outputs, users)}
    return frozenset(read - bound)


def why_as_it_is(net: Net, axes: Mapping[Axis, Expr], fitted: Collection[str], node: Node) -> str:
    """Why the table in which a node looks up rows is not made anew; "" where that is not told by what reads its columns.

    Args:
        fitted: as of `embedded`.
    """
    axis = lookup_axis(net, node)
    if axis is None or axes[axis].kind != "atom":
        return ""
    atom, users = axes[axis].atom, consumers(net.nodes)
    sums = [n for n in net.nodes if atom in _summed(net, axes, n)]
    for other in sums:
        if other.name not in fitted and not _comes_back(net, axes, atom, other.outputs, users):
            return f"{other.op} {other.name!r} sums over its columns without weights"
    return "" if any(n.name in fitted for n in sums) else "no node with weights reads its columns"


def _comes_back(
    net: Net, axes: Mapping[Axis, Expr], atom: int, sums: Sequence[str], users: Mapping[str, Sequence[Node]]
) -> bool:
    """Whether what is made of sums over channels meets these channels again, whichever way it goes."""
    waiting, seen, ends = [*sums], set[str](), {p.name for p in net.outputs}
    while waiting:
        value = waiting.pop()
        if value in ends:
            return False
        for node in users.get(value, ()) if value not in seen else ():
            if atom not in _atoms(net, axes, node.outputs):
                waiting += node.outputs
        seen.add(value)
    return True


def _summed(net: Net, axes: Mapping[Axis, Expr], node: Node) -> set[int]:
    return _atoms(net, axes, node.inputs) - _atoms(net, axes, node.outputs)


def _atoms(net: Net, axes: Mapping[Axis, Expr], values: Iterable[str | None]) -> set[int]:
    some = [v for v in values if v is not None]
    return {a for v in some for d in range(len(net.shapes[v])) for a in axes[Axis(v, d)].atoms()}
