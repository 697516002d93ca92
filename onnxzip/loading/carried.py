"""States that nets begin with and give back, in an order of units that is each net's own affair.

    h [N, layers, units] -> Split, Squeeze, .. -> Y, Y_h, Y_c = LSTM(u, -, R, b, , h, c) -> Concat, .. -> h_out
                         -> Gather(., order) -> LSTM(..) -> Gather(., order) ->
    c [N, channels, k-1] -> z = Concat(c, x, axis = time) -> Conv, ..;   z -> Slice of the last k-1 frames -> c_out
                         -> Gather(., order) -> Concat(..) -> Gather(., order) ->

Who feeds back what comes out does not ask which number is whose. Where an output gives back what an input began with, unit for
unit, a Gather between its numbers and the units of each node lets these be matched as any others. The orders of a node are
constants; in a fused net each task has its own, and the Gather is left out (`without_orders`).

Units of a recurrent node are those that it has. Of a value that a Concat goes on from, the last frames of what layers make,
they stand along all axes but those of samples and of the Concat: each of these has an order. What no layer has made, the last
frames of an input, has no order but its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from onnxzip.loading.giving_back import MOST, MOVING, Order, Place, moved, orders_back
from onnxzip.loading.removal import without_idle_nodes
from onnxzip.net import Names, Net, Node, Port, State, bind_batch, pruned, renamed
from onnxzip.ops.recurrent import STATES, takes_gates
from onnxzip.ops.selecting import ORDER


def with_orders(net: Net) -> Net:
    """The net with a Gather around its states, as far as outputs give back an input."""
    for port in net.inputs:
        places, taken = _places(net, port), {output for state in net.states for output in state.outputs}
        free = (o for o in net.outputs if places and o.name not in taken)
        known = [(o, orders) for o in free if (orders := orders_back(net, port, o, places)) is not None]
        if known:
            first = known[0][1]
            outputs = [o for o, orders in known if all(map(_alike, chain(*orders), chain(*first)))]
            net = _with_orders_of(net, port, outputs, tuple(zip(places, first, strict=True)))
    return net


def _alike(one: Order, other: Order) -> bool:
    return (one.after, one.axis) == (other.after, other.axis) and np.array_equal(one.at, other.at)


def without_orders(net: Net) -> Net:
    """The net whose states stand in the order of its own units."""
    nodes = tuple(
        replace(n, op="Identity", inputs=n.inputs[:1], attrs={}) if n.attrs.get(ORDER) else n for n in net.nodes
    )
    return net if nodes == net.nodes else without_idle_nodes(replace(net, nodes=nodes))


def _places(net: Net, port: Port) -> tuple[Place, ...]:
    """Where nodes go on from an input; nowhere unless it does nothing else."""
    read, found = moved(net, {port.name}), list[Place]()
    if port.dtype.kind != "f" or read & {p.name for p in net.outputs}:
        return ()
    for node in (n for n in net.nodes if not read.issuperset(n.outputs)):
        ks = tuple(k for k, value in enumerate(node.inputs) if value in read)
        if ks and node.op == "Concat":
            layers = _made_by_layers(net)
            made = any(v in layers for k, v in enumerate(node.inputs) if k not in ks)
            found.append(Place(node, ks, node.outputs[0], _axes_beside(net, node) if made else ()))
        elif all(k in STATES and takes_gates(node.op, node.inputs) and _last(node, k) for k in ks):
            found += [Place(node, (k,), _last(node, k), (len(net.shapes[_last(node, k)]) - 1,)) for k in ks]
        else:
            return ()
    counts = [math.prod(port.shape[1:]), *(math.prod(bind_batch(net.shapes[v], 1)) for v in {p.after for p in found})]
    return tuple(found) if any(p.axes for p in found) and sum(counts) < MOST else ()


def _axes_beside(net: Net, node: Node) -> tuple[int, ...]:
    """Axes of what a Concat puts together beside its own, and that of the samples."""
    shape = net.shapes[node.outputs[0]]
    return tuple(d for d, size in enumerate(shape) if d != int(node.attrs["axis"]) % len(shape) and size > 1)


def _last(node: Node, k: int) -> str:
    """What a node ends as, of a state that it begins with; "" where nobody reads that."""
    return node.outputs[STATES[k]] if STATES[k] < len(node.outputs) else ""


def _made_by_layers(net: Net) -> set[str]:
    """Values that depend on any matrix of the net's."""
    found = {v for v, array in net.params.items() if sum(n > 1 for n in array.shape) > 1}
    for node in net.nodes:
        if not found.isdisjoint(node.read):
            found.update(node.outputs)
    return found


