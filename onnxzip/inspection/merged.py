"""A fused net: who owns what, what each task alone would cost, what a switch of tasks loads, what was matched and why not.

    own bytes of a task   params that this task alone needs
    switch s -> t         bytes of the params that t needs and s does not
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations

from onnxzip.exporting.metadata import check_outputs, needed_by
from onnxzip.exporting.traces import FitTrace, NodeTrace, StrandTrace, Tasks, Trace
from onnxzip.inspection.parts import Entry, params_entry, tail_params, weights_in
from onnxzip.loading.recurrence import layer_of
from onnxzip.net import Net, macs_of


class Needs:
    """Which nodes and params each task of a fused net needs.

    Attributes:
        nodes, params: name -> tasks.
        held: the params, those of tails among them; weights: those that count as such.
    """

    def __init__(self, net: Net, trace: Trace, where: str) -> None:
        """Look what each task's outputs are computed from.

        Raises:
            InvalidModelError: an output that the metadata name is missing.
        """
        self.net, self.tasks = net, trace.tasks
        check_outputs(trace.origins, net.ends, where)
        self.held, self.weights = {**net.params, **tail_params(net)}, weights_in(net)
        nodes, params = needed_by(net, {task: origin.outputs.values() for task, origin in trace.origins.items()})
        names = dict.fromkeys((*(n.name for n in net.nodes), *nodes))
        self.nodes = {name: tuple(nodes.get(name, ())) for name in names}
        self.params = {name: tuple(params.get(name, ())) for name in self.held}

    def cost(self, owners: Iterable[Tasks]) -> Entry:
        """Nodes, params, bytes of params and multiply-accumulates of what sets of tasks need together."""
        wanted = set(owners)
        nodes = [n for n in self.net.nodes if self.nodes[n.name] in wanted]
        count = sum(tasks in wanted for tasks in self.nodes.values())
        params = [p for p, tasks in self.params.items() if tasks in wanted]
        told = params_entry(self.net, self.held, params, self.weights)
        return {"nodes": count, **told, "macs": macs_of(nodes, self.net.shapes)}

    def sets(self) -> list[Tasks]:
        """All sets of tasks that own something, the widest first."""
        found = dict.fromkeys((*self.nodes.values(), *self.params.values()))
        return sorted((s for s in found if s), key=lambda s: (-len(s), [self.tasks.index(t) for t in s]))


def merged_entries(net: Net, trace: Trace, needs: Needs, alone: Mapping[str, int]) -> Entry:
    """What is to be told of a fused net beside its nodes.

    Args:
        alone: task -> bytes of its own file, as `split` would write it.
    """
    return {
        "merge": {
            "version": trace.version, "method": trace.method, "layout": trace.layout,
            "shares": [list(pair) for pair in trace.shares],
        },
        "tasks": {task: _task(trace, needs, task, alone[task]) for task in trace.tasks},
        "owners": [{"tasks": list(owners), **needs.cost([owners])} for owners in needs.sets()],
        "switches": [_switch(needs, a, b) for a, b in permutations(trace.tasks, 2)],
        "spaces": [_space(trace, name) for name in trace.counts],
        "refusals": [{"where": where, "why": why} for where, why in trace.refusals],
    }


def owned_entry(trace: Trace, needs: Needs, name: str) -> Entry:
    """What is to be told of one node because the net is fused."""
    node, owners = trace.nodes.get(name, NodeTrace()).among(trace.tasks), needs.nodes[name]
    step = node.step or trace.nodes.get(layer_of(name), NodeTrace()).step
    fits = [f for f in trace.fits.get(step, ()) if set(f.tasks) & set(owners) and _fits_node(f, node)]
    return {
        "owners": list(owners),
        "share": node.share(owners),
        "rows": [{"tasks": list(tasks), "channels": n} for tasks, n in node.rows],
        "from": dict(node.origins),
        "role": node.role or None,
        "error": mean(f.error for f in fits),
        "damping": mean(f.damping for f in fits),
    }


def _fits_node(fit: FitTrace, node: NodeTrace) -> bool:
    return set(fit.tasks) == {t for tasks, _ in node.rows for t in tasks} or not node.rows


def mean(values: Iterable[float | None]) -> float | None:
    """Of what is known; None where nothing is."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _task(trace: Trace, needs: Needs, task: str, alone: int) -> Entry:
    origin = trace.origins[task]
    mine = [owners for owners in needs.sets() if task in owners]
    cost = needs.cost(mine)
    known = origin.params is not None
    return {
        "source": origin.source,
        "sha256": origin.sha256,
        "outputs": dict(origin.outputs),
        "fixed": dict(origin.fixed),
        "original": {"params": origin.params, "bytes": origin.bytes, "macs": origin.macs} if known else None,
        "alone": {"params": cost["params"], "bytes": alone, "macs": cost["macs"]},
        "own": needs.cost([(task,)]),
    }


def _switch(needs: Needs, source: str, target: str) -> Entry:
    wanted = [o for o in needs.sets() if target in o]
    return {
        "from": source,
        "to": target,
        "bytes": needs.cost([o for o in wanted if source not in o])["bytes"],
        "of": needs.cost(wanted)["bytes"],
    }


def _space(trace: Trace, name: str) -> Entry:
    rows = [(tuple(t for t in trace.tasks if t in owners), n) for owners, n in trace.counts[name]]
    rows = [(owners, n) for owners, n in rows if owners]
    channels = {t: n for t in trace.tasks if (n := sum(n for owners, n in rows if t in owners))}
    fits = trace.fits.get(name, ())
    widest = max((len(f.tasks) for f in fits), default=0)
    first = [f for f in fits if len(f.tasks) == widest]
    return {
        "name": name,
        "channels": channels,
        "shared": sum(n for owners, n in rows if len(owners) > 1 and len(owners) == len(channels)),
        "groups": sum(n for _, n in rows),
        "rows": [{"tasks": list(owners), "channels": n} for owners, n in rows],
        "error": mean(f.error for f in first),
        "damping": mean(f.damping for f in first),
        "pairs": [pair for strand in trace.match.get(name, ()) for pair in _pairs(strand)],
    }


def _pairs(strand: StrandTrace) -> Iterable[Entry]:
    """Fused channels that several nets of the merge own: the channel of each there, and what sharing it costs."""
    for place, cost in enumerate(strand.costs):
        channels = {net: int(index[place]) for net, index in strand.index.items() if index[place] >= 0}
        if len(channels) > 1:
            yield {"channels": channels, "cost": cost}
