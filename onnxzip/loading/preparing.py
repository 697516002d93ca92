"""ModelProto -> ModelProto, before anything is known of shapes: functions inlined, one opset, every node and output named."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, inliner, numpy_helper, version_converter

from onnxzip.errors import UnsupportedError, UsageError
from onnxzip.loading.branches import without_plain_branches
from onnxzip.loading.files import opset_of, plain
from onnxzip.loading.vendor import take_apart
from onnxzip.runtime import newest_versions, parts_of, put_nodes

OLDEST_CANONICAL_OPSET = 13
_COORDINATE_MODES_OPSET = 11
OLD_ROUNDING = ""
_OLDEST_IR = 8


def prepare(path: Path, model: ModelProto, opset: int) -> ModelProto:
    """The model at the given opset, without local functions, with unique node names and no empty inner outputs.

    Raises:
        UsageError: the opset is below the model's, or too old.
        UnsupportedError: onnx cannot convert the model to that opset.
    """
    least, newest = max(opset_of(model), OLDEST_CANONICAL_OPSET), newest_versions()[0]
    if not least <= opset <= newest:
        raise UsageError(f"{path}: cannot be brought to opset {opset}; ask for {least} to {newest}.")
    if model.functions:
        model = inliner.inline_local_functions(model)
    model = deepcopy(model)
    take_apart(model, opset_of(model))
    converted = _converted(path, model, opset) if opset_of(model) < opset else model
    if opset_of(model) < _COORDINATE_MODES_OPSET:
        _scale_from_the_corner(converted)
    _plain_domains(converted)
    _one_name_each(converted.graph)
    without_plain_branches(converted)
    _name_everything(converted)
    _plain_constants(converted)
    _expand_constants(converted)
    _slice_shapes(converted)
    converted.ir_version = max(model.ir_version, _OLDEST_IR)
    del converted.graph.value_info[:]
    return converted


def _converted(path: Path, model: ModelProto, opset: int) -> ModelProto:
    try:
        converted = version_converter.convert_version(model, opset)
    except (RuntimeError, version_converter.ConvertError) as error:
        why = re.sub(r"^\S+:\d+: .*?Assertion `.*?` failed: ", "", plain(error))  # where in onnx's sources it stands
        raise UnsupportedError(
            f"{path}: cannot be converted from opset {opset_of(model)} to {opset}: {why}. Export the net with opset {opset}."
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def _scale_from_the_corner(model: ModelProto) -> None:
    """Before Resize had modes of coordinates, it and Upsample took x / scale; onnx leaves them today's default, pixel centres.

    How nearest rounded has no name: up it was floor, down ceil. An empty name stands for it, in ONNX Runtime too.
    """
    for node in parts_of(model.graph, NodeProto):
        if node.op_type == "Resize" and not node.domain:
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            if all(a.s == b"nearest" for a in node.attribute if a.name == "mode"):
                node.attribute.append(helper.make_attribute("nearest_mode", OLD_ROUNDING))


def _plain_domains(model: ModelProto) -> None:
    for item in (*model.opset_import, *model.graph.node):
        if item.domain == "ai.onnx":
            item.domain = ""


def _one_name_each(graph: GraphProto) -> None:
    """An Identity of a param is that param: so torch writes one that two layers read."""
    params, outputs = {t.name for t in graph.initializer}, {p.name for p in graph.output}
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity" and not node.domain and node.output[0] not in outputs:
            name = same.get(node.input[0], node.input[0])
            same |= {node.output[0]: name} if name in params else {}
    for node in parts_of(graph, NodeProto):
        for at, value in enumerate(node.input):
            node.input[at] = same.get(value, value)
    for node in [n for n in graph.node if n.output[:1] and n.output[0] in same]:
        graph.node.remove(node)


def _name_everything(model: ModelProto) -> None:
    """`Op_k` for nodes without a name; names that occur twice get a number; empty inner outputs get a name."""
    nodes = list(parts_of(model.graph, NodeProto))
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    for k, node in enumerate(nodes):
        wish = node.name or f"{node.op_type}_{k}"
        name, count = wish, 1
        while name in seen or (name != node.name and name in taken):
            name, count = f"{wish}_{count}", count + 1
        seen.add(name)
        node.name = name
        while node.output and not node.output[-1]:
            del node.output[-1]
        for at, value in enumerate(node.output):
            node.output[at] = value or f"{name}.unused.{at}"


def _plain_constants(model: ModelProto) -> None:
    """Numbers in attributes of Constant nodes become tensors: graphsurgeon reads them in other types than ONNX does.

    Those of the graph itself become initializers, as what PaddlePaddle writes has all its weights in Constant nodes.
    """
    types = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for node in parts_of(model.graph, NodeProto):
        for attribute in node.attribute if node.op_type == "Constant" and not node.domain else ():
            if attribute.name in types:
                value = np.array(helper.get_attribute_value(attribute), types[attribute.name])
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
    outputs = {p.name for p in model.graph.output}
    held = [n for n in model.graph.node if _is_tensor(n) and n.output[0] not in outputs]
    for node in held:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
    put_nodes(model.graph, [n for n in model.graph.node if not _is_tensor(n) or n.output[0] in outputs])


def _is_tensor(node: NodeProto) -> bool:
    return node.op_type == "Constant" and not node.domain and any(a.name == "value" for a in node.attribute)


def _expand_constants(model: ModelProto) -> None:
    """ConstantOfShape is the Expand of a scalar: one operator less to know."""
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape" and not node.domain:
            value = next((numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"), np.zeros(1, np.float32))
            scalar = numpy_helper.from_array(value.reshape(()), f"{node.name}.value")
            model.graph.initializer.append(scalar)
            node.CopyFrom(helper.make_node("Expand", [scalar.name, node.input[0]], list(node.output), name=node.name))


def _slice_shapes(model: ModelProto) -> None:
    """Shape of some axes becomes a Slice of the whole Shape: graphsurgeon folds Shape without looking at start and end."""
    nodes = []
    for node in model.graph.node:
        cut = {a.name: a.i for a in node.attribute} if node.op_type == "Shape" and not node.domain else {}
        if not cut:
            nodes.append(node)
            continue
        bounds = {"starts": cut.get("start", 0), "ends": cut.get("end", np.iinfo(np.int64).max)}
        names = {key: f"{node.name}.{key}" for key in (*bounds, "whole")}
        model.graph.initializer.extend(numpy_helper.from_array(np.array([v]), names[k]) for k, v in bounds.items())
        nodes.append(helper.make_node("Shape", list(node.input), [names["whole"]], name=names["whole"]))
        inputs = [names["whole"], names["starts"], names["ends"]]
        nodes.append(helper.make_node("Slice", inputs, list(node.output), name=node.name))
    put_nodes(model.graph, nodes)


def opset_imports(model: ModelProto) -> dict[str, int]:
    """Versions of the domains other than the default one that the nodes use."""
    used = {node.domain for node in model.graph.node}
    return {o.domain: int(o.version) for o in model.opset_import if o.domain and o.domain in used}
