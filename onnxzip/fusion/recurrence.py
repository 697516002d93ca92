"""Recurrent nodes as ONNX has them: a node that reads its gates, and the layer that makes them, are one again.

The inverse of what loading does (`loading.recurrence`), where nothing else reads the gates.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxzip.net import Net, Node, consumers, producers
from onnxzip.ops.recurrent import takes_gates


def joined_recurrence(net: Net) -> Net:
    """The net with its recurrent nodes joined with their layers."""
    made, readers, ends = producers(net.nodes), consumers(net.nodes), {p.name for p in net.outputs}
    params, nodes, gone = dict(net.params), list[Node](), set[str]()
    for node in net.nodes:
        layer = made.get(str(node.inputs[0])) if takes_gates(node.op, node.inputs) else None
        alone = layer is not None and len(readers[layer.outputs[0]]) == 1 and layer.outputs[0] not in ends
        if layer is None or not alone or not _is_layer(net, layer, readers):
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


def _is_layer(net: Net, node: Node, readers: dict[str, list[Node]]) -> bool:
    """Whether a node makes gates by weights of its own."""
    return node.op == "MatMul" and all(v in net.params and len(readers[str(v)]) == 1 for v in node.inputs[1:])


def _joined(node: Node, layer: Node, params: dict[str, np.ndarray]) -> Node:
    """The node with its layer's weights, which take their places among the params."""
    x, weight, *rest = (str(v) for v in layer.inputs)
    recurrence, own = str(node.inputs[2]), node.inputs[3] if len(node.inputs) > 3 else None
    params[weight] = np.ascontiguousarray(params[weight].T[None])
    none = np.zeros(params[recurrence].shape[:2], np.float32)
    inner = params.pop(rest[0])[None] if rest else none
    outer = params.pop(own) if own is not None else none
    inputs = [x, weight, recurrence, None, *node.inputs[4:]]
    if inner.any() or outer.any():
        inputs[3] = rest[0] if rest else own
        params[str(inputs[3])] = np.concatenate([inner, outer], axis=1)
    while inputs[-1] is None:
        inputs.pop()
    return replace(node, inputs=tuple(inputs))
