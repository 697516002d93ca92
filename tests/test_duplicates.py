"""Nets with a backbone in common share it bit for bit, whatever their names, their order and their data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from architectures import ARCHITECTURES, IMAGE, Architecture, Maker, model_of
from fusing import check_all_shared, check_close, fuse, make, net_of, outputs, permuted, samples_for, scrambled

import onnxzip
from onnxzip.analysis import Plan
from onnxzip.fusion.zipped import Zipped
from onnxzip.net import Net

EXACT = 1e-5
FAMILIES = ["mlp", "lenet", "resnet", "mobilenet", "grouped", "densenet", "inception", "unet", "gated", "class_token"]
ROUNDING = {"resnet"}  # a branch and its projection get one bias: the sum of both, rounded once more
families = pytest.mark.parametrize("family", FAMILIES)


def check_identical(plan: Plan, zipped: Zipped) -> None:
    """All that is shared is the same in all nets, and nothing was fitted."""
    shared = {s.number: s.shared for s in plan.shared_spaces()}
    assert shared
    assert {n: zipped.same[n] for n in shared} == shared
    assert not [fit for by_key in zipped.fits.values() for fits in by_key.values() for fit in fits]


def check_bits(fused: Net, task: str, original: Net, family: str) -> None:
    feeds = samples_for(original, 9, 8)
    found = outputs(fused, feeds)
    for name, want in outputs(original, feeds).items():
        if family in ROUNDING:
            check_close(found[f"{task}_{name}"], want, EXACT)
        else:
            np.testing.assert_array_equal(found[f"{task}_{name}"], want)


@families
def test_common_backbone_is_shared_bit_for_bit(family: str, tmp_path: Path) -> None:
    """Three heads, two of them with other classes: a mean of three equal rows would round."""
    nets = [make(tmp_path, family, 1, name, classes=c) for name, c in (("a", 5), ("b", 3), ("c", 5))]
    fused = fuse(nets)
    check_all_shared(fused.plan)
    check_identical(fused.plan, fused.zipped)
    for net in nets:
        check_bits(fused.net, net.name, net, family)


@families
def test_common_backbone_is_found_in_any_order(family: str, tmp_path: Path) -> None:
    """Other names, nodes and channels in another order; the second net's sums run in another order, too."""
    other = scrambled(model_of(ARCHITECTURES[family], 1, classes=3), 4)
    nets = [make(tmp_path, family, 1, "a"), permuted(net_of(tmp_path, other, "b"), 5)]
    fused = fuse(nets)
    check_identical(fused.plan, fused.zipped)
    check_bits(fused.net, "a", nets[0], family)
    feeds = samples_for(nets[1], 9, 8)
    for name, want in outputs(nets[1], feeds).items():
        check_close(outputs(fused.net, feeds)[f"b_{name}"], want, EXACT)


@pytest.mark.parametrize("layout", ["strands", "wide"])
def test_identical_channels_come_first_where_some_are_shared(layout: str, tmp_path: Path) -> None:
    """Half of the first layer's channels are the same: at share 0.5 those are the shared ones, without loss."""
    nets = []
    for k, seed in enumerate((1, 2)):
        net = make(tmp_path, "lenet", seed, f"net{k}", width=8)
        first = next(n for n in net.nodes if n.op == "Conv")
        params = dict(net.params)
        for at in (1, 2):
            name = str(first.inputs[at])
            common = np.random.default_rng(at).standard_normal(net.params[name].shape).astype(np.float32)
            params[name] = net.params[name].copy()
            params[name][k : k + 4] = common[:4]
        nets.append(replace(net, params=params))
    fused = fuse(nets, 0.5, layout)
    space = fused.plan.shared_spaces()[0]
    assert fused.zipped.same[space.number] == 4
    members = [m for (n, key), m in fused.zipped.members.items() if n == space.number and len(key) == 2]
    pairs = [(int(i), int(j)) for m in members for i, j in zip(m.index["net0"], m.index["net1"], strict=True)]
    assert {pair for pair in pairs if min(pair) >= 0} == {(c, c + 1) for c in range(4)}


def backbone_with(seed: int) -> Architecture:
    """A backbone that is always the same, and two layers drawn from a seed behind it."""

    def build(m: Maker, w: int, classes: int) -> str:
        x = m.relu(m.conv("image", (w, 3, 3, 3)))
        x = m.relu(m.conv(x, (2 * w, w, 3, 3)))
        x = m.op("Flatten", m.op("GlobalAveragePool", x))
        m.rng = np.random.default_rng(seed)
        return m.gemm(m.relu(m.gemm(x, 2 * w, 3 * w)), 3 * w, classes)

    return Architecture(build, {"image": IMAGE})


def test_merge_without_data_shares_the_common_part_exactly_and_says_so(tmp_path: Path) -> None:
    files = {}
    for seed, task in ((5, "a"), (6, "b")):
        files[task] = tmp_path / f"{task}.onnx"
        onnx.save(model_of(backbone_with(seed), 1), files[task])
    exact = onnxzip.merge(files, share={"*": 0.0, "Conv*": 1.0})
    assert list(exact.report["identical"].values()) == [4, 8]
    assert [s["shared"] for s in exact.report["spaces"]] == [4, 8, 0]
    assert [t["fidelity"]["relative_error"] for t in exact.report["tasks"].values()] == [0.0, 0.0]
    whole = onnxzip.merge(files).report
    assert whole["identical"] == exact.report["identical"] and [s["shared"] for s in whole["spaces"]] == [4, 8, 12]
