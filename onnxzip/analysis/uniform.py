"""Params that say the same of every channel: nodes that read one and the same need not change their channels together.

Exporters write such params once for all nodes that have them: the scale 1 and the bias 0 of norms without weights (torch's
InstanceNorm2d), biases that begin with zeros. Each node gets one of its own here; a net of residual blocks with such norms is
one channel space otherwise, where it has one for each layer and its stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxzip.loading.params import Params, with_params
from onnxzip.net import Net, Node


def with_uniform_apart(nets: Sequence[Net]) -> tuple[Net, ...]:
    """The nets, no two nodes of which read one uniform param along channels."""
    return tuple(_apart(net) for net in nets)


def _apart(net: Net) -> Net:
    params = Params.of(net)
    ends = {p.name for p in net.outputs}
    shared = {v for v, a in net.params.items() if params.readers[v] > 1 and v not in ends and _is_uniform(a)}
    if not shared:
        return net

    def own(node: Node, value: str | None) -> str | None:
        """What a node reads in place of a value."""
        return params.added(f"{value}.{node.name}", net.params[str(value)]) if value in shared else value

    nodes = tuple(replace(n, inputs=tuple(own(n, v) for v in n.inputs)) for n in net.nodes)
    return with_params(replace(net, nodes=nodes), params)


def _is_uniform(array: np.ndarray) -> bool:
    """Whether an array has one axis of channels, all with the same number."""
    along_one = sum(n > 1 for n in array.shape) == 1 and array.dtype == np.float32
    return along_one and bool((array == array.flat[0]).all())
