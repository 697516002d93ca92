"""A net at an older opset: operators must exist there, and say what they say here.

In canonical form most of what opsets differ in is gone: an attribute that became an input (axes of ReduceMean) is one,
and lowering writes it as the opset has it. What an older operator cannot say must be what it does anyway: the default.
"""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import helper

from onnxzip.errors import UnsupportedError
from onnxzip.net import Net, Node
from onnxzip.ops import find
from onnxzip.runtime.lowering import schema_of
from onnxzip.runtime.nodes import value_of

OLDEST = 13  # Softmax and its kin mean something else before


def at_older_opset(net: Net, opset: int, where: str) -> Net:
    """The net at an opset not above its own, with the oldest IR version that allows it; `where` is for messages.

    Raises:
        UnsupportedError: an operator does not exist there, or cannot say what it says here.
    """
    if opset < OLDEST:
        raise UnsupportedError(f"{where}: opset {opset} is too old: {OLDEST} is the oldest that can be written.")
    older = replace(net, opset=opset)
    for node in net.nodes:
        _check(node, net, older, where)
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in net.opsets.items())]
    return replace(older, ir_version=helper.find_min_ir_version_for(domains, ignore_unknown=True))


def _check(node: Node, net: Net, older: Net, where: str) -> None:
    now, then = schema_of(node.op, net), schema_of(node.op, older)
    if now is None or now.domain:
        return
    place, later = f"{where}: node {node.name!r} ({node.op})", f"Use --opset {now.since_version}."
    if then is None:
        raise UnsupportedError(f"{place} does not exist in opset {older.opset}. {later}")
    if min(len(node.inputs), now.max_input) > then.max_input:  # a MatMul's bias is written as an Add
        raise UnsupportedError(f"{place} has {len(node.inputs)} inputs, which opset {older.opset} has not. {later}")
    record = find(node.op)
    inputs = set() if record is None else {name for at, name in record.constants.items() if at < then.max_input}
    for key, value in node.attrs.items():
        if value is None or key in then.attributes or key in inputs:
            continue
        if key not in now.attributes or value != _default(now.attributes[key]):
            raise UnsupportedError(f"{place} has {key} = {value}, which opset {older.opset} cannot say. {later}")


def _default(attribute: onnx.defs.OpSchema.Attribute) -> object:
    return value_of(attribute.default_value) if attribute.default_value.name else None
