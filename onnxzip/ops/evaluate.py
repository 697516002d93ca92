"""Run a net by the torch functions of its operators: the interpreter that retraining differentiates through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxzip.errors import UnsupportedError
from onnxzip.net import Net, Node
from onnxzip.ops.lazy import torch
from onnxzip.ops.registry import find


def _obstacle(node: Node) -> str | None:
    """Why a node cannot be run."""
    operator = find(node.op)
    if operator is None:
        return "is not registered"
    computed = [name for k, name in operator.constants.items() if k < len(node.inputs) and node.inputs[k] is not None]
    return f"has a computed {computed[0]}, which must be constant" if computed else None


def _check(net: Net) -> None:
    """Every node must be known to run before any is run; each obstacle is named once, at its first node."""
    found: dict[tuple[str, str], str] = {}
    for node in net.nodes:
        if (why := _obstacle(node)) is not None:
            found.setdefault((node.op, why), node.name)
    if found:
        listed = ", ".join(f"{op} {why} (node {name!r})" for (op, why), name in found.items())
        raise UnsupportedError(f"net {net.name!r} cannot be run in torch: {listed}")


def _outputs(net: Net, node: Node, values: Mapping[str, Any]) -> tuple[Any, ...]:
    operator = find(node.op)
    assert operator is not None
    result = operator.torch(*(None if v is None else values[v] for v in node.inputs), **node.attrs)
    results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if len(results) < len(node.outputs):
        asked = f"{len(node.outputs)} outputs of it are asked for, {len(results)} can be run in torch"
        raise UnsupportedError(f"net {net.name!r}, node {node.name!r} ({node.op}): {asked}")
    return results


def evaluate(net: Net, feeds: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The net's outputs by name.

    Args:
        net: in canonical form.
        feeds: a tensor for each graph input.
        params: tensors in place of the net's params, by name: those that are trained.

    Raises:
        UnsupportedError: some operators have no record (all of them are named), or give fewer outputs than the net reads.
    """
    _check(net)
    device = next((x.device for x in feeds.values()), "cpu")
    given = {} if params is None else params
    constants = {k: torch.from_numpy(np.array(v)).to(device) for k, v in net.params.items() if k not in given}
    values: dict[str, Any] = {**constants, **given, **feeds}
    for node in net.nodes:
        values.update(zip(node.outputs, _outputs(net, node, values), strict=False))
    return {port.name: values[port.name] for port in net.outputs}
