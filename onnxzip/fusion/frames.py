"""What a fused layer goes on from where it reads frames of calls before: not those of the original, but what its own would be.

    y = M [x, 1] + e,    E e e' = S        least squares over M, for each frame
    y(before) = M [x(before), 1] + noise of covariance S,   0 where x(before) is 0

x are frames of what a task's original net makes, y of what the fused net does; a Concat puts them behind frames of calls
before, which samples bring as the original has left them. M and S are told by the frames of the calls themselves, once the
fused net has come so far (`begins` has the formula for states of recurrent nodes): nothing of these follows from what is
fitted behind.

Measured, causal convolutions of 48 channels over the rows of an image (a stem and four residual blocks, fashion and digits),
everything shared, 1,000 calls a task, each net going through whole images on frames of its own; error increase in points, 28 /
7 / 4 / 1 rows a call: 1.4 / 1.4 / 1.8 / 1.9; without the noise, of which 28 rows have none, 5.2 / 11 / 14; going on from the
frames of the originals 19 / 29 / 46.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Placed
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.gathering import draw, positions_per_image
from onnxzip.calibration.samples import block_of
from onnxzip.calibration.states import original_values
from onnxzip.fusion.begins import Onward, come_back, fitted, noise_of
from onnxzip.net import BATCH, Node, Shape
from onnxzip.ops.selecting import ORDER
from onnxzip.peers import Peers

Orders = Mapping[tuple[str, str], np.ndarray]


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of calls before at one node.

    Attributes:
        ordering: nodes that bring them into the order of the fused net, one for each axis of units.
        joining: the Concat that they go into; number: its own among all of these.
        own: what the fused net puts beside them; originals: task -> what its own net does.
        axes: of units that are matched.
    """

    plan: Plan
    ordering: tuple[Node, ...]
    joining: Placed
    number: int
    own: tuple[str, ...]
    originals: Mapping[str, tuple[str, ...]]
    axes: tuple[int, ...]

    @property
    def params(self) -> list[str]:
        """That say which unit stands where."""
        return [str(node.inputs[1]) for node in self.ordering]

    @property
    def before(self) -> str:
        """The frames of calls before in the order of each task."""
        return str(self.ordering[0].inputs[0])

    def is_ready(self, frontier: Frontier, orders: Orders) -> bool:
        """Whether units are matched, and the fused net has come so far."""
        read, tasks = {self.before, *self.own}, tuple(self.originals)
        known = all((name, t) in orders for name in self.params for t in tasks)
        return known and all(read <= frontier.alive[frontier.source_of[t]] for t in tasks)

    def go_on(self, frontier: Frontier, orders: Orders, exact: frozenset[str], peers: Peers) -> None:
        """Let the fused net go on from frames of its own.

        Args:
            orders: param, task -> which of the task's own units stands where.
            exact: tasks for which it makes what their originals do.
        """
        for task in self.originals:
            k = frontier.source_of[task]
            mine = {int(n.attrs["axis"]): orders[str(n.inputs[1]), task] for n in self.ordering}
            onward = None if task in exact else self._onward(frontier, task, mine, peers)
            for b in range(len(frontier.batches[k])):
                before = _value(frontier, k, self.before, b)
                if onward is None:
                    now = reduce(lambda array, axis: np.take(array, mine[axis], axis), mine, before)
                else:
                    now = self._begun(frontier, k, b, onward, before)
                frontier.place.put((k, self.ordering[-1].outputs[0], b), now)
            frontier.alive[k].add(self.ordering[-1].outputs[0])
            frontier.done[k].update(n.name for n in self.ordering)

    def _onward(self, frontier: Frontier, task: str, orders: Mapping[int, np.ndarray], peers: Peers) -> Onward | None:
        """What the fused net goes on from, of what a task's own net has made; None where no data tell."""
        k, name = frontier.source_of[task], f"{self.joining.node.name}, {task}, frames"
        after, targets, held = self._beside(frontier, task)
        given = (_flat(self._rows(_value(frontier, k, self.before, b))) for b in range(len(frontier.batches[k])))
        if not come_back(given, after, name, peers):
            return None
        units = np.arange(after[0].shape[1]).reshape([self.shape[d] for d in self.axes])
        places = reduce(lambda a, n: np.take(a, orders[self.axes[n]], axis=n), range(len(self.axes)), units).reshape(-1)
        return fitted(after, targets, held, np.eye(len(places), len(places) + 1)[places], name, peers)

    def _begun(self, frontier: Frontier, k: int, b: int, onward: Onward, before: np.ndarray) -> np.ndarray:
        """Frames of one batch as the fused net would have made them."""
        source, rows = frontier.sources[k], self._rows(before)
        dealt = np.arange(source.count) if source.dealt is None else source.dealt
        noise = noise_of(dealt[frontier.batches[k][b]], block_of(source.total), rows[0].size, [frontier.seed, self.number])
        begun = onward.begun(_flat(rows), noise.reshape(-1, rows.shape[2]))
        turned = begun.reshape([before.shape[d] for d in self.turn])
        return np.ascontiguousarray(turned.transpose(np.argsort(self.turn)))

    def _beside(self, frontier: Frontier, task: str) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """Frames that the original makes in the calls themselves, and the fused net, per batch [rows, units], drawn at random;
        for each row of all batches, whether it is held out."""
        k, after, targets, held = frontier.source_of[task], list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        source, at = frontier.sources[k], np.zeros((0, 0), np.int64)
        for b, theirs in enumerate(original_values(frontier, task, self.originals[task])):
            both = (theirs, [_value(frontier, k, v, b) for v in self.own])
            one, other = (np.concatenate([self._rows(a) for a in some], axis=1) for some in both)
            if not b:
                wanted = positions_per_image(source.total, one.shape[1], one.shape[2])
                at = draw(np.random.default_rng([frontier.seed, self.number, k]), source.total, one.shape[1], wanted)
                at = at if source.dealt is None else at[source.dealt]
            some = at[frontier.batches[k][b], :, None]
            after.append(_flat(np.take_along_axis(one, some, axis=1)))
            targets.append(_flat(np.take_along_axis(other, some, axis=1)))
            held.append(np.repeat(source.held()[frontier.batches[k][b]], some.shape[1]))
        return after, targets, np.concatenate(held)

    @cached_property
    def shape(self) -> Shape:
        """Of what goes into the Concat, its frames aside."""
        return self.plan.layout.shapes[self.joining.node.outputs[0]]

    @cached_property
    def turn(self) -> tuple[int, ...]:
        """Axes of it in the order of samples, frames and all that is told apart in these, units."""
        samples = [d for d, size in enumerate(self.shape) if size == BATCH]
        return (*samples, *(d for d in range(len(self.shape)) if d not in (*samples, *self.axes)), *self.axes)

    def _rows(self, array: np.ndarray) -> np.ndarray:
        """[samples, frames, units]; of a fixed batch, its only sample."""
        count = array.shape[self.turn[0]] if BATCH in self.shape else 1
        return array.transpose(self.turn).reshape(count, -1, math.prod(array.shape[d] for d in self.axes))


