"""An If whose condition has become a constant is the branch that it takes.

graphsurgeon does the same, but loses every second output of an If, and gives other names to the model's own tensors.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs


def with_taken_branches(graph: gs.Graph) -> None:
    """Put the nodes of such branches in the place of their Ifs; an Identity gives each output its name."""
    ifs = [n for n in graph.nodes if n.op == "If" and n.outputs and not n.domain]  # one without outputs has been folded whole
    for node in [n for n in ifs if isinstance(n.inputs[0], gs.Constant)]:
        branch = node.attrs["then_branch" if node.inputs[0].values.all() else "else_branch"]
        _call_apart(graph, node, branch)
        outputs = list(node.outputs)
        node.outputs.clear()
        node.inputs.clear()
        graph.nodes.remove(node)
        graph.nodes.extend(branch.nodes)
        for k, (inner, output) in enumerate(zip(branch.outputs, outputs, strict=True)):
            graph.nodes.append(gs.Node("Identity", f"{node.name}.{k}", {}, [inner], [output]))


def _call_apart(graph: gs.Graph, node: gs.Node, branch: gs.Graph) -> None:
    """Let the values of a branch, and constants of its own that are called as others, be called after the If, too."""
    around = graph.tensors()
    for inner in branch.nodes:
        for value in (v for v in inner.outputs if v.name):
            value.name = f"{node.name}.{value.name}"
        for value in (v for v in inner.inputs if isinstance(v, gs.Constant) and around.get(v.name, v) is not v):
            value.values = value.values  # numbers of its own, no longer the model's tensor
            value.name = f"{node.name}.{value.name}"
