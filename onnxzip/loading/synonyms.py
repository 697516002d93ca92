"""Operators that say the same of a value, in one of them, for a merge: exporters choose differently.

    ReduceMean, ReduceMax over all places of an image   ->  GlobalAveragePool, GlobalMaxPool; a Flatten behind without keepdims
    GlobalAveragePool, GlobalMaxPool of a signal        ->  ReduceMean, ReduceMax: of three axes none is known for the channels
    Reshape, Squeeze to [n, all the rest]               ->  Flatten
    Reshape that takes or adds axes of one entry        ->  Squeeze, Unsqueeze
    one of these four behind another                    ->  the last one, of what the first one reads; none, where it is that
    Transpose behind Transpose                          ->  one
    Transpose of what a Reshape made of its first axes  ->  Transpose, where a Reshape behind it undoes that
    Transpose behind a Reshape that splits the first    ->  the Transpose in front of the Reshape
    Mul by 1 / x, by Reciprocal(x); Pow(x, 2)           ->  Div by x; Mul(x, x)
    nodes that do the same with the same values         ->  one of them
    Expand in front of an operator that broadcasts      ->  nothing, where the operator makes the same of what it reads
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

from onnxzip.net import Names, Net, Node, Shape, pruned, renamed_inputs

_GLOBAL = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
_ALONG_SIGNAL = {"axes": (2,), "keepdims": 1, "noop_with_empty_axes": 0}
_REDUCED = {v: k for k, v in _GLOBAL.items()}
_BROADCASTING = frozenset({
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "And", "Or", "Equal", "Less", "Greater", "LessOrEqual",
    "GreaterOrEqual",
})
_OF_CHANCE = frozenset({"Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike"})
_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def without_synonyms(net: Net) -> Net:
    """The net with such operators in one form.

    Requires canonical attributes and known shapes.
    """
    names, shapes = Names.beside(net), dict(net.shapes)
    nodes, made, same = list[Node](), dict[str, Node](), dict[str, str]()
    for old in net.nodes:
        joined = _joined(net, renamed_inputs(old, same), made, shapes)
        for node in _split_last(joined, made, names, shapes):
            for new in _rewritten(net, _joined(net, node, made, shapes), made, names, shapes):
                nodes.append(new)
                made |= dict.fromkeys(new.outputs, new)
                same |= {new.outputs[0]: str(new.inputs[0])} if new.op == "Identity" else {}
    dtypes = dict(net.dtypes)
    for node in nodes:
        dtypes |= {v: dtypes[str(node.inputs[0])] for v in node.outputs if v not in dtypes}
    return pruned(replace(net, nodes=_each_once(net, nodes), shapes=shapes, dtypes=dtypes))


def _each_once(net: Net, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Nodes without those that another one makes superfluous."""
    seen, same, kept = dict[Hashable, Node](), dict[str, str](), list[Node]()
    outputs = {p.name for p in net.outputs}
    for node in (renamed_inputs(n, same) for n in nodes):
        plain = all(isinstance(v, (int, float, str, tuple, type(None))) for v in node.attrs.values())
        key = node.op, node.inputs, len(node.outputs), repr(sorted(node.attrs.items()))
        alone = not node.inputs or not plain or node.op in _OF_CHANCE or bool(outputs.intersection(node.outputs))
        first = node if alone else seen.setdefault(key, node)
        if first is node:
            kept.append(node)
        else:
            same |= zip(node.outputs, first.outputs, strict=True)
    return tuple(kept)


def _joined(net: Net, node: Node, made: Mapping[str, Node], shapes: Mapping[str, Shape]) -> Node:
    """A node with those in front of it that it can do the work of."""
    if node.op == "Pow" and (power := net.params.get(str(node.inputs[1]))) is not None and power.ndim == 0 and power == 2:
        return replace(node, op="Mul", inputs=(node.inputs[0], node.inputs[0]))
    if node.op in _BROADCASTING:
        node = _unexpanded(node, made, shapes)
        return _quotient(net, node, made) if node.op in ("Mul", "Div") else node
    if len(node.inputs) != 1 or (before := made.get(str(node.inputs[0]))) is None:
        return node
    if node.op in _RESHAPING and (before.op in _RESHAPING or _moves_ones(before, shapes)):
        return replace(node, inputs=before.inputs)
    if node.op == "Reshape" and before.op == "Transpose":
        node = _turned(node, before, made.get(str(before.inputs[0])), shapes) or node
        before = made.get(str(node.inputs[0]), before)
    if node.op == "Transpose" and before.op == "Transpose":
        perm = tuple(before.attrs["perm"][k] for k in node.attrs["perm"])
        same = perm == tuple(range(len(perm)))
        return replace(node, inputs=before.inputs, **({"op": "Identity", "attrs": {}} if same else {"attrs": {"perm": perm}}))
    return node


def _moves_ones(node: Node, shapes: Mapping[str, Shape]) -> bool:
    """Whether a Transpose, of a value with a batch, leaves all scalars in their order."""
    shape = shapes[str(node.inputs[0])]
    left = [k for k in node.attrs["perm"] if shape[k] != 1] if node.op == "Transpose" else [1, 0]
    return min(shape, default=0) < 0 and left == sorted(left)


def _unexpanded(node: Node, made: Mapping[str, Node], shapes: Mapping[str, Shape]) -> Node:
    """A node that broadcasts, reading what was expanded for it."""
    for k, value in enumerate(node.inputs):
        before = made.get(str(value))
        if before is not None and before.op == "Expand" and len(before.inputs) == 1:
            inputs = (*node.inputs[:k], before.inputs[0], *node.inputs[k + 1 :])
            if _broadcast([shapes[str(v)] for v in inputs]) == shapes[node.outputs[0]]:
                node = replace(node, inputs=inputs)
    return node


