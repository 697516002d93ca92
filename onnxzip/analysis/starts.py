"""Inputs that are streams: layers of the net add to their channels, or scale them, and others read the result.

    y = x - f(x)        ->        y = x' - f(x),   x' = W x,   W = 1

The channels of an input are nobody's, so that whatever makes such channels, and all that reads them behind it, would be each
task's own: N-BEATS, masks over features (TabNet), crosses of features (DCN), noise of a VAE. Behind a layer that is the same
in all tasks the stream is free. Layers that read the input itself still do.

An image is no such stream: each of its few channels says nearly all. Measured, two nets of three residual stages on their
input, blurred and noisy images, relative errors at share 1 without / with such a layer: 1 channel 0.03 and 0.02 / 0.19 and
0.12 (of other aims 0.02 and 0.05 / 0.30 and 0.71), 4 channels 0.07 and 0.02 / 0.24 and 0.20, 16 channels 0.19 and 0.07 / 0.29
and 0.22, in a file of 0.84 to 0.88 / 0.50 of both.
"""

from __future__ import annotations

import numpy as np

from onnxzip.analysis.caches import output_like
from onnxzip.analysis.coupling import Coupling, makes_of
from onnxzip.analysis.neutral import grafted
from onnxzip.analysis.own_ends import MOST, hidden_units, identity_layer, read_inside
from onnxzip.net import Axis, Names, Net, Port, consumers

NARROW = 8  # channels: of fewer, a stream stays each task's own


def with_free_starts(net: Net, coupling: Coupling) -> tuple[Net, frozenset[str]]:
    """The net with layers behind such inputs, and their names; as it is where there are none, or they would be too large."""
    ports = (p for k, p in enumerate(net.inputs) if not k or not output_like(net, p.name))  # states are each net's own
    streams = _streams(coupling)
    starts = {p: axis for p in ports if (axis := _axis(coupling, p, streams)) is not None}
    if not starts or sum(p.shape[axis] ** 2 for p, axis in starts.items()) > MOST * net.size:
        return net, frozenset()
    names, values, readers = Names({n.name for n in net.nodes}), Names(set(net.shapes)), consumers(net.nodes)
    added = set[str]()
    for port, axis in starts.items():
        out, name = values.fresh(f"{port.name}.stream"), names.fresh(f"{port.name}.stream")
        moved = frozenset(n.name for n in readers[port.name] if n.name not in makes_of(coupling.weighted))
        net = grafted(net, port.name, identity_layer(net, name, port.name, out, axis, values), moved)
        added.add(name)
    return net, frozenset(added)


def _streams(coupling: Coupling) -> set[int]:
    """Atoms of channels that weights make, and others read; those of hidden units, and of what these begin with, are none."""
    written = (coupling.axes[axis] for _, axis in makes_of(coupling.weighted).values())
    made = {a for expr in written if abs(expr.size) >= NARROW for a in expr.atoms()}
    return made & read_inside(coupling) - coupling.kept - hidden_units(coupling)


def _axis(coupling: Coupling, port: Port, streams: set[int]) -> int | None:
    """The axis of an input's channels, where they are those of a stream; None for other inputs."""
    last = len(port.shape) - 1
    if port.dtype != np.float32 or last < 1:
        return None
    return next((d for d in (last, 1) if streams.intersection(coupling.axes[Axis(port.name, d)].atoms())), None)
