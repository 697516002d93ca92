"""Nodes that compute nothing: Identity, Dropout in inference, Cast to the type it has, reductions over no axes, x + 0.

The values that their readers read afterwards are those before them; a graph output keeps its name.
"""

from __future__ import annotations

from dataclasses import replace

from onnx import helper

from onnxzip.net import Net, Node, pruned, renamed, renamed_inputs

_IDLE_OVER_NOTHING = frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"})


def without_idle_nodes(net: Net) -> Net:
    """The net without nodes that hand their input through."""
    outputs, fixed = {p.name for p in net.outputs}, {p.name for p in net.inputs} | set(net.params)
    read = {v for node in net.nodes for v in node.read} | outputs
    names: dict[str, str] = {}
    kept: list[Node] = []
    for node in net.nodes:
        node = renamed_inputs(node, names)
        before, after = _handed(net, node, read), node.outputs[0]
        if before is None:
            kept.append(node)
            continue
        if after not in outputs:
            names[after] = before
        elif before in outputs or before in fixed:
            kept.append(replace(node, op="Identity", inputs=(before,), outputs=(after,), attrs={}))
        else:
            kept = [renamed(n, {before: after}) for n in kept]
            names = {k: after if v == before else v for k, v in names.items()} | {before: after}
    return pruned(_without_spare_outputs(replace(net, nodes=tuple(kept))))


def _handed(net: Net, node: Node, read: set[str]) -> str | None:
    """The input that a node hands through; None where it computes something."""
    if any(v in read for v in node.outputs[1:]):
        return None
    if node.op == "Add":
        return next((x for x, zero in (node.inputs, node.inputs[::-1]) if x and _adds_nothing(net, zero, x)), None)
    first = node.input(0)
    return first if first is not None and _is_idle(net, node, first) else None


def _is_idle(net: Net, node: Node, first: str) -> bool:
    if node.op == "Dropout":
        return len(node.inputs) < 3 and not node.attrs.get("training_mode")
    if node.op == "Cast":
        return bool(helper.tensor_dtype_to_np_dtype(node.attrs["to"]) == net.dtypes[first])
    if node.op.startswith("Reduce"):
        return node.op in _IDLE_OVER_NOTHING and len(node.inputs) == 1 and node.attrs.get("axes") == ()
    return node.op == "Identity"


def _adds_nothing(net: Net, zero: str | None, value: str) -> bool:
    """Whether a param is a single zero that gives a value no more axes: so an exporter keeps an input that nothing reads."""
    param = net.params.get(str(zero))
    return param is not None and param.size == 1 and param.ndim <= len(net.shapes[value]) and not param.any()


# operators whose outputs behind the first are optional, so that unread ones can go
_OPTIONAL_OUTPUTS = frozenset({"BatchNormalization", "Dropout", "MaxPool", "LayerNormalization", "LSTM", "GRU", "RNN"})


def _without_spare_outputs(net: Net) -> Net:
    read = {v for node in net.nodes for v in node.read} | {p.name for p in net.outputs}
    nodes = []
    for node in net.nodes:
        outputs = list(node.outputs)
        while node.op in _OPTIONAL_OUTPUTS and len(outputs) > 1 and outputs[-1] not in read:
            outputs.pop()
        nodes.append(replace(node, outputs=tuple(outputs)))
    return replace(net, nodes=tuple(nodes))
