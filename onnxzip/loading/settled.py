"""What a net can do without at every size of its inputs that it was loaded for; of one size alone that cannot be said.

    Slice of everything, Pad with nothing    ->  what they read
    Pad with zeros, Conv or AveragePool       ->  these, with more pads
    AveragePool, MaxPool of all places        ->  GlobalAveragePool, GlobalMaxPool

Exporters differ in all of these: some write a Slice where nothing is cut off, some leave padding to a node of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxzip.loading.removal import without_idle_nodes
from onnxzip.loading.sized import Loaded
from onnxzip.loading.synonyms import without_synonyms
from onnxzip.net import Net, Node, producers

_GLOBAL = {"AveragePool": "GlobalAveragePool", "MaxPool": "GlobalMaxPool"}


def settled(found: Loaded) -> Loaded:
    """The nets, at all sizes, without such nodes."""
    by_task = [_settled(nets) for nets in zip(*(one.nets for one in found.at), strict=True)]
    at = tuple(replace(one, nets=tuple(nets[k] for nets in by_task)) for k, one in enumerate(found.at))
    return replace(found, at=at)


def _settled(nets: Sequence[Net]) -> list[Net]:
    """One net at several sizes."""
    nets = _with(nets, [{n.name: new for n in net.nodes if (new := _plain(net, n)) is not None} for net in nets])
    return _with(nets, [_padded(net) for net in nets])


def _with(nets: Sequence[Net], news: Sequence[dict[str, Node]]) -> list[Net]:
    """The net with the nodes that are others, and do the same, at all sizes."""
    alike = {k for k in news[0] if all(k in new and _same(new[k], news[0][k]) for new in news)}
    if not alike:
        return list(nets)
    return [
        without_idle_nodes(without_synonyms(replace(
            net, nodes=tuple(new[n.name] if n.name in alike else n for n in net.nodes)
        )))
        for net, new in zip(nets, news, strict=True)
    ]


def _same(node: Node, other: Node) -> bool:
    return node.op == other.op and node.attrs.get("pads") == other.attrs.get("pads")


def _plain(net: Net, node: Node) -> Node | None:
    """A node as one that does the same at this size, if it is more than that."""
    if len(node.inputs) != 1 or len(node.outputs) != 1 or node.inputs[0] in net.params:
        return None
    x, y = net.shapes[str(node.inputs[0])], net.shapes[node.outputs[0]]
    if node.op == "Slice":
        uncut = x == y and all(x[k] > 0 for k in node.attrs["axes"]) and set(node.attrs["steps"]) == {1}
        return replace(node, op="Identity", attrs={}) if uncut else None
    if node.op == "Pad" and not any(node.attrs["pads"]):
        return replace(node, op="Identity", attrs={})
    if node.op in _GLOBAL and not any(node.attrs["pads"]) and tuple(node.attrs["kernel_shape"]) == x[2:]:
        return replace(node, op=_GLOBAL[node.op], attrs={})
    return None


def _padded(net: Net) -> dict[str, Node]:
    """Nodes behind Pads that can pad themselves."""
    makers, found = producers(net.nodes), dict[str, Node]()
    for node in net.nodes:
        pad = makers.get(str(node.inputs[0])) if node.inputs else None
        pads = _zeros(net, pad) if pad is not None and pad.op == "Pad" else None
        if pads is not None and pad is not None and (node.op == "Conv" or _counts_padding(node)):
            both = tuple(a + b for a, b in zip(node.attrs["pads"], pads, strict=True))
            found[node.name] = replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs={**node.attrs, "pads": both})
    return found


def _zeros(net: Net, pad: Node) -> tuple[int, ...] | None:
    """How many zeros a Pad puts around the places of its input; None where it does anything else."""
    if len(pad.inputs) != 1 or pad.attrs["mode"] != "constant" or pad.attrs["constant_value"] != 0:
        return None
    pads, rank = tuple(pad.attrs["pads"]), len(net.shapes[pad.outputs[0]])
    return pads[2:rank] + pads[rank + 2 :] if min(pads) >= 0 and not any(pads[:2] + pads[rank : rank + 2]) else None


def _counts_padding(node: Node) -> bool:
    return node.op == "AveragePool" and bool(node.attrs["count_include_pad"]) and not node.attrs["ceil_mode"]
