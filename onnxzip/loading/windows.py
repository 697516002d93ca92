"""Convolutions and pools with every window attribute explicit: kernel_shape, strides, dilations, pads; auto_pad = NOTSET.

    out = floor((in + pads - ((k-1) d + 1)) / s) + 1               Conv and pools
    out = s (in - 1) + output_padding + ((k-1) d + 1) - pads       ConvTranspose
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxzip.net import Net, Node, Shape

POOLS = frozenset({"AveragePool", "MaxPool", "LpPool"})
WINDOWED = POOLS | {"Conv", "ConvTranspose"}


def explicit_windows(net: Net, node: Node) -> dict[str, Any]:
    """The node's attributes with its windows spelled out; other operators' attributes unchanged."""
    if node.op not in WINDOWED or node.inputs[0] is None:
        return dict(node.attrs)
    x, y = net.shapes[node.inputs[0]], net.shapes[node.outputs[0]]
    rank = len(x) - 2
    attrs = dict(node.attrs)
    if "kernel_shape" not in attrs:
        assert node.inputs[1] is not None
        attrs["kernel_shape"] = tuple(net.shapes[node.inputs[1]][2:])
    for key in ("strides", "dilations"):
        attrs[key] = tuple(attrs.get(key) or (1,) * rank)
    if node.op == "ConvTranspose":
        attrs["output_padding"] = tuple(attrs.get("output_padding") or (0,) * rank)
    attrs |= _transposed_pads(attrs, x, y) if node.op == "ConvTranspose" else {"pads": _pads(attrs, x)}
    attrs["auto_pad"] = "NOTSET"
    attrs.pop("output_shape", None)
    return attrs


def _spans(attrs: Mapping[str, Any]) -> list[int]:
    """Extent of the dilated kernel along each axis."""
    return [(k - 1) * d + 1 for k, d in zip(attrs["kernel_shape"], attrs["dilations"], strict=True)]


def same_pads(mode: str, attrs: Mapping[str, Any], x: Shape) -> tuple[int, ...]:
    """The least padding with out = ceil(in / stride); an odd one goes to the end (SAME_UPPER) or the start (SAME_LOWER)."""
    windows = zip(x[2:], attrs["strides"], _spans(attrs), strict=True)
    totals = [max((-(-n // s) - 1) * s + span - n, 0) for n, s, span in windows]
    return _distributed(totals, more_at_end=mode == "SAME_UPPER")


def _pads(attrs: Mapping[str, Any], x: Shape) -> tuple[int, ...]:
    rank = len(x) - 2
    mode = attrs.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return tuple(attrs.get("pads") or (0,) * 2 * rank)
    if mode == "VALID":
        return (0,) * 2 * rank
    return same_pads(mode, attrs, x)


def _transposed_pads(attrs: Mapping[str, Any], x: Shape, y: Shape) -> dict[str, tuple[int, ...]]:
    """Pads that cut the full output to its inferred size, output_padding that fills it up.

    ONNX Runtime puts an odd pad first unless the mode is SAME_UPPER.
    """
    rank = len(x) - 2
    mode = attrs.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "") and not attrs.get("output_shape"):
        return {"pads": tuple(attrs.get("pads") or (0,) * 2 * rank)}
    if mode == "VALID" and not attrs.get("output_shape"):
        return {"pads": (0,) * 2 * rank}
    full = [
        s * (n - 1) + extra + span
        for n, s, extra, span in zip(x[2:], attrs["strides"], attrs["output_padding"], _spans(attrs), strict=True)
    ]
    excess = [f - out for f, out in zip(full, y[2:], strict=True)]
    return {
        "pads": _distributed([max(e, 0) for e in excess], more_at_end=mode == "SAME_UPPER"),
        "output_padding": tuple(p + max(-e, 0) for p, e in zip(attrs["output_padding"], excess, strict=True)),
    }


def _distributed(totals: list[int], more_at_end: bool) -> tuple[int, ...]:
    less = [t // 2 for t in totals]
    more = [t - half for t, half in zip(totals, less, strict=True)]
    return tuple(less + more if more_at_end else more + less)
