"""Each known method on the case in which its paper's defining property holds."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from fusing import check_tasks, check_valid, fuse, make, outputs, permuted, samples_for
from merging import failed, images, run, write_net
from zipping import planned, sources_of

from onnxzip.analysis import Plan
from onnxzip.calibration.features import gather_features
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.store import Store
from onnxzip.errors import UnsupportedError, UsageError
from onnxzip.fusion.assembling import assemble
from onnxzip.fusion.zipped import Zipped
from onnxzip.fusion.zipping import live_plan, zip_nets
from onnxzip.linalg.assignment import hungarian
from onnxzip.matching.alignment import Aligned
from onnxzip.matching.methods import METHODS, PERMUTE, REGMEAN, Method, find_method, restoring
from onnxzip.matching.permute import correlations, permute
from onnxzip.matching.rebasin import rebasin
from onnxzip.matching.zipit import merged
from onnxzip.net import Net, Port
from onnxzip.peers import ALONE

SAME = 1e-4
MATCHING = ("permute", "rebasin", "otfusion", "zipit", "regmean")
BOTH = frozenset("ab")


def two_nets(folder: Path, width: int = 8) -> dict[str, Path]:
    """Two small nets of independent weights."""
    return {t: write_net(folder / f"{t}.onnx", seed, width=width) for seed, t in enumerate("ab")}


def zipped(plan: Plan, method: Method, by_task: dict[str, np.ndarray]) -> Zipped:
    """A merge on given samples."""
    live = live_plan(plan, method)
    with Store(1 << 28) as store:
        frontier = Frontier(live, sources_of(plan, by_task), store, "cpu", 1, 0)
        if method.needs_targets:
            frontier.sweep(live.steps, not method.repair_skips, lambda n: None)
        return zip_nets(plan, method, frontier, tick=lambda n: None)


def values_of(net: Net, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    """Values inside a net, on samples of its only input."""
    ports = tuple(Port(n, net.dtypes[n], net.shapes[n]) for n in names)
    found = outputs(replace(net, outputs=ports), {net.inputs[0].name: x})
    return [found[n] for n in names]


def no_features() -> dict[str, object]:
    raise AssertionError("a method of weights asked for samples")


# a channel-permuted copy is recovered -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", MATCHING)
@pytest.mark.parametrize("family", ["mlp", "lenet", "resnet", "mobilenet", "grouped", "densenet"])
def test_permuted_copies_are_recovered(method: str, family: str, tmp_path: Path) -> None:
    copies = [permuted(make(tmp_path, family, 1, name), seed) for name, seed in (("b", 5), ("c", 7))]
    nets = [make(tmp_path, family, 1, "a"), *copies[: 1 if method == "zipit" else 2]]  # repeated merges are made dear there
    check_tasks(fuse(nets, 1.0, "strands", method), nets, SAME)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layout", ["strands", "wide"])
def test_any_share_and_width_gives_a_net_that_runs(method: str, layout: str, tmp_path: Path) -> None:
    wide = 4 if method == "otfusion" else 6
    nets = [make(tmp_path, "lenet", 1, "a"), make(tmp_path, "lenet", 2, "b", width=wide, classes=3)]
    check_valid(fuse(nets, 0.6, layout, method), nets)


# permute ----------------------------------------------------------------------------------------------------------------


def test_correlations_are_those_of_the_activations_on_all_tasks_samples(tmp_path: Path) -> None:
    plan = planned(two_nets(tmp_path), 1.0)
    by_task = {t: images(50, seed) for seed, t in enumerate("ab")}
    with Store(1 << 28) as store:
        features = gather_features(Frontier(plan, sources_of(plan, by_task), store, "cpu", 1, 0), ALONE)
    space = plan.spaces[plan.steps[0].spaces[0]]
    found = correlations(plan, space, features)["a", "b"]
    x = np.concatenate(list(by_task.values()))
    rows = [values_of(plan.nets[t], ["b"], x)[0].transpose(1, 0, 2, 3).reshape(8, -1) for t in "ab"]
    np.testing.assert_allclose(found, np.corrcoef(*rows)[:8, 8:], atol=1e-5)
    members = permute(plan, lambda: features)[space.number, BOTH].index
    pairs = hungarian(-np.corrcoef(*rows)[:8, 8:])
    assert set(zip(members["a"], members["b"], strict=True)) == set(zip(*pairs, strict=True))


# rebasin, otfusion ------------------------------------------------------------------------------------------------------


def test_rebasin_ends_where_no_space_alone_can_do_better(tmp_path: Path) -> None:
    plan = planned(two_nets(tmp_path), 1.0)
    found = rebasin(plan, no_features)  # type: ignore[arg-type]
    pairs = {number: (m.index["a"], m.index["b"]) for (number, key), m in found.items() if key == BOTH}
    aligned = Aligned(plan, ("a", "b"))
    start = {n: (np.arange(len(i)), np.arange(len(i))) for n, (i, _) in pairs.items()}
    assert len(pairs) == 2
    for number, pair in pairs.items():
        products = aligned.all(plan.spaces[number], pairs)
        best = products[hungarian(-products)].sum()
        assert products[pair].sum() >= best - 1e-6 * abs(best)
        assert products[pair].sum() > aligned.all(plan.spaces[number], start)[start[number]].sum()


def test_otfusion_finds_the_transport_of_least_distance(tmp_path: Path) -> None:
    plan = planned(two_nets(tmp_path, width=5), 1.0)
    groups = find_method("otfusion").beforehand
    assert groups is not None
    found = groups(plan, no_features)[plan.steps[0].spaces[0], BOTH].index  # type: ignore[arg-type]
    rows = [
        np.concatenate([n.params["w0"].reshape(5, -1), n.params["b0"][:, None]], axis=1) for n in (plan.nets[t] for t in "ab")
    ]
    apart = ((rows[0][:, None] - rows[1][None]) ** 2).sum(axis=2)
    best = min(permutations(range(5)), key=lambda order: sum(apart[i, j] for i, j in enumerate(order)))
    assert dict(zip(found["a"].tolist(), found["b"].tolist(), strict=True)) == dict(enumerate(best))


def test_otfusion_refuses_unequal_widths(tmp_path: Path) -> None:
    nets = [make(tmp_path, "lenet", 1, "a"), make(tmp_path, "lenet", 2, "b", width=6)]
    with pytest.raises(UnsupportedError, match="as many channels with as many"):
        fuse(nets, 1.0, "strands", "otfusion")


# zipit ------------------------------------------------------------------------------------------------------------------


def test_zipit_merges_greedily_and_lowers_what_has_been_merged() -> None:
    """Channels 0-3 of one net, 4-7 of the other. The first merge is 0 with 4; 5 would follow 0, but 0.3 min(..) is less than
    what 1 and 6 have."""
    alike = np.full((8, 8), -0.5)
    for i, j, value in ((0, 4, 0.99), (0, 5, 0.95), (4, 5, 0.97), (1, 6, 0.4), (2, 5, 0.35), (3, 7, 0.3)):
        alike[i, j] = alike[j, i] = value
    groups = merged(alike, np.repeat([0, 1], 4), 4)
    assert sorted(map(sorted, groups)) == [[0, 4], [1, 6], [2, 5], [3, 7]]


def test_zipit_merges_within_a_net_as_far_as_its_budget_goes() -> None:
    """Of 64 merges half are each net's, and an eighth of those may join its own channels."""
    rng = np.random.default_rng(0)
    alike = 0.1 * rng.random((128, 128))
    alike[:64, :64] += 0.5
    net = np.repeat([0, 1], 64)
    groups = merged(np.minimum(alike, alike.T), net, 64)
    assert sorted(k for g in groups for k in g) == list(range(128))
    alone = [g for g in groups if len(g) > 1 and len({int(net[k]) for k in g}) == 1]
    assert len(groups) == 64
    assert 1 <= len([g for g in alone if net[g[0]] == 0]) <= 4
    assert 1 <= len([g for g in alone if net[g[0]] == 1]) <= 4


