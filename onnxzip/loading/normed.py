"""What norms of an input make of each channel, folded into the layers that read it.

    W (g n(x) + h) + b  =  (W g) n(x) + (W h + b)        n(x): a norm, or any function of it without params

Nets that begin with a norm (of patches, of spectra, of what a sensor tells) have gains of their own there, along channels that
nobody makes: each task would begin a head with them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxzip.loading.normalising import folded_maps
from onnxzip.loading.params import Params, with_params
from onnxzip.net import Names, Net, Node, with_values

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})


def folded_norms(net: Net) -> Net:
    """The net with gains and shifts of what it makes of its inputs before any layer absorbed by the layers behind."""
    plain = {p.name for p in net.inputs}
    for node in net.nodes:
        norm, numbers = node.op in _NORMS, [v for v in node.read if v in net.params]
        if any(v not in plain for v in node.read if v not in numbers):
            continue
        if norm or all(net.params[v].size == 1 for v in numbers):
            plain.update(node.outputs)
            if norm or not numbers:  # what a number does to an input is no norm of it: see `normalising`
                net = _without_gain(net, node) if norm else folded_maps(net, node.outputs[0])
    return net


def _without_gain(net: Net, node: Node) -> Net:
    """The net with a norm along the last axis without params, if the layers behind it absorb these; else as it is."""
    value, (gain, *shift) = node.outputs[0], node.inputs[1:]
    if len(node.outputs) > 1 or any(v is None or v not in net.params or net.params[v].ndim != 1 for v in (gain, *shift)):
        return net
    params, names = Params.of(net), Names.beside(net)
    normed, ones = names.fresh(f"{value}.normed"), params.added(f"{node.name}.ones", np.ones_like(net.params[str(gain)]))
    zeros = [params.added(f"{node.name}.zeros", np.zeros_like(net.params[str(v)])) for v in shift]
    scaled = names.fresh(f"{value}.scaled") if shift else value
    new = [replace(node, inputs=(node.inputs[0], ones, *zeros), outputs=(normed,))]
    new.append(Node(names.fresh(f"{node.name}.gain"), "Mul", (normed, gain), (scaled,), {}))
    new += [Node(names.fresh(f"{node.name}.shift"), "Add", (scaled, v), (value,), {}) for v in shift]
    at, made = next(k for k, n in enumerate(net.nodes) if n is node), (normed, scaled)
    nodes, shapes = (*net.nodes[:at], *new, *net.nodes[at + 1 :]), dict.fromkeys(made, net.shapes[value])
    parted = with_params(with_values(net, nodes, shapes, net.dtypes[value]), params)
    folded = folded_maps(parted, normed)
    return net if folded is parted else folded
