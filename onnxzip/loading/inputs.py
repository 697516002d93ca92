"""Which inputs of the nets of a merge are one input of the fused net, and what the fused net calls them.

    as many inputs in all nets      laid over each other by their names, where these are the same, else by position
    others                          by name, where shape and type agree; what is left is the own of those that have it
    asked to be apart               each net's own, whatever the others have
    not of all tasks in one file    own of a fused file that is merged again

A shared input has the name that it has in the first net of those that have it; an own one, too, or TASK_NAME where another
input of the fused net is called so.
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from onnxzip.errors import UnsupportedError, UsageError
from onnxzip.loading.dims import TASKS
from onnxzip.net import Net, output_name
from onnxzip.values import nearest

SOURCES = "onnxzip.sources"  # in the metadata of a fused file: task -> among others, its inputs
Laid = Mapping[str, Mapping[str, str]]  # task -> input of the fused net -> its own
NOTHING: Mapping[str, Collection[str]] = {}


class Given(NamedTuple):
    """An input of a net.

    Attributes:
        name: in the net.
        shape: a number below 1 stands for any size; so does the first one, of the batch.
        kind: type of its numbers.
    """

    name: str
    shape: tuple[int, ...]
    kind: Hashable


def laid_inputs(
    nets: Mapping[str, Sequence[Given]], apart: Sequence[str] = (), partly: Mapping[str, Collection[str]] = NOTHING
) -> dict[str, dict[str, str]]:
    """Per task, what the fused net calls its inputs, in the net's order: input of the fused net -> its own.

    Args:
        nets: inputs by task, in order.
        apart: globs over names of inputs that are each net's own.
        partly: task -> inputs of a fused file that not all of its tasks have.

    Raises:
        UsageError: a glob fits no input.
        UnsupportedError: there is no input that all nets have in common.
    """
    check_apart(apart, [p.name for ports in nets.values() for p in ports])
    own = {t: {p.name for p in ports if fits(p.name, apart)} | {*partly.get(t, ())} for t, ports in nets.items()}
    common = {t: [p for p in ports if p.name not in own[t]] for t, ports in nets.items()}
    groups = _by_place(common) if len({len(ports) for ports in common.values()}) == 1 else _by_name(common)
    _check_common(nets, groups)
    found = {(t, name) for group in groups for t, name in group.items()}
    groups += [{t: p.name} for t, ports in nets.items() for p in ports if (t, p.name) not in found]
    called = {(t, name): fused for fused, group in _called(groups, len(nets)) for t, name in group.items()}
    return {t: {called[t, p.name]: p.name for p in ports} for t, ports in nets.items()}


def inputs_of_nets(nets: Iterable[Net], apart: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """`laid_inputs` of loaded nets."""
    nets = tuple(nets)
    ports = {n.name: [Given(p.name, p.shape, p.dtype) for p in n.inputs] for n in nets}
    return laid_inputs(ports, apart, {n.name: partly_had(n.metadata) for n in nets})


def names_of(laid: Laid) -> tuple[str, ...]:
    """Inputs of the fused net, in order: those that all tasks have, from which sizes of the batch are read, then others."""
    found = dict.fromkeys(name for names in laid.values() for name in names)
    return tuple(sorted(found, key=lambda name: any(name not in names for names in laid.values())))


def fits(name: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs fits a name."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def check_apart(apart: Sequence[str], names: Collection[str]) -> None:
    """Refuse globs that fit no input.

    Raises:
        UsageError: naming the glob, and the inputs.
    """
    for glob in apart:
        if not any(fits(name, [glob]) for name in names):
            near = nearest(glob, names)
            hint = f"; did you mean {near!r}?" if near else ""
            listed = ", ".join(dict.fromkeys(names))
            raise UsageError(f"--apart {glob}: fits no input{hint} (inputs: {listed})")


def partly_had(entries: Mapping[str, str]) -> frozenset[str]:
    """Inputs of a fused file that not all of its tasks have; none of any other file, and where its entries are damaged."""
    try:
        tasks, sources = json.loads(entries.get(TASKS, "[]")), json.loads(entries.get(SOURCES, "{}"))
        had = [frozenset(sources[task]["inputs"]) for task in tasks]
    except (ValueError, KeyError, TypeError):
        return frozenset()
    return frozenset().union(*had) - frozenset.intersection(*had) if had else frozenset()


def _by_place(nets: Mapping[str, Sequence[Given]]) -> list[dict[str, str]]:
    """Inputs of nets that have as many, each of the first one's with those of the others."""
    first = [p.name for p in next(iter(nets.values()))]
    groups: list[dict[str, str]] = [{} for _ in first]
    for task, ports in nets.items():
        names = [p.name for p in ports]
        for group, name in zip(groups, first if set(names) == set(first) else names, strict=True):
            group[task] = name
    return groups


def _by_name(nets: Mapping[str, Sequence[Given]]) -> list[dict[str, str]]:
    """Inputs that some nets have under one name, of one shape and type."""
    groups: list[tuple[Given, dict[str, str]]] = []
    for task, ports in nets.items():
        for port in ports:
            known = next((group for first, group in groups if _agree(first, port)), None)
            if known is None:
                groups.append((port, {task: port.name}))
            else:
                known[task] = port.name
    return [group for _, group in groups if len(group) > 1]


def _agree(first: Given, other: Given) -> bool:
    sizes = zip(first.shape[1:], other.shape[1:], strict=False)
    return (
        (first.name, first.kind, len(first.shape)) == (other.name, other.kind, len(other.shape))
        and all(a == b or min(a, b) < 1 for a, b in sizes)
    )


def _check_common(nets: Mapping[str, Sequence[Given]], groups: Sequence[Mapping[str, str]]) -> None:
    first, *others = nets
    if any(len(group) == len(nets) for group in groups):
        return
    alone = [t for t in others if not any(t in group and first in group for group in groups)] or others
    if alone and (count := len(nets[first])) != (other := len(nets[alone[0]])):
        raise UnsupportedError(
            f"{first!r} has {count} inputs, {alone[0]!r} has {other}, and none of these agree in name, shape and type: only "
            "nets with the same inputs can be merged"
        )
    if alone:
        raise UnsupportedError(
            f"{first!r} and {alone[0]!r} have no input in common: only nets that read the same input can be merged"
        )


def _called(groups: Sequence[Mapping[str, str]], tasks: int) -> list[tuple[str, Mapping[str, str]]]:
    """Groups of inputs with names of their own; those of all tasks keep theirs."""
    wishes = [next(iter(group.values())) for group in groups]
    counts = Counter(wishes)
    kept = [len(group) == tasks or counts[wish] == 1 for group, wish in zip(groups, wishes, strict=True)]
    taken = {wish for wish, keeps in zip(wishes, kept, strict=True) if keeps}
    found = []
    for group, wish, keeps in zip(groups, wishes, kept, strict=True):
        name = wish if keeps else output_name(next(iter(group)), wish)
        while not keeps and name in taken:
            name += "_own"
        taken.add(name)
        found.append((name, group))
    return found
