"""Functions that exporters spell out, recognised as the one operator that they are: HardSwish, HardSigmoid, Gelu, the norms.

    0.5 x (1 + erf(x / sqrt 2))                           Gelu
    x clip(x + 3, 0, 6) / 6                               HardSwish
    (x - mean x) / sqrt(mean (x - mean x)^2 + e) w + b    LayerNormalization

Where such a tree stands in a net its last node becomes the operator, and what nothing else reads goes. Only operators that the
net's opset has are put in: nets of older opsets keep what they spell out. Gelu, which every exporter spells in its own way, is
put into nets of all opsets, and spelled out again where they are written (`runtime.lowering`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from onnxzip.loading.local_response import local_response
from onnxzip.loading.patterns import CLOSE, Bound, Finder
from onnxzip.net import Net, Node, producers, pruned

Rule = Callable[[Finder, Node], "Node | None"]

_SIX = ("Clip", ("Add", "x", 3.0))
_SWISH = (
    ("Mul", "x", ("Div", _SIX, 6.0)), ("Div", ("Mul", "x", _SIX), 6.0), ("Mul", ("Mul", "x", _SIX), 1 / 6),
    ("Mul", "x", ("Mul", _SIX, 1 / 6)),
)
_HARD_SIGMOID = (("Div", _SIX, 6.0), ("Mul", _SIX, 1 / 6))
_ERF = (("Add", ("Erf", ("Div", "x", 2**0.5)), 1.0), ("Add", ("Erf", ("Mul", "x", 0.5**0.5)), 1.0))
_CUBES = (("Pow", "x", 3.0), ("Mul", ("Mul", "x", "x"), "x"))
_ROOT = (2 / np.pi) ** 0.5
_ANGLES = (
    *(("Mul", ("Add", "x", ("Mul", cube, 0.044715)), _ROOT) for cube in _CUBES),
    *(
        ("Mul", ("Mul", "x", _ROOT), ("Add", square, 1.0))
        for square in (("Mul", ("Mul", "x", "x"), 0.044715), ("Mul", "x", ("Mul", "x", 0.044715)))
    ),
)
_TANH = tuple(("Add", ("Tanh", angle), 1.0) for angle in _ANGLES)


def _halved(gates: tuple[object, ...]) -> tuple[object, ...]:
    """x / 2 times a gate, in the orders in which exporters write it."""
    return tuple(
        tree for gate in gates
        for tree in (("Mul", ("Mul", "x", gate), 0.5), ("Mul", "x", ("Mul", gate, 0.5)), ("Mul", ("Mul", "x", 0.5), gate))
    )


_GELU, _GELU_TANH = _halved(_ERF), _halved(_TANH)


def _clips_to_six(finder: Finder, bound: Bound) -> bool:
    """Whether every Clip in a match is between 0 and 6."""
    return all((n.attrs.get("min"), n.attrs.get("max")) == (0.0, 6.0) for n in finder.nodes(bound, "Clip"))


def _hard_swish(finder: Finder, node: Node) -> Node | None:
    bound = finder.first(_SWISH, node.outputs[0])
    if bound is None:
        bound = finder.first((("Mul", "x", ("HardSigmoid", "x")),), node.outputs[0])
        if bound is None or not _is_sixth(finder.nodes(bound, "HardSigmoid")[0]):
            return None
    return replace(node, op="HardSwish", inputs=(bound["x"],), attrs={}) if _clips_to_six(finder, bound) else None


def _is_sixth(node: Node) -> bool:
    return bool(np.isclose(node.attrs["alpha"], 1 / 6, atol=CLOSE) and node.attrs["beta"] == 0.5)


def _hard_sigmoid(finder: Finder, node: Node) -> Node | None:
    bound = finder.first(_HARD_SIGMOID, node.outputs[0])
    if bound is None or not _clips_to_six(finder, bound):
        return None
    return replace(node, op="HardSigmoid", inputs=(bound["x"],), attrs={"alpha": 1 / 6, "beta": 0.5})


def _gelu(finder: Finder, node: Node) -> Node | None:
    for trees, kind in ((_GELU, "none"), (_GELU_TANH, "tanh")):
        bound = finder.first(trees, node.outputs[0])
        if bound is not None:
            return replace(node, op="Gelu", inputs=(bound["x"],), attrs={"approximate": kind})
    return None


_SOFTPLUS = (("Where", ("Greater", "x", 20.0), "x", ("Softplus", "x")),)


def _softplus(finder: Finder, node: Node) -> Node | None:
    """torch has x for log(1 + exp x) from 20 on, where both are the same number."""
    bound = finder.first(_SOFTPLUS, node.outputs[0])
    return None if bound is None else replace(node, op="Softplus", inputs=(bound["x"],), attrs={})


_CENTRED = ("Sub", "x", ("ReduceMean", "x"))
_SQUARES = (("Pow", _CENTRED, 2.0), ("Mul", _CENTRED, _CENTRED))
_DEVIATIONS = tuple(("Sqrt", ("Add", ("ReduceMean", square), "e")) for square in _SQUARES)
_NORMED = tuple(
    tree for root in _DEVIATIONS for tree in (("Div", _CENTRED, root), ("Mul", _CENTRED, ("Reciprocal", root)))
)
_SCALED = tuple(("Mul", tree, "w") for tree in _NORMED)
_SHIFTED = tuple(("Add", tree, "b") for tree in _SCALED)
# y = x i + (b - m i) with i = w / deviation, as TensorFlow writes it
_AFFINE = tuple(
    ("Add", ("Mul", "x", inverse), ("Sub", "b", ("Mul", ("ReduceMean", "x"), inverse)))
    for root in _DEVIATIONS for inverse in (("Mul", ("Reciprocal", root), "w"),)
)


def _norm_axis(finder: Finder, bound: Bound) -> int | None:
    """The first of the axes that all means of a match run over, where they are the last ones."""
    means = finder.nodes(bound, "ReduceMean")
    rank = len(finder.net.shapes[bound["x"]])
    axes = means[0].attrs["axes"]
    alike = all(m.attrs["axes"] == axes and m.attrs["keepdims"] for m in means)
    return axes[0] if alike and axes and axes == tuple(range(axes[0], rank)) else None


def _layer_norm(finder: Finder, node: Node) -> Node | None:
    """With its scale and shift; a norm that has none is left to whoever scales later."""
    bound = finder.first((*_SHIFTED, *_AFFINE), node.outputs[0])
    axis = None if bound is None else _norm_axis(finder, bound)
    if bound is None or axis is None or (epsilon := finder.number(bound["e"])) is None:
        return None
    if not all(_is_full(finder, bound, key, axis) for key in ("w", "b")):
        return None
    attrs = {"axis": axis, "epsilon": epsilon, "stash_type": 1}
    return replace(node, op="LayerNormalization", inputs=(bound["x"], bound["w"], bound["b"]), attrs=attrs)


_POWERS = tuple(
    ("Sqrt", ("Add", ("ReduceMean", square), "e")) for square in (("Pow", "x", 2.0), ("Mul", "x", "x"))
)
_RMS = tuple(
    ("Mul", tree, "w") for root in _POWERS
    for tree in (("Div", "x", root), ("Mul", "x", ("Reciprocal", root)), ("Mul", "x", ("Div", 1.0, root)))
)


def _rms_norm(finder: Finder, node: Node) -> Node | None:
    bound = finder.first(_RMS, node.outputs[0])
    axis = None if bound is None else _norm_axis(finder, bound)
    if bound is None or axis is None or not _is_full(finder, bound, "w", axis):
        return None
    if (epsilon := finder.number(bound["e"])) is None:
        return None
    attrs = {"axis": axis, "epsilon": epsilon, "stash_type": 1}
    return replace(node, op="RMSNormalization", inputs=(bound["x"], bound["w"]), attrs=attrs)


def _is_full(finder: Finder, bound: Bound, key: str, axis: int) -> bool:
    """Whether a letter is a param along all axes from `axis` on."""
    array = finder.net.params.get(bound[key])
    return array is not None and array.dtype == np.float32 and array.shape == finder.net.shapes[bound["x"]][axis:]


def _transpose(finder: Finder, node: Node) -> Node | None:
    """An Einsum of one value that only changes the order of its axes."""
    left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
    rank = len(finder.net.shapes[node.outputs[0]])
    dots = "".join(chr(ord("A") + k) for k in range(rank - len(left.replace("...", ""))))
    before, after = (side.replace("...", dots) for side in (left, right))
    if not arrow or len(node.inputs) != 1 or sorted(before) != sorted(after) or len(set(before)) != rank:
        return None
    return replace(node, op="Transpose", attrs={"perm": tuple(before.index(letter) for letter in after)})


def _along_one_axis(finder: Finder, node: Node) -> Node | None:
    """A Softmax of an opset before 13, over all axes from one on, as it is written today: where only one of them has more than
    one entry, as a Softmax along this one."""
    inner = finder.makers.get(str(node.inputs[0]))
    flat = finder.makers.get(str(inner.inputs[0])) if inner is not None and inner.op in _ALONG_AXES else None
    if inner is None or flat is None or flat.op != "Flatten" or inner.attrs["axis"] != 1:
        return None
    x = str(flat.inputs[0])
    shape, first = finder.net.shapes[x], flat.attrs["axis"]
    axes = [k for k in range(first, len(shape)) if shape[k] != 1] or [first]
    if len(axes) > 1 or first >= len(shape) or shape[axes[0]] < 0 or finder.net.shapes[node.outputs[0]] != shape:
        return None
    return replace(node, op=inner.op, inputs=(x,), attrs={"axis": axes[0]})


_ALONG_AXES = frozenset({"Softmax", "LogSoftmax", "Hardmax"})

# what may become of a node: (since which opset, how)
_RULES: Mapping[str, tuple[tuple[int, Rule], ...]] = {
    "Mul": ((14, _hard_swish), (1, _hard_sigmoid), (1, _gelu), (23, _rms_norm)),
    "Div": ((14, _hard_swish), (1, _hard_sigmoid), (1, local_response)),
    "Add": ((17, _layer_norm),), "Where": ((1, _softplus),),
    "Einsum": ((1, _transpose),), "Reshape": ((13, _along_one_axis),),
}


def recognised(net: Net) -> Net:
    """The net with spelled-out functions as the operators that they are, as far as its opset has them."""
    finder = Finder(net, dict(producers(net.nodes)))
    nodes = []
    for node in net.nodes:
        found = (rule(finder, node) for since, rule in _RULES.get(node.op, ()) if net.opset >= since)
        new = next((n for n in found if n is not None), node)
        finder.makers.update(dict.fromkeys(new.outputs, new))
        nodes.append(new)
    return pruned(replace(net, nodes=tuple(nodes)))
