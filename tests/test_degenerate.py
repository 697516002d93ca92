"""Nets and data from which little can be told: what is zero, constant, or there twice merges like anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusing import Arrays, check_tasks, check_valid, fuse, make, samples_for
from netfiles import originals_outputs, written

import onnxzip
from onnxzip.calibration import frontier
from onnxzip.calibration.device import DevicePlace
from onnxzip.calibration.places import HostPlace
from onnxzip.calibration.samples import Source
from onnxzip.errors import InvalidDataError, UnsupportedError
from onnxzip.linalg.covariance import centred
from onnxzip.linalg.subset import pivots, unexplained
from onnxzip.net import Net

SAME = 1e-4
METHODS = ("zip", "mtz", "permute", "regmean", "zipit")
Params = Mapping[str, np.ndarray]


def zeroed(params: Params) -> Arrays:
    """All weights and biases zero: so are all values."""
    return {k: np.zeros_like(v) if v.dtype.kind == "f" and v.size > 1 else v for k, v in params.items()}


def first_layer_dead(params: Params) -> Arrays:
    """What the first layer gives is cut off on every sample."""
    weight, bias = [k for k, v in params.items() if v.dtype.kind == "f"][:2]
    return {**params, weight: np.zeros_like(params[weight]), bias: np.full_like(params[bias], -1)}


def constant_channels(params: Params) -> Arrays:
    """Half of the first layer's channels are constant, one of them zero."""
    weight, bias = [k for k, v in params.items() if v.dtype.kind == "f"][:2]
    w, b = params[weight].copy(), params[bias].copy()
    w[:2], b[:2] = 0, (1, 0)
    return {**params, weight: w, bias: b}


def duplicate_channels(params: Params) -> Arrays:
    """All channels of the first layer do the same."""
    weight, bias = [k for k, v in params.items() if v.dtype.kind == "f"][:2]
    return {**params, weight: np.array(np.broadcast_to(params[weight][:1], params[weight].shape)),
            bias: np.array(np.broadcast_to(params[bias][:1], params[bias].shape))}


def as_it_is(params: Params) -> Arrays:
    return dict(params)


NETS: dict[str, Callable[[Params], Arrays]] = {
    f.__name__: f for f in (zeroed, first_layer_dead, constant_channels, duplicate_channels)
}
DATA: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all zero": np.zeros_like,
    "constant": np.ones_like,
    "one sample repeated": lambda x: np.array(np.broadcast_to(x[:1], x.shape)),
}
CASES = [(n, "") for n in NETS] + [("", d) for d in DATA]
SETTINGS = [(1.0, "strands"), (0.5, "strands"), (0.5, "wide"), (1.0, "wide")]


def odd(folder: Path, family: str, change: str, seed: int, name: str) -> Net:
    """A net of a family, changed."""
    net = make(folder, family, seed, name)
    return replace(net, params=NETS.get(change, as_it_is)(net.params))


def source(nets: list[Net], data: str) -> Source:
    feeds = samples_for(nets[0])
    return Source(tuple(n.name for n in nets), {k: DATA.get(data, np.array)(v) for k, v in feeds.items()}, {})


@pytest.mark.parametrize("share, layout", SETTINGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change, data", CASES)
def test_merges(change: str, data: str, method: str, share: float, layout: str, tmp_path: Path) -> None:
    """With another such net, with a usual one, and with itself."""
    first, other = (odd(tmp_path, "mlp", change, seed, name) for seed, name in ((1, "a"), (2, "b")))
    same = [first, replace(first, name="b")]
    for nets in ([first, other], [first, make(tmp_path, "mlp", 3, "c")], same):
        fused = fuse(nets, share, layout, method, [source(nets, data)])
        check_valid(fused, nets)
        if nets is same and share == 1:
            check_tasks(fused, nets, SAME)


@pytest.mark.parametrize("share, layout", [(1.0, "strands"), (0.5, "wide")])
@pytest.mark.parametrize("family", ["lenet", "resnet", "mobilenet", "token_encoder"])
@pytest.mark.parametrize("change, data", [("zeroed", ""), ("first_layer_dead", ""), ("", "all zero"), ("", "constant")])
def test_other_families(change: str, data: str, family: str, share: float, layout: str, tmp_path: Path) -> None:
    nets = [odd(tmp_path, family, change, 1, "a"), make(tmp_path, family, 2, "b")]
    for both in (nets, [nets[0], replace(nets[0], name="b")]):
        check_valid(fuse(both, share, layout, sources=[source(both, data)]), both)


@pytest.mark.parametrize("method", ["zip", "mtz", "permute"])
def test_what_float32_cannot_square_is_refused(method: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, "mlp", seed) for seed in (1, 2)]
    feeds = {k: v * np.float32(1e30) for k, v in samples_for(nets[0]).items()}
    with pytest.raises(InvalidDataError, match="beyond float32"):
        fuse(nets, 1.0, "strands", method, [Source(("net1", "net2"), feeds, {})])


def test_the_largest_value_is_named(tmp_path: Path) -> None:
    nets = [make(tmp_path, "lenet", seed) for seed in (1, 2)]
    feeds = {k: v * np.float32(1e25) for k, v in samples_for(nets[0]).items()}
    with pytest.raises(InvalidDataError, match=r"value '\w+' of (the fused net|'net[12]') reaches \d\.?\de\+2\d on these"):
        fuse(nets, sources=[Source(("net1", "net2"), feeds, {})])


