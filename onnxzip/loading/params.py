"""Changing the params of one node without changing those of its neighbours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from onnxzip.net import Names, Net


@dataclass(frozen=True)
class Params:
    """The params of a net under change: what each is, how many nodes read it, and what others have made of it."""

    arrays: dict[str, np.ndarray]
    readers: Counter[str]
    names: Names
    made: dict[str, list[str]] = field(default_factory=dict)

    @staticmethod
    def of(net: Net) -> Params:
        """A working copy of the net's params."""
        readers = Counter(v for node in net.nodes for v in node.read)
        return Params(dict(net.params), readers, Names(set(net.shapes)))

    def replaced(self, old: str | None, wish: str, array: np.ndarray) -> str:
        """Name under which the new array stands: the old one where only one node reads it, else a fresh one.

        Nodes that read one param and change it alike (a layer with BatchNormalization that is used twice) still read one.

        Args:
            old: the param that the array replaces; None where there was none.
            wish: the name to take where `old` cannot be.
            array: the new value, stored as float32.
        """
        new = np.array(array, dtype=np.float32, order="C")
        made = self.made.setdefault(old, []) if old is not None else []
        name = next((n for n in made if np.array_equal(self.arrays[n], new)), None)
        if name is None:
            name = old if old is not None and self.readers[old] == 1 else self.names.fresh(wish)
            made += [name] if name != old else []
        if old is not None and name != old:
            self.readers[old] -= 1
            self.readers[name] += 1
        self.readers[name] = max(self.readers[name], 1)
        self.arrays[name] = new
        return name

    def added(self, wish: str, array: np.ndarray) -> str:
        """Name under which a new param stands."""
        return self.replaced(None, wish, array)


def with_params(net: Net, params: Params) -> Net:
    """The net with its params replaced; shapes and dtypes follow, unread params go."""
    read = {v for node in net.nodes for v in node.read}
    arrays = {k: v for k, v in params.arrays.items() if k in read}
    values = {k: v for k, v in net.shapes.items() if k not in net.params}
    return replace(
        net,
        params=arrays,
        shapes=values | {k: tuple(v.shape) for k, v in arrays.items()},
        dtypes={k: net.dtypes[k] for k in values} | {k: v.dtype for k, v in arrays.items()},
    )