def test_zipit_is_merge_weights_unmerge(tmp_path: Path) -> None:
    """W* = sum_t M_t W_t U_t, with M the means of groups, U their copies; a group may hold several channels of one net."""
    plan = planned(two_nets(tmp_path, width=16), 1.0)
    by_task = {t: images(60, seed) for seed, t in enumerate("ab")}
    done = zipped(plan, find_method("zipit"), by_task)
    merges, copies = {}, {}
    for level, step in enumerate(plan.steps[:2]):
        members = done.members[step.spaces[0], BOTH]
        every = {t: np.concatenate([members.index[t][None], members.more.get(t, members.index[t][None][:0])]) for t in "ab"}
        size = len(members.index["a"])
        copied = {t: np.stack([(every[t] == c).any(axis=0) for c in range(size)]).astype(float) for t in "ab"}
        total = sum(u.sum(axis=0) for u in copied.values())
        assert all((u.sum(axis=1) == 1).all() for u in copied.values())
        copies[level], merges[level] = copied, {t: (u / total).T for t, u in copied.items()}
        assert level == 0 or (total > 2).any()
    nets = plan.nets
    first = sum(np.einsum("gc,c...->g...", merges[0][t], nets[t].params["w0"]) for t in "ab")
    np.testing.assert_allclose(done.params["w0"], first, atol=1e-6)
    wide = {t: np.kron(copies[0][t], np.eye(9)) for t in "ab"}
    second = sum(merges[1][t] @ nets[t].params["w1"] @ wide[t] for t in "ab")
    np.testing.assert_allclose(done.params["w1"], second, atol=1e-5)
    np.testing.assert_allclose(done.params["b1"], sum(merges[1][t] @ nets[t].params["b1"] for t in "ab"), atol=1e-6)
    heads = [n for n in done.params if n.endswith("w2")]
    for name, task in zip(sorted(heads), "ab", strict=True):
        np.testing.assert_allclose(done.params[name], nets[task].params["w2"] @ copies[1][task], atol=1e-6)