def _broadcast(given: Sequence[Shape]) -> Shape:
    """The shape that values of some shapes have together; they fit."""
    rank = max(map(len, given))
    full = [(1,) * (rank - len(shape)) + shape for shape in given]
    return tuple(next((d for d in dims if d != 1), 1) for dims in zip(*full, strict=True))


def _turned(node: Node, transpose: Node, first: Node | None, shapes: Mapping[str, Shape]) -> Node | None:
    """Reshape(Transpose(Reshape(x))) as the Transpose of x that it is; None where it is none."""
    if first is None or first.op not in _RESHAPING or len(first.inputs) != 1 or transpose.attrs["perm"][0] != 0:
        return None
    source, flat, after = (shapes[str(v)] for v in (first.inputs[0], transpose.inputs[0], node.outputs[0]))
    lead = len(source) - len(flat) + 1
    perm = (*range(lead), *(k + lead - 1 for k in transpose.attrs["perm"][1:]))
    if lead < 1 or flat != (prod(source[:lead]), *source[lead:]) or after != tuple(source[k] for k in perm):
        return None
    return replace(node, op="Transpose", inputs=first.inputs, attrs={"perm": perm})


def _split_last(node: Node, made: Mapping[str, Node], names: Names, shapes: dict[str, Shape]) -> Iterator[Node]:
    """A Transpose behind a Reshape that splits its first axis, and leaves the parts there, as one in front of it."""
    before = made.get(str(node.inputs[0])) if node.op == "Transpose" else None
    source, split = (shapes[str(v)] for v in (before.inputs[0], node.inputs[0])) if before is not None else ((), ())
    lead, perm = len(split) - len(source) + 1, node.attrs.get("perm", ())
    splits = before is not None and before.op == "Reshape" and lead > 1 and split[lead:] == source[1:]
    if before is None or not splits or tuple(perm[:lead]) != tuple(range(lead)):
        yield node
        return
    value, inner = names.fresh(f"{node.outputs[0]}.whole"), (0, *(k - lead + 1 for k in perm[lead:]))
    shapes[value] = tuple(source[k] for k in inner)
    yield Node(names.fresh(f"{node.name}.whole"), "Transpose", before.inputs, (value,), {"perm": inner})
    yield _plain(replace(node, inputs=(value,)), shapes[node.outputs[0]])


def _quotient(net: Net, node: Node, made: Mapping[str, Node]) -> Node:
    """A product with an inverse as what it is; one by a value as its inverse."""
    first, second = map(str, node.inputs)
    if node.op == "Div":
        one = net.params.get(first)
        if one is None or one.size > 1 or one.dtype.kind != "f" or one.item() != 1 or one.ndim > len(net.shapes[second]):
            return node
        return replace(node, op="Reciprocal", inputs=(second,))
    for value, other in ((first, second), (second, first)):
        inverse = made.get(value)
        if inverse is not None and inverse.op == "Reciprocal" and other not in net.params:
            return replace(node, op="Div", inputs=(other, inverse.inputs[0]))
    return node


def _rewritten(
    net: Net, node: Node, made: Mapping[str, Node], names: Names, shapes: dict[str, Shape]
) -> Iterator[Node]:
    if len(node.inputs) != 1 or node.inputs[0] in net.params:
        yield node
    elif node.op in _GLOBAL and _over_images(net, node, shapes):
        yield from _pooled(node, made, names, shapes)
    elif node.op in _REDUCED and len(shapes[str(node.inputs[0])]) == 3:
        yield replace(node, op=_REDUCED[node.op], attrs=_ALONG_SIGNAL)
    elif node.op in _RESHAPING:
        yield _reshaped(node, shapes[str(node.inputs[0])], shapes[node.outputs[0]])
    else:
        yield node


def _over_images(net: Net, node: Node, shapes: Mapping[str, Shape]) -> bool:
    """Whether a reduction is over all axes behind the channels of an image."""
    rank, axes = len(shapes[str(node.inputs[0])]), tuple(node.attrs.get("axes") or ())
    return rank > 3 and axes == tuple(range(2, rank)) and net.dtypes[node.outputs[0]].kind == "f"


def _pooled(node: Node, made: Mapping[str, Node], names: Names, shapes: dict[str, Shape]) -> Iterator[Node]:
    """A reduction of an image as a pool; of one that is a signal with an axis more, as a reduction of the signal."""
    x, out, before = str(node.inputs[0]), node.outputs[0], made.get(str(node.inputs[0]))
    op, attrs = _GLOBAL[node.op], dict[str, object]()
    if before is not None and before.op in _RESHAPING:
        source = shapes[str(before.inputs[0])]
        if len(source) == 3 and source[:2] == shapes[x][:2]:
            x, op, attrs = str(before.inputs[0]), node.op, _ALONG_SIGNAL
    pooled = (*shapes[x][:2], *(1 for _ in shapes[x][2:]))
    if pooled == shapes[out]:
        yield replace(node, op=op, inputs=(x,), attrs=attrs)
        return
    name, value = names.fresh(f"{node.name}.pool"), names.fresh(f"{out}.pool")
    shapes[value] = pooled
    yield Node(name, op, (x,), (value,), attrs)
    yield _reshaped(replace(node, op="Reshape", inputs=(value,)), pooled, shapes[out])


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
