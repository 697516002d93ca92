"""Recurrent nodes on calibration samples: the gates and states of the original nets, and those of the fused net.

An original net is run once more up to each such node: what the zip keeps of it are sampled positions, and states need all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from onnxzip.calibration.covariances import covariance_of
from onnxzip.calibration.frontier import Frontier
from onnxzip.net import Net, Node, Port, pruned
from onnxzip.peers import Peers
from onnxzip.runtime import Session, open_session

STATES = "states"


def original_states(frontier: Frontier, task: str, node: Node) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per batch of a task's samples, what its own net computes at a recurrent node that reads its gates.

    Returns:
        Gates as the inputs make them [steps, samples, gates x units], the states behind each step [steps, samples, units], and
        those in front of the first one [samples, units].
    """
    k = frontier.source_of[task]
    net = frontier.plans[k].nets[task]
    gates = str(node.inputs[0])
    steps, samples, _ = net.shapes[gates]
    states = node.outputs[0] or f"{node.name}.{STATES}"
    shape, kind = (steps, 1, samples, net.shapes[str(node.inputs[2])][2]), net.dtypes[gates]
    asked = replace(node, outputs=(states, *node.outputs[1:]))
    begin = node.input(5)
    begins = () if begin is None or begin in net.params else (Port(begin, kind, net.shapes[begin]),)
    whole = replace(
        net, nodes=tuple(asked if n.name == node.name else n for n in net.nodes),
        outputs=(Port(gates, kind, net.shapes[gates]), Port(states, kind, shape), *begins),
        shapes={**net.shapes, states: shape}, dtypes={**net.dtypes, states: kind},
    )
    session = open_session(pruned(whole), frontier.device, frontier.threads)
    for part in frontier.batches[k]:
        found = session.run(frontier.fed(task, k, part))
        first = net.params[str(begin)] if begin in net.params else found.get(str(begin), np.zeros((1, 1, shape[3]), kind))
        yield found[gates], found[states][:, 0], np.broadcast_to(first[0], found[states].shape[2:])


def states_covariance(frontier: Frontier, task: str, node: Node, peers: Peers) -> np.ndarray:
    """Of the hidden units of a task's own net, over all samples and steps: float64 [units, units]."""
    rows = (states.reshape(-1, states.shape[2]) for _, states, _ in original_states(frontier, task, node))
    return covariance_of(rows, f"{node.name}, covariance of {task}", peers)


def steps_session(frontier: Frontier, k: int, node: Node, params: Mapping[str, np.ndarray]) -> Session:
    """A fused recurrent node alone, for the samples of one source: gates, and states that it begins with -> `STATES`
    [steps, 1, samples, units].

    Args:
        params: of the node, at least.
    """
    gates, float32 = str(node.inputs[0]), np.dtype(np.float32)
    steps, samples, _ = shape = frontier.plans[k].layout.shapes[gates]
    own = {v: params[v] for v in node.read[1:] if v in params}
    begins = {v: frontier.plans[k].layout.shapes[v] for v in node.read[1:] if v not in params}
    made = (steps, 1, samples, own[str(node.inputs[2])].shape[2])
    base = next(iter(frontier.plan.nets.values()))
    net = Net(
        node.name, tuple(Port(v, float32, s) for v, s in ({gates: shape} | begins).items()), (Port(STATES, float32, made),), (replace(node, outputs=(STATES,)),), own,
        {gates: shape, STATES: made, **begins, **{v: a.shape for v, a in own.items()}},
        dict.fromkeys((gates, STATES, *begins, *own), float32), base.opset, ir_version=base.ir_version,
    )
    return open_session(net, frontier.device, frontier.threads)
