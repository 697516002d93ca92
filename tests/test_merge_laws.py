"""The laws of the merge, for every family: what is the same is shared, what is not shared stays, order means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from architectures import ARCHITECTURES, model_of
from fusing import (
    check_all_shared,
    check_close,
    check_tasks,
    check_valid,
    fuse,
    make,
    net_of,
    outputs,
    permuted,
    samples_for,
    scrambled,
)

from onnxzip.analysis import analyse
from onnxzip.calibration.samples import Source
from onnxzip.errors import UnsupportedError
from onnxzip.linalg.moments import DenseSums, Moments
from onnxzip.net import Net

EXACT = 1e-5
SAME = 1e-4
COUPLED = [name for name, architecture in ARCHITECTURES.items() if architecture.shares_all]
LAYOUTS = ("strands", "wide")
every_family = pytest.mark.parametrize("family", ARCHITECTURES)
WHOLE = [name for name in ARCHITECTURES if name != "image_scaled"]  # there shared rows miss what each task keeps for itself
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def gives_up(family: str, layout: str) -> bool:
    """Whether nets of different width share nothing of their first space: a node needs it whole, and what is behind that node
    adds to it, or one strand holds channels of several owners."""
    mixed = ("turned_features", "predicted_matrix", "channel_attention", "interactions")
    torn = family in ("layer_norm", "spatial_attention", "mean_joined", "computed_weights", *mixed) and layout == "wide"
    return torn or family in ("encoder", "token_encoder", "token_mixer", "token_gate")


def frozen(net: Net) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in net.params.items()}


# Law 6 ----------------------------------------------------------------------------------------------------------------


@every_family
def test_order_of_channels_means_nothing(family: str, tmp_path: Path) -> None:
    net = make(tmp_path, family, 1)
    moved = permuted(net, 5)
    feeds = samples_for(net, 9, 8)
    assert frozen(moved) != frozen(net)
    for want, got in zip(outputs(net, feeds).values(), outputs(moved, feeds).values(), strict=True):
        check_close(got, want, EXACT)


# Law 4 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WHOLE)
@every_layout
def test_net_merged_with_permuted_copy_is_the_net(family: str, layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, 1, "a"), permuted(make(tmp_path, family, 1, "b"), 5)]
    fused = fuse(nets, 1.0, layout)
    if family in COUPLED:
        check_all_shared(fused.plan)
    check_valid(fused, nets)
    check_tasks(fused, nets, SAME)


@pytest.mark.parametrize("family", WHOLE)
def test_net_merged_with_itself_is_the_net(family: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, 1, name) for name in ("a", "b", "c")]
    fused = fuse(nets)
    if family in COUPLED:
        check_all_shared(fused.plan)
    check_tasks(fused, nets, SAME)


@pytest.mark.parametrize("family", ["mlp", "lenet", "resnet", "mobilenet", "grouped", "densenet", "unet", "gated"])
def test_half_wide_merge_with_permuted_copy_is_the_net(family: str, tmp_path: Path) -> None:
    """In layout wide every row reads every channel, so shared rows miss nothing."""
    nets = [make(tmp_path, family, 1, "a"), permuted(make(tmp_path, family, 1, "b"), 5)]
    check_tasks(fuse(nets, 0.5, "wide"), nets, SAME)


WIDE_FAMILIES = [
    "mlp", "lenet", "resnet", "mobilenet", "grouped", "densenet", "unet", "gated", "squeeze_excite", "inception",
    "image_joined", "input_joined_and_added",
]


@pytest.mark.parametrize("family", WIDE_FAMILIES)
def test_wide_rows_read_what_each_task_has_for_itself(family: str, tmp_path: Path) -> None:
    """Nothing is shared of the first space, yet of those behind it, whose rows read the channels of both nets."""
    nets = [make(tmp_path, family, 1, "a"), permuted(make(tmp_path, family, 1, "b"), 5)]
    first, *others = analyse(nets, layout="wide").shared_spaces()
    fused = fuse(nets, [("*", 0.5), (first.name, 0.0)], "wide")
    found = {s.number: s for s in fused.plan.shared_spaces()}
    assert not found[first.number].shared
    assert all(found[s.number].shared for s in others if s.shared and s.name != first.name)
    check_valid(fused, nets)
    check_tasks(fused, nets, SAME)


# Law 5 ----------------------------------------------------------------------------------------------------------------


@every_family
@every_layout
def test_nothing_shared_leaves_the_originals(family: str, layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, 1), make(tmp_path, family, 2, width=6, classes=3)]
    fused = fuse(nets, 0.0, layout)
    assert all(len(owners) == 1 for s in fused.plan.spaces.values() if not s.given for owners in s.counts)
    assert not [fit for by_key in fused.zipped.fits.values() for fits in by_key.values() for fit in fits]
    check_valid(fused, nets)
    check_tasks(fused, nets, EXACT)


# any nets, any shares -------------------------------------------------------------------------------------------------


@every_family
@every_layout
@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_independent_nets_merge(family: str, layout: str, share: float, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, 1), make(tmp_path, family, 2)]
    before = [frozen(n) for n in nets]
    fused = fuse(nets, share, layout)
    check_valid(fused, nets)
    assert any(space.shared for space in fused.plan.spaces.values() if not space.given)
    assert [frozen(n) for n in nets] == before


@every_family
@every_layout
def test_three_nets_of_different_width_and_classes(family: str, layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, k, width=w, classes=c) for k, w, c in ((1, 4, 5), (2, 6, 3), (3, 8, 2))]
    if gives_up(family, layout):
        with pytest.raises(UnsupportedError, match="share nothing"):
            fuse(nets, 0.7, layout)
        return
    fused = fuse(nets, 0.7, layout)
    check_valid(fused, nets)
    first = fused.plan.shared_spaces()[0]
    if len(set(first.sizes.values())) == 3:
        assert {len(owners) for owners in first.counts} == {1, 2, 3}


@pytest.mark.parametrize("family", ["mlp", "lenet", "resnet", "mobilenet", "inception", "grouped"])
@every_layout
def test_four_nets(family: str, layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, k, width=w) for k, w in enumerate((8, 4, 6, 4))]
    check_valid(fuse(nets, 1.0, layout), nets)


JOINED = ("layer_norm", "image_joined", "spatial_attention", "mean_joined")


@pytest.mark.parametrize("family", ["resnet", "mobilenet", "inception", *JOINED])
@every_layout
def test_data_of_its_own_for_each_task(family: str, layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, k) for k in (1, 2, 3)]
    sources = [Source(("net1", "net3"), samples_for(nets[0], 40, 1), {}), Source(("net2",), samples_for(nets[0], 70, 2), {})]
    check_valid(fuse(nets, 0.5, layout, "zip", sources), nets)


@pytest.mark.parametrize("method", ["mtz", "average"])
@pytest.mark.parametrize("family", ["lenet", "resnet", "mobilenet", "inception", "squeeze_excite"])
def test_other_methods(family: str, method: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, 1), make(tmp_path, family, 2)]
    check_valid(fuse(nets, 0.5, "strands", method), nets)


def test_channels_of_the_input_that_each_task_scales_by_itself(tmp_path: Path) -> None:
    """An image joined to features, then a depthwise Conv over both: nothing of it is the same in two tasks."""
    nets = [make(tmp_path, "image_scaled", k) for k in (1, 2)]
    fused = fuse(nets, 1.0)
    check_valid(fused, nets)
    assert any("params of its own for" in r.why for r in fused.plan.refusals)


def test_nets_of_other_width_part_where_a_norm_needs_all_channels(tmp_path: Path) -> None:
    """What starves behind the norm is refused because of the norm; nothing else is left here."""
    told = "share nothing.*needs all channels at once, and the nets differ in how many they have"
    with pytest.raises(UnsupportedError, match=told) as caught:
        analyse([make(tmp_path, "encoder", 1), make(tmp_path, "encoder", 2, width=6)])
    assert "all that its shared channels could read" not in str(caught.value)


@pytest.mark.parametrize("family", ["input_added", "input_masked", "input_joined_and_added"])
@every_layout
def test_only_the_layer_that_makes_the_inputs_channels_stays_apart(family: str, layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, 1, "a"), make(tmp_path, family, 2, "b", width=6)]
    plan = analyse(nets, [("*", 1.0)], layout)
    assert [s.shared for s in plan.shared_spaces()] == [4, 8]
    assert {r.where.split(": ")[0] for r in plan.refusals} == {"a", "b"} and len(plan.refusals) == 2
    assert all("an input of the net" in r.why for r in plan.refusals)


def test_nothing_behind_an_input_skip_is_shared(tmp_path: Path) -> None:
    nets = [make(tmp_path, "input_added_within", k) for k in (1, 2)]
    plan = analyse(nets)
    assert [s.shared for s in plan.shared_spaces()] == [8, 0]
    assert sum("an input of the net" in r.why for r in plan.refusals) == 2


def test_an_output_has_its_name_where_an_inner_value_has_it_too(tmp_path: Path) -> None:
    """The channels beside the input go by the output's name until both are joined."""
    fused = fuse([make(tmp_path, "input_kept", k) for k in (1, 2)])
    assert [p.name for p in fused.net.outputs] == ["net1_out0", "net2_out0"]
    inner = [v for node in fused.net.nodes for v in node.outputs if v not in {p.name for p in fused.net.outputs}]
    assert len(set(inner)) == len(inner)