@pytest.mark.parametrize("size", [1e-25, 1e12])
@pytest.mark.parametrize("family", ["mlp", "lenet"])
def test_sizes_of_the_data_do_not_matter(family: str, size: float, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, seed) for seed in (1, 2)]
    feeds = {k: v * np.float32(size) for k, v in samples_for(nets[0]).items()}
    for share, layout in SETTINGS:
        check_valid(fuse(nets, share, layout, sources=[Source(("net1", "net2"), feeds, {})]), nets)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_where_nothing_is_left_pivots_tell_nothing(count: int) -> None:
    covariance = np.ones((4, 4))
    found = pivots(covariance)
    np.testing.assert_allclose(found.left(count), np.zeros(4) if count else np.ones(4), atol=1e-8)
    assert sorted(found.order) == [0, 1, 2, 3]
    assert not pivots(np.zeros((4, 4))).factor.any()


def test_constant_columns_explain_nothing() -> None:
    assert np.array_equal(unexplained(np.diag([0.0, 0.0, 1.0]), np.array([0, 1])), np.diag([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("rounding, noise", [(1e-12, 0.0), (1e-6, 1e-4)])
def test_rounding_is_no_covariance(rounding: float, noise: float) -> None:
    x = np.random.default_rng(3).standard_normal((500, 3))
    x[:, 1] = 0.1 + noise * x[:, 1]
    found = centred(x.T @ x, x.sum(axis=0), np.array([500.0]), rounding)
    assert not found[1].any() and not found[:, 1].any()
    np.testing.assert_allclose(found[::2, ::2], np.cov(x[:, ::2].T, bias=True))


def test_a_share_above_0_shares_a_channel(tmp_path: Path) -> None:
    nets = [make(tmp_path, "lenet", seed) for seed in (1, 2)]
    fused = fuse(nets, 1e-3)
    assert {s.shared for s in fused.plan.shared_spaces()} == {1}
    check_valid(fused, nets)


MASKED = """g (float[N,16] x, float[16,24] w1, float[24] b1, float[24,8] w2, float[8] b2, float[24] hidden, float[8] mask)
    => (float[N,8] y) { m = MatMul (x, w1) h = Add (m, b1) d = Add (h, hidden) r = Relu (d)
    n = MatMul (r, w2) o = Add (n, b2) s = Add (o, mask) y = Softmax <axis = -1> (s) }"""


def masked(folder: Path, hidden: int, classes: int) -> dict[str, Path]:
    """Nets that add -inf to some hidden channels, and to some classes in front of the Softmax."""
    files = {}
    for seed, task in enumerate("ab"):
        (folder / task).mkdir()
        rng, shapes = np.random.default_rng(seed), {"w1": (16, 24), "b1": (24,), "w2": (24, 8), "b2": (8,)}
        given = {n: rng.standard_normal(s).astype(np.float32) / 2 for n, s in shapes.items()}
        for name, size, count in (("hidden", 24, hidden), ("mask", 8, classes)):
            given[name] = np.where(np.arange(size) < size - count, 0, -np.inf).astype(np.float32)
        files[task] = written(folder / task, MASKED, **given)
    return files


class TestInfiniteByAConstant:
    X = np.random.default_rng(9).standard_normal((300, 16)).astype(np.float32)

    @pytest.mark.parametrize(("share", "place"), [(0.0, HostPlace), (0.5, HostPlace), (1.0, HostPlace), (1.0, DevicePlace)])
    def test_masked_classes_stay_masked(
        self, share: float, place: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A head's own rows are fitted again, but for those that are -inf on any samples."""
        places = {HostPlace: HostPlace, DevicePlace: lambda store: DevicePlace(store, "cpu", 1)}
        monkeypatch.setattr(frontier, "place_for", lambda device, store, threads: places[place](store))
        files = masked(tmp_path, 0, 2)
        merged = onnxzip.merge(files, self.X, share=share, device="cpu")
        beside = onnxzip.merge(masked(tmp_path / "a", 0, 0), self.X, share=share, device="cpu").report["tasks"]
        found = originals_outputs(merged.model, {"x": self.X[:50]})
        for y, (task, entry) in zip(found, merged.report["tasks"].items(), strict=True):
            assert (y[:, -2:] == 0).all() and (y[:, :-2] > 0).any()
            most = 1e-6 if share == 0 else 1.3 * beside[task]["fidelity"]["relative_error"]
            assert entry["fidelity"]["relative_error"] <= most

    def test_shared_rows_are_refused_with_the_constant(self, tmp_path: Path) -> None:
        files = masked(tmp_path, 3, 2)
        assert onnxzip.merge(files, self.X, share=0, device="cpu").report["tasks"]["a"]["fidelity"]["relative_error"] < 1e-6
        with pytest.raises(UnsupportedError, match=r"net 'a'.*channels 21, 22, 23 on any samples, by its bias 'b1'.*--share"):
            onnxzip.merge(files, self.X, device="cpu")

    def test_samples_that_make_others_infinite_are_still_told(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidDataError, match="holds NaN or Inf on these samples"):
            onnxzip.merge(masked(tmp_path, 0, 2), np.where(self.X > 2, 3e38, self.X), device="cpu")
