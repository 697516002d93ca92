"""Nodes that each take a part of a value, as one Split, for a merge: exporters write chunks in both ways.

    Slice(x, 0, a), Slice(x, a, b), ..              ->  Split(x)
    Gather(x, 0), Gather(x, 1), .., of one place     ->  Squeeze of each output of Split(x)

They are where they cover an axis and do not overlap; nodes that take the same part read the same output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from onnxzip.net import Names, Net, Node, consumers


@dataclass(frozen=True)
class _Cut:
    """A node that takes the entries from `start` to `end` along one axis."""

    node: Node
    axis: int
    start: int
    end: int


def with_splits(net: Net) -> Net:
    """The net with such nodes as Splits.

    Requires canonical attributes and known shapes.
    """
    names = Names.beside(net)
    shapes, dtypes, instead = dict(net.shapes), dict(net.dtypes), dict[str, list[Node]]()
    for value, cuts in _families(net):
        axis, parts = cuts[0].axis, sorted({(c.start, c.end) for c in cuts})
        first = names.fresh(f"{cuts[0].node.name}.split")
        outputs = {part: names.fresh(f"{first}.{k}") for k, part in enumerate(parts)}
        for (start, end), name in outputs.items():
            shapes[name] = tuple(end - start if k == axis else d for k, d in enumerate(net.shapes[value]))
            dtypes[name] = net.dtypes[value]
        sizes = tuple(end - start for start, end in parts)
        split = Node(first, "Split", (value,), tuple(outputs.values()), {"axis": axis, "split": sizes})
        for cut in cuts:
            read = outputs[cut.start, cut.end]
            op, attrs = ("Squeeze", {"axes": (axis,)}) if cut.node.op == "Gather" else ("Identity", {})
            instead[cut.node.name] = [replace(cut.node, op=op, inputs=(read,), attrs=attrs)]
        instead[cuts[0].node.name].insert(0, split)
    nodes = tuple(new for node in net.nodes for new in instead.get(node.name, [node]))
    return replace(net, nodes=nodes, shapes=shapes, dtypes=dtypes)


def _families(net: Net) -> Iterator[tuple[str, Sequence[_Cut]]]:
    """Values, and the nodes that together take all of one."""
    for value, readers in consumers(net.nodes).items():
        cuts = [c for n in readers if value not in net.params and (c := _cut(net, n, value)) is not None]
        for axis in dict.fromkeys(c.axis for c in cuts):
            found = [c for c in cuts if c.axis == axis]
            parts = sorted({(c.start, c.end) for c in found})
            whole = parts[0][0] == 0 and parts[-1][1] == net.shapes[value][axis]
            if len(parts) > 1 and whole and all(a[1] == b[0] for a, b in pairwise(parts)):
                yield value, found


def _cut(net: Net, node: Node, value: str) -> _Cut | None:
    """What a node takes of a value; None where that is no part of one axis that has a number."""
    shape = net.shapes[value]
    if node.op == "Slice" and len(node.inputs) == 1 and len(node.attrs["axes"]) == 1 and node.attrs["steps"] == (1,):
        (axis,), (start,), (end,) = (node.attrs[k] for k in ("axes", "starts", "ends"))
        axis %= len(shape)
    elif node.op == "Gather" and node.inputs[0] == value and (index := net.params.get(str(node.inputs[1]))) is not None:
        if index.shape:
            return None
        axis, start = node.attrs["axis"], int(index)
        start += shape[axis] if start < 0 else 0
        end = start + 1
    else:
        return None
    return _Cut(node, axis, start, end) if shape[axis] > 0 and start < end else None
