"""Slice and Split along the batch: at places that hold for any number of samples.

    x [k n, c] -> Reshape [k, n, c] -> Slice or Split of the k -> Reshape [m n, c]        pairs of inputs in one batch

A Slice of the whole batch has no end. Any other place that depends on the batch is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxzip.errors import UnsupportedError
from onnxzip.loading.shapes import BATCHES, Runs
from onnxzip.net import Names, Net, Node, Shape, bind_batch

_END = int(np.iinfo(np.int64).max)
_TRIED = (1, *BATCHES)
Bounds = tuple[int, int]  # start and end
Made = tuple[tuple[Node, ...], dict[str, Shape]]  # nodes in place of one, and shapes of the values between them


def with_fixed_cuts(path: Path, net: Net, runs: Runs) -> Net:
    """The net with Slices and Splits that cut at numbers.

    Args:
        net: of these runs; Slices have the bounds of the first one.

    Raises:
        UnsupportedError: a Slice or Split cuts at a place that depends on the batch in another way.
    """
    if runs.fixed:
        return net
    names = Names.beside(net)
    nodes, shapes, dtypes = list[Node](), dict(net.shapes), dict(net.dtypes)
    for node, first, second in zip(net.nodes, runs.first.nodes, runs.second.nodes, strict=True):
        made: Made = ((node,), {})
        if node.op == "Slice" and (read := _bounds(first)) != (other := _bounds(second)):
            made = _slice(path, net, node, [read, other], names)
        elif node.op == "Split":
            made = _split(path, net, node, names)
        nodes += made[0]
        shapes |= made[1]
        dtypes |= dict.fromkeys(made[1], net.dtypes[node.outputs[0]])
    return replace(net, nodes=tuple(nodes), shapes=shapes, dtypes=dtypes)


def _bounds(node: gs.Node) -> tuple[tuple[int, ...] | None, ...]:
    """Starts and ends; None for what is computed from the data."""
    return tuple(tuple(t.values.tolist()) if isinstance(t, gs.Constant) else None for t in node.inputs[1:3])


def _slice(
    path: Path, net: Net, node: Node, runs: Sequence[tuple[tuple[int, ...] | None, ...]], names: Names
) -> Made:
    x, (starts, ends), others = str(node.inputs[0]), runs[0], runs[1]
    if len(node.inputs) > 1 or starts is None or ends is None or None in others:
        raise _refused(path, node, "at a place that depends on both the data and the batch size")
    shape = net.shapes[x]
    axes = tuple(a % len(shape) for a in node.attrs.get("axes") or range(len(starts)))
    steps = node.attrs.get("steps") or (1,) * len(starts)
    cuts, parted = list(zip(starts, ends, strict=True)), None
    for k, (axis, step, first, second) in enumerate(zip(axes, steps, cuts, zip(*others, strict=True), strict=True)):
        if first != second:
            bounds, of_parts = _fixed(path, node, shape[axis], step, first, second)
            cuts[k] = bounds
            if of_parts and parted is not None:
                raise _refused(path, node, "several axes, at places that depend on the batch size")
            parted = axis if of_parts else parted
    starts, ends = zip(*cuts, strict=True)
    attrs = {**node.attrs, "starts": starts, "ends": ends, "axes": axes, "steps": steps}
    if parted is None:
        return (replace(node, attrs=attrs),), {}
    start, end = cuts[axes.index(parted)]
    attrs["axes"] = tuple(a + (a > parted) for a in axes)
    return _by_parts(path, net, node, parted, attrs, (end - start,), names)


def _fixed(path: Path, node: Node, size: int, step: int, first: Bounds, second: Bounds) -> tuple[Bounds, bool]:
    """Start and end for any batch, and whether they count the parts of an axis of several samples for each of the inputs'."""
    found = []
    for batch in _TRIED:  # bounds are linear in it
        (length,) = bind_batch((size,), batch)
        places = [a + (batch - BATCHES[0]) * (b - a) for a, b in zip(first, second, strict=True)]
        found.append(tuple(min(max(p + length if p < 0 else p, 0), length) for p in places))
    start, end = found[0]
    if step == 1 and start < end:
        if found == [(0, *bind_batch((size,), batch)) for batch in _TRIED]:
            return (0, _END), False
        if size < 0 and found == [(start * batch, end * batch) for batch in _TRIED]:
            return (start, end), True
    told = " and ".join(f"[{s}:{e}] of {b} samples" for (s, e), b in zip((first, second), BATCHES, strict=True))
    raise _refused(path, node, f"out {told}")


def _split(path: Path, net: Net, node: Node, names: Names) -> Made:
    """A Split of an axis that grows with the batch."""
    shape = net.shapes[str(node.inputs[0])]
    axis = int(node.attrs["axis"]) % len(shape)
    parts = tuple(-net.shapes[v][axis] for v in node.outputs)
    if shape[axis] >= 0 and max(parts) <= 0:
        return (node,), {}
    if len(node.inputs) > 1 or min(parts) <= 0 or sum(parts) != -shape[axis]:
        raise _refused(path, node, "at a place that depends on the batch size")
    return _by_parts(path, net, node, axis, {"axis": axis, "split": parts}, parts, names)


def _by_parts(
    path: Path, net: Net, node: Node, axis: int, attrs: dict[str, Any], counts: Sequence[int], names: Names
) -> Made:
    """A node that cuts axis k of [k, n] instead of [k n], with what stands before and behind it, and shapes of new values."""
    x = str(node.inputs[0])
    if sum(d < 0 for d in net.shapes[x]) > 1:
        raise _refused(path, node, "a value with several axes that grow with the batch")
    apart, taken = names.fresh(f"{x}.parts"), [names.fresh(f"{value}.parts") for value in node.outputs]
    kept = dict(zip(taken, node.outputs, strict=True))
    shapes = {apart: _parted(net.shapes[x], axis, -net.shapes[x][axis])}
    shapes |= {v: _parted(net.shapes[out], axis, n) for (v, out), n in zip(kept.items(), counts, strict=True)}
    before = _reshape(names, x, apart, shapes[apart])
    behind = (_reshape(names, value, out, net.shapes[out]) for value, out in kept.items())
    return (before, replace(node, inputs=(apart,), outputs=tuple(taken), attrs=attrs), *behind), shapes


def _parted(shape: Shape, axis: int, count: int) -> Shape:
    return (*shape[:axis], count, -1, *shape[axis + 1 :])


def _reshape(names: Names, before: str, after: str, shape: Shape) -> Node:
    return Node(names.fresh(f"{after}.reshaped"), "Reshape", (before,), (after,), {"shape": shape, "allowzero": 0})


def _refused(path: Path, node: Node, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: node {node.name!r} ({node.op}) cuts {what}: that is no whole number of parts of the batch. "
        "Export the net with a fixed batch of 1."
    )
