"""Nodes that compute nothing: Identity, Dropout in inference, Cast to the type it has, reductions over no axes.

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
        if not _is_idle(net, node, read):
            kept.append(node)
            continue
        before, after = node.inputs[0], node.outputs[0]
        assert before is not None
        if after not in outputs:
            names[after] = before
        elif before in outputs or before in fixed:
            kept.append(replace(node, op="Identity", inputs=(before,), outputs=(after,), attrs={}))
        else:
            kept = [renamed(n, {before: after}) for n in kept]
            names = {k: after if v == before else v for k, v in names.items()} | {before: after}
    return pruned(_without_spare_outputs(replace(net, nodes=tuple(kept))))


def _is_idle(net: Net, node: Node, read: set[str]) -> bool:
    if any(v in read for v in node.outputs[1:]):
        return False
    if node.op == "Dropout":
        return len(node.inputs) < 3 and not node.attrs.get("training_mode")
    if node.op == "Cast":
        return node.inputs[0] is not None and helper.tensor_dtype_to_np_dtype(node.attrs["to"]) == net.dtypes[node.inputs[0]]
    if node.op.startswith("Reduce"):
        return node.op in _IDLE_OVER_NOTHING and len(node.inputs) == 1 and node.attrs.get("axes") == ()
    return node.op == "Identity"


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
