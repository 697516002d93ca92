"""States that recurrent nodes begin with and give back, in an order of units that is each net's own affair.

    h [N, layers, units] -> Split, Squeeze, .. -> Y, Y_h, Y_c = LSTM(u, -, R, b, , h, c) -> Concat, .. -> h_out
                         -> Gather(., order) -> LSTM(..) -> Gather(., order) ->

Who feeds back what comes out does not ask which number is whose. Where an output gives back what an input began with, number
for number, a Gather between its numbers and the units of each node lets these be matched as any others. The two orders of a
node are constants; in a fused net each task has its own, and the Gather is left out (`without_orders`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.loading.dims import TASKS
from onnxzip.loading.removal import without_idle_nodes
from onnxzip.net import Names, Net, Node, Port, State, bind_batch, pruned, renamed
from onnxzip.ops.recurrent import STATES, takes_gates
from onnxzip.ops.selecting import ORDER
from onnxzip.runtime import open_session

_MOVING = frozenset({"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
_MOST = 1 << 24  # numbers that a float32 counts


@dataclass(frozen=True)
class _Place:
    """One state of one node.

    Attributes:
        before, after: the values that it begins with, and ends as.
        at: the numbers of a sample of the input that its units are: int [units].
    """

    node: Node
    k: int
    before: str
    after: str
    at: np.ndarray


def with_orders(net: Net) -> Net:
    """The net with a Gather around the states of its recurrent nodes, as far as an output gives back an input; a fused net as
    it is: the order of its states is known to its file alone."""
    if TASKS in net.metadata:
        return net
    for port in net.inputs:
        places, taken = _places(net, port), {state.output for state in net.states}
        free = (o for o in net.outputs if places and o.name not in taken)
        output = next((o for o in free if _gives_back(net, port, o, places)), None)
        if output is not None:
            net = _with_orders_of(net, port, output, places)
    return net


def without_orders(net: Net) -> Net:
    """The net whose states stand in the order of its own units."""
    nodes = tuple(
        replace(n, op="Identity", inputs=n.inputs[:1], attrs={}) if n.attrs.get(ORDER) else n for n in net.nodes
    )
    return net if nodes == net.nodes else without_idle_nodes(replace(net, nodes=nodes))


def _places(net: Net, port: Port) -> tuple[_Place, ...]:
    """Where an input begins recurrent nodes; nowhere unless all of it does, and it does nothing else."""
    moved, found = _moved(net, {port.name}), []
    for node in (n for n in net.nodes if not moved.issuperset(n.outputs)):
        ks = [k for k, value in enumerate(node.inputs) if value in moved]
        if any(k not in STATES or not takes_gates(node.op, node.inputs) or not _last(node, k) for k in ks):
            return ()
        found += [(node, k, str(node.inputs[k])) for k in ks]
    count = math.prod(port.shape[1:])
    if not found or count > _MOST or port.dtype.kind != "f" or moved & {p.name for p in net.outputs}:
        return ()
    ids = np.arange(count, dtype=port.dtype).reshape(1, *port.shape[1:])
    numbers = _computed(net, {port: ids}, list(dict.fromkeys(v for *_, v in found)))
    places = tuple(_Place(n, k, v, n.outputs[STATES[k]], numbers[v].reshape(-1).astype(np.int64)) for n, k, v in found)
    every = np.concatenate([p.at for p in places])
    return places if np.array_equal(np.sort(every), np.arange(count)) else ()


def _last(node: Node, k: int) -> str:
    """What a node ends as, of a state that it begins with; "" where nobody reads that."""
    return node.outputs[STATES[k]] if STATES[k] < len(node.outputs) else ""


def _moved(net: Net, values: set[str]) -> set[str]:
    """Values that hold nothing but numbers of some others, these included."""
    found = set(values)
    for node in net.nodes:
        own = [v for v in node.read if v not in net.params]
        if node.op in _MOVING and own and found.issuperset(own):
            found.update(node.outputs)
    return found


def _gives_back(net: Net, port: Port, output: Port, places: Sequence[_Place]) -> bool:
    """Whether an output holds what the places end as, each number where the input has it."""
    ends = {p.after: p.at for p in places}
    alike = (output.shape, output.dtype, output.axis) == (port.shape, port.dtype, port.axis)
    if not alike or len(ends) < len(places) or output.name not in _moved(net, set(ends)):
        return False
    ids = {v: at.astype(port.dtype).reshape(bind_batch(net.shapes[v], 1)) for v, at in ends.items()}
    if output.name in ids:
        found = ids[output.name]
    else:
        cone = replace(net, nodes=tuple(n for n in net.nodes if ends.keys().isdisjoint(n.outputs)))
        feeds = {Port(v, port.dtype, net.shapes[v]): a for v, a in ids.items()}
        found = _computed(cone, feeds, [output.name])[output.name]
    return np.array_equal(found.reshape(-1), np.arange(found.size))


def _computed(net: Net, feeds: Mapping[Port, np.ndarray], values: Sequence[str]) -> dict[str, np.ndarray]:
    """Some values of a net from others, which stand before all that is computed."""
    ends = tuple(Port(v, net.dtypes[v], net.shapes[v]) for v in values)
    known = {p.name: a for p, a in feeds.items()}
    inner = pruned(replace(net, inputs=tuple(feeds), outputs=tuple(p for p in ends if p.name not in known), tail=None))
    found = open_session(inner, "cpu", 1).run(known) if inner.outputs else {}
    return {v: known[v] if v in known else found[v] for v in values}


def _with_orders_of(net: Net, port: Port, output: Port, places: Sequence[_Place]) -> Net:
    names = Names({n.name for n in net.nodes} | set(net.shapes))
    params, shapes, dtypes = dict(net.params), dict(net.shapes), dict(net.dtypes)
    orders = dict[str, np.ndarray]()

    def ordered(value: str, out: str) -> Node:
        """A Gather from the places of a state to units, or back."""
        order, dim = names.fresh(f"{out}.order"), len(shapes[value]) - 1
        params[order] = np.arange(shapes[value][dim])
        shapes[order], dtypes[order] = params[order].shape, params[order].dtype
        shapes[out], dtypes[out] = shapes[value], dtypes[value]
        return Node(names.fresh(f"{out}.in_order"), "Gather", (value, order), (out,), {"axis": dim, ORDER: True})

    before, after = dict[str, list[Node]](), dict[str, str]()
    begins = dict[str, dict[int, str]]()
    for place in places:
        node = ordered(place.before, names.fresh(f"{place.node.name}.{port.name}"))
        before.setdefault(place.node.name, []).append(node)
        begins.setdefault(place.node.name, {})[place.k] = node.outputs[0]
        orders[str(node.inputs[1])] = place.at
    ends = {p.after for p in places}
    moved = _moved(net, ends)
    cone = [n for n in net.nodes if n.op in _MOVING and moved.issuperset(n.outputs)]
    inner = names.fresh(f"{output.name}.inner")
    nodes = list(_begun(net, before, begins, {output.name: inner}))
    shapes[inner], dtypes[inner] = shapes[output.name], dtypes[output.name]
    for value in ends:
        own = inner if value == output.name else value
        out = output.name if value == output.name else names.fresh(f"{value}.{output.name}")
        nodes.append(ordered(own, out))
        after[value] = out
    for node in cone:
        copies = {v: output.name if v == output.name else names.fresh(f"{v}.{output.name}") for v in node.outputs}
        shapes |= {copies[v]: shapes[v] for v in node.outputs}
        dtypes |= {copies[v]: dtypes[v] for v in node.outputs}
        after |= copies
        nodes.append(replace(renamed(node, after), name=names.fresh(node.name)))
    states = (*net.states, State(port.name, output.name, orders))
    return pruned(replace(net, nodes=tuple(nodes), params=params, shapes=shapes, dtypes=dtypes, states=states))


def _begun(
    net: Net, before: Mapping[str, Sequence[Node]], begins: Mapping[str, Mapping[int, str]], names: Mapping[str, str]
) -> Iterator[Node]:
    """The nodes of a net, some of them beginning with other values, which nodes before them make."""
    for node in net.nodes:
        yield from before.get(node.name, ())
        mine = begins.get(node.name, {})
        read = tuple(mine.get(k, v) for k, v in enumerate(node.inputs))
        yield renamed(replace(node, inputs=read), names)
