"""Recurrent nodes on calibration samples: the gates and states of the original nets, and those of the fused net.

An original net is run once more up to each such node: what the zip keeps of it are sampled positions, and states need all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.calibration.covariances import covariance_of
from onnxzip.calibration.frontier import Frontier
from onnxzip.net import Net, Node, Port, Shape, pruned
from onnxzip.ops.recurrent import STATES
from onnxzip.peers import Peers
from onnxzip.runtime import Session, open_session


@dataclass(frozen=True)
class Course:
    """What a recurrent node does on some samples.

    Attributes:
        gates: that it reads [steps, samples, gates x units].
        states: hidden ones behind each step [steps, samples, units].
        begins: in front of all steps: hidden states [samples, units] and, of an LSTM, those of its cells, as far as the node
            does not begin with zeros.
        ends: what these are behind all steps.
    """

    gates: np.ndarray
    states: np.ndarray
    begins: tuple[np.ndarray, ...]
    ends: tuple[np.ndarray, ...]


def begins_of(node: Node) -> dict[int, str]:
    """What a recurrent node begins with, by the place among its outputs of what it ends as."""
    return {end: v for k, end in STATES.items() if (v := node.input(k)) is not None}


def original_values(frontier: Frontier, task: str, values: Sequence[str]) -> Iterator[list[np.ndarray]]:
    """Some values of a task's own net, per batch of the task's samples."""
    k = frontier.source_of[task]
    net = frontier.plans[k].nets[task]
    ports = tuple(Port(v, net.dtypes[v], net.shapes[v]) for v in values)
    session = open_session(pruned(replace(net, outputs=ports, tail=None)), frontier.device, frontier.threads)
    for part in frontier.batches[k]:
        found = session.run(frontier.fed(task, k, part))
        yield [found[v] for v in values]


def original_states(frontier: Frontier, task: str, node: Node) -> Iterator[Course]:
    """What a task's own net does at a recurrent node that reads its gates, per batch of the task's samples."""
    k = frontier.source_of[task]
    net = frontier.plans[k].nets[task]
    gates, units, kind = str(node.inputs[0]), net.shapes[str(node.inputs[2])][2], net.dtypes[str(node.inputs[0])]
    asked, made = _asked(node, net.shapes[gates], units)
    begins = {v: net.shapes[v] for v in begins_of(node).values()}
    read = {gates: net.shapes[gates]} | {v: s for v, s in begins.items() if v not in net.params}
    whole = replace(
        net, nodes=tuple(asked if n.name == node.name else n for n in net.nodes), tail=None,
        outputs=tuple(Port(v, kind, s) for v, s in (read | made).items()),
        shapes={**net.shapes, **made}, dtypes={**net.dtypes, **dict.fromkeys(made, kind)},
    )
    session = open_session(pruned(whole), frontier.device, frontier.threads)
    for part in frontier.batches[k]:
        found = {**net.params, **session.run(frontier.fed(task, k, part))}
        states, *ends = (found[v] for v in made)
        rows = states.shape[2:]
        yield Course(
            found[gates], states[:, 0], tuple(np.broadcast_to(found[v][0], rows) for v in begins), tuple(e[0] for e in ends)
        )


def states_covariance(frontier: Frontier, task: str, node: Node, peers: Peers) -> np.ndarray:
    """Of the hidden units of a task's own net, over all samples and steps: float64 [units, units]."""
    rows = (course.states.reshape(-1, course.states.shape[2]) for course in original_states(frontier, task, node))
    return covariance_of(rows, f"{node.name}, covariance of {task}", peers)


def steps_session(frontier: Frontier, k: int, node: Node, params: Mapping[str, np.ndarray]) -> tuple[Session, tuple[str, ...]]:
    """A fused recurrent node alone, for the samples of one source: gates, and what it begins with -> states of all steps
    [steps, 1, samples, units], and what those end as that it begins with [1, samples, units], by these names.

    Args:
        params: of the node, at least.
    """
    gates, float32, shapes = str(node.inputs[0]), np.dtype(np.float32), frontier.plans[k].layout.shapes
    own = {v: params[v] for v in node.read[1:] if v in params}
    asked, made = _asked(node, shapes[gates], own[str(node.inputs[2])].shape[2])
    read = {v: shapes[v] for v in node.read if v not in own}
    base = next(iter(frontier.plan.nets.values()))
    inputs, outputs = (tuple(Port(v, float32, s) for v, s in some.items()) for some in (read, made))
    known = {**read, **made, **{v: a.shape for v, a in own.items()}}
    net = Net(
        node.name, inputs, outputs, (asked,), own, known, dict.fromkeys(known, float32), base.opset, ir_version=base.ir_version
    )
    return open_session(net, frontier.device, frontier.threads), tuple(made)


def _asked(node: Node, gates: Shape, units: int) -> tuple[Node, dict[str, Shape]]:
    """A recurrent node with all that is asked of it, and the shapes of that: first its states, then what they end as."""
    wanted = (0, *begins_of(node))
    called = [*node.outputs, "", "", ""]
    outputs = [(called[k] or f"{node.name}.states.{k}") if k in wanted else "" for k in range(3)]
    steps, samples, _ = gates
    shapes: dict[str, Shape] = {outputs[k]: (1, samples, units) if k else (steps, 1, samples, units) for k in wanted}
    while not outputs[-1]:
        outputs.pop()
    return replace(node, outputs=tuple(outputs)), shapes
