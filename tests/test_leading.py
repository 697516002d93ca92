"""Params that are one for all channels, others in each net: each channel goes through those of the net that it follows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from fusing import Fused, check_all_shared, check_tasks, check_valid, fuse, make, net_of, permuted, samples_for
from merging import fed
from onnx import ModelProto, numpy_helper, parser

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.calibration.samples import Source
from onnxzip.inspection.differing import diff
from onnxzip.net import Net

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
mixer (float[n, 6, 10] x) => (float[n, 5] y) {
    a = MatMul(x, w0)
    b = Relu(a)
    t = Transpose<perm = [0, 2, 1]>(b)
    scaled = Mul(t, gain)
    h = MatMul(scaled, mix0)
    units = Add(h, c0)
    r = Relu(units)
    m = MatMul(r, mix1)
    back = Transpose<perm = [0, 2, 1]>(m)
    s = Add(b, back)
    u = MatMul(s, w1)
    v = Relu(u)
    p = ReduceMean<axes = [1], keepdims = 0>(v)
    y = MatMul(p, w2)
}"""
CROSS = {"gain": (6,), "mix0": (6, 8), "c0": (8,), "mix1": (8, 6)}
every_layout = pytest.mark.parametrize("layout", ["strands", "wide"])


def arrays(seed: int, cross: int, copies: int = 1) -> dict[str, np.ndarray]:
    """Params of a net, those that are one for all channels by a seed of their own; each channel stands there several times."""
    rng, other = np.random.default_rng(seed), np.random.default_rng(cross)
    found = {n: rng.standard_normal(s) / np.sqrt(s[0]) for n, s in {"w0": (10, 8), "w1": (8, 12), "w2": (12, 5)}.items()}
    for made, reads in (("w0", "w1"), ("w1", "w2")):
        found[made], found[reads] = np.tile(found[made], (1, copies)), np.tile(found[reads], (copies, 1)) / copies
    found |= {name: other.standard_normal(s) / np.sqrt(s[0]) for name, s in CROSS.items()}
    return {name: a.astype(np.float32) for name, a in found.items()}


def model(params: dict[str, np.ndarray], text: str = TEXT) -> ModelProto:
    made = parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in params.items())
    return made


def nets(folder: Path, *seeds: int, copies: int = 1) -> list[Net]:
    return [net_of(folder, model(arrays(s, 100 + s, copies)), f"net{s}") for s in seeds]


def of_params(fused: Fused, params: dict[str, np.ndarray], name: str) -> bool:
    return any(np.array_equal(a, params[name]) for a in fused.net.params.values())


@every_layout
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_nets_that_differ_in_them_merge(tmp_path: Path, layout: str, share: float) -> None:
    made = nets(tmp_path, 1, 2, 3)
    fused = fuse(made, share, layout)
    check_valid(fused, made)
    assert all(of_params(fused, arrays(s, 100 + s), name) for s in (1, 2, 3) for name in CROSS)
    if not share:
        check_tasks(fused, made, 1e-5)
    else:
        assert fused.plan.refusals == ()
        assert all(space.shared for space in fused.plan.shared_spaces())


def test_nets_with_room_for_both_lose_nothing(tmp_path: Path) -> None:
    """Each channel stands there twice: half of them are each net's own, through its own params, and nothing is lost."""
    made = nets(tmp_path, 1, 2, copies=2)
    sources = [Source(("net1", "net2"), samples_for(made[0], 400), {})]
    fused = fuse(made, 1.0, sources=sources)
    check_all_shared(fused.plan)
    check_tasks(fused, made, 1e-2)


@every_layout
@pytest.mark.parametrize("share", [0.6, 1.0])
def test_channels_go_through_the_params_of_those_whom_they_follow(tmp_path: Path, layout: str, share: float) -> None:
    fused = fuse(nets(tmp_path, 1, 2, 3), share, layout)
    space = fused.plan.shared_spaces()[0]
    seen = {frozenset(s.key): 0 for s in space.strands}
    for placed in fused.plan.layout.placed:
        part = fused.plan.layout.parts.get(placed.node.outputs[0])
        if placed.node.op != "Mul" or part is None:
            continue
        gain = fused.net.params[str(placed.node.inputs[1])]
        (leader,) = part.led
        assert np.array_equal(gain, arrays(int(leader[-1]), 100 + int(leader[-1]))["gain"])
        key = next(s.key for s in space.strands if part.owners <= s.key)
        leads = fused.zipped.members[space.number, key].leads
        mine = slice(seen[key], seen[key] + part.size)
        seen[key] += part.size
        if len(part.owners) > 1:
            assert leads[leader][mine].all()
            assert not any(leads[t][mine].any() for t in part.owners - {leader})
    assert any(seen.values())


