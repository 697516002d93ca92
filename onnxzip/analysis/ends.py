"""What a net's inputs and outputs hold fast.

What is seen of an output's channels in the output itself is pinned as the coupling finds it; what makes an output of which
nothing is left is found here, by walking back from it.

The channels of an input are the same for all tasks. A layer that makes such channels (y = x + f(x), x f(x)) has rows of which
each stands for one channel of the input, so that there is nothing to match, and no strand of them that a task has for itself
could hold the input, which all tasks read. These channels carry no strands: the layer is each task's own, and the input stays
whole beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnxzip.analysis.caches import Cache
from onnxzip.analysis.spaces import Expr
from onnxzip.net import Axis, Net, Node

OUTPUT = "an output of the net"
INPUT = "its channels are those of an input of the net"


def input_atoms(net: Net, axes: Mapping[Axis, Expr]) -> frozenset[int]:
    """Atoms of all axes of a net's inputs."""
    return frozenset(a for p in net.inputs for d in range(len(p.shape)) for a in axes[Axis(p.name, d)].atoms())


def writing_inputs(made: Mapping[str, frozenset[int]], inputs: frozenset[int]) -> Iterator[tuple[str, str]]:
    """Refusals of nodes whose weights make channels of an input.

    Args:
        made: node -> atoms that its weights produce; inputs: atoms of the net's inputs.
    """
    return ((node, INPUT) for node, atoms in made.items() if atoms & inputs)


def held_by_ports(net: Net, caches: Sequence[Cache]) -> Iterator[tuple[Axis, str]]:
    """Axes that inputs and outputs hold fast, and why; the channels of caches are not among them."""
    for ports, why in ((net.inputs, "an input of the net"), (net.outputs, OUTPUT)):
        held = (Axis(port.name, dim) for port in ports for dim in range(len(port.shape)))
        yield from ((axis, why) for axis in held if not any(cache.has(axis) for cache in caches))


def pin_last(net: Net, caches: Sequence[Cache], made: Mapping[str, frozenset[int]], pinned: dict[int, str]) -> None:
    """Pin what makes an output of whose channels nothing is left there: one channel less its axis, a maximum over channels.

    Shared, it would be one output for several tasks. Where some of it is pinned, each task has that for itself.

    Args:
        caches: whose outputs tasks may have in common, as those of states.
        made: node -> atoms that its weights produce.
        pinned: atom -> reason; grows.
    """
    makers = {v: n for n in net.nodes for v in n.outputs}
    given_back = {cache.output for cache in caches} | {output for state in net.states for output in state.outputs}
    for output in (p.name for p in net.outputs if p.name not in given_back):
        waiting, seen, last = [output], set[str](), set[int]()
        while waiting:
            node = makers.get(waiting.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            last |= made.get(node.name, frozenset())
            waiting += () if node.name in made or _mixes(net, node) else node.read
        if not last & pinned.keys():
            pinned |= dict.fromkeys(last, OUTPUT)


def _mixes(net: Net, node: Node) -> bool:
    """Whether a node has a matrix of its own, as recurrent ones do."""
    return any(v in net.params and sum(n > 1 for n in net.params[v].shape) > 1 for v in node.read)
