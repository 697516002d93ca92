"""Questions that many stages ask of a net's graph."""

from __future__ import annotations

from collections.abc import Iterable

from onnxzip.net.records import Net, Node


def producers(nodes: Iterable[Node]) -> dict[str, Node]:
    """The node that computes each value."""
    return {out: node for node in nodes for out in node.outputs}


def consumers(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """The nodes that read each value or param, in graph order; a node that reads it twice stands there once."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        for value in dict.fromkeys(node.read):
            found.setdefault(value, []).append(node)
    return found


def follow_each_other(nodes: Iterable[Node], some: Iterable[Node]) -> bool:
    """Whether any of some nodes reads what another one has a part in.

    Args:
        nodes: of the net, in topological order.
    """
    names, made = {node.name for node in some}, set[str]()
    for node in nodes:
        follows = not made.isdisjoint(node.read)
        if follows and node.name in names:
            return True
        if follows or node.name in names:
            made.update(node.outputs)
    return False


def reachable(net: Net, outputs: Iterable[str]) -> tuple[Node, ...]:
    """The nodes that the given values need, in topological order."""
    by_output = producers(net.nodes)
    needed: set[str] = set()
    stack = [v for v in outputs if v in by_output]
    while stack:
        node = by_output[stack.pop()]
        if node.name in needed:
            continue
        needed.add(node.name)
        stack.extend(v for v in node.read if v in by_output)
    return tuple(n for n in net.nodes if n.name in needed)


def topological(nodes: Iterable[Node], available: Iterable[str]) -> tuple[Node, ...]:
    """Nodes reordered so that each stands behind what it reads; stable otherwise.

    Raises:
        ValueError: the graph has a cycle, or reads a value that nothing computes.
    """
    known, waiting, done = set(available), list(nodes), []
    while waiting:
        ready = []
        for node in waiting:
            if known.issuperset(node.read):
                known.update(node.outputs)
                done.append(node)
            else:
                ready.append(node)
        if len(ready) == len(waiting):
            raise ValueError(f"cycle or missing value before node {ready[0].name!r}")
        waiting = ready
    return tuple(done)