def test_what_is_the_same_in_all_nets_is_one(tmp_path: Path) -> None:
    made = [net_of(tmp_path, model(arrays(s, 7)), f"net{s}") for s in (1, 2)]
    fused = fuse(made)
    assert not fused.plan.layout.parts
    assert sum(a.shape == CROSS["mix0"] for a in fused.net.params.values()) == 1


def test_a_permuted_copy_is_the_net(tmp_path: Path) -> None:
    (one,) = nets(tmp_path, 1)
    fused = fuse([one, permuted(one, 5, "other")])
    check_all_shared(fused.plan)
    check_tasks(fused, [one, permuted(one, 5, "other")], 1e-4)
    assert not fused.plan.layout.parts


def test_nets_of_one_start_share_the_mean(tmp_path: Path) -> None:
    params, rng = arrays(1, 101), np.random.default_rng(0)
    near = {n: (a + 0.01 * np.abs(a).mean() * rng.standard_normal(a.shape)).astype(np.float32) for n, a in params.items()}
    made = [net_of(tmp_path, model(p), name) for name, p in (("one", params), ("two", near))]
    fused = fuse(made)
    assert not fused.plan.layout.parts
    np.testing.assert_allclose(fused.net.params["mix0"], (params["mix0"] + near["mix0"]) / 2, rtol=1e-6)
    check_tasks(fused, made, 0.05)