# regmean ----------------------------------------------------------------------------------------------------------------


def test_regmean_is_its_closed_form(tmp_path: Path) -> None:
    """W = (sum_t H_t)^-1 sum_t H_t W_t, H = a G + (1 - a) diag(G), G = E[z z'] of what the ORIGINAL layers read."""
    plan = planned(two_nets(tmp_path), 1.0)
    by_task = {t: images(400, seed) for seed, t in enumerate("ab")}
    done = zipped(plan, REGMEAN, by_task)
    first, second = (done.members[step.spaces[0], BOTH] for step in plan.steps[:2])
    left, right = np.zeros((73, 73)), np.zeros((73, 16))
    for task, x in by_task.items():
        net = plan.nets[task]
        (read,) = values_of(net, ["f"], x[np.arange(len(x)) % 5 != 4])
        columns = (first.index[task][:, None] * 9 + np.arange(9)).reshape(-1)
        z = np.concatenate([read[:, columns], np.ones((len(read), 1))], axis=1).astype(np.float64)
        w = np.concatenate([net.params["w1"][:, columns], net.params["b1"][:, None]], axis=1)[second.index[task]]
        gram = z.T @ z / len(z)
        h = 0.9 * gram + 0.1 * np.diag(np.diagonal(gram))
        left, right = left + h, right + h @ w.T
    np.testing.assert_allclose(done.params["w1"], np.linalg.solve(left, right)[:-1].T, rtol=0, atol=1e-5)


def test_regmean_cannot_repair_what_it_never_runs() -> None:
    with pytest.raises(UsageError, match="drop --repair"):
        restoring(REGMEAN)


# REPAIR -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("family", ["lenet", "mobilenet"])
def test_repair_restores_means_and_deviations(share: float, family: str, tmp_path: Path) -> None:
    """Every channel of the fused net has the mean mean and the mean deviation of its originals."""
    nets = [make(tmp_path, family, seed, name) for seed, name in enumerate("ab")]
    plain, mended = (fuse(nets, share, "strands", "permute", how=how) for how in (PERMUTE, restoring(PERMUTE)))
    feeds = samples_for(nets[0])
    for fused, exact in ((plain, False), (mended, True)):
        off = 0.0
        for step in (s for s in fused.plan.steps if s.spaces and not s.skips):
            for key, piece in fused.plan.layout.pieces[step.sink].items():
                name = piece.name if piece.name in fused.net.shapes else piece.name.removeprefix("fused_")  # of an output
                (made,) = values_of(fused.net, [name], feeds["image"])
                goals = []
                for task in sorted(key):
                    value = fused.plan.overlay.values[step.sink][task]
                    (own,) = values_of(fused.plan.nets[task], [value], feeds["image"])
                    goals.append(_spread(own)[:, fused.zipped.members[step.spaces[0], key].index[task]])
                off = max(off, float(np.abs(_spread(made) - np.mean(goals, axis=0)).max()))
        assert (off < 1e-3) == exact


def _spread(x: np.ndarray) -> np.ndarray:
    """Mean and deviation of each channel."""
    rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(np.float64)
    return np.stack([rows.mean(axis=1), rows.std(axis=1)])


def test_repair_leaves_a_constant_channel_constant(tmp_path: Path) -> None:
    nets = {t: write_net(tmp_path / f"{t}.onnx", k, w0=np.zeros((8, 1, 3, 3), np.float32)) for k, t in enumerate("ab")}
    plan = planned(nets, 1.0)
    done = zipped(plan, restoring(PERMUTE), {t: images(60, k) for k, t in enumerate("ab")})
    assert all(np.isfinite(p).all() for p in done.params.values())
    assert assemble(plan, done.params).params


# command line -----------------------------------------------------------------------------------------------------------


def test_command_line_takes_method_and_repair(tmp_path: Path) -> None:
    files = [f"{t}={p}" for t, p in two_nets(tmp_path).items()]
    ran = run("merge", *files, "-o", tmp_path / "m.onnx", "--method", "rebasin", "--repair", "--report", tmp_path / "r.json")
    assert ran.code == 0, ran
    assert '"repair": true' in (tmp_path / "r.json").read_text()
    failed(2, "merge", *files, "-o", tmp_path / "n.onnx", "--method", "regmean", "--repair", words=("--repair", "regmean"))
