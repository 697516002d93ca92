"""The activation behind a layer: what a net makes of the layer's value, each number alone, before anything else reads it.

It may be spelled out by several nodes (x sigmoid(x); x clip(x + 3, 0, 6) / 6, times a factor): they count as one function
if one value alone comes out of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxzip.analysis.steps import Step
from onnxzip.calibration.frontier import Frontier
from onnxzip.net import BATCH, Net, Node, Port, consumers, pruned, topological
from onnxzip.ops import find
from onnxzip.runtime import open_session

Function = Callable[[np.ndarray], np.ndarray]
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"})


def activation_of(frontier: Frontier, step: Step, task: str) -> Function:
    """The function of rows [rows, channels] of a step's targets; rows as they are where there is none, or a skip is added."""
    if step.bounds is not None:
        low, high = step.bounds
        return lambda rows: np.clip(rows, low, high)
    overlay = frontier.plan.overlay
    found = None if step.skips else _function(overlay.couplings[task].net, overlay.values[step.sink][task])
    if found is None:
        return lambda rows: rows
    session, (given,), (made,) = open_session(found, frontier.device, frontier.threads), found.inputs, found.outputs
    return lambda rows: np.asarray(session.run({given.name: rows})[made.name])


def _function(net: Net, value: str) -> Net | None:
    """What is done to a value, each number alone, as a net of rows; None where nothing is, or several values come out."""
    readers, inside, nodes = consumers(net.nodes), {value}, dict[str, Node]()
    waiting = list(readers.get(value, ()))
    while waiting:
        node = waiting.pop()
        if node.name not in nodes and _is_alone(net, node, inside):
            nodes[node.name] = node
            inside.update(node.outputs)
            waiting += [r for known in inside for r in readers.get(known, ()) if r.name not in nodes]
    ends = {p.name for p in net.outputs}
    leaving = [v for v in inside if v in ends or any(r.name not in nodes for r in readers.get(v, ()))]
    if len(leaving) != 1 or leaving[0] == value:
        return None
    kind, read = np.dtype(np.float32), {v for n in nodes.values() for v in n.inputs if v in net.params}
    params = {str(v): net.params[str(v)].reshape(()) for v in read}
    shapes = dict.fromkeys(inside, (BATCH, -1)) | dict.fromkeys(params, ())
    return pruned(Net(
        value, (Port(value, kind, (BATCH, -1)),), (Port(leaving[0], kind, (BATCH, -1)),),
        tuple(topological(list(nodes.values()), [value, *params])), params, shapes,
        dict.fromkeys(shapes, kind), net.opset, net.opsets, net.ir_version,
    ))


def _is_alone(net: Net, node: Node, inside: set[str]) -> bool:
    """Whether a node makes one value of such values alone, number by number."""
    operator, given = find(node.op), [v for v in node.read if v not in inside]
    if operator is None or len(node.outputs) != 1 or net.dtypes[node.outputs[0]] != np.float32:
        return False
    if node.op in _ARITHMETIC:
        return all(v in net.params and net.params[v].size == 1 and net.dtypes[v] == np.float32 for v in given)
    return operator.line == "*x -> *x" and not given