@pytest.mark.parametrize("method", ["average", "mtz", "permute"])
def test_methods_without_leaders_take_the_mean(tmp_path: Path, method: str) -> None:
    made = nets(tmp_path, 1, 2)
    fused = fuse(made, 1.0, "strands", method)
    check_valid(fused, made)
    mean = (arrays(1, 101)["mix0"] + arrays(2, 102)["mix0"]) / 2
    (mix,) = (a for a in fused.net.params.values() if a.shape == mean.shape)
    np.testing.assert_allclose(mix, mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", ["token_mixer", "token_gate"])
@every_layout
def test_mixers_share_everything(tmp_path: Path, family: str, layout: str) -> None:
    plan = analyse([make(tmp_path, family, k) for k in (1, 2)], layout=layout)
    check_all_shared(plan)
    assert plan.layout.parts


def test_twins_lead_together(tmp_path: Path) -> None:
    """Two heads of one trunk, and another net: the twins' params are one."""
    first, head = arrays(1, 101), np.random.default_rng(9).standard_normal((12, 5)).astype(np.float32)
    made = [net_of(tmp_path, model(p), n) for n, p in (("a", first), ("b", first | {"w2": head}), ("c", arrays(2, 102)))]
    fused = fuse(made)
    check_valid(fused, made)
    assert {part.led for part in fused.plan.layout.parts.values()} == {frozenset("ab"), frozenset("c")}
    assert sum(a.shape == CROSS["mix0"] for a in fused.net.params.values()) == 2


def test_channels_inside_of_an_axis_end_the_trunk(tmp_path: Path) -> None:
    """Two positions side by side along the axis of channels: no part of it is one net's."""
    text = TEXT.replace("t = Transpose<perm = [0, 2, 1]>(b)", "pairs = Reshape(b, two) t = Transpose<perm = [0, 2, 1]>(pairs)")
    text = text.replace("s = Add(b, back)", "s = Add(pairs, back)")
    made = []
    for seed in (1, 2):
        params = arrays(seed, 100 + seed)
        rng = np.random.default_rng(seed)
        params |= {"gain": params["gain"][:3], "mix0": params["mix0"][:3], "mix1": params["mix1"][:, :3]}
        params |= {"w1": rng.standard_normal((16, 12)).astype(np.float32), "two": np.array([0, 3, 16])}
        made.append(net_of(tmp_path, model(params, text), f"net{seed}"))
    plan = analyse(made)
    assert [s.shared for s in plan.shared_spaces()] == [8, 0]
    (refusal,) = plan.refusals
    assert re.match("Mul '.*' has one param for all channels, but another one in each net", refusal.why)
    check_valid(fuse(made), made)


def test_a_norm_over_channels_and_positions_ends_the_trunk(tmp_path: Path) -> None:
    """It needs all channels at once, and has a gain for each position."""
    text = TEXT.replace("scaled = Mul(t, gain)", "scaled = LayerNormalization<axis = 1>(t, gain)")
    made = [net_of(tmp_path, model(arrays(s, 100 + s), text), f"net{s}") for s in (1, 2)]
    plan = analyse(made)
    assert [s.shared for s in plan.shared_spaces()] == [8, 0]
    assert any("these channels are needed at once" in r.why for r in plan.refusals)
    check_valid(fuse(made), made)


def test_another_number_of_units_ends_the_trunk(tmp_path: Path) -> None:
    made = []
    for seed, units in ((1, 8), (2, 7)):
        params = arrays(seed, 100 + seed)
        params |= {"mix0": params["mix0"][:, :units], "c0": params["c0"][:units], "mix1": params["mix1"][:units]}
        made.append(net_of(tmp_path, model(params), f"net{seed}"))
    plan = analyse(made)
    assert plan.shared_spaces()[0].shared == 8
    assert any("MatMul [6, 7] stands where 'net1' has MatMul [6, 8]" in r.why for r in plan.refusals)


@every_layout
def test_layers_read_what_was_led(tmp_path: Path, layout: str) -> None:
    """Gains by position right in front of a layer, which is fitted to what they make of fused channels."""
    text, copies = TEXT.replace("u = MatMul(s, w1)", "g = Mul(s, places) u = MatMul(g, w1)"), 2
    made = []
    for seed in (1, 2):
        places = {"places": np.random.default_rng(seed).uniform(0.5, 1.5, (6, 1)).astype(np.float32)}
        made.append(net_of(tmp_path, model(arrays(seed, 100 + seed, copies) | places, text), f"net{seed}"))
    fused = fuse(made, 1.0, layout, sources=[Source(("net1", "net2"), samples_for(made[0], 400), {})])
    check_all_shared(fused.plan)
    check_tasks(fused, made, 1e-2)


def test_a_param_of_several_parts_is_no_channel_of_one_that_has_a_single_one(tmp_path: Path) -> None:
    """A merge of a merge: the gain of one net acts on its own channels, and on a part of a single channel."""
    before, _, behind = TEXT.partition("t = Transpose")
    text = f"{before} s = Mul(b, places) {behind[behind.index('u = MatMul') :]}"

    def save(seed: int) -> Path:
        rng, path = np.random.default_rng(seed), tmp_path / f"net{seed}.onnx"
        shapes = {"w0": (10, 4), "places": (6, 1), "w1": (4, 12), "w2": (12, 5)}
        params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        path.write_bytes(model(params, text).SerializeToString())
        return path

    files = {f"net{s}": save(s) for s in (1, 2, 3)}
    data = {"x": np.random.default_rng(0).standard_normal((60, 6, 10), np.float32)}
    pair = {t: files[t] for t in ("net1", "net2")}
    onnxzip.merge(pair, dict.fromkeys(pair, data), share=0.5).save(tmp_path / "pair.onnx")
    both = {"pair": tmp_path / "pair.onnx", "net3": files["net3"]}
    net = net_of(tmp_path, onnx.load(both["pair"]), "again")
    assert sum(n.op == "Mul" and net.shapes[n.outputs[0]][-1] == 1 for n in net.nodes) == 2
    onnxzip.merge(both, dict.fromkeys(both, data), share=0.5).save(tmp_path / "all.onnx")
    assert len(fed(tmp_path / "all.onnx", data)) == 3


def test_masks_are_no_such_params(tmp_path: Path) -> None:
    """Which tokens count is no matter of training: nets that differ in that part."""
    text = TEXT.replace("r = Relu(units)", "masked = Add(units, mask) r = Softmax<axis = -1>(masked)")
    made = []
    for seed in (1, 2):
        mask = np.where(np.arange(8) < 2 + 2 * seed, 0, -np.inf).astype(np.float32)
        made.append(net_of(tmp_path, model(arrays(seed, 100 + seed) | {"mask": mask}, text), f"net{seed}"))
    assert any("head starts here" in r.why for r in analyse(made).refusals)


def test_what_the_file_tells_of_them(tmp_path: Path) -> None:
    """Each task is taken out again as it is in the fused net, diff tells whose params they are, retraining goes on."""
    files = {f"net{s}": tmp_path / f"net{s}.onnx" for s in (1, 2)}
    made = nets(tmp_path, 1, 2)
    data = {t: samples_for(made[0], 60, k) for k, t in enumerate(files)}
    merged = onnxzip.merge(files, data, share=1.0)
    out = tmp_path / "both.onnx"
    merged.save(out)
    for task, file in files.items():
        (mixed, _) = (e for e in diff(file, out)["nodes"] if e["op"] == "MatMul" and len(e["fused"]) == 2)
        assert mixed["channels"] == {"own": 0, "shared": 8, "moved": None}
        alone = onnxzip.split(out, task)
        feeds = samples_for(made[0], 8, 9)
        np.testing.assert_allclose(fed(alone.SerializeToString(), feeds)["y"], fed(out, feeds)[f"{task}_y"], rtol=1e-5)
    better = onnxzip.retrain(out, files, data, steps=2)
    assert better.report["retrain"]["steps"] == 2