def _with_orders_of(net: Net, port: Port, outputs: Sequence[Port], found: Sequence[tuple[Place, Sequence[Order]]]) -> Net:
    making, before, begins = _Making(net), dict[str, list[Node]](), dict[str, dict[int, str]]()
    known = dict[tuple[str, int], str]()
    for place, own in found:
        for order, axis in zip(own, place.axes, strict=True):
            key = order.after, order.axis
            known[key] = known.get(key) or making.order(f"{place.node.name}.{port.name}", net.shapes[place.after][axis])
        told = [(known[order.after, order.axis], axis) for order, axis in zip(own, place.axes, strict=True)]
        for k in place.ks if told else ():
            nodes = making.ordered(str(place.node.inputs[k]), making.names.fresh(f"{place.node.name}.{port.name}"), told)
            before.setdefault(place.node.name, []).extend(nodes)
            begins.setdefault(place.node.name, {})[k] = nodes[-1].outputs[0]
    inner = {o.name: making.value(making.names.fresh(f"{o.name}.inner"), o.name) for o in outputs}
    nodes = [renamed(n, inner) for n in _begun(net, before, begins)]
    for output in outputs:
        nodes += _given_back(net, output, {inner.get(p.after, p.after): p for p, _ in found}, making)
    orders = {known[o.after, o.axis]: o.at for _, own in found for o in own}
    state = State(port.name, tuple(o.name for o in outputs), orders)
    made = replace(net, nodes=tuple(nodes), params=making.params, shapes=making.shapes, dtypes=making.dtypes)
    return pruned(replace(made, states=(*net.states, state)))


class _Making:
    """Names, params, shapes and types of a net that is given further nodes."""

    def __init__(self, net: Net) -> None:
        self.names = Names({n.name for n in net.nodes} | set(net.shapes))
        self.params, self.shapes, self.dtypes = dict(net.params), dict(net.shapes), dict(net.dtypes)

    def order(self, value: str, units: int) -> str:
        """A param that says which unit stands where: each where it is."""
        name = self.names.fresh(f"{value}.order")
        self.params[name] = np.arange(units)
        self.shapes[name], self.dtypes[name] = self.params[name].shape, self.params[name].dtype
        return name

    def value(self, name: str, like: str) -> str:
        """A value of the shape and type of another one."""
        self.shapes[name], self.dtypes[name] = self.shapes[like], self.dtypes[like]
        return name

    def ordered(self, value: str, out: str, orders: Sequence[tuple[str, int]]) -> list[Node]:
        """Gathers from the places of a state to units, or back, along some axes."""
        nodes = list[Node]()
        for k, (order, axis) in enumerate(orders):
            made = self.value(out if k == len(orders) - 1 else self.names.fresh(f"{out}.{k}"), value)
            name, attrs = self.names.fresh(f"{made}.in_order"), {"axis": axis, ORDER: True}
            nodes.append(Node(name, "Gather", (value, order), (made,), attrs))
            value = made
        return nodes


def _begun(net: Net, before: Mapping[str, Sequence[Node]], begins: Mapping[str, Mapping[int, str]]) -> Iterator[Node]:
    """The nodes of a net, some of them beginning with other values, which nodes before them make."""
    for node in net.nodes:
        yield from before.get(node.name, ())
        mine = begins.get(node.name, {})
        yield replace(node, inputs=tuple(mine.get(k, v) for k, v in enumerate(node.inputs)))


def _given_back(net: Net, output: Port, ends: Mapping[str, Place], making: _Making) -> Iterator[Node]:
    """Nodes that make an output of what nodes go on to, by its name, in the order of the caller's numbers."""
    told = {place.after: own for own, place in ends.items()}
    after = dict[str, str]()

    def copy(value: str) -> str:
        after[value] = value if value == output.name else making.names.fresh(f"{value}.{output.name}")
        return making.value(after[value], value)

    for value, own in told.items():
        orders = [(making.order(f"{value}.{output.name}", net.shapes[value][d]), d) for d in ends[own].axes]
        yield from making.ordered(own, copy(value), orders) if orders else ()
    cone = moved(net, set(told))
    for node in (n for n in net.nodes if n.op in MOVING and cone.issuperset(n.outputs) and told.keys().isdisjoint(n.outputs)):
        for value in node.outputs:
            copy(value)
        yield replace(renamed(node, after), name=making.names.fresh(node.name))
