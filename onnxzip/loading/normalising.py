"""What a net does to its input before the first layer with weights, folded into that layer where it is exact.

    W (s x + t) + b  =  (W s) x + (W t + b)        s, t: per channel of the input

A convolution that pads with zeros pads s x + t, not x: a shift cannot be folded there, a scale can. Nets that differ in
nothing but their mean and standard deviation then begin alike. Where the input is concatenated with other values first (the
numbers of a table with embeddings), the map of those is one and zero. Nets whose images have their channels last (Keras) turn
them behind the maps: the Transpose goes before these, if they then fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from onnxzip.loading.folding import affine_of, per_channel
from onnxzip.loading.params import Params, with_params
from onnxzip.net import Names, Net, Node, consumers, pruned, renamed_inputs, with_values

_MAPS = frozenset({"Mul", "Div", "Add", "Sub", "BatchNormalization"})
_PLACING = frozenset({"Cast", "CenterCropPad", "Gather", "Pad", "Resize", "Slice", "Transpose"})


class AffineMap(NamedTuple):
    """scale x + shift per channel: float64 [channels]; the value that it gives; the Concat that it runs through, if any."""

    scale: np.ndarray
    shift: np.ndarray
    value: str
    beside: Node | None = None


def folded_normalisation(net: Net) -> Net:
    """The net with what it does to each channel of an input absorbed by the layers that read the result.

    The input may be cast, resized, cut or turned before.
    """
    for port in net.inputs:
        for value in placed(net, port.name):
            again = turned(net, value)
            for before, name in ((net, value), *([again] if again is not None else [])):
                after = folded_maps(before, name)
                net = net if after is before else after
    return net


def placed(net: Net, name: str) -> list[str]:
    """An input, and what it becomes before the first map: in another type, at another size, at other places."""
    readers, found = consumers(net.nodes), [name]
    while len(then := readers.get(found[-1], [])) == 1 and then[0].op in _PLACING and then[0].inputs[0] == found[-1]:
        found.append(then[0].outputs[0])
    return found


def turned(net: Net, name: str) -> tuple[Net, str] | None:
    """The net with the Transpose behind the maps of an input before them, and what it gives; None where there is none."""
    readers = consumers(net.nodes)
    maps = maps_of(net, name, readers)
    last = maps[-1].outputs[0] if maps else name
    found = readers.get(last, [])
    if not maps or len(found) != 1 or found[0].op != "Transpose" or last in {p.name for p in net.outputs}:
        return None
    perm = found[0].attrs["perm"]
    params, names = Params.of(net), Names(set(net.shapes))
    value = first = names.fresh(f"{name}.turned")
    moved: dict[str, Node] = {}
    for node in maps:
        at = next((k for k, v in enumerate(node.inputs) if v in net.params), None)
        if node.op == "BatchNormalization" or at is None or len(node.inputs) != 2:
            return None
        number = per_channel(net.params[str(node.inputs[at])], len(perm), perm[1], net.shapes[name][perm[1]])
        if number is None or net.shapes[node.outputs[0]] != net.shapes[name]:
            return None
        shape = [-1 if k == 1 else 1 for k in range(len(perm))]
        constant = params.replaced(node.inputs[at], f"{node.name}.number", number.reshape(shape))
        out = found[0].outputs[0] if node is maps[-1] else names.fresh(f"{node.outputs[0]}.turned")
        moved[node.name] = replace(node, inputs=(value, constant) if at else (constant, value), outputs=(out,))
        value = out
    return _rewired(net, found[0], name, first, moved, params), first


def _rewired(net: Net, turn: Node, name: str, first: str, moved: Mapping[str, Node], params: Params) -> Net:
    """The net with a Transpose of an input, and maps of what it gives."""
    new = [first, *(n.outputs[0] for n in moved.values())]
    shapes = dict.fromkeys(new, net.shapes[turn.outputs[0]])
    nodes = (replace(turn, inputs=(name,), outputs=(first,)), *(moved.get(n.name, n) for n in net.nodes if n is not turn))
    return pruned(with_params(with_values(net, nodes, shapes, net.dtypes[name]), params))


def maps_of(net: Net, name: str, readers: Mapping[str, list[Node]]) -> list[Node]:
    """The maps behind an input, of which each alone reads what is before it."""
    ends, value, maps = {p.name for p in net.outputs}, name, list[Node]()
    while len(found := readers.get(value, [])) == 1 and found[0].op in _MAPS and value not in ends:
        maps.append(found[0])
        value = found[0].outputs[0]
    return maps


def folded_maps(net: Net, name: str) -> Net:
    """The net with the maps behind a value absorbed by the layers that read the result; the same object where they cannot."""
    readers = consumers(net.nodes)
    hosts = _hosts(net, name, readers)
    if not hosts:
        return net
    axis = 1 if hosts[0].op == "Conv" else len(net.shapes[str(hosts[0].inputs[0])]) - 1
    found = chain_of(net, name, axis, readers)
    if found is None or any(not _can_absorb(net, n, found) for n in hosts):
        return net
    params = Params.of(net)
    joined = found.beside
    changed = {n.name: _absorbed(n, name if joined is None else joined.outputs[0], found, params) for n in hosts}
    if joined is not None:
        changed[joined.name] = renamed_inputs(joined, {_before(net, name, readers): name})
    nodes = tuple(changed.get(n.name, n) for n in net.nodes)
    return pruned(with_params(replace(net, nodes=nodes), params))


def _before(net: Net, name: str, readers: Mapping[str, list[Node]]) -> str:
    """The value behind the maps of an input, which nothing but them reads."""
    maps = maps_of(net, name, readers)
    return maps[-1].outputs[0] if maps else name


def _hosts(net: Net, name: str, readers: dict[str, list[Node]]) -> list[Node]:
    """The layers with weights behind a chain of maps, all of one operator; none where anything else reads it."""
    ends, value = {p.name for p in net.outputs}, _before(net, name, readers)
    if value in (name, *ends):
        return []
    if (joined := _joined(value, readers)) is not None:
        value = joined.outputs[0]
    hosts = readers.get(value, [])
    same = len({n.op for n in hosts}) == 1 and value not in ends
    good = same and all(n.op in ("Conv", "Gemm", "MatMul") and n.inputs[0] == value for n in hosts)
    return hosts if good else []


def _joined(value: str, readers: dict[str, list[Node]]) -> Node | None:
    """The Concat that alone reads a value, once."""
    found = readers.get(value, [])
    return found[0] if len(found) == 1 and found[0].op == "Concat" and found[0].inputs.count(value) == 1 else None


def chain_of(net: Net, name: str, axis: int, readers: dict[str, list[Node]]) -> AffineMap | None:
    """All maps behind an input as one."""
    if axis >= len(net.shapes[name]) or net.shapes[name][axis] < 1:
        return None
    channels = net.shapes[name][axis]
    found = AffineMap(np.ones(channels), np.zeros(channels), name)
    while len(reading := readers.get(found.value, [])) == 1 and reading[0].op in _MAPS:
        step = _applied(net, reading[0], found, axis)
        if step is None:
            return None
        found = step
    joined = _joined(found.value, readers)
    return found if joined is None else _widened(net, joined, found, axis)


def _widened(net: Net, joined: Node, found: AffineMap, axis: int) -> AffineMap | None:
    """The map with one and zero for what the Concat brings in beside it; None where that is along another axis."""
    if joined.attrs["axis"] != axis:
        return None
    place = joined.inputs.index(found.value)
    sizes = [net.shapes[str(v)][axis] for v in joined.inputs]
    around = (sum(sizes[:place]), sum(sizes[place + 1:]))
    scale = np.pad(found.scale, around, constant_values=1.0)
    return AffineMap(scale, np.pad(found.shift, around), joined.outputs[0], joined)


def _applied(net: Net, node: Node, before: AffineMap, axis: int) -> AffineMap | None:
    """One more map; None where it is none of a constant per channel."""
    step = affine_of(net, node, before.value, axis, net.params)
    if step is None:
        return None
    by, to = 1.0 if step.scale is None else step.scale, 0.0 if step.shift is None else step.shift
    return AffineMap(before.scale * by, before.shift * by + to, node.outputs[0])


def _can_absorb(net: Net, node: Node, found: AffineMap) -> bool:
    weight = net.params.get(str(node.inputs[1]))
    if weight is None or weight.dtype != np.float32 or any(v is not None and v not in net.params for v in node.inputs[2:]):
        return False
    if node.op == "Conv":
        return node.attrs["group"] == 1 and (not any(node.attrs["pads"]) or not found.shift.any())
    plain = node.op == "MatMul" or (node.attrs["alpha"] == node.attrs["beta"] == 1 and not node.attrs["transA"])
    bias = net.params.get(str(node.input(2)))
    return plain and weight.ndim == 2 and (bias is None or bias.ndim == 1)


def _absorbed(node: Node, name: str, found: AffineMap, params: Params) -> Node:
    w, *rest = node.inputs[1:]
    weight = params.arrays[str(w)].astype(np.float64)
    first = node.op == "Conv" or bool(node.attrs.get("transB"))
    rows = weight if first else weight.T  # [outputs, channels, ...]
    along = (slice(None), *[None] * (rows.ndim - 2))
    shift = (rows * found.shift[along]).reshape(len(rows), -1).sum(axis=1)
    scaled = rows * found.scale[along]
    bias = rest[0] if rest else None
    old = np.zeros(len(rows)) if bias is None else params.arrays[bias].astype(np.float64)
    inputs: tuple[str | None, ...] = (name, params.replaced(w, f"{node.name}.weight", scaled if first else scaled.T))
    if bias is not None or found.shift.any():
        inputs = (*inputs, params.replaced(bias, f"{node.name}.bias", old + shift))
    return replace(node, inputs=inputs)