def test_factors_that_weights_make_elsewhere_stay_as_they_are(tmp_path: Path) -> None:
    """Nets that differ in weights alone correspond from end to end, and the reason for what is not shared is the product."""
    plan = analyse([make(tmp_path, "predicted_residual", k) for k in (1, 2)])
    assert all(len(role.members) == 2 for role in plan.overlay.roles)
    assert any(r.why.endswith("mixes several channel spaces") for r in plan.refusals)


@every_layout
def test_share_by_pattern(layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, "vgg", 1), make(tmp_path, "vgg", 2)]
    names = [s.name for s in analyse(nets).shared_spaces()]
    fused = fuse(nets, [("*", 1.0), (names[1], 0.5), (names[2], 0.25)], layout)
    check_valid(fused, nets)
    assert [s.shared for s in fused.plan.shared_spaces()] == [4, 2, 2]


def test_random_shares_everywhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    for k, family in enumerate(["densenet", "unet", "mobilenet", "image_joined", "gated", "bottleneck"] * 2):
        nets = [make(tmp_path, family, s, width=int(rng.choice([4, 6]))) for s in range(int(rng.integers(2, 4)))]
        names = [s.name.lstrip("/") for s in analyse(nets).shared_spaces()]
        shares = [(name, float(rng.choice([0.0, 0.3, 0.6, 1.0]))) for name in names]
        check_valid(fuse(nets, shares, LAYOUTS[k % 2]), nets)


