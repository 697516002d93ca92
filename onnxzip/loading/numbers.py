"""Single numbers: a constant of one entry that meets every entry of a value has no axes, however many its file gives it.

Some exporters write () where others write (1,) or (1, 1, 1): nets of both are alike.
"""

from __future__ import annotations

from dataclasses import replace

from onnxzip.net import Net, Node, Shape, consumers

_COMPARING = frozenset({"Less", "Greater", "LessOrEqual", "GreaterOrEqual"})
_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"}) | _COMPARING


def with_plain_numbers(net: Net) -> Net:
    """The net with such constants without axes, where all nodes that read them allow it."""
    readers = consumers(net.nodes)
    plain = {
        name: array.reshape(()) for name, array in net.params.items()
        if array.size == 1 and array.ndim and readers.get(name) and all(_meets_all(net, n, array.shape) for n in readers[name])
    }
    if not plain:
        return net
    return replace(net, params={**net.params, **plain}, shapes={**net.shapes, **dict.fromkeys(plain, ())})


def _meets_all(net: Net, node: Node, axes: Shape) -> bool:
    """Whether a node repeats a constant with these axes of one along every axis of some value that has more entries there."""
    if node.op not in _BROADCASTING:
        return False
    values = [net.shapes[v] for v in node.read if v not in net.params]
    return any(len(shape) >= len(axes) and 1 not in shape[len(shape) - len(axes) :] for shape in values)
