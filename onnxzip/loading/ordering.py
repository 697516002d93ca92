"""Nodes in the order in which they can be computed: some converters put what they add (a Cast) behind all others.

ONNX Runtime orders the nodes of a file itself, so such files work; ONNX calls them invalid. It does so for the main graph
alone, and so does this.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from onnx import ModelProto, NodeProto

from onnxzip.errors import InvalidModelError
from onnxzip.loading.subgraphs import read_around
from onnxzip.runtime import put_nodes

LISTED = 8  # nodes of a circle that a message names


def put_in_order(path: Path, model: ModelProto) -> bool:
    """Order the nodes of the main graph, in place, where they are in disorder; whether they were.

    Raises:
        InvalidModelError: nodes read one another in a circle; `path` is for its message.
    """
    nodes = list(model.graph.node)
    given = {item.name for item in (*model.graph.input, *model.graph.initializer)}
    makers = {v: k for k, node in reversed(list(enumerate(nodes))) for v in node.output if v and v not in given}
    before = {k: [makers[value] for value in read_around(node) if value in makers] for k, node in enumerate(nodes)}
    if all(maker < k for k, found in before.items() for maker in found):
        return False
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise InvalidModelError(f"{path}: {_told([nodes[k] for k in error.args[1]])}. Export the net again.") from error
    put_nodes(model.graph, [nodes[k] for k in order])
    return True


def _told(cycle: list[NodeProto]) -> str:
    """What is wrong with nodes of which each is read by the next; the last one is the first again."""
    named = [f"{node.name or node.output[0]!r} ({node.op_type})" for node in cycle]
    if len(named) > LISTED + 1:
        named[LISTED:-1] = [f"{len(named) - LISTED - 1} more"]
    return f"its nodes read one another in a circle: {' -> '.join(named)}"