# different nets -------------------------------------------------------------------------------------------------------


PAIRS = [("vgg", "lenet"), ("resnet", "preactivation"), ("unet", "two_outputs"), ("inception", "scaled")]


@pytest.mark.parametrize("pair", PAIRS)
@every_layout
def test_heads_of_different_structure(pair: tuple[str, str], layout: str, tmp_path: Path) -> None:
    """The trunk ends where the nets stop corresponding, and the report says where."""
    nets = [make(tmp_path, family, k, family) for k, family in enumerate(pair)]
    try:
        fused = fuse(nets, 1.0, layout)
    except UnsupportedError as error:
        assert "stands where" in str(error)
        return
    check_valid(fused, nets)
    assert any("head starts here" in r.why for r in fused.plan.refusals)


@every_layout
def test_two_of_three_agree_longer(layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, "unet", 1), make(tmp_path, "two_outputs", 2), make(tmp_path, "unet", 3)]
    fused = fuse(nets, 1.0, layout)
    check_valid(fused, nets)
    owners = {o for s in fused.plan.spaces.values() for o in s.counts}
    assert {frozenset({"net1", "net2", "net3"}), frozenset({"net1", "net3"})} <= owners


@every_layout
def test_unknown_operator_is_reported_and_the_rest_merges(layout: str, tmp_path: Path) -> None:
    nets = [make(tmp_path, "unknown_operator", 1), make(tmp_path, "unknown_operator", 2)]
    fused = fuse(nets, 1.0, layout)
    check_valid(fused, nets)
    assert any("BitShift" in r.where and "bits of integers" in r.why for r in fused.plan.refusals)
    assert any(s.shared for s in fused.plan.spaces.values())


# correspondence -------------------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("seed", [3, 4])
def test_names_and_order_of_nodes_mean_nothing(family: str, seed: int, tmp_path: Path) -> None:
    model = model_of(ARCHITECTURES[family], 1)
    plan = analyse([net_of(tmp_path, model, "a"), net_of(tmp_path, scrambled(model, seed), "b")])
    if family in COUPLED:
        check_all_shared(plan)
    assert all(set(role.members) == {"a", "b"} for role in plan.overlay.roles)


@pytest.mark.parametrize("family", ["inception", "resnet", "unet", "two_inputs", "gated", "lenet"])
def test_scrambled_copy_gives_back_the_net(family: str, tmp_path: Path) -> None:
    model = model_of(ARCHITECTURES[family], 1)
    nets = [net_of(tmp_path, model, "a"), net_of(tmp_path, scrambled(model, 9), "b")]
    check_tasks(fuse(nets), nets, SAME)


# Law 7 ----------------------------------------------------------------------------------------------------------------


def moments_of(*parts: tuple[np.ndarray, np.ndarray]) -> Moments:
    sums = DenseSums(parts[0][0].shape[1], parts[0][1].shape[1])
    for z, p in parts:
        sums.add(False, z, p)
    return sums.moments(False)


def test_moments_add_up() -> None:
    rng = np.random.default_rng(0)
    z, p = rng.standard_normal((50, 7), np.float32), rng.standard_normal((50, 3), np.float32)
    whole, both = moments_of((z, p)), moments_of((z[:20], p[:20]), (z[20:], p[20:]))
    assert whole.count == both.count == 50
    for name in ("zz", "zp", "pp"):
        np.testing.assert_allclose(np.asarray(getattr(both, name)), np.asarray(getattr(whole, name)), rtol=1e-5, atol=1e-5)
