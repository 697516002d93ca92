"""Local response normalisation as torch spells it out, recognised as the LRN that it is.

    x / (k + a mean of x^2 over neighbouring channels)^b

The channels become an axis of positions [N, 1, C, ...], which is padded with zeros and pooled in windows of `size`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from onnxzip.loading.patterns import Finder
from onnxzip.net import Node

_OUTER = (("Div", "x", ("Pow", ("Add", ("Mul", "s", "a"), "k"), "b")),)
_SQUARES = (("Mul", "x", "x"), ("Pow", "x", 2.0))
_LAID_OUT = frozenset({"Reshape", "Squeeze", "Unsqueeze"})  # entries stay in their order
_IMAGE = 4  # axes


def local_response(finder: Finder, node: Node) -> Node | None:
    """The LRN of images, as ONNX Runtime knows no other, that a Div is the end of; None where it is none."""
    bound = finder.first(_OUTER, node.outputs[0])
    if bound is None or len(shape := finder.net.shapes[bound["x"]]) != _IMAGE or finder.net.shapes[bound["s"]] != shape:
        return None
    numbers = {name: finder.number(bound[key]) for name, key in (("alpha", "a"), ("beta", "b"), ("bias", "k"))}
    pool = _maker(finder, bound["s"], "AveragePool")
    pad = None if pool is None else _maker(finder, pool.inputs[0], "Pad")
    if None in numbers.values() or pool is None or pad is None:
        return None
    size = _window(finder, pool, pad, shape[1])
    squares = finder.first(_SQUARES, _source(finder, str(pad.inputs[0])))
    if size is None or squares is None or squares["x"] != bound["x"]:
        return None
    return replace(node, op="LRN", inputs=(bound["x"],), attrs={**numbers, "size": size})


def _maker(finder: Finder, value: str | None, op: str) -> Node | None:
    """The operator that makes a value, laid out in whatever shape."""
    maker = finder.makers.get(_source(finder, str(value)))
    return maker if maker is not None and maker.op == op else None


def _source(finder: Finder, value: str) -> str:
    """What a value was before it was laid out in another shape."""
    while (maker := finder.makers.get(value)) is not None and maker.op in _LAID_OUT:
        value = str(maker.inputs[0])
    return value


def _window(finder: Finder, pool: Node, pad: Node, channels: int) -> int | None:
    """How many channels a mean runs over, each in the middle of its own; None where it is not one over channels alone."""
    rank = len(finder.net.shapes[pool.outputs[0]])
    size = int(pool.attrs["kernel_shape"][0])
    steps = (*pool.attrs["strides"], *pool.attrs["dilations"])
    alone = pool.attrs["kernel_shape"][1:] == (1,) * (rank - 3) and _all(steps, (1,)) and _all(pool.attrs["pads"], (0,))
    before, after = ((0, 0, n, *[0] * (rank - 3)) for n in ((size - 1) // 2, size // 2))
    filled = pad.attrs["mode"] == "constant" and pad.attrs.get("constant_value") in (None, 0.0)
    everywhere = pad.attrs.get("axes") in (None, tuple(range(rank))) and tuple(pad.attrs["pads"]) == (*before, *after)
    laid_out = finder.net.shapes[str(pad.inputs[0])][1:3] == (1, channels)
    return size if alone and filled and everywhere and laid_out else None


def _all(numbers: Collection[int], wanted: Collection[int]) -> bool:
    return all(n in wanted for n in numbers)
