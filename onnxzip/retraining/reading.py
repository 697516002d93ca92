"""A file as it is computed in torch: its net at every size that it is asked for, and a program for every set of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from onnxzip.errors import UsageError
from onnxzip.loading.faithful import Faithful, read_faithfully
from onnxzip.net import Net
from onnxzip.ops.evaluate import Program, check_runnable, program_of

Sizes = tuple[int, ...]  # of the free axes of a net's inputs, in their order


class Reading:
    """What all copies of a module share: the file, the net, and the programs made of it so far. It is never changed.

    Args:
        faithful: the file as it was read.
        any_batch: whether it was read as a net that takes any number of samples, where the file takes one.
    """

    def __init__(self, faithful: Faithful, any_batch: bool = False) -> None:
        self.faithful, self.any_batch = faithful, any_batch
        self._programs: dict[tuple[tuple[str, ...], Sizes], Program] = {}
        self.free, self.usual = tuple(faithful.sizes), tuple(faithful.sizes.values())
        self._nets = {self.usual: faithful.net}
        check_runnable(faithful.net)

    @property
    def net(self) -> Net:
        """The net as it was read, with its first params."""
        return self.faithful.net

    def sizes_of(self, feeds: Mapping[str, Tensor]) -> Sizes:
        """The sizes that free axes have in some inputs; of those that are not there, that of one that is called the same, else
        the usual ones."""
        told = {a: int(feeds[a.value].shape[a.dim]) for a in self.free if a.value in feeds}
        named = {name: told[a] for a in told if (name := self.faithful.called.get(a, ""))}
        usual = zip(self.free, self.usual, strict=True)
        return tuple(told.get(a, named.get(self.faithful.called.get(a, ""), size)) for a, size in usual)

    def net_at(self, sizes: Sizes) -> Net:
        """The net with its numbers for the given sizes of free axes; read once for each.

        Raises:
            InvalidModelError, UnsupportedError: it does not work there.
        """
        if sizes not in self._nets:
            numbers = dict(zip(self.free, sizes, strict=True))
            self._nets[sizes] = read_faithfully(self.faithful.content, numbers, self.any_batch).net
        return self._nets[sizes]

    def program(self, outputs: Sequence[str], sizes: Sizes | None = None) -> Program:
        """What computes these outputs; made once for each set of them, and for each size of the free axes.

        Raises:
            UsageError: the net has no such output.
        """
        key = tuple(outputs), self.usual if sizes is None else sizes
        if key not in self._programs:
            known = [p.name for p in self.net.outputs]
            if unknown := [name for name in key[0] if name not in known]:
                raise UsageError(f"net {self.net.name!r} has no output {unknown[0]!r}; it has {', '.join(known)}.")
            self._programs[key] = program_of(self.net_at(key[1]), key[0])
        return self._programs[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> Reading:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _reading, (self.faithful.content, self.any_batch)


def _reading(content: bytes, any_batch: bool) -> Reading:
    return Reading(read_faithfully(content, any_batch=any_batch), any_batch)
