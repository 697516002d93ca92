"""What the channels of all original nets do on the same samples: covariances of their activations, side by side.

    cov = E[x x'] - E[x] E[x]',   x = (f(p_1), f(p_2), ...),   p_t = the value that a step fits in net t

f clips as the operator behind the value does, where it does nothing else. Every net runs once on every source, also on those
of other tasks: without that, channels of two nets could not be correlated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.analysis.standing import in_front, taps_of
from onnxzip.analysis.steps import Step, linear_of
from onnxzip.calibration.frontier import BATCH_BYTES, Frontier
from onnxzip.calibration.gathering import pick
from onnxzip.errors import InvalidDataError
from onnxzip.linalg.covariance import centred
from onnxzip.net import Port, per_sample, pruned
from onnxzip.peers import Peers
from onnxzip.runtime import open_session

ROUNDING = 1e-6  # of products in float32


@dataclass(frozen=True)
class Covariance:
    """Covariances of one step's value.

    Attributes:
        columns: task -> its channels.
        matrix: float64 [channels of all tasks, channels of all tasks].
    """

    columns: Mapping[str, slice]
    matrix: np.ndarray

    def of(self, task: str, other: str) -> np.ndarray:
        """[channels of a task, channels of another one]."""
        return self.matrix[self.columns[task], self.columns[other]]


Features = Mapping[str, Covariance]  # by the name of the step


class _Sums:
    """Sums over rows of one step."""

    def __init__(self, step: Step, sizes: Mapping[str, int]) -> None:
        ends = np.cumsum([0, *sizes.values()])
        self.step = step
        self.columns = {t: slice(int(a), int(b)) for t, a, b in zip(sizes, ends, ends[1:], strict=False)}
        self.count, self.total, self.products = np.zeros(1), np.zeros(ends[-1]), np.zeros((ends[-1], ends[-1]))

    def add(self, rows: np.ndarray) -> None:
        """Add rows [rows, channels of all tasks], clipped as behind the step."""
        x = np.clip(rows, *self.step.bounds) if self.step.bounds is not None else rows
        self.count += len(x)
        self.total += x.sum(axis=0, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # `covariance` refuses what that leaves
            self.products += x.T @ x

    def covariance(self) -> Covariance:
        """Of all channels.

        Raises:
            InvalidDataError: values are not finite, or too large.
        """
        if not np.isfinite(self.products).all():
            raise InvalidDataError(
                f"{self.step.name}: what it computes on these samples, or its squares, are beyond float32. Are the samples "
                "scaled as the nets want them?"
            )
        return Covariance(self.columns, centred(self.products, self.total, self.count, ROUNDING))


def gather_features(frontier: Frontier, peers: Peers) -> Features:
    """Covariances for every step whose value carries channels to be matched.

    Args:
        frontier: knows nets, samples and sampled positions.
        peers: the processes that have the other samples.
    """
    plan = frontier.plan
    sums = {}
    for step in (s for s in plan.steps if s.spaces):
        axis = _axis(frontier, step)
        names = {t: plan.overlay.values[step.sink][t] for t in step.tasks}
        sums[step.name] = _Sums(step, {t: plan.nets[t].shapes[v][axis] for t, v in names.items()})
    for k in range(len(frontier.sources)):
        _add_source(frontier, k, sums)
    found = peers.sum("features", {f"{n}.{p}": a for n, s in sums.items() for p, a in _arrays(s).items()})
    for name, one in sums.items():
        one.count, one.total, one.products = (found[f"{name}.{p}"] for p in _arrays(one))
    return {name: s.covariance() for name, s in sums.items()}


def _arrays(sums: _Sums) -> dict[str, np.ndarray]:
    return {"count": sums.count, "total": sums.total, "products": sums.products}


def _axis(frontier: Frontier, step: Step) -> int:
    linear, view = frontier.geometry(step, frontier.source_of[step.tasks[0]])
    return linear.channel(view)


def _add_source(frontier: Frontier, k: int, sums: Mapping[str, _Sums]) -> None:
    """Run all nets on one source."""
    plan, source = frontier.plans[k], frontier.sources[k]
    ports = {
        t: tuple(
            Port(v, net.dtypes[v], net.shapes[v])
            for v in dict.fromkeys(plan.overlay.values[s.step.sink][t] for s in sums.values() if t in s.step.tasks)
        )
        for t, net in plan.nets.items()
    }
    sessions = {
        t: open_session(pruned(replace(plan.nets[t], outputs=p)), frontier.device, frontier.threads)
        for t, p in ports.items() if p
    }
    at = {name: _positions(frontier, s.step, k) for name, s in sums.items()}
    bytes_per_sample = 4 * sum(per_sample(p.shape) for some in ports.values() for p in some)
    size = frontier.fixed_batch or max(1, min(256, BATCH_BYTES // bytes_per_sample))
    for start in range(0, source.count, size):
        part = slice(start, min(start + size, source.count))
        values = {t: session.run(frontier.fed(t, k, part)) for t, session in sessions.items()}
        for name, one in sums.items():
            axis, sink, chosen = _axis(frontier, one.step), one.step.sink, at[name][part]
            rows = []
            for t in one.columns:
                before = in_front(sink, plan.overlay.exprs(sink, t), axis)
                value = values[t][plan.overlay.values[sink][t]]
                rows.append(pick(value, axis, np.arange(len(chosen)), chosen, before, len(chosen)))
            one.add(np.concatenate(rows, axis=1))


def _positions(frontier: Frontier, step: Step, k: int) -> np.ndarray:
    """Sampled positions, of a source that may belong to none of the step's tasks: then those of another source, repeated."""
    if any(frontier.source_of[t] == k for t in step.tasks):
        return frontier.positions(step, k)
    known = frontier.positions(step, frontier.source_of[step.tasks[0]])
    plan = frontier.plans[k]  # its samples may be smaller
    linear, view = linear_of(plan.overlay, plan.step(step.name).parts[0], step.tasks[0])
    return np.resize(known, (frontier.sources[k].count, known.shape[1])) % len(taps_of(linear, view))
