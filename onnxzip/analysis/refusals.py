"""Places left unmerged, each with its reason; for people those of one reason stand together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LISTED, NAMED = 8, 4  # reasons that a message tells, and places that are named with a reason
STARVED = "all that its shared channels could read is each task's own"


@dataclass(frozen=True)
class Refusal:
    """A place left unmerged, with its reason."""

    where: str
    why: str


def by_reason(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Reason -> its places, of (place, reason)."""
    found: dict[str, list[str]] = {}
    for where, why in places:
        found.setdefault(why, []).append(where)
    return found


def named(places: Sequence[str]) -> str:
    """The first places by name, and how many more there are."""
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(places[:NAMED]) + more


def nothing_shared(tasks: Iterable[str], refusals: Iterable[Refusal]) -> str:
    """What to tell of nets that share nothing: causes before what follows from them."""
    found = by_reason((r.where, r.why) for r in sorted(refusals, key=lambda r: r.why == STARVED))
    listed = "; ".join(f"{named(places)}: {why}" for why, places in list(found.items())[:LISTED])
    listed = listed or "no node with weights and inner channels corresponds"
    rest = sum(map(len, list(found.values())[LISTED:]))
    more = f"; and {rest} more places" if rest else ""
    return f"{', '.join(tasks)} share nothing ({listed}{more})"
