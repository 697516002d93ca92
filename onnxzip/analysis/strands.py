"""How many channels of each space are shared by whom: the strands of the fused net.

For tasks with n_1 <= n_2 <= ... channels and share f, round(f n_1) channels are shared by all, further
round(f n_2) - round(f n_1) by all but the narrowest, and so on; the rest is each task's own. Any f above 0 shares one. Twins
(`analysis.twins`) count as one task: what they do not share with others, they own together.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxzip.analysis.embeddings import lookup_axis
from onnxzip.analysis.roles import Overlay, Role
from onnxzip.analysis.steps import Step
from onnxzip.errors import UsageError
from onnxzip.ops.recurrent import takes_gates

Owners = frozenset[str]


@dataclass(frozen=True)
class Rows:
    """Channels of one strand with the same owners."""

    owners: Owners
    count: int


@dataclass(frozen=True)
class Strand:
    """Channels of a space that travel together.

    Attributes:
        key: the tasks that can read it; in layout `strands` the owners of all its channels.
        rows: its channels by owners, in order.
    """

    key: Owners
    rows: tuple[Rows, ...]

    @property
    def size(self) -> int:
        return sum(r.count for r in self.rows)


@dataclass(frozen=True)
class SpacePlan:
    """One laid-over channel space and how it will be shared.

    Attributes:
        number: in the overlay.
        name: of the step that first produces it.
        sizes: channels per task.
        strands: in order; every channel of every task stands in exactly one.
        refused: task -> why its channels cannot be shared.
        given: channels that are no weights' output (an image joined to features): identical in all tasks.
        inside: spaces that lie inside each of its channels (of a head, say), by number, with their sizes.
        ordered: whether its channels have neighbours (the bins of a spectrum that a convolution runs over): they are shared
            all in their order, or not at all.
        twins: tasks that have the same channels in the same places.
    """

    number: int
    name: str
    sizes: Mapping[str, int]
    strands: tuple[Strand, ...]
    refused: Mapping[str, str]
    given: bool = False
    inside: Mapping[int, int] = field(default_factory=dict)
    ordered: bool = False
    twins: tuple[Owners, ...] = ()

    @property
    def counts(self) -> dict[Owners, int]:
        """Channels by owners."""
        return {r.owners: r.count for s in self.strands for r in s.rows}

    @property
    def shares_any(self) -> bool:
        """Whether any of its channels is matched to another task's; given ones are nobody's."""
        return not self.given and any(len(r.owners) > 1 for s in self.strands for r in s.rows)

    @property
    def shared(self) -> int:
        """Channels that all tasks of the space own together."""
        return self.counts.get(frozenset(self.sizes), 0) if len(self.sizes) > 1 else 0


def share_of(name: str, shares: Sequence[tuple[str, float]]) -> float:
    """The share asked for a space: the last pattern that fits its name; 1 where none does."""
    plain = name.lstrip("/")
    fitting = [f for glob, f in shares if fnmatch.fnmatch(plain, glob) or fnmatch.fnmatch(name, glob)]
    return fitting[-1] if fitting else 1.0


def check_asked(tasks: Sequence[str], shares: Sequence[tuple[str, float]], layout: str) -> None:
    """Refuse what cannot be asked of any nets.

    Raises:
        UsageError: fewer than two tasks, two of one name, a share outside 0..1, an unknown layout.
    """
    if len(tasks) < 2:
        raise UsageError(f"a merge takes at least two nets, got {len(tasks)}")
    twice = sorted({n for n in tasks if tasks.count(n) > 1})
    if twice:
        raise UsageError(f"two tasks are called {twice[0]!r}; name them apart as NAME=FILE.onnx")
    if layout not in ("strands", "wide"):
        raise UsageError(f"layout {layout!r} is not known; use strands or wide")
    check_shares(shares, [])


def check_shares(shares: Sequence[tuple[str, float]], names: Iterable[str]) -> None:
    """Refuse shares outside 0..1 and patterns that fit no space.

    Raises:
        UsageError: naming the share.
    """
    known = list(names)
    for glob, share in shares:
        if not 0 <= share <= 1:
            raise UsageError(f"share {share:g} is not between 0 and 1")
        if known and glob != "*" and not any(share_of(n, [(glob, -1.0)]) == -1.0 for n in known):
            raise UsageError(f"share pattern {glob!r} fits no space; the spaces are: {', '.join(known)}")


def counts_for(sizes: Mapping[str, int], share: float, twins: Sequence[Owners] = ()) -> dict[Owners, int]:
    """Channels by owners for tasks that may all share.

    Args:
        sizes: channels per task.
        share: 0..1.
        twins: tasks that count as one.
    """
    units = {t: next((some for some in twins if t in some), frozenset([t])) for t in sizes}
    size_of = {unit: sizes[t] for t, unit in units.items()}
    order = sorted(size_of, key=lambda unit: size_of[unit])
    counts: dict[Owners, int] = {}
    used = 0
    for k, unit in enumerate(order[:-1]):
        total = max(round(share * size_of[unit]), share > 0)
        if total > used:
            counts[frozenset().union(*order[k:])] = total - used
            used = total
    for unit, size in size_of.items():
        own = size - sum(c for owners, c in counts.items() if unit <= owners)
        if own:
            counts[unit] = own
    return counts


def strands_of(counts: Mapping[Owners, int], together: bool) -> tuple[Strand, ...]:
    """Strands for given counts, widest ownership first; with `together` (layout wide) all in one."""
    rows = tuple(Rows(o, n) for o, n in sorted(counts.items(), key=lambda item: -len(item[0])))
    if together and len(rows) > 1:
        return (Strand(frozenset(t for r in rows for t in r.owners), rows),)
    return tuple(Strand(r.owners, (r,)) for r in rows)


def finest(keys: Iterable[Owners], members: Owners) -> list[Owners]:
    """Keys for a node that reads values without channels of their own: per set of those who run it the nearest key.

    There are none where the values part the tasks in ways of which none is the finest.
    """
    nearest: dict[Owners, Owners] = {}
    for key in keys:
        nearest[key & members] = min(key, nearest.get(key & members, key), key=len)
    found = {cut: key for cut, key in nearest.items() if not any(other < cut for other in nearest)}
    return list(found.values()) if sum(map(len, found)) == len(members) else []


def sharers(overlay: Overlay, steps: Sequence[Step], number: int) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Who may share a space: the name of what first makes it, the tasks that may share, and why the others may not."""
    refused: dict[str, str] = {}
    first: dict[str, str] = {}
    for step in steps:
        for task in step.tasks:
            if number in step.spaces and not step.diagonal:
                first.setdefault(task, step.name)
    if not first:
        first = {t: role.name for role in reversed(lookups(overlay, number)) for t in role.members}
    atoms = {t: a for (t, a), n in overlay.spaces.items() if n == number}
    free = []
    for task, atom in atoms.items():
        pin = overlay.couplings[task].pinned.get(atom)
        if pin is not None:
            refused[task] = pin
        elif task in first:
            free.append(task)
    leaders = {t: first[t] for t in free}
    best = _most(leaders.values())
    for task in free:
        if leaders[task] != best:
            refused[task] = f"its channels first appear in {leaders[task]!r}, those of the others in {best!r}"
    free, units = [t for t in free if leaders[t] == best], _units(overlay, number)
    common = _most(units[t] for t in free if t in units)
    for task in (t for t in free if units.get(t, common) != common):
        refused[task] = f"its units are those of {units[task]!r}, which nothing of the others corresponds to"
    return best or next(iter(first.values()), f"space{number}"), tuple(t for t in free if t not in refused), refused


def _most(names: Iterable[str]) -> str:
    return next((name for name, _ in Counter(names).most_common(1)), "")


def _units(overlay: Overlay, number: int) -> dict[str, str]:
    """Task -> the recurrent role whose hidden units a space is."""
    roles = [(role, t, n) for role in overlay.roles for t, n in role.members.items() if takes_gates(n.op, n.inputs)]
    return {t: role.name for role, t, _ in roles if number in overlay.exprs(str(role.inputs[2]), t)[2].atoms()}


def lookups(overlay: Overlay, number: int) -> list[Role]:
    """Roles that look up rows of a table whose columns are a space that tables make."""
    found = []
    for role in overlay.roles:
        for task, node in role.members.items():
            coupling = overlay.couplings[task]
            axis = lookup_axis(coupling.net, node)
            atoms = coupling.axes[axis].atoms() if axis is not None else ()
            if any(a in coupling.produced and overlay.spaces[task, a] == number for a in atoms):
                found.append(role)
                break
    return found
