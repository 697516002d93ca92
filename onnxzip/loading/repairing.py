"""Files that ONNX Runtime takes and onnx's checker does not, made valid in memory.

    a graph without a name; ONNX's own domain written out; params that are no inputs, before ONNX allows it
    nodes in front of those that they read      some converters put what they add (a Cast) behind all others
    outputs without their type or shape         as whoever adds one to a finished net leaves them
    norms of ONNX Runtime's in ONNX's domain    its optimizers write them there before ONNX has them

Only the main graph is looked at: so does ONNX Runtime, which orders its nodes itself.
"""

from __future__ import annotations

from copy import deepcopy
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from onnxzip.errors import InvalidModelError
from onnxzip.loading.subgraphs import read_around
from onnxzip.loading.vendor import VENDOR
from onnxzip.runtime import parts_of, put_nodes, tensor_outside

LISTED = 8  # nodes of a circle that a message names
_IR_WITH_FREE_PARAMS = 4  # before, each param is an input of the graph, too
_LAYER, _RMS = "LayerNormalization", "SimplifiedLayerNormalization"
_SINCE, _ALIKE_SINCE = 17, 13
_CHANGED = frozenset({"RoiAlign"})


def put_right(path: Path, model: ModelProto) -> bool:
    """Make such a file valid, in place; whether it was one.

    Raises:
        InvalidModelError: nodes read one another in a circle; `path` is for its message.
    """
    repairs = (_with_graph_name, _with_one_domain, _with_free_params, _with_norms_of_vendor, _with_typed_outputs)
    return any([_put_in_order(path, model), *(repair(model) for repair in repairs)])


def check_changed(path: Path, model: ModelProto) -> None:
    """onnx's check of a model that is no longer what its file holds; of params beside that file a byte of each file is read.

    onnx looks for these beside the file only where it reads the file itself. So it is given the model without them, and each
    place where some of them lie by itself.

    Raises:
        onnx.checker.ValidationError: it is no valid model, or params lie where onnx does not look for them.
        OSError, ValueError: they cannot be read.
    """
    outside = [tensor for tensor in parts_of(model, TensorProto) if uses_external_data(tensor)]
    for location in dict.fromkeys(ExternalDataInfo(tensor).location for tensor in outside):
        load_external_data_for_tensor(tensor_outside(location, TensorProto.UINT8, [1], location, 0, 1), str(path.parent))
    onnx.checker.check_model(_emptied(model) if outside else model)


def _emptied(model: ModelProto) -> ModelProto:
    """A copy whose params beside it have no entries."""
    copy = deepcopy(model)
    for tensor in parts_of(copy, TensorProto):
        if uses_external_data(tensor):
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    return copy


def _put_in_order(path: Path, model: ModelProto) -> bool:
    """Order the nodes, where they are in disorder; whether they were."""
    nodes = list(model.graph.node)
    given = {item.name for item in (*model.graph.input, *model.graph.initializer)}
    makers = {v: k for k, node in reversed(list(enumerate(nodes))) for v in node.output if v and v not in given}
    before = {k: [makers[value] for value in read_around(node) if value in makers] for k, node in enumerate(nodes)}
    if all(maker < k for k, found in before.items() for maker in found):
        return False
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise InvalidModelError(f"{path}: {_told([nodes[k] for k in error.args[1]])}. Export the net again.") from error
    put_nodes(model.graph, [nodes[k] for k in order])
    return True


def _told(cycle: list[NodeProto]) -> str:
    """What is wrong with nodes of which each is read by the next; the last one is the first again."""
    named = [f"{node.name or node.output[0]!r} ({node.op_type})" for node in cycle]
    if len(named) > LISTED + 1:
        named[LISTED:-1] = [f"{len(named) - LISTED - 1} more"]
    return f"its nodes read one another in a circle: {' -> '.join(named)}"


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


def _with_norms_of_vendor(model: ModelProto) -> bool:
    """LayerNormalization came with opset 17; a file of opset 13 to 16 that has one is one of opset 17, as its other operators
    mean the same there (all but RoiAlign). SimplifiedLayerNormalization, x / sqrt(mean(x^2) + e) w, becomes the vendor's own
    operator."""
    plain = [node for node in model.graph.node if not node.domain]
    own = next((o for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    simplified = [node for node in plain if node.op_type == _RMS]
    for node in simplified:
        node.domain = VENDOR
    if simplified and all(o.domain != VENDOR for o in model.opset_import):
        model.opset_import.add(domain=VENDOR, version=1)
    ops = {node.op_type for node in plain}
    early = own is not None and _LAYER in ops and _ALIKE_SINCE <= own.version < _SINCE and not ops & _CHANGED
    if early and own is not None:
        own.version = _SINCE
    return early or bool(simplified)


def _with_typed_outputs(model: ModelProto) -> bool:
    """ONNX Runtime finds out by itself what outputs are; onnx's checker wants it told."""
    untold = [port for port in model.graph.output if _is_untold(port)]
    if not untold:
        return False
    found = {port.name: port for port in shape_inference.infer_shapes(model).graph.output}
    for port in untold:
        port.CopyFrom(found[port.name])
    return True


def _is_untold(port: ValueInfoProto) -> bool:
    return port.type.WhichOneof("value") in (None, "tensor_type") and not port.type.tensor_type.HasField("shape")
