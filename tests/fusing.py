"""What the laws of the merge are stated with: nets in memory, merges of them, nets rewritten that stay the same net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from architectures import ARCHITECTURES, TOKENS, model_of
from onnx import ModelProto

from onnxzip.analysis import Plan, analyse
from onnxzip.analysis.coupling import Coupling, couple, linear_view
from onnxzip.analysis.spaces import Inside, positions
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.samples import Source
from onnxzip.calibration.store import Store
from onnxzip.fusion.assembling import assemble, output_name
from onnxzip.fusion.zipped import Zipped
from onnxzip.fusion.zipping import live_plan, zip_nets
from onnxzip.loading import load
from onnxzip.matching.methods import Method, find_method
from onnxzip.net import Axis, Net, Node, pruned
from onnxzip.ops import Linear, View
from onnxzip.runtime import open_session, to_model

SAMPLES = 60
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Fused:
    """A merge and what led to it."""

    plan: Plan
    zipped: Zipped
    net: Net


def net_of(folder: Path, model: ModelProto, name: str) -> Net:
    """A model in canonical form."""
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return load(path, name)


def make(folder: Path, family: str, seed: int, name: str | None = None, width: int = 4, classes: int = 5) -> Net:
    """A net of a family, in canonical form."""
    return net_of(folder, model_of(ARCHITECTURES[family], seed, width, classes), name or f"net{seed}")


def samples_for(net: Net, count: int = SAMPLES, seed: int = 3) -> Arrays:
    """Noise, and random tokens for inputs that are integers."""
    rng = np.random.default_rng(seed)
    return {
        p.name: rng.integers(0, TOKENS, (count, *p.shape[1:])) if p.dtype.kind == "i" else
        rng.standard_normal((count, *p.shape[1:]), np.float32)
        for p in net.inputs
    }


def outputs(net: Net, feeds: Mapping[str, np.ndarray]) -> Arrays:
    names = [p.name for p in net.inputs]
    return open_session(net, "cpu", 1).run(dict(zip(names, feeds.values(), strict=True)))


def fuse(
    nets: Sequence[Net],
    share: float | Sequence[tuple[str, float]] = 1.0,
    layout: str = "strands",
    method: str = "zip",
    sources: Sequence[Source] = (),
    how: Method | None = None,
) -> Fused:
    """Merge nets, on noise that all tasks share where no sources are given; by a method, or by the one of a name."""
    shares = [("*", share)] if isinstance(share, (int, float)) else share
    sources = sources or [Source(tuple(n.name for n in nets), samples_for(nets[0]), {})]
    return fuse_planned(analyse(nets, shares, layout), sources, how or find_method(method))


def fuse_planned(plan: Plan, sources: Sequence[Source], how: Method) -> Fused:
    """Merge as planned."""
    with Store(1 << 28) as store:
        live = live_plan(plan, how)
        frontier = Frontier(live, sources, store, "cpu", 1, 0) if how.needs_data else None
        if frontier is not None and how.needs_targets:
            frontier.sweep(live.steps, not how.repair_skips, lambda n: None)
        zipped = zip_nets(plan, how, frontier, tick=lambda n: None)
    return Fused(plan, zipped, assemble(plan, zipped.params))


def check_close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    """Two outputs agree, relative to the size of the wanted one."""
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(float(np.abs(want).max()), 1e-3))


def check_tasks(fused: Fused, nets: Sequence[Net], tolerance: float) -> None:
    """Every task of a fused net computes what its original does, on samples that the merge has not seen."""
    found = outputs(fused.net, samples_for(nets[0], 9, 8))
    for net in nets:
        want = outputs(net, samples_for(net, 9, 8))
        for port in net.outputs:
            check_close(found[output_name(net.name, port.name)], want[port.name], tolerance)


def check_valid(fused: Fused, nets: Sequence[Net]) -> None:
    """The fused net is valid ONNX, has the outputs of all tasks in order, and runs; each task runs alone, too."""
    onnx.checker.check_model(to_model(fused.net), full_check=True)
    names = [output_name(n.name, p.name) for n in nets for p in n.outputs]
    assert [p.name for p in fused.net.outputs] == names
    feeds = samples_for(nets[0], 5, 8)
    found = outputs(fused.net, feeds)
    for net in nets:
        want = outputs(net, feeds)
        mine = [output_name(net.name, p.name) for p in net.outputs]
        alone = outputs(pruned(fused.net, mine), feeds)
        for name, port in zip(mine, net.outputs, strict=True):
            assert found[name].shape == want[port.name].shape
            assert np.isfinite(found[name]).all()
            check_close(alone[name], found[name], 1e-5)


def check_all_shared(plan: Plan) -> None:
    """Every space that can be shared is, and nothing was refused."""
    assert plan.shared_spaces()
    assert plan.refusals == ()
    for space in plan.shared_spaces():
        assert set(space.counts) == {frozenset(plan.tasks)}, space
        assert space.shared == max(space.sizes.values())


def check_copies(one: Net) -> None:
    """A net that is merged with itself, in whatever order its channels stand, is the net."""
    for other in (replace(one, name="b"), permuted(one, 5, "b")):
        check_tasks(fuse([one, other], 1.0), [one, other], 1e-4)


def check_nothing_added(nets: Sequence[Net]) -> None:
    """Nets that share nothing are as they came."""
    fused = fuse(nets, 0.0)
    assert fused.net.size == sum(n.size for n in nets) and not fused.plan.extensions
    check_tasks(fused, nets, 1e-5)


def permuted(net: Net, seed: int, name: str | None = None) -> Net:
    """The same net with the channels of every free space in another, random order."""
    rng = np.random.default_rng(seed)
    coupling = couple(net)
    sizes = {a.atom: a for e in coupling.axes.values() for a in _atoms(e)}
    free = sorted(coupling.produced - set(coupling.pinned) - coupling.ordered)
    order = {a: rng.permutation(sizes[a].size) for a in free}
    for atom, outer in coupling.inside.items():
        orders = [rng.permutation(sizes[atom].size) for _ in range(sizes[outer].size)]
        order[atom] = Inside(outer, np.stack(orders))
    params = {}
    for param, array in net.params.items():
        moved = array
        for dim in range(array.ndim):
            if array.shape[dim] > 1:
                moved = np.take(moved, positions(coupling.axes[Axis(param, dim)], order), axis=dim)
        params[param] = np.array(moved)
    for node in net.nodes:
        linear, view = linear_view(net, node) or (None, None)
        if linear is not None and not linear.diagonal(view):
            params |= _grouped_weights(net, node, linear, view, coupling, order)
    return replace(net, params=params, name=name or net.name)


def _grouped_weights(
    net: Net, node: Node, linear: Linear, view: View, coupling: Coupling, order: Mapping[int, np.ndarray]
) -> Arrays:
    """Weights of a node in groups, whose channel axes no line names one by one."""
    weight = str(node.inputs[linear.weight])
    matrix = linear.to_matrix(view, net.params[weight])
    groups, rows, _, columns = matrix.shape
    if groups == 1:
        return {}
    axes = [coupling.axes[Axis(str(v), linear.channel(view))] for v in (node.outputs[0], node.inputs[0])]
    written, read = (positions(e, order).reshape(groups, -1) % n for e, n in zip(axes, (rows, columns), strict=True))
    moved = [m[w][:, :, r] for m, w, r in zip(matrix, written, read, strict=True)]
    return {weight: np.ascontiguousarray(linear.from_matrix(view, np.stack(moved)))}


def _atoms(expr):  # type: ignore[no-untyped-def]
    return [expr] if expr.kind == "atom" else [a for p in expr.parts for a in _atoms(p)]


def scrambled(model: ModelProto, seed: int) -> ModelProto:
    """The same net with other names of nodes and values, its nodes in another, random topological order."""
    rng = np.random.default_rng(seed)
    new = ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    del graph.value_info[:]
    ports = {p.name for p in (*graph.input, *graph.output)}
    values = {v for n in graph.node for v in n.output} | {t.name for t in graph.initializer}
    drawn = rng.permutation(len(values))
    names = {v: v if v in ports else f"t{k}" for v, k in zip(sorted(values), drawn, strict=True)}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    waiting, known, done = list(graph.node), {p.name for p in graph.input} | {t.name for t in graph.initializer}, []
    for k, node in enumerate(waiting):
        node.name = f"n{k * 7919 % 1000}_{k}"
        node.input[:] = [names.get(v, v) for v in node.input]
        node.output[:] = [names.get(v, v) for v in node.output]
    while waiting:
        ready = [n for n in waiting if all(not v or v in known for v in n.input)]
        node = ready[rng.integers(len(ready))]
        waiting.remove(node)
        known.update(node.output)
        done.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(done)
    return new
