"""Look-ups by an index that counts up, as nodes without an index that grows with the batch.

    Gather, GatherND by 0, 1, 2, .. to the end              ->  Reshape: they read everything in order
    GatherND(x [N, S, D], Concat(n, end)) of (n, end)       ->  GatherND(x, end), batch_dims = 1
    Gather(x as [N S, D], n S + end)                        ->  the same

Exporters of transformers look a padding mask up in the first way, mask[N, S] at (n, s) for every n and s; in the others rows
that are looked up sample by sample, as the token at which a text ends, x[arange(batch), end].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class _Row:
    """What a node looks up: data [N, S, ...] and, for each sample, places along S: int64 [N, ...], with an axis of one behind
    where `deep`."""

    data: gs.Tensor
    at: gs.Tensor
    deep: bool


def with_rows_of_samples(first: gs.Graph, second: gs.Graph) -> None:
    """Change both graphs of a model, folded for two batch sizes, where each looks up rows of every sample.

    Requires static shapes.
    """
    others = {n.name: n for n in second.nodes}
    for node in list(first.nodes):
        other, find = others.get(node.name), _FORMS.get(node.op)
        if find is None or other is None or other.op != node.op or node.domain:
            continue
        one, two = find(node), find(other)
        if one is not None and two is not None and one.data.shape[0] != two.data.shape[0]:
            _rewrite(first, node, one)
            _rewrite(second, other, two)
    for graph in (first, second):
        graph.cleanup().toposort()


def _rewrite(graph: gs.Graph, node: gs.Node, row: _Row) -> None:
    at = row.at
    if not row.deep:
        axes = gs.Constant(f"{node.name}.axes", np.array([len(at.shape)], np.int64))
        deep = gs.Variable(f"{node.name}.at", np.dtype(np.int64), [*at.shape, 1])
        graph.nodes.append(gs.Node("Unsqueeze", f"{node.name}.at", {}, [at, axes], [deep]))
        at = deep
    node.op, node.attrs, node.inputs = "GatherND", {"batch_dims": 1}, [row.data, at]


def _by_pairs(node: gs.Node) -> _Row | None:
    """Of a GatherND whose index is the number of the sample beside a place in it."""
    data, index = node.inputs
    maker = _maker(index, "Concat")
    if maker is None or len(maker.inputs) != 2 or node.attrs.get("batch_dims", 0) or not _known(data, index, *maker.inputs):
        return None
    sample, at = maker.inputs
    last = maker.attrs["axis"] in (-1, len(index.shape) - 1) and at.shape[-1] == sample.shape[-1] == 1
    return _Row(data, at, deep=True) if last and _counts(sample, data, 1) else None


def _by_places(node: gs.Node) -> _Row | None:
    """Of a Gather from all rows of all samples, one behind the other."""
    flat, index = node.inputs
    reshape, add = _maker(flat, "Reshape", "Flatten"), _maker(index, "Add")
    if reshape is None or add is None or node.attrs.get("axis", 0):
        return None
    data = reshape.inputs[0]
    if not _known(data, flat, index, *add.inputs) or len(data.shape) < 2:
        return None
    if [data.shape[0] * data.shape[1], *data.shape[2:]] != list(flat.shape):
        return None
    pairs = (add.inputs, add.inputs[::-1])
    found = (at for sample, at in pairs if at.shape == index.shape and _counts(sample, data, data.shape[1]))
    at = next(found, None)
    return _Row(data, at, deep=False) if at is not None and at.dtype == np.int64 else None


def _maker(tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    """The node that makes a value, if it is one of some operators."""
    node = tensor.inputs[0] if tensor.inputs else None
    return node if node is not None and node.op in ops and not node.domain else None


def _known(*tensors: gs.Tensor) -> bool:
    return all(t.shape is not None and all(isinstance(d, int) for d in t.shape) for t in tensors)


def _counts(sample: gs.Tensor, data: gs.Tensor, step: int) -> bool:
    """Whether a constant is the number of the sample, times a step, wherever it stands for one."""
    if not isinstance(sample, gs.Constant) or not sample.shape or sample.shape[0] != data.shape[0]:
        return False
    each = sample.values.reshape(len(sample.values), -1)
    return bool((each == step * np.arange(len(each))[:, None]).all())


_FORMS: dict[str, Callable[[gs.Node], _Row | None]] = {"GatherND": _by_pairs, "Gather": _by_places}
