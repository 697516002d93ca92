"""A missing bias is a bias of zero: nodes with weights that differ in nothing else play the same part.

Nodes that read the same weights are given one bias.

The fused net has a bias at every node with weights; merged with a further net it meets nodes that have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxzip.analysis.coupling import linear_view
from onnxzip.net import Names, Net, Node, with_more_params


def with_biases(nets: Sequence[Net]) -> tuple[Net, ...]:
    """The nets, with biases of zero at all nodes with weights of operators that have a bias somewhere in one of the nets."""
    weighted = [(n, found[0]) for net in nets for n in net.nodes if (found := linear_view(net, n)) is not None]
    ops = {node.op for node, linear in weighted if node.input(linear.bias) is not None}
    return tuple(_given(net, ops) for net in nets)


def _given(net: Net, ops: set[str]) -> Net:
    names, given = Names({*net.shapes}), dict[str, str]()
    nodes, zeros = list[Node](), dict[str, np.ndarray]()
    for node in net.nodes:
        linear, view = (linear_view(net, node) if node.op in ops else None) or (None, None)
        if linear is not None and view is not None and node.input(linear.bias) is None:
            weight = str(node.inputs[linear.weight])
            if weight not in given:
                given[weight] = names.fresh(f"{node.name}.bias")
            name = given[weight]
            zeros[name] = np.zeros(view.outputs[0][linear.channel(view)], net.dtypes[node.outputs[0]])
            node = replace(node, inputs=(*node.inputs[: linear.bias], name, *node.inputs[linear.bias + 1 :]))
        nodes.append(node)
    return with_more_params(net, nodes, zeros) if zeros else net
