"""A net for a fixed number of samples: every shape static, nothing left that would ask for the batch."""

from __future__ import annotations

from dataclasses import replace

from onnxzip.net import Net, Node, Port, bind_batch

_SHAPES = {"Reshape": "shape", "Expand": "shape", "Resize": "sizes"}  # constant inputs that may hold the batch


def fixed_batch(net: Net, batch: int) -> Net:
    """The net with `batch` samples in the batch's place; params stay as they are."""
    return replace(
        net,
        inputs=tuple(_bound(p, batch) for p in net.inputs),
        outputs=tuple(_bound(p, batch) for p in net.outputs),
        nodes=tuple(_fixed(node, batch) for node in net.nodes),
        shapes={v: bind_batch(shape, batch) for v, shape in net.shapes.items()},
    )


def _bound(port: Port, batch: int) -> Port:
    return port._replace(shape=bind_batch(port.shape, batch))


def _fixed(node: Node, batch: int) -> Node:
    key = _SHAPES.get(node.op)
    if key is None or node.attrs.get(key) is None:
        return node
    return replace(node, attrs={**node.attrs, key: bind_batch(node.attrs[key], batch)})
