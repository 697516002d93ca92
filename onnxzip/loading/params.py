"""Changing the params of one node without changing those of its neighbours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.net import Names, Net


@dataclass(frozen=True)
class Params:
    """The params of a net under change: what each is, and how many nodes read it."""

    arrays: dict[str, np.ndarray]
    readers: Counter[str]
    names: Names

    @staticmethod
    def of(net: Net) -> Params:
        """A working copy of the net's params."""
        readers = Counter(v for node in net.nodes for v in node.inputs if v is not None)
        return Params(dict(net.params), readers, Names(set(net.shapes)))

    def replaced(self, old: str | None, wish: str, array: np.ndarray) -> str:
        """Name under which the new array stands: the old one where only one node reads it, else a fresh one.

        Args:
            old: the param that the array replaces; None where there was none.
            wish: the name to take where `old` cannot be.
            array: the new value, stored as float32.
        """
        name = old if old is not None and self.readers[old] == 1 else self.names.fresh(wish)
        if old is not None and name != old:
            self.readers[old] -= 1
            self.readers[name] = 1
        self.readers[name] = max(self.readers[name], 1)
        self.arrays[name] = np.array(array, dtype=np.float32, order="C")
        return name


def with_params(net: Net, params: Params) -> Net:
    """The net with its params replaced; shapes and dtypes follow, unread params go."""
    read = {v for node in net.nodes for v in node.inputs if v is not None}
    arrays = {k: v for k, v in params.arrays.items() if k in read}
    values = {k: v for k, v in net.shapes.items() if k not in net.params}
    return replace(
        net,
        params=arrays,
        shapes=values | {k: tuple(v.shape) for k, v in arrays.items()},
        dtypes={k: net.dtypes[k] for k in values} | {k: v.dtype for k, v in arrays.items()},
    )
