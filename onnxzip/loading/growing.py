"""Which nodes give more entries to a larger batch, so that constants which they make must not be folded."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto

from onnxzip.loading.overwritten import whole_of

GROWING = frozenset({"Expand", "Tile"})


def growers(model: ModelProto, grown: Iterable[str]) -> set[str]:
    """The expanding nodes nearest above some values.

    What an index names follows from the shape of what is read or written there, and is looked for no further.
    """
    producers = {out: node for node in model.graph.node for out in node.output}
    found, seen, stack = set(), set(), [whole_of(name) for name in grown]
    while stack:
        node = producers.get(stack.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in GROWING:
            found.add(node.name)
        else:
            stack.extend(v for k, v in enumerate(node.input) if (node.op_type, k) != ("ScatterND", 1))
    return found
