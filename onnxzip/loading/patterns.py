"""Trees of operators found in a net: what exporters spell out node by node.

A tree is an operator with what it reads, `("Mul", "x", ("Sigmoid", "x"))`; a letter stands for any value, always the same one,
a number for a param of that value, rounded to float16 in a net that computes in it. Add and Mul match in either order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxzip.loading.weights import FLOAT32
from onnxzip.net import Net, Node

Bound = dict[str, str]
_EITHER = frozenset({"Add", "Mul"})
CLOSE = 1e-5  # relative, of numbers that exporters round


@dataclass(frozen=True)
class Finder:
    """Where patterns are looked for.

    Attributes:
        net: the net.
        makers: the node of each computed value.
    """

    net: Net
    makers: dict[str, Node]

    def match(self, tree: object, value: str | None, bound: Bound) -> Iterator[Bound]:
        """All ways in which a value is what a tree says: values by letter, and those of its operators by `Op@value`."""
        if value is None:
            return
        if isinstance(tree, str):
            if bound.get(tree, value) == value:
                yield {**bound, tree: value}
        elif isinstance(tree, (int, float)):
            if self.is_number(value, float(tree)):
                yield bound
        else:
            assert isinstance(tree, tuple)
            op, *operands = tree
            node = self.makers.get(value)
            if node is None or node.op != op or len(node.inputs) != len(operands) or len(node.outputs) != 1:
                return
            orders = [operands, operands[::-1]] if op in _EITHER else [operands]
            for order in orders:
                yield from self._all(order, node.inputs, {**bound, f"{op}@{value}": value})

    def _all(self, trees: list[object], values: tuple[str | None, ...], bound: Bound) -> Iterator[Bound]:
        if not trees:
            yield bound
            return
        for found in self.match(trees[0], values[0], bound):
            yield from self._all(trees[1:], values[1:], found)

    def first(self, trees: Sequence[object], value: str) -> Bound | None:
        """A match of the first tree that a value is."""
        return next((bound for tree in trees for bound in self.match(tree, value, {})), None)

    def nodes(self, bound: Bound, op: str) -> list[Node]:
        """The nodes of an operator in a match."""
        return [self.makers[value] for key, value in bound.items() if key.startswith(f"{op}@")]

    def number(self, value: str) -> float | None:
        """What a param with one entry holds."""
        array = self.net.params.get(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind == "f" else None

    def is_number(self, value: str, wanted: float) -> bool:
        found = self.number(value)
        if found is not None and self.net.computed != FLOAT32 and found == float(np.float16(wanted)):
            return True
        return found is not None and abs(found - wanted) <= CLOSE * abs(wanted)
