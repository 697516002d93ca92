"""Operators that say the same of a value, in one of them, for a merge: exporters choose differently.

    ReduceMean, ReduceMax over all places of an image   ->  GlobalAveragePool, GlobalMaxPool; a Flatten behind without keepdims
    GlobalAveragePool, GlobalMaxPool of a signal        ->  ReduceMean, ReduceMax: of three axes none is known for the channels
    Reshape, Squeeze to [n, all the rest]               ->  Flatten
    Reshape that takes or adds axes of one entry        ->  Squeeze, Unsqueeze
    one of these four behind another                    ->  the last one, of what the first one reads; none, where it is that
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from onnxzip.net import Names, Net, Node, Shape

_GLOBAL = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
_REDUCED = {v: k for k, v in _GLOBAL.items()}
_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def without_synonyms(net: Net) -> Net:
    """The net with such operators in one form.

    Requires canonical attributes and known shapes.
    """
    names, shapes = Names({n.name for n in net.nodes} | set(net.shapes)), dict(net.shapes)
    nodes, shaped = list[Node](), dict[str, str]()  # what is only reshaped -> what it is made of
    for node in net.nodes:
        if node.op in _RESHAPING and len(node.inputs) == 1:
            source = shaped.get(str(node.inputs[0]), str(node.inputs[0]))
            node, shaped[node.outputs[0]] = replace(node, inputs=(source,)), source
        nodes += _rewritten(net, node, names, shapes)
    dtypes = {**net.dtypes, **{v: net.dtypes[str(n.inputs[0])] for n in nodes for v in n.outputs if v not in net.dtypes}}
    return replace(net, nodes=tuple(nodes), shapes=shapes, dtypes=dtypes)


def _rewritten(net: Net, node: Node, names: Names, shapes: dict[str, Shape]) -> Iterator[Node]:
    if len(node.inputs) != 1 or node.inputs[0] in net.params:
        yield node
    elif node.op in _GLOBAL and _over_images(net, node):
        yield from _pooled(net, node, names, shapes)
    elif node.op in _REDUCED and len(net.shapes[str(node.inputs[0])]) == 3:
        yield replace(node, op=_REDUCED[node.op], attrs={"axes": (2,), "keepdims": 1, "noop_with_empty_axes": 0})
    elif node.op in _RESHAPING:
        yield _reshaped(node, net.shapes[str(node.inputs[0])], net.shapes[node.outputs[0]])
    else:
        yield node


def _over_images(net: Net, node: Node) -> bool:
    """Whether a reduction is over all axes behind the channels of an image."""
    rank, axes = len(net.shapes[str(node.inputs[0])]), tuple(node.attrs.get("axes") or ())
    return rank > 3 and axes == tuple(range(2, rank)) and net.dtypes[node.outputs[0]].kind == "f"


def _pooled(net: Net, node: Node, names: Names, shapes: dict[str, Shape]) -> Iterator[Node]:
    op = _GLOBAL[node.op]
    if node.attrs["keepdims"]:
        yield replace(node, op=op, attrs={})
        return
    x = net.shapes[str(node.inputs[0])]
    name, value = names.fresh(f"{node.name}.pool"), names.fresh(f"{node.outputs[0]}.pool")
    shapes[value] = (*x[:2], *(1 for _ in x[2:]))
    yield Node(name, op, node.inputs, (value,), {})
    yield replace(node, op="Flatten", inputs=(value,), attrs={"axis": 1})


def _reshaped(node: Node, before: Shape, after: Shape) -> Node:
    if before == after:
        return replace(node, op="Identity", attrs={})
    if len(after) == 2 < len(before) and before[0] == after[0]:
        return replace(node, op="Flatten", attrs={"axis": 1})
    if len(after) > len(before) and (ones := _ones(before, after)) is not None:
        return replace(node, op="Unsqueeze", attrs={"axes": ones})
    if len(after) < len(before) and (ones := _ones(after, before)) is not None:
        return replace(node, op="Squeeze", attrs={"axes": ones})
    return node if node.op == "Flatten" and _flat(before, node.attrs["axis"]) == after else _plain(node, after)


def _plain(node: Node, after: Shape) -> Node:
    return replace(node, op="Reshape", attrs={"shape": after, "allowzero": 0})


def _flat(shape: Shape, axis: int) -> Shape:
    """What Flatten makes of a shape with one batch."""
    return prod(shape[:axis]), prod(shape[axis:])


def _ones(few: Shape, many: Shape) -> tuple[int, ...] | None:
    """Axes of one entry, the last ones that can be, that a shape has beyond another; None where it has others as well."""
    found, k = list[int](), len(few) - 1
    for axis in reversed(range(len(many))):
        if k >= 0 and few[k] == many[axis]:
            k -= 1
        elif many[axis] == 1:
            found.append(axis)
        else:
            return None
    return tuple(sorted(found)) if k < 0 else None
