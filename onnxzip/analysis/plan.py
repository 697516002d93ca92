"""analyse: from nets to the plan of their merge, without data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from onnxzip.analysis.biases import with_biases
from onnxzip.analysis.deadends import led_by, read_by
from onnxzip.analysis.deepening import Deepened, Extension, as_they_are, deepened, deepened_within
from onnxzip.analysis.ends import OUTPUT
from onnxzip.analysis.grouped import grouped_axes, uneven_groups
from onnxzip.analysis.laying import lay_out
from onnxzip.analysis.layout import Layout
from onnxzip.analysis.numbers import laid_over
from onnxzip.analysis.proposals import Proposal, beside_own, proposals_of
from onnxzip.analysis.refusals import STARVED, Refusal, nothing_shared
from onnxzip.analysis.roles import Overlay
from onnxzip.analysis.steps import Step, find_steps
from onnxzip.analysis.strands import Owners, SpacePlan, check_asked, check_shares, counts_for, share_of, strands_of
from onnxzip.analysis.uniform import with_uniform_apart
from onnxzip.analysis.weaving import uneven_added, uneven_spaces, woven_spaces
from onnxzip.errors import UnsupportedError
from onnxzip.loading.inputs import Laid, inputs_of_nets, names_of
from onnxzip.loading.weights import common_type
from onnxzip.net import Net, Port, Sizes


@dataclass(frozen=True)
class Plan:
    """What will be shared, in which order, and the fused net without its weights.

    Attributes:
        nets: by task, with the layers that they were given.
        overlay: the nets laid over each other.
        steps: in the order of the zip.
        spaces: channel spaces by number.
        layout: the fused net's topology.
        refusals: what stays unmerged, and why.
        extensions: neutral layers that nets were given, where others have more.
        sizes: axes of the fused net that may have any size.
        elsewhere: task -> the same plan for the size of its data, where that is another one.
        others: the same plan for further sizes; none where all sizes are fixed.
    """

    nets: Mapping[str, Net]
    overlay: Overlay
    steps: tuple[Step, ...]
    spaces: Mapping[int, SpacePlan]
    layout: Layout
    refusals: tuple[Refusal, ...]
    extensions: tuple[Extension, ...] = ()
    sizes: Sizes = field(default_factory=Sizes)
    elsewhere: Mapping[str, Plan] = field(default_factory=dict)
    others: tuple[Plan, ...] = ()

    def at(self, task: str) -> Plan:
        """The plan for the size of a task's data."""
        return self.elsewhere.get(task, self)

    def step(self, name: str) -> Step:
        """A step by its name."""
        return next(s for s in self.steps if s.name == name)

    def made_by_tables(self, number: int) -> bool:
        """Whether no step makes a space: it is made by tables alone, if at all."""
        return not any(number in step.spaces for step in self.steps)

    def added(self, task: str) -> frozenset[str]:
        """Nodes of a task's net that it did not come with."""
        return frozenset(n for e in self.extensions for n in e.nodes.get(task, ()))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.nets)

    @property
    def stored(self) -> str:
        """Type in which the file of the fused net holds its weights, as ONNX calls it."""
        return common_type(n.stored for n in self.nets.values())

    @cached_property
    def inputs(self) -> tuple[Port, ...]:
        """Inputs of the fused net, each as the first net has it that has it."""
        found: dict[str, Port] = {}
        for task, names in self.overlay.inputs.items():
            ports = {p.name: p for p in self.nets[task].inputs}
            found = {fused: ports[own]._replace(name=fused) for fused, own in names.items()} | found
        return tuple(found[name] for name in names_of(self.overlay.inputs))

    @cached_property
    def dtypes(self) -> Mapping[str, np.dtype]:
        """The numpy dtype of every value and param of the fused net."""
        found = dict.fromkeys(self.layout.shapes, np.dtype(np.float32))
        for piece in (p for by_key in self.layout.pieces.values() for p in by_key.values()):
            found[piece.name] = self.nets[piece.task].dtypes[self.overlay.values[piece.laid][piece.task]]
        for taken in self.layout.taken:
            task = next(t for t in self.tasks if t in taken.owners)
            found[taken.name] = self.nets[task].dtypes[self.overlay.values[taken.laid][task]]
        for placed in (p for p in self.layout.placed if p.role is None):
            found |= dict.fromkeys(placed.node.outputs, found[str(placed.node.inputs[0])])
        return found

    def shared_spaces(self) -> tuple[SpacePlan, ...]:
        """Spaces that at least two tasks could share, in the order of the zip; those that tables alone make come first."""
        place = {n: k for k, s in reversed(list(enumerate(self.steps))) for n in s.spaces}
        found = [p for p in self.spaces.values() if not p.given and len(set(p.sizes) - set(p.refused)) > 1]
        return tuple(sorted(found, key=lambda p: place.get(p.number, -1)))


