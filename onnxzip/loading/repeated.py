"""Params that are repeated for every sample and go through layers of their own before they meet any data: learned queries.

    Expand(q) -> MatMul -> Add -> Reshape  =  Expand(q'),   q' = Reshape(q W + b)

Exporters write the left side where a module wants its queries with a batch (torch's MultiheadAttention), with a Tile where it
repeats them (SigLIP). What these layers make is the same for all samples, and no data tell how to fit them: it is computed
here, once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxzip.loading.growing import GROWING
from onnxzip.net import BATCH, Names, Net, Node, Port, Shape, bind_batch, consumers, pruned, with_more_params
from onnxzip.ops import find
from onnxzip.runtime import open_session


def with_params_for_repeats(net: Net) -> Net:
    """The net with such params as they are behind their last layer."""
    starts = {n.outputs[0]: _one(net, n) for n in net.nodes if _repeats(net, n)}
    same = set(starts)
    inside, layers = dict[str, Node](), set[str]()  # by name; values that come from a layer with weights
    for node in net.nodes:
        read = {v for v in node.read if v not in net.params}
        operator = find(node.op)
        if not read or not read <= same or operator is None:
            continue
        same.update(node.outputs)
        inside[node.name] = node
        if read & layers or (operator.linear is not None and len(read) < len(node.inputs)):
            layers.update(node.outputs)
    last = _last(net, inside) & layers
    return _with_params(net, starts, sorted(last)) if last else net


def _last(net: Net, inside: dict[str, Node]) -> set[str]:
    """Values of some nodes that others read, less the nodes of which these are not the same for each sample on one axis."""
    readers, outputs = consumers(net.nodes), {p.name for p in net.outputs}
    left = dict(inside)
    while True:
        read = {
            v: n.name for n in left.values() for v in n.outputs
            if v in outputs or any(r.name not in left for r in readers.get(v, []))
        }
        torn = {name for v, name in read.items() if not _batch_alone(net.shapes[v])}
        if not torn:
            return set(read)
        left = {k: n for k, n in left.items() if k not in torn}


def _repeats(net: Net, node: Node) -> bool:
    """Whether a node gives each sample the same param."""
    if node.op not in GROWING or node.inputs[0] not in net.params:
        return False
    given, made = net.shapes[str(node.inputs[0])], net.shapes[node.outputs[0]]
    one = bind_batch(made, 1)
    return _batch_alone(made) and (1,) * (len(one) - len(given)) + given == one


def _one(net: Net, node: Node) -> np.ndarray:
    """What the first sample is given, as a batch."""
    return net.params[str(node.inputs[0])].reshape(bind_batch(net.shapes[node.outputs[0]], 1))


def _batch_alone(shape: Shape) -> bool:
    """Whether one axis is the batch, and no other one has to do with it."""
    return [d for d in shape if d < 1] == [BATCH]


def _with_params(net: Net, starts: dict[str, np.ndarray], last: list[str]) -> Net:
    """The net in which some values are params, repeated."""
    ports = {v: Port(v, net.dtypes[v], net.shapes[v]) for v in (*starts, *last)}
    behind = tuple(n for n in net.nodes if n.outputs[0] not in starts)
    inner = pruned(replace(
        net, nodes=behind, inputs=tuple(ports[v] for v in starts), outputs=tuple(ports[v] for v in last)
    ))
    found = open_session(inner, "cpu", 1).run(starts)
    names = Names({*net.shapes})
    arrays = {v: (names.fresh(f"{v}_once"), np.asarray(found[v])) for v in last}
    nodes = tuple(
        Node(n.name, "Expand", (arrays[n.outputs[0]][0],), n.outputs, {"shape": net.shapes[n.outputs[0]]})
        if n.outputs[0] in arrays else n
        for n in net.nodes
    )
    return pruned(with_more_params(net, nodes, dict(arrays.values())))
