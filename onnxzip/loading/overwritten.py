"""Parts of a value that are written over, as torch's exporters put what is done in place: x[:, :2] = y.

    ScatterND(x, every place of a box, in order, y)      ->    Concat(x before it, y, x behind it), axis by axis

The index grows with the batch, what stands beside y does not; a box that is all of x leaves y alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

Box = Sequence[tuple[int, int]]  # from where to where, along each axis


@dataclass(frozen=True)
class _Writer:
    """Writes nodes under names of the one that they stand for."""

    graph: gs.Graph
    name: str
    dtype: np.dtype

    def put(self, op: str, inputs: list[gs.Tensor], shape: Sequence[int], **attrs: object) -> gs.Variable:
        """A node, and the value that it gives."""
        name = f"{self.name}.{len(self.graph.nodes)}"
        value = gs.Variable(name, self.dtype, list(shape))
        self.graph.nodes.append(gs.Node(op, name, dict(attrs), inputs, [value]))
        return value

    def numbers(self, what: str, *numbers: int) -> gs.Constant:
        """A constant of whole numbers."""
        return gs.Constant(f"{self.name}.{len(self.graph.nodes)}.{what}", np.array(numbers, np.int64))

    def cut(self, value: gs.Tensor, axis: int, start: int, end: int) -> list[gs.Tensor]:
        """Values that make up a part of one along an axis: what a Concat there is made of is taken apart again."""
        if start >= end:
            return []
        if (start, end) == (0, value.shape[axis]):
            return [value]
        shape = [*value.shape[:axis], end - start, *value.shape[axis + 1 :]]
        if isinstance(value, gs.Constant):
            return [gs.Constant(f"{value.name}.{axis}from{start}", value.values.take(range(start, end), axis))]
        node = _maker(value)
        if node is not None and node.op == "Concat" and _static(node.inputs) and node.attrs["axis"] % len(shape) == axis:
            ends = np.cumsum([v.shape[axis] for v in node.inputs])
            return [
                part for v, e in zip(node.inputs, ends.tolist(), strict=True)
                for part in self.cut(v, axis, max(start - e + v.shape[axis], 0), min(end - e + v.shape[axis], v.shape[axis]))
            ]
        bounds = [self.numbers(k, n) for k, n in (("starts", start), ("ends", end), ("axes", axis), ("steps", 1))]
        return [self.put("Slice", [value, *bounds], shape)]

    def joined(self, parts: list[gs.Tensor], axis: int) -> gs.Tensor:
        """Values one behind the other."""
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(p.shape[axis] for p in parts)
        return self.put("Concat", parts, shape, axis=axis)

    def written(self, value: gs.Tensor, new: gs.Tensor, box: Box, axis: int = 0) -> gs.Tensor:
        """A value with what stands in a box replaced, from an axis on."""
        if all(part == (0, d) for part, d in zip(box[axis:], value.shape[axis:], strict=True)):
            return new
        start, end = box[axis]
        inner = self.joined(self.cut(value, axis, start, end), axis)
        middle = self.written(inner, new, [*box[:axis], (0, end - start), *box[axis + 1 :]], axis + 1)
        return self.joined(
            [*self.cut(value, axis, 0, start), middle, *self.cut(value, axis, end, value.shape[axis])], axis
        )


def whole_of(constant: str) -> str:
    """What a constant was called before parts were cut out of it."""
    return re.sub(r"(\.\d+from\d+)+$", "", constant)


def without_overwriting(graph: gs.Graph) -> None:
    """Change every ScatterND that writes over a box; where shapes are not known, nothing."""
    for node in [n for n in graph.nodes if n.op == "ScatterND" and not n.domain]:
        box = _box(node)
        if box is not None:
            data, _, new = node.inputs
            writer, shape = _Writer(graph, node.name, np.dtype(data.dtype)), [end - start for start, end in box]
            if list(new.shape) != shape:
                new = writer.put("Reshape", [new, writer.numbers("shape", *shape)], shape, allowzero=0)
            node.op, node.attrs, node.inputs = "Identity", {}, [writer.written(data, new, box)]


def _box(node: gs.Node) -> Box | None:
    """The box whose places, in order, are all that a node writes to; None where it writes to others."""
    data, index, new = node.inputs
    if not isinstance(index, gs.Constant) or not _static((data, new)) or node.attrs.get("reduction", "none") != "none":
        return None
    depth = index.shape[-1]
    at = index.values.reshape(-1, depth)
    if not at.size:
        return None
    at = np.where(at < 0, at + np.array(data.shape[:depth]), at)
    low, high = at.min(axis=0), at.max(axis=0) + 1
    if np.prod(high - low) != len(at) or not np.array_equal(np.indices(high - low).reshape(depth, -1).T + low, at):
        return None
    return [*zip(low.tolist(), high.tolist(), strict=True), *((0, d) for d in data.shape[depth:])]


def _maker(value: gs.Tensor) -> gs.Node | None:
    """The node that makes a value, but for an Identity."""
    node = value.inputs[0] if value.inputs else None
    while node is not None and node.op == "Identity" and node.inputs[0].inputs:
        node = node.inputs[0].inputs[0]
    return node


def _static(values: Sequence[gs.Tensor]) -> bool:
    return all(v.shape is not None and all(isinstance(d, int) for d in v.shape) for v in values)