def analyse(
    nets: Sequence[Net], shares: Sequence[tuple[str, float]] = (), layout: str = "strands", inputs: Laid | None = None
) -> Plan:
    """Plan a merge.

    Args:
        nets: two or more, each named by its task, of one opset.
        shares: (glob over names of spaces, share 0..1); the last that fits counts.
        layout: `strands` or `wide`.
        inputs: task -> input of the fused net -> its own; None for those that the nets have in common.

    Raises:
        UsageError: fewer than two nets, two of one name, a share outside 0..1, an unknown layout.
        UnsupportedError: the nets' inputs differ, or nothing in them can be shared.
    """
    check_asked([n.name for n in nets], shares, layout)
    nets, ports = with_biases(with_uniform_apart(nets)), inputs_of_nets(nets) if inputs is None else inputs
    lays = (deepened, deepened_within) if any(f > 0 for _, f in shares or [("*", 1.0)]) else (as_they_are,)
    plan, *others = (partial(_planned, nets, shares, layout, partial(lay, inputs=ports)) for lay in lays)
    found = plan()
    return others[0]() if _frees_for_nothing(found, shares) else found


def _planned(
    nets: Sequence[Net], shares: Sequence[tuple[str, float]], layout: str, lay: Callable[[Sequence[Net]], Deepened]
) -> Plan:
    """As `analyse`, of nets laid over each other in some way."""
    found = laid_over(nets, lay)
    laid = found.laid
    steps = find_steps(laid)
    proposals = proposals_of(laid, steps)
    names = [p.name for p in proposals.values() if len(p.free) > 1]
    if not names and share_of("", shares) > 0:
        apart = {n: _space(n, p, set(), 0.0, False, laid.owners_of(n)) for n, p in proposals.items()}
        raise UnsupportedError(nothing_shared(laid.tasks, _refusals(laid, steps, apart, {}, found.refused)))
    check_shares(shares, names)
    spaces, drawn, torn = _settle(laid, steps, proposals, shares, layout)
    refusals = _refusals(laid, steps, spaces, torn, found.refused)
    if names and _asked_of_all(proposals, shares) and not any(p.shares_any for p in spaces.values()):
        raise UnsupportedError(nothing_shared(laid.tasks, refusals))
    return Plan({n.name: n for n in found.nets}, laid, steps, spaces, drawn, tuple(refusals), found.extensions)


def _frees_for_nothing(plan: Plan, shares: Sequence[tuple[str, float]]) -> bool:
    """Whether a layer behind an input, which all nets were given so that channels are free, makes none that are shared."""
    idle = {p.number for p in plan.shared_spaces() if not p.shares_any and share_of(p.name, shares) > 0}
    added = {task: plan.added(task) for task in plan.tasks}
    given = [s for s in plan.steps if all(n.name in added[t] for p in s.parts for t, n in p.members.items())]
    return any(idle.issuperset(step.spaces) for step in given if step.spaces)


UNLIKE = "its channels keep their order, and not all nets have as many"


def _settle(
    laid: Overlay, steps: tuple[Step, ...], proposals: Mapping[int, Proposal], shares: Sequence[tuple[str, float]],
    layout: str, own: frozenset[int] = frozenset(),
) -> tuple[dict[int, SpacePlan], Layout, dict[int, str]]:
    """Lay out, give up what starves or is torn, and lay out again until nothing changes.

    Args:
        own: given spaces that make no strands.
    """
    together = layout == "wide"
    dropped: dict[tuple[int, Owners], str] = {}
    torn = _out_of_step(proposals) | beside_own(laid, steps, own)
    woven, grouped = woven_spaces(laid), grouped_axes(laid, steps)
    read = read_by(laid, steps) if together else {}
    while True:
        wanted = _wanted(laid, steps, proposals, torn, shares, together)
        spaces = {n: _space(n, p, dropped, wanted[n], together, laid.owners_of(n)) for n, p in proposals.items()}
        spaces = _joined(spaces, read, {n for n, _ in dropped} | set(torn) | {n for n, p in proposals.items() if p.ordered})
        uneven = uneven_groups(grouped, spaces) | uneven_spaces(woven, spaces) | uneven_added(laid, spaces)
        uneven = {n: why for n, why in uneven.items() if n not in torn}
        given = {n for n in uneven if spaces[n].given}
        if given:
            others = {n: p for n, p in proposals.items() if n not in given}
            return _settle(laid, steps, others, shares, layout, own | given)
        if uneven:
            torn |= uneven
            continue
        drawn = lay_out(laid, steps, spaces)
        starved = {(n, k): why for (n, k), why in drawn.starved.items() if len(k) > 1 and (n, k) not in dropped}
        news = {n: why for n, why in drawn.torn.items() if n not in torn}
        if not starved and not news:
            return spaces, drawn, {n: _starving(why) for (n, _), why in dropped.items()} | torn
        dropped |= starved
        torn |= news


