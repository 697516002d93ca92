"""Changes to a net, each from net to net."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from onnxzip.net.records import Net, Node, Shape
from onnxzip.net.walk import reachable


def pruned(net: Net, outputs: Iterable[str] | None = None) -> Net:
    """The net with only what the given outputs (default: all of its outputs) need; graph inputs stay."""
    ports = net.outputs if outputs is None else tuple(p for p in net.outputs if p.name in set(outputs))
    nodes = reachable(net, [p.name for p in ports])
    used = {v for n in nodes for v in n.read} | {p.name for p in ports}
    alive = used | {v for n in nodes for v in n.outputs} | {p.name for p in net.inputs}
    return replace(
        net,
        outputs=ports,
        nodes=nodes,
        params={k: v for k, v in net.params.items() if k in used},
        shapes={k: v for k, v in net.shapes.items() if k in alive},
        dtypes={k: v for k, v in net.dtypes.items() if k in alive},
    )


def with_values(net: Net, nodes: Iterable[Node], shapes: Mapping[str, Shape], dtype: np.dtype) -> Net:
    """The net with other nodes, and with values of one type that these make."""
    dtypes = {**net.dtypes, **dict.fromkeys(shapes, dtype)}
    return replace(net, nodes=tuple(nodes), shapes={**net.shapes, **shapes}, dtypes=dtypes)


def with_more_params(net: Net, nodes: Iterable[Node], arrays: Mapping[str, np.ndarray]) -> Net:
    """The net with other nodes, and with params that these read."""
    shapes = {**net.shapes, **{name: a.shape for name, a in arrays.items()}}
    dtypes = {**net.dtypes, **{name: a.dtype for name, a in arrays.items()}}
    return replace(net, nodes=tuple(nodes), params={**net.params, **arrays}, shapes=shapes, dtypes=dtypes)


def renamed_inputs(node: Node, names: Mapping[str, str]) -> Node:
    """The node reading other values where `names` says so."""
    return replace(node, inputs=tuple(None if v is None else names.get(v, v) for v in node.inputs))


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The node reading and writing other values where `names` says so."""
    return replace(renamed_inputs(node, names), outputs=tuple(names.get(v, v) for v in node.outputs))
