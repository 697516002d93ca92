"""Params that are masks: numbers so low that a Softmax behind them gives 0, which no training has made and none should move.

    infinite anywhere                           in any param
    0, and else -1e4 or lower                   in any param
    -1e4 or lower throughout                    what a Where puts in
    -1e4 or lower anywhere; or 0 and one        what is added in front of a Softmax; -100 is what Swin's windows have
    other number, -100 or lower
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from onnxzip.net import Net, Node, consumers

LOW, FAINT = -1e4, -100.0
_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_ON = frozenset({
    "Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Slice",
    "Gather", "Transpose", "Concat", "Tile", "Identity",
})  # what a mask passes on its way


def masks_of(net: Net, names: Collection[str]) -> set[str]:
    """Those of some params that are masks."""
    read = consumers(net.nodes)
    return {n for n in names if net.params[n].dtype.kind == "f" and _is_mask(net.params[n], read, n)}


def plain_mask(net: Net, name: str) -> np.ndarray:
    """A param; where it is a mask, with one number for all that hide: -3.4e38 of float32 does what -65504 of float16 does."""
    array = net.params[name]
    low = array <= LOW if array.dtype.kind == "f" else np.zeros((), bool)
    if not bool(low.any()) or name not in masks_of(net, [name]):
        return array
    return np.where(low & np.isfinite(array), LOW, array)


def _is_mask(array: np.ndarray, read: dict[str, list[Node]], name: str) -> bool:
    if bool(np.isinf(array).any()):
        return True
    lowest = float(array.min(initial=0.0))
    if not lowest <= FAINT:
        return False
    low, zero = array <= LOW, array == 0
    if bool((low | zero).all()) and bool(zero.any()):
        return True
    if bool(low.all()) and any(node.op == "Where" for node in read.get(name, [])):
        return True
    both = bool((zero | (array == lowest)).all()) and bool(zero.any())
    return (both or bool(low.any())) and _is_hidden_by(read, name)


def _is_hidden_by(read: dict[str, list[Node]], name: str) -> bool:
    """Whether a param reaches a Softmax, or the mask of an Attention, by nothing but sums, products and rearrangements."""
    stack, seen = [name], {name}
    while stack:
        value = stack.pop()
        for node in read.get(value, []):
            if node.op in _SOFTMAX or (node.op == "Attention" and value in node.inputs[3:4]):
                return True
            news = set(node.outputs) - seen if node.op in _ON else set()
            seen |= news
            stack.extend(news)
    return False
