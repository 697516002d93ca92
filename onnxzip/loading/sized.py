"""Nets loaded for several sizes of their inputs: those of the data, and others that tell what the size changes.

    base               what is planned for
    base +- 32 k, ..   another size that nets with strides and windows take; smaller steps of small ones
    base +- 1, ..      an odd one, which tells n / 2 from (n + 1) / 2; where the nets take none, one more of the others

A size is fixed in truth where the nets contradict themselves at others, cannot be run there (onnx believes the shape of a
Reshape), have other nodes, or a constant made for one size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.loading.dims import summed
from onnxzip.loading.families import Family, Group, Numbers
from onnxzip.loading.inputs import Laid
from onnxzip.loading.varying import alike, with_made_constants
from onnxzip.net import Net, bind_batch
from onnxzip.runtime import open_session

LARGE, SCALES_OF_LARGE, SCALES, ODD = 64, (32, -32), (32, 4, -4), (1, -1)
LEAST = 2  # a size of one would be taken for an axis that is repeated
_FIXED = (InvalidModelError, UnsupportedError)


class _Contradiction(UnsupportedError):
    """The nets do not work at another size."""


@dataclass(frozen=True)
class AtSize:
    """All nets at one size of their inputs."""

    sizes: Numbers
    nets: tuple[Net, ...]


@dataclass(frozen=True)
class Loaded:
    """Nets that are merged, at all sizes that are looked at.

    Attributes:
        at: first what is planned for; all sizes of the tasks' data; where sizes are free, others.
        groups: the free axes.
        place: task -> which of `at` has the size of its data.
        fixed: (where, why) for axes without a number whose size the nets fix all the same.
        inputs: task -> input of the fused net -> its own.
    """

    at: tuple[AtSize, ...]
    groups: tuple[Group, ...]
    place: Mapping[str, int]
    fixed: tuple[tuple[str, str], ...]
    inputs: Laid


def load_sized(nets: Family, wanted: Mapping[str, Numbers] | None = None) -> Loaded:
    """Load nets at the sizes of their data, and find out which sizes are free.

    Args:
        wanted: task -> sizes; None for the files' own numbers, and usual ones for the rest.

    Raises:
        InvalidModelError, UnsupportedError: a net does not work at the size of its data, or at that of another one's.
    """
    if not nets.groups:
        return Loaded((AtSize({}, nets.nets({})),), (), dict.fromkeys(nets.tasks, 0), (), nets.inputs)
    if wanted is None:
        sizes, found = nets.usual()
        wanted = {t: {**sizes, **nets.declared(t)} for t in nets.tasks}
        base = AtSize(sizes, found)
    else:
        base = _base(nets, wanted[nets.tasks[0]])
    others = [dict(w) for k, w in enumerate(wanted.values()) if w != base.sizes and w not in list(wanted.values())[:k]]
    differing = {g.name for g in nets.groups for w in others if w[g.name] != base.sizes[g.name]}
    differing |= {g.name for g in nets.differing()}
    free, at, fixed = _free(nets, base, others, differing)
    index = {t: next(k for k, one in enumerate(at) if dict(one.sizes) == dict(w)) for t, w in wanted.items()}
    return Loaded(at, free, index, fixed, nets.inputs)


def _base(nets: Family, sizes: Numbers) -> AtSize:
    try:
        return AtSize(sizes, nets.nets(sizes))
    except _FIXED as error:
        if differing := nets.differing():
            raise nets.of_one_size(differing, error) from error
        raise


def _free(
    nets: Family, base: AtSize, others: Sequence[Numbers], differing: set[str]
) -> tuple[tuple[Group, ...], tuple[AtSize, ...], tuple[tuple[str, str], ...]]:
    """The axes that are free in truth: all of them, all with one size, or those that are so each by itself."""
    groups = nets.groups
    try:
        return groups, _tried(nets, base, [(g.name,) for g in groups], others), ()
    except _FIXED as error:
        why = error
    if len(groups) > 1 and isinstance(why, _Contradiction):
        if all(len(set(sizes.values())) == 1 for sizes in (base.sizes, *others)):
            try:
                tied = Group(groups[0].name, tuple(a for g in groups for a in g.axes), groups[0].samples)
                return (tied,), _tried(nets, base, [tuple(g.name for g in groups)], others), ()
            except _FIXED as error:
                why = error
        alone = tuple(g for g in groups if _works(nets, base, g))
        if alone and differing <= {g.name for g in alone}:
            fixed = _fixed((g for g in groups if g not in alone), base, why)
            return alone, _tried(nets, base, [(g.name,) for g in alone], others), fixed
    if differing:
        raise nets.of_one_size((g for g in groups if g.name in differing), why) from why
    return (), (base,), _fixed(groups, base, why)


def _fixed(groups: Iterable[Group], base: AtSize, why: Exception) -> tuple[tuple[str, str], ...]:
    return tuple((g.where, f"keeps its size, {base.sizes[g.name]}: {why}") for g in groups)


def _works(nets: Family, base: AtSize, group: Group) -> bool:
    try:
        _tried(nets, base, [(group.name,)], ())
    except _FIXED:
        return False
    return True


def _tried(nets: Family, base: AtSize, free: Sequence[tuple[str, ...]], others: Sequence[Numbers]) -> tuple[AtSize, ...]:
    """The nets at sizes that differ in what is free, with nodes for constants that differ.

    Raises:
        InvalidModelError, UnsupportedError: they are nets for one size.
    """
    at = [base, *(_loaded(nets, base, sizes) for sizes in others), *_probes(nets, base, free)]
    by_task = []
    for k, (task, (path, model)) in enumerate(nets.models.items()):
        mine = [one.nets[k] for one in at]
        alike(mine, path)
        numbers = [nets.numbers(task, one.sizes) for one in at]
        by_task.append(with_made_constants(mine, path, model, numbers))
    return tuple(replace(one, nets=tuple(some[k] for some in by_task)) for k, one in enumerate(at))


def _probes(nets: Family, base: AtSize, free: Sequence[tuple[str, ...]]) -> Iterator[AtSize]:
    """Two other sizes, an odd one among them where the nets take any."""
    count = len(free)
    scales = SCALES_OF_LARGE if min(base.sizes.values()) >= LARGE else SCALES
    first, why = _first(nets, base, ({n: s * (k + 1) for k, some in enumerate(free) for n in some} for s in scales))
    if first is None:
        raise _Contradiction(str(why or "it is too small to try smaller ones.")) from why
    yield first
    odd = ({n: s * (2 * k + 1) for k, some in enumerate(free) for n in some} for s in ODD)
    more = ({n: s * (2 * count - k) for k, some in enumerate(free) for n in some} for s in scales)
    second, _ = _first(nets, base, (*odd, *more))
    if second is not None:
        yield second


def _first(nets: Family, base: AtSize, steps: Iterable[Numbers]) -> tuple[AtSize | None, Exception | None]:
    """The nets at the first size, so many steps from the base, that they take; why they do not take others."""
    why: Exception | None = None
    for step in steps:
        sizes = summed({name: size + step.get(name, 0) for name, size in base.sizes.items()})
        if min(sizes.values()) >= LEAST:
            try:
                return _loaded(nets, base, sizes), None
            except _FIXED as error:
                why = why or error
    return None, why


def _loaded(nets: Family, base: AtSize, sizes: Numbers) -> AtSize:
    """The nets at another size, with the arrays of the base where they are the same; they have been run there.

    Raises:
        InvalidModelError, UnsupportedError: they do not work there.
    """
    found = AtSize(sizes, tuple(_sharing(a, b) for a, b in zip(base.nets, nets.nets(sizes), strict=True)))
    for net in found.nets:
        rng, feeds = np.random.default_rng(0), dict[str, np.ndarray]()
        for port in net.inputs:
            shape = bind_batch(port.shape, 1)
            feeds[port.name] = (rng.standard_normal(shape) if port.dtype.kind == "f" else np.ones(shape)).astype(port.dtype)
        open_session(net, "cpu", 1).run(feeds)
    return found


def _sharing(first: Net, other: Net) -> Net:
    """The other net with the first one's arrays where they are the same: a net at many sizes lies in memory once."""
    same = {
        k: first.params[k] for k, a in other.params.items()
        if k in first.params and a.dtype == first.params[k].dtype
        and np.array_equal(a, first.params[k], equal_nan=a.dtype.kind == "f")
    }
    return replace(other, params={**other.params, **same})
