"""Constants that differ with the size of a net's input, as nodes: one net, folded for several sizes, becomes one graph again.

    p[:n] of a longer initializer          ->  Slice      a table of positions, of which n are read
    the same entry n times                 ->  Expand     a mask that hides nothing
    what the file computes from shapes     ->  its nodes  a mask that hides what comes later

Anything else was made for one size, and stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, numpy_helper

from onnxzip.errors import UnsupportedError
from onnxzip.loading.computed import computing
from onnxzip.loading.dims import bound
from onnxzip.loading.growing import GROWING
from onnxzip.loading.mapped import large_params
from onnxzip.loading.stored import tensors_of
from onnxzip.net import Axis, Net, Node
from onnxzip.runtime import open_session


@dataclass(frozen=True)
class _Made:
    """What makes a constant: a node per net, and the param that all of these read."""

    nodes: tuple[Node, ...]
    param: str
    array: np.ndarray


def alike(nets: Sequence[Net], path: Path) -> None:
    """Check that one net, loaded for several sizes, has the same nodes and as many samples in as out.

    Raises:
        UnsupportedError: it has not.
    """
    graphs = [[(n.name, n.op, n.inputs, n.outputs) for n in net.nodes] for net in nets]
    if any(g != graphs[0] for g in graphs):
        raise UnsupportedError(f"{path}: which nodes it has depends on the size of its input.")
    if nets[0].tail is not None and any(net.tail != nets[0].tail for net in nets):
        node, _ = nets[0].tail.begins[0]
        raise UnsupportedError(f"{path}: what begins with node {node!r} is made for one size of the input.")
    for ports in zip(*(net.outputs for net in nets), strict=True):
        batches = {tuple(d if d < 0 else 0 for d in port.shape) for port in ports}
        if len(batches) > 1:
            raise UnsupportedError(f"{path}: samples and sizes are mixed in its output {ports[0].name!r}.")


def with_made_constants(
    nets: Sequence[Net], path: Path, model: ModelProto, numbers: Sequence[Mapping[Axis, int]]
) -> tuple[Net, ...]:
    """One net, loaded for several sizes, with nodes for constants that differ.

    Args:
        nets: of the same nodes.
        path, model: the net's file; numbers: of its free axes, at each size.

    Raises:
        UnsupportedError: a constant was made for one size.
    """
    nets, left = _made_of_params(nets, path, model)
    if not left:
        return nets
    graphs, deeper = _made_of_params(_computing(nets, left, path, model, numbers), path, model)
    for name in deeper or [n for n in left if not all(_computes(g, n, net) for g, net in zip(graphs, nets, strict=True))]:
        raise _of_one_size(path, name, (*graphs[0].nodes, *nets[0].nodes))
    return tuple(_joined(net, graph, left) for net, graph in zip(nets, graphs, strict=True))


def _computing(
    nets: Sequence[Net], names: Sequence[str], path: Path, model: ModelProto, numbers: Sequence[Mapping[Axis, int]]
) -> tuple[Net, ...]:
    """Per size, what the file computes some constants by; nodes that give the same for all sizes are folded."""
    kinds = {name: nets[0].dtypes[name] for name in names}
    still: set[str] = set()
    while True:
        graphs = tuple(computing(path, bound(model, n), kinds, nets[0].opset, still) for n in numbers)
        alike(graphs, path)
        expanding = [n for n in graphs[0].nodes if n.op in GROWING and n.name not in still]
        news = {n.name for n in expanding if len({g.shapes[n.outputs[0]] for g in graphs}) == 1}
        if not news:
            return graphs
        still |= news


def _made_of_params(nets: Sequence[Net], path: Path, model: ModelProto) -> tuple[tuple[Net, ...], list[str]]:
    """The nets with nodes for constants that are made of one param, and the constants that differ otherwise."""
    names = [v for v in nets[0].params if not _same([net.params[v] for net in nets])]
    made = {name: found for name in names if (found := _made(name, nets, path, model)) is not None}
    left = [name for name in names if name not in made]
    return tuple(_with(net, k, list(made), list(made.values())) for k, net in enumerate(nets)), left


def _computes(graph: Net, name: str, net: Net) -> bool:
    """Whether nodes compute just what stands in a net."""
    [found] = open_session(graph, "cpu", 1, [name]).run({}).values()
    return _same([found, net.params[name]])


def _joined(net: Net, graph: Net, names: Sequence[str]) -> Net:
    """The net with the nodes of a graph in place of constants."""
    params = {k: a for k, a in net.params.items() if k not in names}
    return replace(
        net, nodes=(*graph.nodes, *net.nodes), params={**params, **graph.params},
        shapes={**net.shapes, **graph.shapes}, dtypes={**net.dtypes, **graph.dtypes},
    )


def _of_one_size(path: Path, name: str, nodes: Iterable[Node]) -> UnsupportedError:
    reader = next(n for n in nodes if name in n.inputs)
    return UnsupportedError(f"{path}: constant {name!r} of {reader.op} {reader.name!r} is made for one size of the input.")


def _same(arrays: Sequence[np.ndarray]) -> bool:
    first = arrays[0]
    return all(a is first or np.array_equal(a, first, equal_nan=a.dtype.kind == "f") for a in arrays)


def _made(name: str, nets: Sequence[Net], path: Path, model: ModelProto) -> _Made | None:
    arrays = [net.params[name] for net in nets]
    varying = [k for k in range(arrays[0].ndim) if len({a.shape[k] for a in arrays}) > 1]
    return _repeated(name, arrays, varying) or _beginning(name, arrays, varying, path, model)


def _repeated(name: str, arrays: Sequence[np.ndarray], varying: Sequence[int]) -> _Made | None:
    """An Expand, where all entries along the varying axes are the same in all arrays."""
    one = arrays[0][tuple(slice(0, 1) if k in varying else slice(None) for k in range(arrays[0].ndim))]
    if not varying or any(not np.array_equal(a, np.broadcast_to(one, a.shape)) for a in arrays):
        return None
    nodes = (Node(f"{name}.repeated", "Expand", (f"{name}.one",), (name,), {"shape": tuple(a.shape)}) for a in arrays)
    return _Made(tuple(nodes), f"{name}.one", np.ascontiguousarray(one))


def _beginning(name: str, arrays: Sequence[np.ndarray], varying: Sequence[int], path: Path, model: ModelProto) -> _Made | None:
    """A Slice of the longest initializer that begins with all arrays."""
    if len(varying) != 1 or math.prod(arrays[0].shape[: varying[0]]) != 1:
        return None
    axis, entry = varying[0], arrays[0].shape[varying[0] + 1 :]
    longest = max(a.shape[axis] for a in arrays)
    for table in _tables(path, model, arrays[0].dtype, math.prod(entry), longest):
        rows = table.reshape(-1, math.prod(entry))
        if all(np.array_equal(rows[: a.shape[axis]], a.reshape(-1, math.prod(entry))) for a in arrays):
            whole = np.ascontiguousarray(rows.reshape(*arrays[0].shape[:axis], -1, *entry))
            return _Made(tuple(_slice(name, axis, a.shape[axis]) for a in arrays), f"{name}.whole", whole)
    return None


def _slice(name: str, axis: int, end: int) -> Node:
    attrs = {"starts": (0,), "ends": (end,), "axes": (axis,), "steps": (1,)}
    return Node(f"{name}.beginning", "Slice", (f"{name}.whole",), (name,), attrs)


def _tables(path: Path, model: ModelProto, dtype: np.dtype, width: int, least: int) -> Iterator[np.ndarray]:
    """Initializers of so many entries in rows of a width, as numbers of a type."""
    mapped: Mapping[str, np.ndarray] = large_params(path, model)
    for tensor in tensors_of(model.graph).values():
        rows, rest = divmod(math.prod(tensor.dims), max(width, 1))
        if not rest and rows >= least:
            array = mapped[tensor.name] if tensor.name in mapped else numpy_helper.to_array(tensor)
            if array.dtype.kind in "fiub" and (array.dtype.kind == dtype.kind or array.dtype == dtype):
                yield np.asarray(array, dtype)


def _with(net: Net, which: int, names: Sequence[str], made: Sequence[_Made]) -> Net:
    """The net with the nodes in front; the values that they write have the constants' shapes."""
    if not names:
        return net
    params = {k: a for k, a in net.params.items() if k not in names} | {m.param: m.array for m in made}
    shapes = {m.param: tuple(m.array.shape) for m in made}
    dtypes = {m.param: m.array.dtype for m in made}
    return replace(
        net, nodes=(*(m.nodes[which] for m in made), *net.nodes), params=params, shapes={**net.shapes, **shapes},
        dtypes={**net.dtypes, **dtypes},
    )
