"""Nets and data from which little can be told: what is zero, constant, or there twice merges like anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusing import Arrays, check_tasks, check_valid, fuse, make, samples_for

from onnxzip.calibration.samples import Source
from onnxzip.errors import InvalidDataError
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
