"""Norms that ONNX Runtime's optimizers write under ONNX's own domain before ONNX has them: such a file is no ONNX yet.

LayerNormalization came with opset 17; a file of opset 13 to 16 that has one is one of opset 17, as its other operators mean
the same there (all but RoiAlign). SimplifiedLayerNormalization, x / sqrt(mean(x^2) + e) w, becomes the vendor's own operator.
"""

from __future__ import annotations

from onnx import ModelProto

_LAYER, _RMS = "LayerNormalization", "SimplifiedLayerNormalization"
_SINCE, _ALIKE_SINCE = 17, 13
_CHANGED = frozenset({"RoiAlign"})
VENDOR = "com.microsoft"


def with_norms_of_vendor(model: ModelProto) -> bool:
    """Make such a file valid, in place; whether it was such a file."""
    plain = [node for node in model.graph.node if node.domain in ("", "ai.onnx")]
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
