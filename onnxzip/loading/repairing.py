"""Files that ONNX Runtime takes and onnx's checker does not, made valid in memory.

    ordering      nodes in front of those that they read
    outputs       outputs without their type or shape
    vendor_norms  norms of ONNX Runtime's under ONNX's domain
"""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from onnxzip.loading.ordering import put_in_order
from onnxzip.loading.outputs import with_typed_outputs
from onnxzip.loading.vendor_norms import with_norms_of_vendor

_IR_WITH_FREE_PARAMS = 4  # before, each param is an input of the graph, too


def put_right(path: Path, model: ModelProto) -> bool:
    """Make such a file valid, in place; whether it was one.

    Raises:
        InvalidModelError: as `put_in_order`.
    """
    repairs = (_with_graph_name, _with_one_domain, _with_free_params, with_norms_of_vendor, with_typed_outputs)
    return any([put_in_order(path, model), *(repair(model) for repair in repairs)])


def _with_graph_name(model: ModelProto) -> bool:
    unnamed = not model.graph.name
    if unnamed:
        model.graph.name = "net"
    return unnamed


def _with_one_domain(model: ModelProto) -> bool:
    """ONNX's own domain is the empty one, and may be written out in the imports alone."""
    named = [node for node in model.graph.node if node.domain == "ai.onnx"]
    for item in (*named, *(o for o in model.opset_import if named and o.domain == "ai.onnx")):
        item.domain = ""
    return bool(named)


def _with_free_params(model: ModelProto) -> bool:
    inputs = {port.name for port in model.graph.input}
    free = model.ir_version < _IR_WITH_FREE_PARAMS and any(t.name not in inputs for t in model.graph.initializer)
    if free:
        model.ir_version = _IR_WITH_FREE_PARAMS
    return free
