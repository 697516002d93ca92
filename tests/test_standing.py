"""Samples stand where the batch stands: in front, behind positions, or with positions along one axis."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from architectures import ARCHITECTURES, frames, model_of, time_first
from fusing import check_close, fuse, net_of, outputs, samples_for
from netfiles import written

import onnxzip
from onnxzip.analysis.coupling import couple, linear_view
from onnxzip.analysis.spaces import Expr
from onnxzip.analysis.standing import in_front, taps_of
from onnxzip.calibration.device import DevicePlace
from onnxzip.calibration.gathering import unfold
from onnxzip.calibration.places import HostPlace
from onnxzip.calibration.store import Store
from onnxzip.errors import UnsupportedError
from onnxzip.loading import load
from onnxzip.net import Port
from onnxzip.runtime import open_session

LAYERS = {  # the value v that a layer reads, made of samples [4, 5], the layer, and how many positions are before the batch
    "batch first": ("v = Identity(x)", "MatMul(v, w)", (5, 3), 3, 1),
    "time first": ("v = Transpose<perm=[1,0,2]>(x)", "MatMul(v, w)", (5, 3), 3, 4),
    "in the middle": ("t = Reshape(x, split)\nv = Transpose<perm=[1,0,2,3]>(t)", "MatMul(v, w)", (5, 3), 4, 2),
    "one axis": ("v = Reshape(x, rows)", "MatMul(v, w)", (5, 3), 2, 1),
    "one axis, time first": ("t = Transpose<perm=[1,0,2]>(x)\nv = Reshape(t, rows)", "Gemm(v, w)", (5, 3), 2, 4),
    "one axis, half of the time": (
        "t = Reshape(x, split)\ns = Transpose<perm=[1,0,2,3]>(t)\nv = Reshape(s, pairs)", "MatMul(v, w)", (5, 3), 3, 2,
    ),
    "joined": ("n = Neg(x)\nv = Concat<axis=0>(x, n)", "MatMul(v, w)", (5, 3), 3, 2),
    "maps": (
        "t = Transpose<perm=[1,0,2]>(x)\nv = Reshape(t, maps)", "Conv<pads=[1,1], strides=[2]>(v, w)", (3, 1, 3), 3, 4,
    ),
    "grouped maps": ("v = Reshape(x, pairs)", "Conv<pads=[0,1], group=2>(v, w)", (6, 1, 2), 3, 1),
}
NUMBERS = "<int64[2] rows = {-1,5}, int64[4] split = {-1,2,2,5}, int64[3] pairs = {-1,2,5}, int64[3] maps = {-1,1,5}>"
SIBLINGS = {"time_first": time_first, "frames": frames}


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_of_a_sample_are_those_that_it_has_alone(tmp_path: Path, kind: str) -> None:
    """Rows of a sample among others, on the host and by the graphs of a device, are its rows where it is the only one."""
    made, call, shape, rank, before = LAYERS[kind]
    ends = f"float[N,4,5] x, float[{','.join(map(str, shape))}] w) => (float[{','.join('ABCD'[:rank])}] y"
    net = load(written(tmp_path, f"g ({ends}) {NUMBERS} {{ {made}\ny = {call} }}"))
    node = net.nodes[-1]
    found = linear_view(net, node)
    assert found is not None
    linear, view = found
    channel, taps, coupling = linear.channel(view), taps_of(linear, view), couple(net)
    values = str(node.inputs[0]), node.outputs[0]
    assert {in_front(v, coupling.exprs(v), channel) for v in values} == {before}
    ports = tuple(Port(v, net.dtypes[v], net.shapes[v]) for v in values)
    session = open_session(replace(net, outputs=ports), "cpu", 1)
    x = np.random.default_rng(3).standard_normal((7, 4, 5)).astype(np.float32)
    read, output = session.run({"x": x}).values()
    every = np.broadcast_to(np.arange(len(taps)), (7, len(taps)))
    with Store(1 << 20) as store:
        picked, finite = HostPlace(store).pick(output, channel, every, before)
        on_device, _ = DevicePlace(store, "cpu", 1).pick(output, channel, every, before)
    assert finite and len(picked) == 7 * len(taps)
    np.testing.assert_array_equal(on_device.numpy(), picked)  # type: ignore[union-attr]
    unfolded = unfold(read, channel, taps, np.arange(7), every, before, 7)
    matrix = linear.to_matrix(view, net.params[str(node.inputs[1])])
    groups = unfolded.reshape(len(unfolded), taps.shape[1], len(matrix), -1)
    np.testing.assert_allclose(np.einsum("goki,nkgi->ngo", matrix, groups).reshape(len(picked), -1), picked, atol=1e-5)
    for n in range(7):
        alone = session.run({"x": x[n : n + 1]})[values[1]]
        want = np.moveaxis(alone, channel, -1).reshape(len(taps), -1)
        np.testing.assert_allclose(picked.reshape(7, len(taps), -1)[n], want, atol=1e-6)


def test_a_value_without_a_batch_is_that_of_every_sample() -> None:
    x, at = np.arange(24.0, dtype=np.float32).reshape(3, 4, 2), np.array([[0, 5], [1, 11], [2, 3]])
    assert in_front("v", (Expr("atom", 3, 0), Expr("atom", 4, 1), Expr("atom", 2, 2)), 2) == 0
    with Store(1 << 20) as store:
        places = HostPlace(store), DevicePlace(store, "cpu", 1)
        found = [place.pick(x, 2, at, 0)[0] for place in places]
    for picked in (found[0], found[1].numpy()):  # type: ignore[union-attr]
        np.testing.assert_array_equal(picked, x.reshape(12, 2)[at.reshape(-1)])


def test_what_layers_make_of_positions_alone_is_fitted(tmp_path: Path) -> None:
    """Of any number of positions, so that loading cannot compute it."""
    ports = "float[N,T,6] x, float[1,8] wide, float[8,12] positions, float[6,12] values, float[12,3] last"
    path = written(tmp_path, f"""g ({ports}) => (float[N,3] y) <int64 zero = {{0}}, int64 one = {{1}}, int64[1] behind = {{1}}>
    {{
        shape = Shape(x)
        count = Gather(shape, one)
        numbers = Range(zero, count, one)
        floats = Cast<to=1>(numbers)
        column = Unsqueeze(floats, behind)
        wave = MatMul(column, wide)
        bent = Sin(wave)
        added = MatMul(bent, positions)
        read = MatMul(x, values)
        sum = Add(read, added)
        active = Relu(sum)
        mean = ReduceMean<axes=[1], keepdims=0>(active)
        y = MatMul(mean, last)
    }}""")
    x = np.random.default_rng(4).standard_normal((60, 5, 6)).astype(np.float32)
    for share in (0.0, 1.0):
        merged = onnxzip.merge({"a": path, "b": path}, x, share=share)
        assert max(t["fidelity"]["relative_error"] for t in merged.report["tasks"].values()) < 1e-4


@pytest.mark.parametrize("family", SIBLINGS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_where_the_batch_stands_means_nothing(tmp_path: Path, family: str, share: float) -> None:
    """The same nets, with the time in front of the batch and behind it, merge alike."""
    ways = [replace(ARCHITECTURES[family], build=partial(SIBLINGS[family], first=first)) for first in (True, False)]
    merged = []
    for way in ways:
        nets = [net_of(tmp_path, model_of(way, seed), f"net{seed}") for seed in (1, 2)]
        feeds = samples_for(nets[0], 9, 8)
        merged.append((outputs(fuse(nets, share).net, feeds), [v for net in nets for v in outputs(net, feeds).values()]))
    for a, b, want in zip(merged[0][0].values(), merged[1][0].values(), merged[0][1], strict=True):
        check_close(b, a, 1e-3 * (1 if share else 0.01))
        assert np.square(a - want).mean() < np.square(want).mean() / 2


def test_samples_at_uneven_distances_are_refused() -> None:
    one, channels = Expr("atom", -1, 0), Expr("atom", 3, 9)
    two = Expr("product", -2, -1, (Expr("atom", -1, 1), Expr("atom", 2, 2)))
    for axes in [(Expr("sum", -3, -1, (one, two)), channels), (one, one, channels), (channels, one)]:
        with pytest.raises(UnsupportedError, match="cannot be told apart"):
            in_front("v", axes, len(axes) - 1)
