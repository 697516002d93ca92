"""inspect: a file -> what is in it, as plain dicts that go to JSON as they are.

Fused files tell by their metadata where they come from; any other net is told by its own coupling.
"""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxzip.analysis.coupling import couple
from onnxzip.exporting.metadata import is_fused
from onnxzip.exporting.outside import size_of, size_with_numbers
from onnxzip.exporting.report import sha256_of, source_size
from onnxzip.exporting.splitting import split_model
from onnxzip.exporting.traces import read_trace
from onnxzip.inspection.merged import Needs, merged_entries, owned_entry
from onnxzip.inspection.parts import node_entries, output_entries, port_entry
from onnxzip.inspection.plain import plain_entries
from onnxzip.loading import look_at
from onnxzip.loading.dims import free_axes
from onnxzip.loading.files import opset_of, read_to_look
from onnxzip.loading.in_front import axes_of, with_samples_in_front
from onnxzip.net import macs, place_in_file
from onnxzip.runtime import needed_nodes, read_by

INSPECT_VERSION = 1


def inspect(path: str | PathLike[str]) -> dict[str, Any]:
    """What is in a file: nodes and spaces; of a fused one also owners, costs of tasks and switches, errors and pairs.

    Args:
        path: any ONNX net that can be read; external data are looked for beside it.

    Returns:
        schema_version, kind (`merged` or `net`), file, unused (what no output needs), inputs, outputs, sizes (axes of any
        size, with the one that all numbers are for), nodes, spaces, refusals; of a fused file also merge, tasks, owners,
        switches. Bytes of nodes, owners and switches are those of params.

    Raises:
        InvalidModelError: it is no ONNX net, or its onnxzip metadata are damaged.
        UnsupportedError: its shapes cannot be found.
    """
    file = Path(path)
    return inspect_model(file, read_to_look(file))


def inspect_model(file: Path, model: ModelProto) -> dict[str, Any]:
    """`inspect` of a file that has been read."""
    net, axes = look_at(file, model), axes_of(model)
    free = {place_in_file(a, axes.get(a.value, 0)): n for a, n in free_axes(with_samples_in_front(model, axes)).items()}
    coupling = couple(net)
    nodes = node_entries(net, coupling)
    size = source_size(file, macs(net))
    report: dict[str, Any] = {
        "schema_version": INSPECT_VERSION,
        "kind": "net",
        "file": {
            "source": str(file), "sha256": sha256_of(file), **size.as_dict(),
            "opset": opset_of(model), "ir_version": int(model.ir_version), "producer": model.producer_name,
        },
        "unused": unused(model),
        "graph": model.graph.name,
        "inputs": [port_entry(net, coupling, p) for p in net.inputs],
        "outputs": output_entries(net, coupling),
        "sizes": [
            {"input": axis.value, "axis": axis.dim, "name": name, "size": net.shapes[axis.value][axis.dim]}
            for axis, name in free.items()
        ],
    }
    if not is_fused(net.metadata):
        return report | plain_entries(net, coupling) | {"nodes": nodes}
    trace = read_trace(net.metadata, str(file))
    needs = Needs(net, trace, str(file))
    alone = {task: size_of(split_model(model, task, str(file))) for task in trace.tasks}
    owned = [node | owned_entry(trace, needs, node["name"]) for node in nodes]
    return report | {"kind": "merged"} | merged_entries(net, trace, needs, alone) | {"nodes": owned}


def unused(model: ModelProto) -> dict[str, int]:
    """Nodes that no output needs, and params (with their bytes in the file) that only such nodes read, or none."""
    graph = model.graph
    ends = {port.name for port in graph.output}
    needed = needed_nodes(graph, ends)
    read = ends | {value for node in needed for value in read_by(node)}
    idle = [tensor for tensor in graph.initializer if tensor.name not in read]
    return {
        "nodes": len(graph.node) - len(needed),
        "params": sum(math.prod(tensor.dims) for tensor in idle),
        "bytes": sum(size_with_numbers(tensor) for tensor in idle),
    }
