"""Nets that scale and shift their input differently before a convolution that pads with zeros, made to read the same.

    W * pad(s x + t) + b  =  [W s, sum over channels of W t] * pad([x, 1]) + b

A shift cannot go into the bias there, as the border has none of it; a channel of ones beside the input, which is padded with
zeros like the input, carries it exactly. All nets of a merge are given that channel where their maps differ, so that their
first layers read the same values; a net without any map is given weights of zero for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxzip.loading.inputs import Laid, names_of
from onnxzip.loading.normalising import AffineMap, chain_of, maps_of, placed, turned
from onnxzip.loading.params import Params, with_params
from onnxzip.net import Names, Net, Node, Shape, consumers, macs, pruned, with_values

ONES = 1.0


@dataclass(frozen=True)
class _Beginning:
    """How a net begins at one of its inputs.

    Attributes:
        net: with its Transpose, if any, before the maps; value: what the maps read.
        found: the maps as one; maps: node by node, as they are told apart.
        layers: the convolutions behind them.
        level: whether it has a channel of ones already.
    """

    net: Net
    value: str
    found: AffineMap
    maps: tuple[tuple[str, bool, bytes], ...]
    layers: tuple[Node, ...]
    level: bool = False


def levelled(nets: tuple[Net, ...], inputs: Laid) -> tuple[Net, ...]:
    """Nets that are merged, with a channel of ones beside the inputs that they shift in different ways.

    Args:
        inputs: net -> input of the fused net -> its own.
    """
    for port in (name for name in names_of(inputs) if all(name in own for own in inputs.values())):
        begun = [_beginning(net, inputs[net.name][port]) for net in nets]
        known = [b for b in begun if b is not None]
        if len(known) == len(nets) and _worth_it(known):
            nets = tuple(net if b.level else _with_ones(b) for net, b in zip(nets, known, strict=True))
    return nets


def _worth_it(begun: Sequence[_Beginning]) -> bool:
    """Whether the maps differ in what no layer can absorb, and nothing else keeps the layers behind them from being shared."""
    differ = len({b.maps for b in begun}) > 1
    shifted = any(b.level or (b.found.shift.any() and any(any(n.attrs["pads"]) for n in b.layers)) for b in begun)
    return differ and shifted and len({_geometry(b) for b in begun}) == 1


def _geometry(begun: _Beginning) -> tuple[Any, ...]:
    """What convolutions must have in common to be shared."""
    keys = "kernel_shape", "pads", "strides", "dilations"
    return begun.net.shapes[begun.value][1:], *sorted({tuple(n.attrs[k] for k in keys) for n in begun.layers})


def _beginning(net: Net, name: str) -> _Beginning | None:
    """How a net begins at an input; None where it is no chain of maps before convolutions."""
    last = placed(net, name)[-1]
    before, value = turned(net, last) or (net, last)
    readers = consumers(before.nodes)
    if len(before.shapes[value]) < 3 or min(before.shapes[value][1:]) < 1:
        return None
    if (joined := _ones_beside(value, readers)) is not None:
        layers = _layers(before, joined, readers)
        shape = before.shapes[value][1]
        same = AffineMap(np.ones(shape), np.zeros(shape), value)
        return _Beginning(before, value, same, (("level", True, b""),), layers, level=True) if layers else None
    found = chain_of(before, value, 1, readers)
    if found is None or found.beside is not None:
        return None
    layers = _layers(before, found.value, readers)
    maps = tuple(_told(before, node) for node in maps_of(before, value, readers))
    return _Beginning(before, value, found, maps, layers) if layers else None


def _told(net: Net, node: Node) -> tuple[str, bool, bytes]:
    """A map, told apart from others: operator, whether the input stands first, constants."""
    first = node.inputs[0] not in net.params
    return node.op, first, b"".join(net.params[v].tobytes() for v in node.read if v in net.params)


def _layers(net: Net, value: str, readers: Mapping[str, list[Node]]) -> tuple[Node, ...]:
    """The convolutions that read a value; none where anything else does, or weights are no constants of theirs alone."""
    found = readers.get(value, [])
    plain = all(
        n.op == "Conv" and n.inputs[0] == value and n.attrs["group"] == 1 and all(v in net.params for v in n.inputs[1:] if v)
        and all(reader in found for reader in readers[str(n.inputs[1])])
        for n in found
    )
    return tuple(found) if plain and value not in {p.name for p in net.outputs} else ()


def _ones_beside(value: str, readers: Mapping[str, list[Node]]) -> str | None:
    """The value that holds another one and a channel of ones, as `_with_ones` writes it; None where there is none."""
    for node in readers.get(value, []):
        behind = readers.get(node.outputs[0], []) if node.op == "Slice" else []
        for clip in behind:
            if clip.op == "Clip" and (clip.attrs["min"], clip.attrs["max"]) == (ONES, ONES):
                for joined in readers.get(clip.outputs[0], []):
                    if joined.op == "Concat" and joined.inputs == (value, clip.outputs[0]):
                        return joined.outputs[0]
    return None


def _with_ones(begun: _Beginning) -> Net:
    """The net whose first layers read its input and a channel of ones."""
    net, value, names = begun.net, begun.value, Names.beside(begun.net)
    part, ones, both = (names.fresh(f"{value}.{what}") for what in ("first", "ones", "both"))
    shape = net.shapes[value]
    one: Shape = (shape[0], 1, *shape[2:])
    new = (
        Node(part, "Slice", (value,), (part,), {"starts": (0,), "ends": (1,), "axes": (1,), "steps": (1,)}),
        Node(ones, "Clip", (part,), (ones,), {"min": ONES, "max": ONES}),
        Node(both, "Concat", (value, ones), (both,), {"axis": 1}),
    )
    shapes = {part: one, ones: one, both: (shape[0], shape[1] + 1, *shape[2:])}
    params = Params.of(net)
    changed = {n.name: _widened(n, both, begun.found, params) for n in begun.layers}
    nodes = [changed.get(n.name, n) for n in net.nodes]
    at = next((k + 1 for k, n in enumerate(nodes) if value in n.outputs), 0)
    whole = with_values(net, (*nodes[:at], *new, *nodes[at:]), shapes, net.dtypes[value])
    found = pruned(with_params(whole, params))
    return replace(found, more_macs=net.more_macs + macs(found) - macs(net))


def _widened(node: Node, value: str, found: AffineMap, params: Params) -> Node:
    """A convolution with the scale of what it reads in its weights, and the shift as the weights of the channel of ones."""
    weight = params.arrays[str(node.inputs[1])].astype(np.float64)
    along = (slice(None), *[None] * (weight.ndim - 2))
    shift = (weight * found.shift[along]).sum(axis=1, keepdims=True)
    wide = np.concatenate([weight * found.scale[along], shift], axis=1)
    return replace(node, inputs=(value, params.replaced(node.inputs[1], f"{node.name}.weight", wide), *node.inputs[2:]))
