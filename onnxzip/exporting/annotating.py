"""Owners and share of each node of a fused file, in the node itself, where viewers such as Netron show them.

Nodes have metadata_props since IR version 10. A fused file keeps the IR version of its originals, since runtimes that lag
refuse newer ones; below 10 the same stands in the node's doc_string, which every version has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from onnx import ModelProto, NodeProto

from onnxzip.exporting.metadata import PREFIX
from onnxzip.exporting.traces import NodeTrace, read_trace

IR_WITH_NODE_METADATA = 10


def annotate(model: ModelProto, entries: Mapping[str, str]) -> None:
    """Let each node of a fused model say who needs it and how much of it is shared, in place.

    Args:
        entries: the model's metadata; nodes that they do not know say nothing.
    """
    trace = read_trace(entries, model.graph.name)
    owners = {node: tasks for tasks, nodes, _ in json.loads(entries[PREFIX + "owners"]) for node in nodes}
    for node in model.graph.node:
        if node.name in owners:
            known = trace.nodes.get(node.name, NodeTrace()).among(trace.tasks)
            notes = {"owners": ", ".join(owners[node.name]), "share": f"{known.share(owners[node.name]):.3g}"}
            _put(node, notes, model.ir_version)


def _put(node: NodeProto, notes: Mapping[str, str], ir_version: int) -> None:
    if ir_version < IR_WITH_NODE_METADATA:
        node.doc_string = "; ".join(f"{PREFIX}{key}: {value}" for key, value in notes.items())
        return
    kept = [p for p in node.metadata_props if not p.key.startswith(PREFIX)]
    del node.metadata_props[:]
    node.metadata_props.extend(kept)
    for key, value in notes.items():
        node.metadata_props.add(key=PREFIX + key, value=value)