def frames_of(plan: Plan) -> list[Frames]:
    """All that several tasks share, where samples bring them."""
    layout, roles = plan.layout, {r.name: r for r in plan.overlay.roles}
    made = {v: p for p in layout.placed for v in p.node.outputs}
    matched = {t.name for t in layout.taken if t.keys}
    found = list[Frames]()
    for placed in (p for p in layout.placed if p.node.op == "Concat" and p.role is not None and len(p.owners) > 1):
        shape, tasks = layout.shapes[placed.node.outputs[0]], [t for t in plan.tasks if t in placed.owners]
        chains = {v: _ordering(v, made) for v in placed.node.read}
        own = tuple(v for v, chain in chains.items() if not chain)
        if min(shape) < BATCH or any(v in made and made[v].role is None for v in own):
            continue
        members = {t: roles[placed.role].members[t] for t in tasks if placed.role is not None}
        originals = {t: tuple(_unordered(plan, t, node)) for t, node in members.items()}
        for chain in (c for c in chains.values() if c):
            axes = tuple(int(n.attrs["axis"]) for n in chain if n.inputs[1] in matched)
            if axes:
                found.append(Frames(plan, chain, placed, len(found), own, originals, axes))
    return found


def _ordering(value: str, made: Mapping[str, Placed]) -> tuple[Node, ...]:
    """The nodes that bring a value into an order, one behind the other; none where it stands as it is made."""
    if value not in made or not made[value].node.attrs.get(ORDER):
        return ()
    node = made[value].node
    return (*_ordering(str(node.inputs[0]), made), node)


def _unordered(plan: Plan, task: str, node: Node) -> list[str]:
    """What a node of a task's net reads that is not brought into an order first."""
    ordered = {v for n in plan.nets[task].nodes if n.attrs.get(ORDER) for v in n.outputs}
    return [v for v in node.read if v not in ordered]


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, rows.shape[-1])


def _value(frontier: Frontier, k: int, name: str, b: int) -> np.ndarray:
    value = frontier.value(k, name, b, "")
    return value if isinstance(value, np.ndarray) else np.asarray(value.numpy())
