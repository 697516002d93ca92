"""What a net's inputs and outputs hold fast.

The channels of an input are the same for all tasks. A layer that makes such channels (y = x + f(x), x f(x)) has rows of which
each stands for one channel of the input, so that there is nothing to match, and no strand of them that a task has for itself
could hold the input, which all tasks read. These channels carry no strands: the layer is each task's own, and the input stays
whole beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxzip.analysis.spaces import Expr
from onnxzip.net import Axis, Net

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
