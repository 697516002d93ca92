"""Single numbers that act on channels, where they are others in each net: one number for each channel instead.

    s x  ->  s_c x_c        weights of a fused map (BiFPN), the gamma of an attention branch, the slope of a PRelu

So they are what any other param is that channels carry and no fit makes: a channel of one net's own keeps that net's number, a
shared one has the mean of its owners'. A number that is the same in all nets (the 0.5 of a spelled-out GELU) stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnxzip.analysis.deepening import Deepened
from onnxzip.analysis.likeness import channel_numbers, numbers_of
from onnxzip.net import Names, Net, Node, Shape, with_more_params

Places = dict[tuple[str, int], int]  # node and position among its inputs -> axis of the channels


def laid_over(nets: Sequence[Net], lay: Callable[[Sequence[Net]], Deepened]) -> Deepened:
    """Nets laid over each other, with numbers for each channel wherever they correspond but for a number."""
    while True:
        found = lay(nets)
        apart = _apart(found)
        if not any(apart.values()):
            return found
        nets = [_spread(net, apart[net.name]) for net in nets]


def _apart(found: Deepened) -> dict[str, Places]:
    """Per task, the numbers of nodes that play a part together with others that have another number there."""
    couplings = found.laid.couplings
    places: dict[str, Places] = {t: {} for t in couplings}
    for role in found.laid.roles:
        if len({numbers_of(couplings[t], node) for t, node in role.members.items()}) > 1:
            for task, node in role.members.items():
                numbers = channel_numbers(couplings[task], node)
                places[task] |= {(node.name, k): axis for k, axis in numbers.items()}
    return places


def _spread(net: Net, places: Places) -> Net:
    """The net with one number for each channel in some places."""
    names, added = Names({*net.shapes}), dict[tuple[str, Shape], str]()
    readers = Counter(v for node in net.nodes for v in node.inputs)
    nodes = list[Node]()
    for node in net.nodes:
        inputs, shape = list(node.inputs), net.shapes[node.outputs[0]]
        for k in (k for k in range(len(inputs)) if (node.name, k) in places):
            param, axis = str(inputs[k]), places[node.name, k]
            key = param, (shape[axis], *(1,) * (len(shape) - axis - 1))
            added.setdefault(key, param if readers[param] == 1 else names.fresh(param))
            inputs[k] = added[key]
        nodes.append(replace(node, inputs=tuple(inputs)))
    arrays = {name: np.full(shape, net.params[param].item(), net.dtypes[param]) for (param, shape), name in added.items()}
    return with_more_params(net, nodes, arrays)
