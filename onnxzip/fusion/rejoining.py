"""Recurrent nodes as ONNX has them: a node that reads its gates, and the layer that makes them, are one again.

The inverse of what loading does (`loading.recurrence`), where nothing else reads the gates. What a node hears of units that
run apart from its own (`analysis.hearing`) is read beside its inputs then:

    MatMul(x, W) + MatMul(h, V)    ->    MatMul(Concat(x, h), [W V])
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxzip.net import Names, Net, Node, consumers, producers
from onnxzip.ops.recurrent import takes_gates


def joined_recurrence(net: Net) -> Net:
    """The net with its recurrent nodes joined with their layers, whether or not its params are known."""
    net = _with_one_product(net)
    made, readers = producers(net.nodes), consumers(net.nodes)
    computed, ends = {*made, *(p.name for p in net.inputs)}, {p.name for p in net.outputs}
    params, nodes, gone = dict(net.params), list[Node](), set[str]()
    for node in net.nodes:
        layer = made.get(str(node.inputs[0])) if takes_gates(node.op, node.inputs) else None
        own = [str(v) for v in (layer.inputs[1:] if layer is not None else ()) if v is not None]
        alone = layer is not None and len(readers[layer.outputs[0]]) == 1 and layer.outputs[0] not in ends
        weighs = layer is not None and layer.op == "MatMul" and all(v not in computed and len(readers[v]) == 1 for v in own)
        if layer is None or not alone or not weighs:
            nodes.append(node)
            continue
        nodes.append(_joined(node, layer, params))
        gone.add(layer.name)
    if not gone:
        return net
    values = {v for n in nodes for v in n.outputs} | {p.name for p in net.inputs}
    return replace(
        net, nodes=tuple(n for n in nodes if n.name not in gone), params=params,
        shapes={v: s for v, s in net.shapes.items() if v in values} | {v: a.shape for v, a in params.items()},
        dtypes={v: t for v, t in net.dtypes.items() if v in values} | {v: a.dtype for v, a in params.items()},
    )


def _with_one_product(net: Net) -> Net:
    """The net with one product in front of a recurrent node, where there are two that are added up."""
    made, readers, ends = producers(net.nodes), consumers(net.nodes), {p.name for p in net.outputs}
    names, values, written = Names({n.name for n in net.nodes}), Names(set(net.shapes)), dict[str, tuple[Node, ...]]()
    params, shapes, dtypes = dict(net.params), dict(net.shapes), dict(net.dtypes)
    for node in net.nodes:
        total = made.get(str(node.inputs[0])) if takes_gates(node.op, node.inputs) else None
        parts = [made[v] for v in map(str, total.inputs) if v in made] if total is not None and total.op == "Add" else []
        inner = [n for n in parts if n.op == "MatMul" and all(len(readers[v]) == 1 for v in (n.outputs[0], str(n.inputs[1])))]
        if total is None or len(inner) < 2 or len(readers[total.outputs[0]]) > 1 or total.outputs[0] in ends:
            continue
        first, second = inner
        (x, w, *_), (h, v, *_) = ([str(i) for i in n.inputs] for n in inner)
        both = values.fresh(f"{x}_heard")
        shapes[both] = (*shapes[x][:2], shapes[x][2] + shapes[h][2])
        shapes[w], dtypes[both] = (shapes[both][2], shapes[w][1]), dtypes[x]
        if w in params:
            params[w] = np.concatenate([params[w], params.pop(v)])
        beside = Node(names.fresh(both), "Concat", (x, h), (both,), {"axis": 2})
        product = replace(first, inputs=(both, *first.inputs[1:]), outputs=total.outputs)
        written |= {first.name: (), second.name: (), total.name: (beside, product)}
    nodes = tuple(n for node in net.nodes for n in written.get(node.name, (node,)))
    return replace(net, nodes=nodes, params=params, shapes=shapes, dtypes=dtypes) if written else net


def _joined(node: Node, layer: Node, params: dict[str, np.ndarray]) -> Node:
    """The node with its layer's weights, which take their places among the params; without a bias where that is known to be
    zero."""
    weight, *rest = (str(v) for v in layer.inputs[1:])
    recurrence, own = str(node.inputs[2]), node.input(3)
    bias = rest[0] if rest else own
    if weight in params:
        params[weight] = np.ascontiguousarray(params[weight].T[None])
        none = np.zeros(params[recurrence].shape[:2], np.float32)
        both = [params.pop(rest[0])[None] if rest else none, params.pop(own) if own is not None else none]
        if np.any(both):
            params[str(bias)] = np.concatenate(both, axis=1)
        else:
            bias = None
    inputs = [layer.inputs[0], weight, recurrence, bias, *node.inputs[4:]]
    while inputs[-1] is None:
        inputs.pop()
    return replace(node, inputs=tuple(inputs))
