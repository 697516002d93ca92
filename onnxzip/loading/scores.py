"""Products of two values whose factors are scaled, for a merge: what scales them is one number behind the product.

    MatMul(s a, t b)      ->  s t MatMul(a, b)
    MatMul(a, b) / c      ->  MatMul(a, b) * (1 / c)

Scores of attention are written in all of these ways: queries scaled, queries and keys by the root, scores divided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.loading.params import Params, with_params
from onnxzip.net import Net, Node, consumers, producers, pruned

_MOVING = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_CLOSE = 1e-6  # relative, of a factor that is rounded several times


@dataclass(frozen=True)
class _Graph:
    """Who makes and who reads each value of a net, with what else is needed of it."""

    net: Net
    makers: Mapping[str, Node]
    readers: Mapping[str, list[Node]]
    ends: frozenset[str]

    def sole_reader(self, value: str) -> Node | None:
        found = self.readers.get(value, [])
        return found[0] if len(found) == 1 and value not in self.ends and found[0].read.count(value) == 1 else None

    def scaled(self, node: Node | None) -> tuple[str, float] | None:
        """What a node multiplies by a number, and the number; None where it does anything else."""
        if node is None or node.op not in ("Mul", "Div"):
            return None
        for k, value in enumerate(node.inputs):
            array = self.net.params.get(str(node.inputs[1 - k]))
            fits = array is not None and array.shape == () and array.dtype == np.float32 and np.isfinite(array) and array != 0
            if fits and value not in self.net.params and (node.op == "Mul" or k == 0):
                factor = float(array)  # type: ignore[arg-type]
                return str(value), factor if node.op == "Mul" else 1 / factor
        return None

    def scale_in_front(self, value: str) -> Node | None:
        """The node that scales what nothing but moves of axes lie between and a value that is read once."""
        while (maker := self.makers.get(value)) is not None and self.sole_reader(value) is not None:
            if self.scaled(maker) is not None:
                return maker
            if maker.op not in _MOVING or len(maker.inputs) != 1:
                return None
            value = str(maker.inputs[0])
        return None


def with_scales_behind(net: Net) -> Net:
    """The net with such factors behind the products.

    Requires numbers without axes, and Reshapes in one form.
    """
    graph = _Graph(net, producers(net.nodes), consumers(net.nodes), frozenset(p.name for p in net.outputs))
    params, instead, shapes = Params.of(net), dict[str, list[Node]](), dict(net.shapes)
    for node in net.nodes:
        if node.op != "MatMul" or len(node.inputs) != 2 or any(v in net.params for v in node.inputs):
            continue
        (out,) = node.outputs
        front = [s for v in node.read if (s := graph.scale_in_front(v)) is not None]
        behind = graph.sole_reader(out)
        scales = front + ([behind] if behind is not None and graph.scaled(behind) is not None else [])
        if not scales:
            continue
        factors = [found for s in scales if (found := graph.scaled(s)) is not None]
        number = params.added(f"{node.name}.scale", np.array(_plain(float(np.prod([f for _, f in factors])))))
        for scale, (value, _) in zip(front, factors, strict=False):
            instead[scale.name] = [replace(scale, op="Identity", inputs=(value,), attrs={})]
        if behind is not None and len(scales) > len(front):
            instead[behind.name] = [replace(behind, op="Mul", inputs=(out, number), attrs={})]
        else:
            product, name = (params.names.fresh(f"{v}.product") for v in (out, node.name))
            shapes[product] = net.shapes[out]
            multiplied = replace(node, op="Mul", inputs=(product, number))
            instead[node.name] = [replace(node, name=name, outputs=(product,)), multiplied]
    nodes = tuple(new for node in net.nodes for new in instead.get(node.name, [node]))
    dtypes = {**net.dtypes, **{v: np.dtype(np.float32) for v in shapes if v not in net.dtypes}}
    return pruned(with_params(replace(net, nodes=nodes, shapes=shapes, dtypes=dtypes), params))


def _plain(factor: float) -> float:
    """A factor; where it is the root of a whole number's inverse but for rounding, just that."""
    count = round(factor**-2) if 0 < factor < 1 else 0
    return count**-0.5 if count and abs(factor * count**0.5 - 1) < _CLOSE else factor
