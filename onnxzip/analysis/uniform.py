"""Params that say the same of every channel: nodes that read one and the same need not change their channels together.

Exporters write such params once for all nodes that have them: the scale 1 and the bias 0 of norms without weights (torch's
InstanceNorm2d), biases that begin with zeros. Each node gets one of its own here; a net of residual blocks with such norms is
one channel space otherwise, where it has one for each layer and its stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxzip.net import Names, Net


def with_uniform_apart(nets: Sequence[Net]) -> tuple[Net, ...]:
    """The nets, no two nodes of which read one uniform param along channels."""
    return tuple(_apart(net) for net in nets)


def _apart(net: Net) -> Net:
    reads = Counter(v for n in net.nodes for v in n.inputs if v is not None and v in net.params)
    shared = {v for v, count in reads.items() if count > 1 and _is_uniform(net.params[v])} - {p.name for p in net.outputs}
    if not shared:
        return net
    names, copies, nodes = Names({*net.shapes}), dict[str, np.ndarray](), []
    for node in net.nodes:
        inputs = list(node.inputs)
        for k, value in enumerate(inputs):
            if value in shared:
                inputs[k] = names.fresh(f"{value}.{node.name}")
                copies[str(inputs[k])] = net.params[value]
        nodes.append(replace(node, inputs=tuple(inputs)))
    left = {v: a for v, a in net.params.items() if v not in shared} | copies
    gone = {v: s for v, s in net.shapes.items() if v not in shared}
    types = {v: t for v, t in net.dtypes.items() if v not in shared}
    return replace(
        net, nodes=tuple(nodes), params=left, shapes=gone | {v: a.shape for v, a in copies.items()},
        dtypes=types | {v: a.dtype for v, a in copies.items()},
    )


def _is_uniform(array: np.ndarray) -> bool:
    """Whether an array has one axis of channels, all with the same number."""
    along_one = sum(n > 1 for n in array.shape) == 1 and array.dtype.kind == "f"
    return along_one and bool((array == array.flat[0]).all())
