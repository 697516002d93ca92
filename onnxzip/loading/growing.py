"""Which nodes give more entries to a larger batch, so that constants which they make must not be folded."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from onnxzip.loading.overwritten import whole_of
from onnxzip.runtime import needed_values

GROWING = frozenset({"Expand", "Tile"})


def growers(model: ModelProto, grown: Iterable[str]) -> set[str]:
    """The expanding nodes nearest above some values.

    What an index names follows from the shape of what is read or written there, and is looked for no further.
    """
    needed = needed_values(model.graph, map(whole_of, grown), _read)
    return {n.name for n in model.graph.node if n.op_type in GROWING and not needed.isdisjoint(n.output)}


def _read(node: NodeProto) -> list[str]:
    if node.op_type in GROWING:
        return []
    return [v for k, v in enumerate(node.input) if (node.op_type, k) != ("ScatterND", 1)]
