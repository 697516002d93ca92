"""Attributes in one form each: axes counted from the front and spelled out, shapes and sizes as numbers.

Requires complete attributes and known shapes; changes no value, no param.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from onnxzip.errors import UnsupportedError
from onnxzip.loading.preparing import OLD_ROUNDING
from onnxzip.loading.windows import explicit_windows
from onnxzip.net import Net, Node, Shape

Rule = Callable[[dict[str, Any], Shape, tuple[Shape, ...]], dict[str, Any]]


def canonical_attributes(net: Net) -> Net:
    """The net with every node's attributes in canonical form."""
    return replace(net, nodes=tuple(replace(node, attrs=_attributes(net, node)) for node in net.nodes))


def _attributes(net: Net, node: Node) -> dict[str, Any]:
    attrs = explicit_windows(net, node)
    if not node.inputs or node.inputs[0] is None:
        return attrs
    x, outputs = net.shapes[node.inputs[0]], tuple(net.shapes[v] for v in node.outputs)
    rank = len(outputs[0]) if node.op in ("Unsqueeze", "OneHot", "SequenceInsert", "ConcatFromSequence") else len(x)
    if isinstance(axis := attrs.get("axis"), int):
        attrs["axis"] = axis + rank if axis < 0 else axis
    if isinstance(axes := attrs.get("axes"), tuple):
        attrs["axes"] = tuple(a + rank if a < 0 else a for a in axes)
    rule = _reduction if node.op.startswith("Reduce") else _RULES.get(node.op)
    # a shape or axis that is no constant is still an input; whoever analyses the net refuses such a node
    attrs = rule(attrs, x, outputs) if rule is not None and len(node.inputs) == 1 else attrs
    if node.op == "Resize" and attrs["nearest_mode"] == OLD_ROUNDING:
        raise UnsupportedError(
            f"{net.name}: node {node.name!r} (Resize) of opset 10 makes some axes larger and others smaller, which no nearest "
            "Resize of later opsets does alike. Export the net with opset 11 or later."
        )
    return attrs


def _reduction(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    if not attrs.get("axes") and not attrs.get("noop_with_empty_axes", 0):
        attrs["axes"] = tuple(range(len(x)))
    return attrs | {"axes": tuple(sorted(attrs.get("axes") or ()))}


def _reshape(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    return attrs | {"shape": outputs[0], "allowzero": 0}


def _expand(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    """The output's shape, but 1 where the input has the batch already."""
    own = (1,) * (len(outputs[0]) - len(x)) + x
    return attrs | {"shape": tuple(1 if d < 0 and d == mine else d for d, mine in zip(outputs[0], own, strict=True))}


def _squeeze(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    axes = attrs.get("axes")
    return attrs | {"axes": tuple(sorted(axes)) if axes is not None else tuple(k for k, d in enumerate(x) if d == 1)}


def _unsqueeze(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    return attrs | {"axes": tuple(sorted(attrs["axes"]))}


def _split(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    attrs.pop("num_outputs", None)
    return attrs | {"split": tuple(shape[attrs["axis"]] for shape in outputs)}


def _slice(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    starts, ends = attrs["starts"], attrs["ends"]
    axes = attrs.get("axes") or tuple(range(len(starts)))
    steps = attrs.get("steps") or (1,) * len(starts)
    ranges = [_range(x[a], s, e, step) for a, s, e, step in zip(axes, starts, ends, steps, strict=True)]
    return attrs | {"starts": tuple(r[0] for r in ranges), "ends": tuple(r[1] for r in ranges), "axes": axes, "steps": steps}


def _range(size: int, start: int, end: int, step: int) -> tuple[int, int]:
    """Start and end within 0..size; -size-1 where a negative step runs through 0. A batch axis keeps what the file says."""
    if size < 0:
        return start, end
    start, end = (v + size if v < 0 else v for v in (start, end))
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size)
    return min(max(start, 0), size - 1), -size - 1 if end < 0 else min(end, size - 1)


def _pad(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    pads, axes = attrs["pads"], attrs.pop("axes", None)
    if axes is not None:
        full = [0] * (2 * len(x))
        for k, axis in enumerate(axes):
            full[axis], full[axis + len(x)] = pads[k], pads[k + len(axes)]
        pads = tuple(full)
    constant = attrs.get("constant_value")
    return attrs | {"pads": pads, "constant_value": 0.0 if constant is None else constant}


def _resize(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    """Until opset 13 what is not given is an empty tensor."""
    attrs = {key: None if value == () else value for key, value in attrs.items()}
    if attrs["nearest_mode"] == OLD_ROUNDING:
        attrs["nearest_mode"] = _rounding(attrs["scales"], outputs[0])
    return attrs


def _rounding(scales: tuple[float, ...], out: Shape) -> str:
    """How nearest rounded where it fell between two entries: floor on axes that grow, ceil on those that shrink."""
    places = [np.arange(max(size, 1), dtype=np.float32) / np.float32(scale) for scale, size in zip(scales, out, strict=True)]
    shrinks = {scale < 1 for scale, at in zip(scales, places, strict=True) if (at != np.round(at)).any()}
    return OLD_ROUNDING if len(shrinks) == 2 else "ceil" if min(scales) < 1 and False not in shrinks else "floor"


def _transpose(attrs: dict[str, Any], x: Shape, outputs: tuple[Shape, ...]) -> dict[str, Any]:
    return attrs | {"perm": tuple(attrs.get("perm") or range(len(x) - 1, -1, -1))}


_RULES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "Transpose": _transpose,
}
