"""The frontier: the live values of the fused net per data source, and the original nets' targets at sampled positions.

Each calibration sample passes each node once in its original net (`Targets`, one sweep before the zip) and once in the fused
net (`advance`, as far as the weights are known). What later nodes still read is kept; everything else is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Placed
from onnxzip.analysis.standing import in_front, taps_of
from onnxzip.analysis.steps import Step, endless_rows, linear_of
from onnxzip.calibration.covariances import covariance_of
from onnxzip.calibration.gathering import draw, positions_per_image
from onnxzip.calibration.places import Place, piece_for, place_for
from onnxzip.calibration.samples import Source, block_of
from onnxzip.calibration.store import Store
from onnxzip.errors import InvalidDataError
from onnxzip.net import BATCH, Net, Port, per_sample, pruned, reachable
from onnxzip.ops import Linear, View
from onnxzip.peers import Peers
from onnxzip.runtime import Value, let_go, open_session

BATCH_BYTES = 64 << 20
Tick = Callable[[int], None]


class Frontier:
    """Live values of the fused net and targets of the original nets.

    Args:
        plan: of the merge.
        sources: calibration samples; every task stands in exactly one.
        store: where arrays wait.
        device, threads: of ONNX Runtime.
        seed: of the sampled positions.
        place: where values wait and rows are summed up; None for what `place_for` chooses.
    """

    def __init__(
        self, plan: Plan, sources: Sequence[Source], store: Store, device: str, threads: int, seed: int,
        place: Place | None = None,
    ) -> None:
        self.plan, self.sources = plan, tuple(sources)
        self.place = place or place_for(device, store, threads)
        self.device, self.threads, self.seed = device, threads, seed
        self.source_of = {t: k for k, s in enumerate(sources) for t in s.tasks}
        self.fixed_batch = max(0, plan.inputs[0].shape[0])  # 0 where the batch is free
        self.plans = tuple(plan.at(source.tasks[0]) for source in sources)  # for the size of each source's samples
        self.widest = [self._widest(k) for k in range(len(sources))]
        self.batches = [self._batches(k) for k in range(len(sources))]
        self.alive: list[set[str]] = [set() for _ in sources]
        self.done: list[set[str]] = [set() for _ in sources]
        self.params: dict[str, np.ndarray] = {}
        self.own: Mapping[tuple[str, str], np.ndarray] = {}  # param, task -> what stands there on that task's samples
        self._positions: dict[tuple[str, int], np.ndarray] = {}
        for k, source in enumerate(self.sources):
            for name, array in source.inputs.items():
                for b, part in enumerate(self.batches[k]):
                    self.place.put((k, name, b), array[part])
                self.alive[k].add(name)

    def _widest(self, k: int) -> int:
        """Bytes of a sample of the largest value that a source's samples make in an original net or the fused one."""
        tasks = set(self.sources[k].tasks)
        plan = self.plans[k]
        nets = [plan.nets[t] for t in tasks]
        return 4 * max(
            max(per_sample(net.shapes[v]) for net in nets for n in net.nodes for v in n.outputs),
            max(per_sample(plan.layout.shapes[v]) for p in plan.layout.placed if p.owners & tasks for v in p.node.outputs),
        )

    def _batches(self, k: int) -> list[slice]:
        size = self.fixed_batch or max(1, BATCH_BYTES // self.widest[k])
        count, block = self.sources[k].count, block_of(self.sources[k].total)
        blocks = [range(a, min(a + block, count)) for a in range(0, count, block)]
        return [slice(b, min(b + size, one.stop)) for one in blocks for b in one[::size]]

    def closes_block(self, k: int, b: int) -> bool:
        """Whether a batch is the last one of its block of samples."""
        return bool(self.batches[k][b].stop % block_of(self.sources[k].total) == 0)

    # original nets ----------------------------------------------------------------------------------------------------

    def fed(self, task: str, k: int, part: slice) -> dict[str, np.ndarray]:
        """What a task's own net reads of some samples of a source."""
        return {name: self.sources[k].inputs[laid][part] for name, laid in self.plan.overlay.fed(task).items()}

    def positions(self, step: Step, k: int) -> np.ndarray:
        """Sampled output positions of a step for one source: int [samples, wanted], drawn once, kept until `forget`."""
        key = (step.name, k)
        if key not in self._positions:
            linear, view = self.geometry(step, k)
            count, samples = len(taps_of(linear, view)), self.sources[k].total
            wanted = positions_per_image(samples, count, self.columns(step, k))
            index = [s.name for s in self.plan.steps].index(step.name)
            drawn = draw(np.random.default_rng([self.seed, index, k]), samples, count, wanted)
            dealt = self.sources[k].dealt
            self._positions[key] = drawn if dealt is None else drawn[dealt]
        return self._positions[key]

    def rows(self, step: Step, k: int) -> int:
        """Rows of a step's least squares that a source gives in all processes together."""
        return self.sources[k].total * int(self.positions(step, k).shape[1])

    def geometry(self, step: Step, k: int) -> tuple[Linear, View]:
        """How the step's first part reads its input, as one of the source's tasks sees it."""
        task = next(t for t in step.tasks if self.source_of[t] == k)
        plan = self.plans[k]
        return linear_of(plan.overlay, plan.step(step.name).parts[0], task)

    def before(self, laid: str, channel: int, task: str) -> int:
        """Positions in front of the batch in a laid-over value, as a task's samples make it."""
        return in_front(laid, self.plans[self.source_of[task]].overlay.exprs(laid, task), channel)

    def columns(self, step: Step, k: int) -> int:
        """Columns of the step's least squares in the originals: an upper bound of what a row reads there."""
        total = 0
        task = next(t for t in step.tasks if self.source_of[t] == k)
        for part in step.parts:
            linear, view = linear_of(self.plan.overlay, part, task)
            total += int(np.prod(linear.matrix(view, self.plan.nets[task].params).shape[2:]))
        return total

    def sweep(self, steps: Sequence[Step], with_skips: bool, tick: Tick) -> None:
        """Run every original net once and keep the targets of the given steps at their sampled positions."""
        for task in self.plan.tasks:
            k = self.source_of[task]
            net = self.plans[k].nets[task]
            wanted: dict[str, list[tuple[Step, str]]] = {}
            for step in steps:
                if task in step.tasks:
                    for laid in [step.sink, *(step.skips if with_skips else ())]:
                        wanted.setdefault(self.plan.overlay.values[laid][task], []).append((step, laid))
            if wanted:
                self._sweep_net(task, net, k, wanted, tick)
                let_go(net.params.values())

    def _sweep_net(self, task: str, net: Net, k: int, wanted: Mapping[str, list[tuple[Step, str]]], tick: Tick) -> None:
        steps = {step.name: step for uses in wanted.values() for step, _ in uses}
        at = {name: self.positions(step, k) for name, step in steps.items()}
        channel = {name: linear.channel(view) for name, step in steps.items() for linear, view in [self.geometry(step, k)]}
        before = {(step.name, laid): self.before(laid, channel[step.name], task) for u in wanted.values() for step, laid in u}
        ports = tuple(Port(v, net.dtypes[v], net.shapes[v]) for v in wanted)
        session = open_session(pruned(replace(net, outputs=ports)), self.device, self.threads)
        bytes_per_sample = 4 * sum(per_sample(p.shape) for p in ports)
        small = self.fixed_batch or max(1, min(self.place.most, BATCH_BYTES // bytes_per_sample))
        for b, part in enumerate(self.batches[k]):
            rows: dict[tuple[str, str], list[Value]] = {}
            for start in range(part.start, part.stop, small):
                inner = slice(start, min(start + small, part.stop))
                outputs = self.place.run(session, self.fed(task, k, inner))
                for value, uses in wanted.items():
                    for step, laid in uses:
                        chosen = at[step.name][inner]
                        picked, finite = self.place.pick(outputs[value], channel[step.name], chosen, before[step.name, laid])
                        if not finite:
                            picked = self._finite(picked, steps[step.name], task, laid)
                        rows.setdefault((step.name, laid), []).append(picked)
                tick(inner.stop - inner.start)
            for (step_name, laid), found in rows.items():
                self.place.put(("target", step_name, laid, task, b), self.place.joined(found))

    def _finite(self, picked: Value, step: Step, task: str, laid: str) -> Value:
        """Targets of a step, 0 where a bias of the net makes them infinite on any samples: such rows are never fitted.

        Raises:
            InvalidDataError: others are NaN or infinite.
        """
        found = np.array(picked if isinstance(picked, np.ndarray) else picked.numpy())
        overlay = self.plans[self.source_of[task]].overlay
        if laid == step.sink:
            found[:, endless_rows(overlay, step, task)] = 0
        if not np.isfinite(found).all():
            value = overlay.values[laid][task]
            raise InvalidDataError(
                f"net {task!r}: its value {value!r} holds NaN or Inf on these samples. Are they scaled as the net wants them?"
            )
        return found

    def covariance(self, step: Step, task: str, peers: Peers, made: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Of what is made of a task's targets of a step [rows, channels]: float64 [channels, channels]."""
        targets = (self.place.get(key) for key in self._targets(step, task) if key[2] == step.sink)
        rows = (made(np.asarray(value, np.float32)) for value in targets)
        return covariance_of(rows, f"{step.name}, covariance of {task}", peers)

    def turn(self, steps: Sequence[Step], task: str, to: np.ndarray) -> None:
        """Let a task's targets of some steps be `to` [channels, channels] times what they are."""
        for key in [key for step in steps for key in self._targets(step, task)]:
            self.place.put(key, (np.asarray(self.place.get(key), np.float64) @ to.T).astype(np.float32))

    def forget(self, step: Step) -> None:
        """Drop the targets and the positions of a finished step."""
        for k in range(len(self.sources)):
            self._positions.pop((step.name, k), None)
        for key in [key for task in step.tasks for key in self._targets(step, task)]:
            self.place.drop(key)

    def _targets(self, step: Step, task: str) -> Iterator[tuple[str, str, str, str, int]]:
        """Keys of a task's targets of a step that wait."""
        for b in range(len(self.batches[self.source_of[task]])):
            for laid in [step.sink, *step.skips]:
                key = ("target", step.name, laid, task, b)
                if key in self.place:
                    yield key

    # fused net --------------------------------------------------------------------------------------------------------

    def value(self, k: int, name: Hashable, b: int, step: str) -> Value:
        """A live value of the fused net for one batch of a source, by name; or an original value at a step's sampled positions
        [rows, channels], by its laid-over name and its task."""
        return self.place.get(("target", step, *name, b) if isinstance(name, tuple) else (k, name, b))

    def advance(self, params: Mapping[str, np.ndarray], tick: Tick) -> None:
        """Run every node of the fused net whose weights and inputs are known by now, once per source."""
        self.params.update(params)
        for k in range(len(self.sources)):
            self._advance_source(k, tick)

    def _advance_source(self, k: int, tick: Tick) -> None:
        mine = [p for p in self.plans[k].layout.placed if p.owners & set(self.sources[k].tasks)]
        ready = list(self._ready(k, mine))
        joins = self.plans[k].layout.joins
        names = {p.node.name for p in ready} - joins
        later = [p for p in mine if p.node.name not in self.done[k] | names | joins]
        read = self._read_by(later, mine, joins)
        outputs = [v for p in ready if p.node.name in names for v in p.node.outputs if v in read]
        if outputs:
            self._run(k, ready, outputs, tick)
        self.done[k] |= names
        for name in self.alive[k] - read:
            for b in range(len(self.batches[k])):
                self.place.drop((k, name, b))
        self.alive[k] &= read

    def _ready(self, k: int, mine: Sequence[Placed]) -> Iterator[Placed]:
        """Nodes that can run now; joins are run again where they are read again, as they are not kept."""
        known = set(self.alive[k])
        for placed in mine:
            if placed.node.name not in self.done[k] and all(v in known or v in self.params for v in placed.node.read):
                known.update(placed.node.outputs)
                yield placed

    def _read_by(self, later: Sequence[Placed], mine: Sequence[Placed], joins: Collection[str]) -> set[str]:
        """Values that nodes to come read, through joins too, and the outputs of the net."""
        maker = {v: p for p in mine for v in p.node.outputs}
        read: set[str] = set()
        stack = [v for p in later for v in p.node.read]
        while stack:
            value = stack.pop()
            if value in maker and maker[value].node.name in joins:
                stack.extend(maker[value].node.read)
            else:
                read.add(value)
        return read

    def _run(self, k: int, ready: Sequence[Placed], outputs: Sequence[str], tick: Tick) -> None:
        net = self._segment(k, ready, outputs)
        session = open_session(net, self.device, self.threads)
        piece = piece_for((*net.inputs, *net.outputs), self.widest[k])
        for b in range(len(self.batches[k])):
            found = self.place.run(session, {p.name: self.place.get((k, p.name, b)) for p in net.inputs}, piece)
            for name in outputs:
                self.place.put((k, name, b), found[name])
            tick(self.batches[k][b].stop - self.batches[k][b].start)
        self.alive[k].update(outputs)

    def _segment(self, k: int, ready: Sequence[Placed], outputs: Sequence[str]) -> Net:
        """The part of the fused net between the live values and the given ones."""
        base = self.plan.nets[self.plan.tasks[0]]
        shapes = self.plans[k].layout.shapes
        dtypes = self.plan.dtypes
        whole = replace(
            base, name="segment", inputs=(), outputs=tuple(Port(v, dtypes[v], shapes[v]) for v in outputs),
            nodes=tuple(p.node for p in ready), params={}, shapes={}, dtypes={}, metadata={},
        )
        nodes = reachable(whole, outputs)
        made = {v for n in nodes for v in n.outputs}
        used = dict.fromkeys(v for n in nodes for v in n.read)
        feeds = [v for v in used if v not in made and v not in self.params]
        if not feeds:  # params alone, repeated for every sample: the batch is read from any live value
            feeds = [min(self.alive[k], key=lambda v: (BATCH not in shapes[v], v))]
            used |= dict.fromkeys(feeds)
        task = self.sources[k].tasks[0]
        return replace(
            whole, nodes=nodes, inputs=tuple(Port(v, dtypes[v], shapes[v]) for v in feeds),
            params={v: self.own.get((v, task), self.params[v]) for v in used if v in self.params and v not in made},
            shapes={v: shapes[v] for v in [*used, *made]}, dtypes={v: dtypes[v] for v in [*used, *made]},
        )

