"""Attributes that follow the size of what a node reads without a word: the short forms that operators have for them.

    Reshape   0 copies an axis, -1 is what is left
    Slice     a place counted from the end, or the end itself
    windows   SAME: as much padding as ceil(size / stride) outputs need
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxzip.loading.windows import same_pads
from onnxzip.net import Measure, Node

END = int(np.iinfo(np.int64).max)
Many = tuple[int, ...]  # a number in each plan


def reshaped(
    entries: Sequence[Many], read: Sequence[Many], measure: Callable[[Many], int | Measure]
) -> tuple[int | Measure, ...]:
    """The shape of a Reshape: numbers, copied axes, one axis that is what the others leave, and measures for the rest.

    Args:
        entries: per axis written, its size in each plan.
        read: per axis read.
        measure: finds what a number follows.
    """
    found: list[int | Measure | None] = []
    for k, entry in enumerate(entries):
        if len(set(entry)) == 1 and entry[0] > 0:
            found.append(entry[0])
        else:
            found.append(0 if k < len(read) and entry == read[k] else None)
    left = [k for k, n in enumerate(found) if n is None]
    rest = next((k for k in left if min(entries[k]) < 0), left[0] if left else None)  # rather a multiple of the batch
    return tuple(
        n if n is not None else -1 if k == rest else measure(entries[k]) for k, n in enumerate(found)
    )


def sliced(node: Node, key: str, entries: Sequence[Many], read: Sequence[Many]) -> list[int | None] | None:
    """Starts or ends of a Slice, where they are numbers or places counted from the end; None for each that is not."""
    if key not in ("starts", "ends"):
        return None
    steps = node.attrs["steps"]
    return [_place(entry, read[axis], step > 0) for entry, axis, step in zip(entries, node.attrs["axes"], steps, strict=True)]


def _place(entry: Many, sizes: Many, forwards: bool) -> int | None:
    if len(set(entry)) == 1:
        return entry[0]
    if all(n == -size - 1 for n, size in zip(entry, sizes, strict=True)):
        return -END  # backwards, through the first one
    distance = {n - size for n, size in zip(entry, sizes, strict=True)}
    near = distance.pop() if len(distance) == 1 else 1
    return near if near < 0 else END if near == 0 and forwards else None


def auto_pad(node: Node, values: Sequence[Any], read: Sequence[Many]) -> str | None:
    """The mode of padding that gives a window's pads in every plan; None where none does."""
    if "strides" not in node.attrs or node.op == "ConvTranspose":
        return None
    for mode in ("SAME_UPPER", "SAME_LOWER"):
        if all(same_pads(mode, node.attrs, tuple(axis[k] for axis in read)) == pads for k, pads in enumerate(values)):
            return mode
    return None
