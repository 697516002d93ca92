"""Nets of different depth, laid over each other beyond the first difference.

Where one net does something more between two places at which all go on alike, the others are given the same layers, made
neutral (`neutral`): the trunk runs through them, and each net still computes what it did. The layers that are more are found
from the value at which the nets part: what follows it in the deeper net is cut wherever all that comes later reads one value
only, and those cuts are tried whose readers are like the readers of the shallower nets. An extension stays if more layers with
channels to share correspond afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxzip.analysis.correspondence import overlay
from onnxzip.analysis.coupling import Coupling, couple
from onnxzip.analysis.likeness import local_key
from onnxzip.analysis.neutral import NotNeutralError, grafted, neutral
from onnxzip.analysis.own_ends import with_own_ends
from onnxzip.analysis.roles import Overlay
from onnxzip.analysis.starts import with_free_starts
from onnxzip.loading.inputs import Laid
from onnxzip.net import Axis, Net, Node, consumers

LONGEST = 400  # nodes that one net may have more in one place
Segment = tuple[Node, ...]


@dataclass(frozen=True)
class Extension:
    """Layers that some nets have been given.

    Attributes:
        where: task and node that they stand behind; why: what they are, and whose.
        nodes: task -> names of its new nodes.
    """

    where: str
    why: str
    nodes: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Deepened:
    """Nets laid over each other, some of them with more layers than they came with.

    Attributes:
        nets: with what they were given; laid: laid over each other.
        extensions: what was given to whom.
        refused: (where, why) for layers that are more and have no neutral form.
    """

    nets: tuple[Net, ...]
    laid: Overlay
    extensions: tuple[Extension, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    def added(self, task: str) -> frozenset[str]:
        """Nodes that a net did not come with."""
        return frozenset(n for e in self.extensions for n in e.nodes.get(task, ()))

    @property
    def common(self) -> int:
        """Members of roles with channels to share, beyond the first of each, that the nets came with."""
        return sum(len(free) - 1 for free in self._free())

    @property
    def kinds(self) -> int:
        """As `common`, but each member counts as often as it has spaces to share."""
        return sum(sum(free[1:]) for free in self._free())

    def _free(self) -> Iterator[list[int]]:
        """Of each role that has any, how many spaces may be matched of what those members make that the nets came with."""
        own = {net.name: self.added(net.name) for net in self.nets}
        for role in self.laid.roles:
            found = [_free(self.laid.couplings[t], n) for t, n in role.members.items() if n.name not in own[t]]
            if any(found):
                yield [count for count in found if count]


def _free(coupling: Coupling, node: Node) -> int:
    """Of how many spaces the output channels of a node with weights may be matched."""
    linear, view = coupling.weighted.get(node.name, (None, None))
    if linear is None or view is None:
        return 0
    axis = Axis(node.outputs[0], linear.channel(view))
    return sum(a in coupling.produced and a not in coupling.pinned for a in coupling.axes[axis].atoms())


def as_they_are(nets: Sequence[Net], inputs: Laid) -> Deepened:
    """Lay nets over each other, each as it is.

    Args:
        inputs: task -> input of the fused net -> its own.

    Raises:
        UnsupportedError: inputs that are laid over each other differ.
    """
    return Deepened(tuple(nets), overlay({net.name: couple(net) for net in nets}, inputs))


def deepened(nets: Sequence[Net], inputs: Laid) -> Deepened:
    """Lay nets over each other, with layers beside streams that are inputs or outputs, and give shallower ones what lets the
    trunk go on.

    Args:
        inputs: as of `as_they_are`.

    Raises:
        UnsupportedError: as `as_they_are`.
    """
    return _as_deep(_with_free_streams(as_they_are(nets, inputs)))


def deepened_within(nets: Sequence[Net], inputs: Laid) -> Deepened:
    """As `deepened`, with streams as they are."""
    return _as_deep(as_they_are(nets, inputs))


def _as_deep(now: Deepened) -> Deepened:
    """Nets of which shallower ones have got what lets the trunk go on."""
    while True:
        refused: dict[str, str] = {}
        trials = (_extended(now, *place, refused) for place in _places(now))
        better = next((t for t in trials if t is not None and t.common > now.common), None)
        if better is None:
            return replace(now, refused=tuple(refused.items()))
        now = better


def _with_free_streams(now: Deepened) -> Deepened:
    """Nets with layers of their own before outputs that are streams (`own_ends`), and with layers behind inputs that are
    (`starts`), if more is in common then."""
    why = "a stream that layers add to comes out there: each task has a layer of its own for it, and the stream is free"
    best = max(now, _freed(now, with_own_ends, why), key=lambda trial: trial.common)
    begun = _freed(now, with_free_starts, "layers add to it: this input is read through one that changes nothing, and is free")
    if begun is now:
        return best
    return max(best, begun, _freed(begun, with_own_ends, why), key=lambda trial: (trial.common, trial.kinds))


def _freed(now: Deepened, free: Callable[[Net, Coupling], tuple[Net, frozenset[str]]], why: str) -> Deepened:
    """Nets with layers beside their streams; the same object where there is nothing to free."""
    found = {net.name: free(net, now.laid.couplings[net.name]) for net in now.nets}
    added = {task: names for task, (_, names) in found.items() if names}
    if not added:
        return now
    where = ", ".join(f"{t}: {name}" for t, names in added.items() for name in sorted(names))
    couplings = {t: couple(net) if t in added else now.laid.couplings[t] for t, (net, _) in found.items()}
    laid = overlay(couplings, now.laid.inputs)
    return Deepened(tuple(net for net, _ in found.values()), laid, (*now.extensions, Extension(where, why, added)))


def _places(now: Deepened) -> Iterator[tuple[str, str, tuple[Segment, ...], Mapping[str, frozenset[str]]]]:
    """Where a net may have more than others: (laid value, its task, segments that are more, others -> readers to move)."""
    for laid, by_task in list(now.laid.values.items()):
        if len(by_task) < 2:
            continue
        couplings = {t: now.laid.couplings[t] for t in by_task if t in now.laid.couplings}
        apart = {t: _parted(now.laid, laid, t) for t in couplings}
        reading = {t: nodes or consumers(couplings[t].net.nodes).get(by_task[t], []) for t, nodes in apart.items()}
        for deep in by_task:
            if not apart[deep] or by_task[deep] in now.laid.couplings[deep].net.params:
                continue
            segments: list[Segment] = []
            for segment in _segments(now.laid.couplings[deep].net, by_task[deep]):
                segments.append(segment)
                others = {
                    t: frozenset(n.name for n in nodes) for t, nodes in reading.items()
                    if t != deep and _goes_on_alike(couplings, deep, segment[-1].outputs[0], t, nodes)
                }
                if others:
                    yield laid, deep, tuple(segments), others


def _parted(laid: Overlay, value: str, task: str) -> list[Node]:
    """Nodes of one task that read a value and do not stand there for all who have the value."""
    everyone = set(laid.values[value])
    return [r.members[task] for r in laid.roles if value in r.inputs and task in r.members and not everyone <= set(r.members)]


def _segments(net: Net, start: str) -> Iterator[Segment]:
    """What follows a value, cut wherever all that comes later reads one value only."""
    readers, ends = consumers(net.nodes), {p.name for p in net.outputs}
    inside, waiting, done = {start}, {start: len(readers.get(start, ()))}, list[Node]()
    if start in ends:
        return
    for node in net.nodes:
        if not any(v in inside for v in node.inputs):
            continue
        if any(v is not None and v not in net.params and v not in inside for v in node.inputs) or len(done) == LONGEST:
            return
        done.append(node)
        for value in {v for v in node.inputs if v in waiting}:
            waiting[str(value)] -= 1
        inside.update(node.outputs)
        waiting.update({v: len(readers.get(v, ())) for v in node.outputs})
        if any(v in ends for v in node.outputs):
            return
        if [v for v, left in waiting.items() if left] == [node.outputs[0]]:
            yield tuple(done)
            inside, waiting, done = {node.outputs[0]}, {node.outputs[0]: waiting[node.outputs[0]]}, []


def _goes_on_alike(
    couplings: Mapping[str, Coupling], deep: str, value: str, other: str, nodes: Sequence[Node]
) -> bool:
    """Whether some of the nodes are like those that read a value of the deeper net."""
    behind = consumers(couplings[deep].net.nodes).get(value, [])
    keys = {local_key(couplings[deep], n) for n in behind}
    return any(local_key(couplings[other], n) in keys for n in nodes)


def _extended(
    now: Deepened, laid: str, deep: str, segments: tuple[Segment, ...], others: Mapping[str, frozenset[str]],
    refused: dict[str, str],
) -> Deepened | None:
    """The nets with the segments of the deeper one in all of the others; None where some segment has no neutral form."""
    nets = {net.name: net for net in now.nets}
    count = len(now.extensions)
    nodes = [n for s in segments for n in s]
    named = nodes[0].name if len(nodes) == 1 else f"{nodes[0].name} to {nodes[-1].name}"
    for task, readers in others.items():
        try:
            nets[task] = _given(nets[task], now.laid.values[laid][task], nets[deep], now.laid.values[laid][deep], segments,
                                readers, f"{deep}_{count}_")
        except NotNeutralError as error:
            first = next(n for n in nets[task].nodes if n.name in readers)
            begins = local_key(now.laid.couplings[deep], nodes[0])
            if begins != local_key(now.laid.couplings[task], first):  # else it is there that they part
                why = f"{deep!r} has more here ({named}), and no neutral form of it would do: {error}; its head starts here"
                refused.setdefault(f"{task}: {first.name}", why)
            return None
    couplings = {t: now.laid.couplings[t] if t not in others else couple(net) for t, net in nets.items()}
    after = now.laid.values[laid]
    extension = Extension(
        ", ".join(f"{t}: behind {after[t]}" for t in others),
        f"{deep!r} has more here ({named}): the trunk runs through it, in the others it is neutral",
        {t: frozenset(f"{deep}_{count}_{n.name}" for n in nodes) for t in others},
    )
    return Deepened(tuple(nets.values()), overlay(couplings, now.laid.inputs), (*now.extensions, extension))


def _given(
    net: Net, at: str, source: Net, start: str, segments: tuple[Segment, ...], readers: frozenset[str], prefix: str
) -> Net:
    for segment in segments:
        graft = neutral(source, segment, start, net, at, prefix)
        net = grafted(net, at, graft, readers)
        at, start = graft.end, segment[-1].outputs[0]
    return net
