"""Nets of which some are the same up to some place: there they share all channels, whatever the share with the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusing import check_close, check_tasks, check_valid, fuse, make, outputs, samples_for
from merging import images, run, write_net

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.analysis.strands import counts_for
from onnxzip.net import Net

EXACT = 1e-5
FAMILIES = ["mlp", "lenet", "resnet", "mobilenet", "grouped", "densenet", "inception", "unet", "gated", "class_token"]


def trio(folder: Path, family: str, width: int = 4) -> list[Net]:
    """A net, its copy, another one."""
    return [make(folder, family, seed, name, width) for seed, name in ((1, "a"), (1, "copy"), (2, "b"))]


def named(*owners: str) -> frozenset[str]:
    return frozenset(owners)


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_net_and_its_copy_compute_the_same_at_any_share(family: str, layout: str, tmp_path: Path) -> None:
    """No channel of the two is apart from its twin, and what one computes the other one does, to the bit."""
    nets = trio(tmp_path, family)
    fused = fuse(nets, 0.5, layout)
    check_valid(fused, nets)
    spaces = [s for s in fused.plan.shared_spaces() if s.shares_any]
    assert spaces
    for space in spaces:
        assert not space.counts.keys() & {named("a"), named("copy")}
    for members in fused.zipped.members.values():
        if {"a", "copy"} <= members.index.keys():
            np.testing.assert_array_equal(members.index["a"], members.index["copy"])
    found = outputs(fused.net, samples_for(nets[0], 9, 8))
    for name in (p.name for p in nets[0].outputs):
        check_close(found[f"a_{name}"], found[f"copy_{name}"], EXACT)


@pytest.mark.parametrize("method", ["mtz", "average", "permute", "rebasin", "otfusion", "zipit", "regmean"])
def test_every_method_keeps_twins_together(method: str, tmp_path: Path) -> None:
    nets = trio(tmp_path, "lenet")
    fused = fuse(nets, 0.5, method=method)
    check_valid(fused, nets)
    assert {o for s in fused.plan.shared_spaces() for o in s.counts} == {
        named("a", "copy", "b"), named("a", "copy"), named("b"),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_what_three_nets_have_in_common_is_shared_bit_for_bit_at_any_share(family: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, 1, name, classes=c) for name, c in (("a", 5), ("b", 3), ("c", 5))]
    fused = fuse(nets, 0.3)
    for space in fused.plan.shared_spaces():
        assert space.counts.keys() == {named("a", "b", "c")} and fused.zipped.same[space.number] == space.shared
    check_tasks(fused, nets, EXACT)


def test_channels_that_two_of_three_nets_have_in_common_are_exact_where_nothing_before_them_is_shared_with_the_third(
    tmp_path: Path,
) -> None:
    """The first layer keeps half of its channels for the two: bit for bit, and the report counts them."""
    nets = trio(tmp_path, "lenet", 8)
    fused = fuse(nets, 0.5)
    space = fused.plan.shared_spaces()[0]
    both = named("a", "copy")
    assert fused.zipped.same[space.number] == space.counts[both] == 4
    weight = next(w for w in fused.plan.layout.weights if w.key == both and not w.bias)
    original = next(p for p in nets[0].params.values() if p.ndim == 4)
    chosen = fused.zipped.members[space.number, both].index["a"]
    np.testing.assert_array_equal(fused.zipped.params[weight.name], original[chosen])


def test_only_the_layers_that_are_the_same_are_shared_whole(tmp_path: Path) -> None:
    """A copy whose last hidden layer was trained further."""
    first, copy, other = trio(tmp_path, "lenet")
    name = next(str(n.inputs[1]) for n in copy.nodes if n.op == "Gemm")
    moved = copy.params[name] + np.float32(0.01)
    copy = replace(copy, params={**copy.params, name: moved})
    plan = analyse([first, copy, other], (("*", 0.5),))
    *before, last = plan.shared_spaces()
    assert all(named("a", "copy") in s.counts and not {named("a"), named("copy")} & s.counts.keys() for s in before)
    assert last.counts.keys() == {named("a", "copy", "b"), named("a"), named("copy"), named("b")}


def test_nothing_is_shared_where_nothing_is_asked_for(tmp_path: Path) -> None:
    plan = analyse(trio(tmp_path, "lenet"), (("*", 0.0),))
    assert not any(s.shares_any for s in plan.spaces.values())


def test_the_third_net_leads_half_of_what_all_share(tmp_path: Path) -> None:
    """Twins count as one net: else each of three would lead a third, and follow with unlike channels."""
    fused = fuse(trio(tmp_path, "mlp", 12))
    for members in (m for m in fused.zipped.members.values() if m.leads):
        np.testing.assert_array_equal(members.leads["a"], members.leads["copy"])
        assert abs(int(members.leads["a"].sum()) - int(members.leads["b"].sum())) <= 1


def test_counts_of_twins_go_by_the_share_with_the_others() -> None:
    sizes = {"a": 8, "copy": 8, "b": 12, "c": 10}
    found = counts_for(sizes, 0.5, (named("a", "copy"),))
    assert found == {
        named("a", "copy", "b", "c"): 4, named("b", "c"): 1, named("a", "copy"): 4, named("b"): 7, named("c"): 5,
    }
    assert counts_for({"a": 8, "copy": 8}, 0.5, (named("a", "copy"),)) == {named("a", "copy"): 8}


def test_plan_and_report_tell_what_some_share(tmp_path: Path) -> None:
    """One net beside its copy and another one, on the command line."""
    files = [write_net(tmp_path / f"{name}.onnx", seed) for name, seed in (("a", 1), ("copy", 1), ("b", 2))]
    told = run("plan", *files, "--share", "0.5")
    assert told.code == 0 and "shared by all" in told.out and "by some" in told.out
    spaces = onnxzip.plan({f.stem: f for f in files}, share=0.5)["spaces"]
    assert [s["partly"] for s in spaces] == [[{"tasks": ["a", "copy"], "channels": n}] for n in (4, 8)]
    merged = onnxzip.merge({f.stem: f for f in files}, images(64), share=0.5).report
    assert list(merged["identical"].values()) == [4, 8] and [s["shared"] for s in merged["spaces"]] == [4, 8]
    assert "by some" not in run("plan", *files[1:], "--share", "0.5").out
