"""A net as it stands in its file: its inputs and outputs have their samples where the originals have them.

The inverse of `loading.in_front`. A Transpose behind an input, or before an output, goes where it does just that; a port that
is read or made in another way gets one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxzip.net.edit import renamed
from onnxzip.net.naming import Names
from onnxzip.net.records import Axis, Net, Node, Port, order_in_file, order_in_front, place_in_file
from onnxzip.net.walk import consumers, producers


def in_file(net: Net) -> Net:
    """The net with its ports in the order of axes that their file has."""
    inputs = {p.name for p in net.inputs}
    for port in (p for p in net.inputs if p.axis):
        net = _input_in_file(net, port)
    net, copies = _without_copies(net)
    for port in (p for p in net.outputs if p.axis and p.name not in inputs and p.name not in copies):
        net = _output_in_file(net, port)
    net = replace(net, nodes=(*net.nodes, *copies.values()))
    before, behind = (tuple(p.in_file._replace(axis=0) for p in ports) for ports in (net.inputs, net.outputs))
    return replace(net, inputs=before, outputs=behind, shapes={**net.shapes, **{p.name: p.shape for p in (*before, *behind)}})


def _without_copies(net: Net) -> tuple[Net, dict[str, Node]]:
    """The net without nodes that say the same once more under another name, and these, by that name."""
    axes, read = {p.name: p.axis for p in net.outputs}, {v for n in net.nodes for v in n.read if n.op != "Identity"}
    copies = {
        name: n for n in net.nodes if n.op == "Identity" and (name := n.outputs[0]) in axes and name not in read
        and axes[name] and axes.get(str(n.inputs[0])) == axes[name]
    }
    gone = {n.name for n in copies.values()}
    return replace(net, nodes=tuple(n for n in net.nodes if n.name not in gone)), copies


def _input_in_file(net: Net, port: Port) -> Net:
    """The net that reads an input in the file's order: in place of Transposes to it, elsewhere through one back."""
    perm, ends = order_in_file(len(port.shape), port.axis), {p.name for p in net.outputs}
    readers = consumers(net.nodes).get(port.name, [])
    turns = {n.name: n.outputs[0] for n in readers if _turns(n, perm) and n.outputs[0] not in ends}
    nodes, names = [n for n in net.nodes if n.name not in turns], dict.fromkeys(turns.values(), port.name)
    if len(turns) == len(readers):
        return _with(net, port, nodes, names, port.name)
    front = _fresh(net, port)
    turned = _with(net, port, nodes, {**names, port.name: front}, front)
    back = Node(front, "Transpose", (port.name,), (front,), {"perm": order_in_front(len(port.shape), port.axis)})
    return replace(turned, nodes=(back, *turned.nodes))


def _output_in_file(net: Net, port: Port) -> Net:
    """The net that makes an output in the file's order: what a Transpose made it of, else by another one."""
    made, readers = producers(net.nodes), consumers(net.nodes)
    maker = made[port.name]
    own = str(maker.inputs[0])
    ends = {p.name for p in net.outputs if p is not port}
    spare = own in made and own not in ends and port.name not in readers
    if spare and _turns(maker, order_in_front(len(port.shape), port.axis)):
        return _with(net, port, [n for n in net.nodes if n.name != maker.name], {own: port.name}, port.name)
    front = _fresh(net, port)
    turned = _with(net, port, net.nodes, {port.name: front}, front)
    there = Node(front, "Transpose", (front,), (port.name,), {"perm": order_in_file(len(port.shape), port.axis)})
    return replace(turned, nodes=(*turned.nodes, there))


def _turns(node: Node, perm: Sequence[int]) -> bool:
    return node.op == "Transpose" and node.attrs["perm"] == tuple(perm)


def _fresh(net: Net, port: Port) -> str:
    return Names.beside(net).fresh(f"{port.name}.in_front")


def _with(net: Net, port: Port, nodes: Sequence[Node], names: Mapping[str, str], front: str) -> Net:
    """The net with other nodes, in which some values are called otherwise.

    Args:
        names: of values that have the order of the file, but for the port's own.
        front: what the port is called where its samples stand in front; as before where it does not.
    """
    def moved(axis: Axis) -> Axis:
        if axis.value != port.name:
            return Axis(names.get(axis.value, axis.value), axis.dim)
        return Axis(front, axis.dim) if front != port.name else place_in_file(axis, port.axis)

    axes = {moved(a): name for a, name in net.sizes.axes.items()}
    axes |= {place_in_file(a, port.axis): name for a, name in net.sizes.axes.items() if a.value == port.name}
    numbers = {
        key: tuple(n if isinstance(n, int) else n.moved(moved) for n in entries)
        for key, entries in net.sizes.numbers.items()
    }
    return replace(
        net, nodes=tuple(renamed(n, names) for n in nodes), shapes={**net.shapes, front: port.shape},
        dtypes={**net.dtypes, front: port.dtype}, sizes=replace(net.sizes, axes=axes, numbers=numbers),
    )
