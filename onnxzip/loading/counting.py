"""Gather and GatherND by an index that counts up: they read everything in order, and are a Reshape.

Exporters of transformers look a padding mask up so: mask[N, S] at (n, s) for every n and s. The index grows with the batch,
a Reshape does not mind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs


def without_counting_gathers(graph: gs.Graph) -> gs.Graph:
    """The graph, changed in place, with a Reshape for every Gather that reads all of its data in order.

    Requires static shapes.
    """
    for node in graph.nodes:
        shape = _read_in_order(node) if node.op in ("Gather", "GatherND") else None
        if shape is not None:
            target = gs.Constant(f"{node.name}.shape", np.array(shape, np.int64))
            node.op, node.attrs, node.inputs = "Reshape", {"allowzero": 0}, [node.inputs[0], target]
    return graph.cleanup()


def _read_in_order(node: gs.Node) -> tuple[int, ...] | None:
    """The shape of what a node reads, where its index names all there is, in order; None where it does not."""
    shape, index = node.inputs[0].shape, node.inputs[1]
    if not isinstance(index, gs.Constant) or not shape or not all(isinstance(d, int) for d in shape):
        return None
    if node.op == "Gather":
        known = node.attrs.get("axis", 0) == 0
        at, count, result = index.values.reshape(-1), shape[0], (*index.shape, *shape[1:])
    else:
        known = node.attrs.get("batch_dims", 0) == 0 and index.shape[-1] == len(shape)
        at, count, result = _flat(index.values, shape) if known else np.zeros(0), math.prod(shape), tuple(index.shape[:-1])
    return result if known and count > 1 and np.array_equal(at, np.arange(count)) else None


def _flat(index: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return np.asarray(np.ravel_multi_index(index.reshape(-1, len(shape)).T, tuple(shape), mode="wrap"))
