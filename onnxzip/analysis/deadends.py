"""Spaces of which nothing could be a task's own in layout `strands`: all that reads them is shared whole.

A shared row reads shared channels only. Where a residual stream is shared whole, since a norm needs all of it, no row of the
stream could read a head or a hidden unit that one task has for itself: such a channel would be computed for nobody. So these
spaces are shared whole with the stream, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxzip.analysis.roles import Overlay
from onnxzip.analysis.steps import Step, channels_at


def led_by(laid: Overlay, steps: Sequence[Step], whole: Iterable[int]) -> set[int]:
    """Spaces that are shared whole, and those that nothing but these read, directly or through others of them.

    Args:
        whole: spaces that are shared whole.
    """
    readers = _readers(laid, steps)
    found = set(whole)
    while news := {n for n, written in readers.items() if n not in found and written <= found}:
        found |= news
    return found


def read_by(laid: Overlay, steps: Sequence[Step]) -> dict[int, set[int]]:
    """Per space, those that its rows read."""
    found: dict[int, set[int]] = {}
    for number, written in _readers(laid, steps).items():
        for other in written:
            found.setdefault(other, set()).add(number)
    return found


def _readers(laid: Overlay, steps: Sequence[Step]) -> dict[int, set[int]]:
    """Per space, those that rows which read it are channels of; -1 for rows of none."""
    found: dict[int, set[int]] = {}
    for step in steps:
        written = set(step.spaces) or {-1}
        for part in () if step.diagonal else step.parts:
            for task in part.members:
                for number in channels_at(laid, part, task, str(part.inputs[0])).atoms():
                    found.setdefault(number, set()).update(written)
    return found