def _joined(spaces: Mapping[int, SpacePlan], read: Mapping[int, set[int]], apart: Iterable[int]) -> dict[int, SpacePlan]:
    """Spaces of layout wide: where shared rows read what each task has for itself, that lies in one strand, which all read.

    Args:
        read: per space, those that its rows read.
        apart: spaces that cannot lie in one strand.
    """
    found, known = dict(spaces), set(apart)
    waiting = [n for n, p in spaces.items() if not p.given and any(len(s.key) > 1 for s in p.strands)]
    while waiting:
        news = (read.get(waiting.pop(), set()) & found.keys()) - known
        known |= news
        for number in (n for n in news if not any(len(s.key) > 1 for s in found[n].strands)):
            plan = found[number]
            free = {o: c for o, c in plan.counts.items() if not o & plan.refused.keys()}
            strands = strands_of(free, len(free) > 1) + tuple(s for s in plan.strands if s.key & plan.refused.keys())
            found[number] = replace(plan, strands=strands)
            waiting += [number] if len(free) > 1 else []
    return found


def _starving(why: str) -> str:
    """Why channels are refused that would have nothing to read; a space made in several places may have it in some of them."""
    return f"{why}: behind it, shared channels would have nothing to read" if why else STARVED


def _out_of_step(proposals: Mapping[int, Proposal]) -> dict[int, str]:
    """Spaces that keep their order, but not as many channels of it in all nets that may share them."""
    return {n: UNLIKE for n, p in proposals.items() if p.ordered and len(p.free) > 1 and not p.even}


def _wanted(
    laid: Overlay, steps: Sequence[Step], proposals: Mapping[int, Proposal], torn: Iterable[int],
    shares: Sequence[tuple[str, float]], together: bool,
) -> dict[int, float]:
    """The share of each space: as asked for; all of it where a node needs it whole, and where only such spaces read it."""
    asked = {n: 0.0 if n in torn else share_of(p.name, shares) for n, p in proposals.items()}
    whole = {n for n, p in proposals.items() if p.whole and p.even and asked[n] > 0}
    led = whole if together else led_by(laid, steps, whole)
    return {n: 1.0 if n in led and n not in torn else share for n, share in asked.items()}


def _space(
    number: int, proposal: Proposal, dropped: Collection[tuple[int, Owners]], share: float, together: bool, given: Owners
) -> SpacePlan:
    name, free, refused, sizes = proposal.name, proposal.free, proposal.refused, proposal.sizes
    if name.startswith("given") and not free and not refused:
        counts = {given: next(iter(sizes.values()))}
        return SpacePlan(number, name, sizes, strands_of(counts, False), {}, given=True)
    lost = {o for n, o in dropped if n == number}
    twins = proposal.twins if share > 0 and not lost.intersection(proposal.twins) and not (together and lost) else ()
    counts = counts_for({t: sizes[t] for t in free}, share, twins)
    for owners in [o for o in counts if len(o) > 1 and (o in lost or (together and lost))]:
        rest = counts.pop(owners)
        for unit in {next((some for some in twins if t in some), frozenset([t])) for t in owners}:
            counts[unit] = counts.get(unit, 0) + rest
    shares_any = any(len(o) > 1 for o in counts)
    strands = strands_of(counts, together and shares_any)
    others = {frozenset([t]): n for t, n in sizes.items() if t not in free}
    strands += strands_of(others, False)
    return SpacePlan(
        number, name, sizes, strands, refused, inside=proposal.inside, ordered=proposal.ordered, twins=tuple(twins)
    )


def _asked_of_all(proposals: Mapping[int, Proposal], shares: Sequence[tuple[str, float]]) -> bool:
    """Whether some of all spaces is asked for: who leaves one out leaves out what reads nothing else, too."""
    return all(share_of(p.name, shares) > 0 for p in proposals.values() if len(p.free) > 1)


def _refusals(
    laid: Overlay, steps: Sequence[Step], spaces: Mapping[int, SpacePlan], torn: Mapping[int, str],
    deeper: Iterable[tuple[str, str]],
) -> list[Refusal]:
    """Everything that stays unmerged, each place once; outputs that nothing reads in any net, heads by nature, are none."""
    found = {f"{task}: {where}": why for task, c in laid.couplings.items() for where, why in c.refusals}
    inner = {m for some in read_by(laid, steps).values() for m in some}
    for plan in (p for n, p in spaces.items() if n not in _of_heads(steps, spaces, inner)):
        for task, why in plan.refused.items():
            if (why != OUTPUT or plan.number in inner) and len(plan.sizes) > 1:
                found.setdefault(f"{task}: {plan.name}", why)
        if plan.number in torn:
            found[plan.name] = torn[plan.number]
    for where, why in (*deeper, *laid.partings):
        found.setdefault(where, why)
    return [Refusal(where, why) for where, why in found.items()]


def _of_heads(steps: Sequence[Step], spaces: Mapping[int, SpacePlan], inner: Collection[int]) -> set[int]:
    """Spaces that nothing reads, of layers that make an output with them (what a pixel shuffle makes positions of)."""
    ends = (s for s in steps if any(OUTPUT in spaces[n].refused.values() for n in s.spaces if n in spaces))
    return {n for step in ends for n in step.spaces}.difference(inner)
