"""Spaces of which nothing could be a task's own in layout `strands`: all that reads them is shared whole.

A shared row reads shared channels only. Where a residual stream is shared whole, since a norm needs all of it, no row of the
stream could read a head or a hidden unit that one task has for itself: such a channel would be computed for nobody. So these
spaces are shared whole with the stream, or not at all. The same holds in front of layers that are shared whole as asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from onnxzip.analysis.proposals import Proposal
from onnxzip.analysis.roles import Overlay
from onnxzip.analysis.steps import Step, channels_at
from onnxzip.analysis.strands import Owners, counts_for, share_of


def wanted_shares(
    laid: Overlay, steps: Sequence[Step], proposals: Mapping[int, Proposal], lost: Collection[int], torn: Collection[int],
    shares: Sequence[tuple[str, float]], together: bool,
) -> dict[int, float]:
    """The share of each space: as asked for; all of it where a node needs it whole, and where only spaces that are shared
    whole read it.

    Args:
        lost: spaces of which some is not shared whatever is asked for; torn: those of which nothing is.
        together: in layout `wide`.
    """
    asked = {n: 0.0 if n in torn else share_of(p.name, shares) for n, p in proposals.items()}
    led = {n for n, p in proposals.items() if p.whole and p.even and asked[n] > 0}
    if not together:
        some = {n: p for n, p in proposals.items() if asked[n] > 0}
        full = {n for n, p in some.items() if _common(p, asked[n]) == set(laid.tasks)}.difference(lost)
        led = led_by(laid, steps, led, proposals)
        led |= led_by(laid, steps, led | full, some)
    return {n: 1.0 if n in led and n not in torn else share for n, share in asked.items()}


def _common(proposal: Proposal, share: float) -> Owners:
    """The tasks that own all channels of a space together; none where any channel is of fewer of them."""
    counts = counts_for({t: proposal.sizes[t] for t in proposal.free}, share, proposal.twins)
    return next(iter(counts)) if len(counts) == 1 else frozenset()


def led_by(laid: Overlay, steps: Sequence[Step], whole: Iterable[int], among: Mapping[int, Proposal]) -> set[int]:
    """Spaces that are shared whole, and those that nothing but these read, directly or through others of them.

    Args:
        whole: spaces that are shared whole.
        among: spaces that may be.
    """
    readers = _readers(laid, steps)
    found = set(whole)
    while news := {n for n, written in readers.items() if n in among and n not in found and written <= found}:
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
