"""Groups of channels against brute force, Multi-Task Zipping's formulas against a naive loop, members and their places."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from merging import images, write_net
from zipping import planned, swept

from onnxzip.analysis.strands import Rows, SpacePlan, Strand
from onnxzip.errors import UsageError
from onnxzip.fusion.fitting import fit_rows
from onnxzip.fusion.pairing import pair_channels
from onnxzip.fusion.problem import original_rows, reads_of
from onnxzip.fusion.statistics import StepStatistics
from onnxzip.fusion.work import Work
from onnxzip.linalg.assignment import hungarian
from onnxzip.linalg.explained import explained_by_moments
from onnxzip.matching.grouping import Terms, group_channels
from onnxzip.matching.match import ABSENT, Members, given_members, located, members_of
from onnxzip.matching.methods import METHODS, MTZ, find_method

Pairs = tuple[np.ndarray, np.ndarray]
ALL = frozenset("abc")


class Spy:
    """An assignment that remembers the costs it was given."""

    def __init__(self) -> None:
        self.costs: list[np.ndarray] = []

    def __call__(self, cost: np.ndarray, count: int) -> Pairs:
        self.costs.append(cost)
        return hungarian(cost, count)


def tasks_of(sizes: dict[str, int]) -> dict[str, Pairs]:
    """Inputs and targets of some tasks, over the same five columns."""
    rng = np.random.default_rng(1)
    return {t: (rng.standard_normal((30, 5)), rng.standard_normal((30, n))) for t, n in sizes.items()}


def error_of(data: dict[str, Pairs], group: dict[str, int]) -> float:
    """What one row leaves of the targets of all members of a group."""
    z = np.concatenate([data[t][0] for t in group])
    p = np.concatenate([data[t][1][:, i] for t, i in group.items()])
    return float(np.linalg.lstsq(z, p, rcond=None)[1][0])


def grouped(
    data: dict[str, Pairs], counts: dict[frozenset[str], int], importance: dict[str, np.ndarray] | None = None
) -> tuple[list[dict[str, int]], list[np.ndarray]]:
    """Groups and the costs that led to them."""
    energy = {t: (p**2).sum(axis=0) for t, (_, p) in data.items()}

    def explained(some: tuple[str, ...]) -> dict[tuple[str, str], np.ndarray]:
        zz = sum((data[t][0].T @ data[t][0] for t in some), np.zeros(()))
        whole = explained_by_moments(zz, np.concatenate([data[t][0].T @ data[t][1] for t in some], axis=1), 1e-12)
        starts = dict(zip(some, np.cumsum([0, *(len(energy[t]) for t in some)]), strict=False))
        at = {t: slice(starts[t], starts[t] + len(energy[t])) for t in some}
        return {(t, u): whole[at[t], at[u]] for t in some for u in some}

    spy = Spy()
    v = importance or {t: np.ones(len(e)) for t, e in energy.items()}
    found, _ = group_channels(counts, Terms(energy, explained, v), spy)
    return found, spy.costs


class TestGroups:
    @pytest.mark.parametrize("sizes", [{"a": 3, "b": 4}, {"a": 4, "b": 3}, {"a": 4, "b": 4}])
    def test_costs_of_two_nets_are_least_squares_errors(self, sizes: dict[str, int]) -> None:
        data = tasks_of(sizes)
        groups, (cost,) = grouped(data, {frozenset("ab"): 3})
        first, second = sorted(sizes, key=lambda t: sizes[t])
        for i, j in product(range(sizes[first]), range(sizes[second])):
            assert cost[i, j] == pytest.approx(error_of(data, {first: i, second: j}), rel=1e-8)
        assert len(groups) == 3 and all(set(g) == {"a", "b"} for g in groups)

    def test_importance_weighs_what_sharing_adds_and_each_channels_own_rest(self) -> None:
        data = tasks_of({"a": 3, "b": 4})
        v = {"a": np.array([0.5, 2.0, 1.0]), "b": np.array([1.0, 0.1, 3.0, 0.2])}
        _, (cost,) = grouped(data, {frozenset("ab"): 3}, v)
        left = {"a": error_of(data, {"a": 1}), "b": error_of(data, {"b": 2})}
        added = error_of(data, {"a": 1, "b": 2}) - left["a"] - left["b"]
        assert added > 0
        assert cost[1, 2] == pytest.approx(2.5 * added + 2.0 * left["a"] + 3.0 * left["b"], rel=1e-8)

    def test_a_net_and_its_permuted_copy_pair_off_whatever_the_damping_leaves_and_the_importance_is(self) -> None:
        rng = np.random.default_rng(3)
        z, order = rng.standard_normal((20, 12)), rng.permutation(9)
        p = z @ rng.standard_normal((12, 9))
        p *= np.logspace(-1, 1, 9)
        v = np.logspace(2, -2, 9)
        energy = {"a": (p**2).sum(axis=0), "b": (p[:, order] ** 2).sum(axis=0)}

        def explained(some: tuple[str, ...]) -> dict[tuple[str, str], np.ndarray]:
            zp = {"a": z.T @ p, "b": z.T @ p[:, order]}
            whole = explained_by_moments(len(some) * z.T @ z, np.concatenate([zp[t] for t in some], axis=1), 1.0)
            at = {t: slice(9 * k, 9 * k + 9) for k, t in enumerate(some)}
            return {(t, u): whole[at[t], at[u]] for t in some for u in some}

        for count in (4, 9):
            found, _ = group_channels({frozenset("ab"): count}, Terms(energy, explained, {"a": v, "b": v[order]}), hungarian)
            assert len(found) == count and all(g["a"] == order[g["b"]] for g in found)

    def test_costs_of_three_nets_are_least_squares_errors_of_whole_groups(self) -> None:
        data = tasks_of({"a": 3, "b": 4, "c": 5})
        groups, (_, cost) = grouped(data, {ALL: 3})
        assert cost.shape == (3, 5)
        errors = [[error_of(data, {**{t: g[t] for t in "ab"}, "c": j}) for j in range(5)] for g in groups]
        order = [int(np.argmin([np.abs(row - np.array(e)).max() for row in cost])) for e in errors]
        assert sorted(order) == [0, 1, 2]
        np.testing.assert_allclose(cost[order], errors, rtol=1e-8)

    def test_sets_of_owners_are_nested_and_use_no_channel_twice(self) -> None:
        data = tasks_of({"a": 3, "b": 4, "c": 5})
        groups, _ = grouped(data, {ALL: 2, frozenset("bc"): 1})
        assert sorted(len(g) for g in groups) == [2, 3, 3]
        for task in "abc":
            used = [g[task] for g in groups if task in g]
            assert len(used) == len(set(used))

    def test_fewer_groups_than_channels_are_the_cheapest(self) -> None:
        data = tasks_of({"a": 4, "b": 4})
        whole, _ = grouped(data, {frozenset("ab"): 4})
        few, _ = grouped(data, {frozenset("ab"): 2})
        assert few == whole[:2] == sorted(whole, key=lambda g: error_of(data, g))[:2]


def test_mtz_is_the_formulas_of_its_paper(tmp_path: Path) -> None:
    """d = 1/2 (wA - wB)' (HA^-1 + HB^-1)^-1 (wA - wB) and w* = (HA + HB)^-1 (HA wA + HB wB), H = 2 E[z z']; here of the first
    layer, whose inputs are the images."""
    files = {t: write_net(tmp_path / f"{t}.onnx", seed) for seed, t in enumerate("ab")}
    plan = planned(files, 1.0)
    step = plan.steps[0]
    spy = Spy()
    with swept(plan, {t: images(400, seed) for seed, t in enumerate("ab")}) as frontier:
        reads = reads_of(plan, step)
        stats = StepStatistics(frontier, step, reads, {}, True)
        work = Work(plan, step, reads, stats, replace(MTZ, assign=spy))
        matches = pair_channels(work, plan.spaces[step.spaces[0]], [], {})
        rows, _, changed = fit_rows(work, reads[0], 0, {"image": frozenset("ab")}, matches)
        w = {t: original_rows(plan, step, reads[0], 0, t, {}) for t in "ab"}
        known = {t: work.statistics(t, reads[0], 0, {}) for t in "ab"}
    hessian = {t: 2 * np.asarray(s.train.zz) for t, s in known.items()}
    between = np.linalg.inv(np.linalg.inv(hessian["a"]) + np.linalg.inv(hessian["b"]))
    (cost,) = spy.costs
    for i, j in product(range(8), range(8)):
        apart = w["a"][i] - w["b"][j]
        assert cost[i, j] == pytest.approx(0.5 * apart @ between @ apart, rel=1e-6, abs=1e-8)
    ((_, members),) = matches.items()
    both = hessian["a"] + hessian["b"]
    for k, (i, j) in enumerate(zip(members.index["a"], members.index["b"], strict=True)):
        expected = np.linalg.solve(both, hessian["a"] @ w["a"][i] + hessian["b"] @ w["b"][j])
        np.testing.assert_allclose(rows[k], expected, rtol=1e-8, atol=1e-8)
    assert changed == {"a", "b"}


SHARED, OWN_A, OWN_B = frozenset("ab"), frozenset("a"), frozenset("b")


def space(together: bool = False) -> SpacePlan:
    """Four channels of a and three of b, two of them shared."""
    rows = (Rows(SHARED, 2), Rows(OWN_A, 2), Rows(OWN_B, 1))
    strands = (Strand(SHARED, rows),) if together else tuple(Strand(r.owners, (r,)) for r in rows)
    return SpacePlan(0, "first", {"a": 4, "b": 3}, strands, {})


GROUPS = [{"a": 3, "b": 0}, {"a": 1, "b": 2}]


class TestMembers:
    def test_by_strands(self) -> None:
        found = members_of(space(), GROUPS)
        assert {key: {t: i.tolist() for t, i in m.index.items()} for (_, key), m in found.items()} == {
            SHARED: {"a": [3, 1], "b": [0, 2]}, OWN_A: {"a": [0, 2]}, OWN_B: {"b": [1]},
        }

    def test_together_are_absent_from_the_others_rows(self) -> None:
        members = members_of(space(together=True), GROUPS)[0, SHARED]
        assert members.index["a"].tolist() == [3, 1, 0, 2, ABSENT]
        assert members.index["b"].tolist() == [0, 2, ABSENT, ABSENT, 1]

    def test_every_channel_stands_somewhere_once(self) -> None:
        found = members_of(space(), GROUPS)
        for task, size in space().sizes.items():
            stand = np.concatenate([m.index[task] for m in found.values() if task in m.index])
            assert sorted(stand.tolist()) == list(range(size))

    def test_refuse_another_number_of_groups(self) -> None:
        with pytest.raises(ValueError, match="first"):
            members_of(space(), GROUPS[:1])

    def test_of_a_given_space_are_itself(self) -> None:
        plan = SpacePlan(4, "image", {"a": 3, "b": 3}, (Strand(SHARED, (Rows(SHARED, 3),)),), {}, given=True)
        ((key, members),) = given_members(plan).items()
        assert key == (4, SHARED) and members.index["b"].tolist() == [0, 1, 2]


def test_located_tells_where_channels_lie_behind_a_flatten(tmp_path: Path) -> None:
    """8 channels x 9 positions: channel c lies at 9 c .. 9 c + 8; where a task has none, the places are negative."""
    plan = planned({t: write_net(tmp_path / f"{t}.onnx", seed) for seed, t in enumerate("ab")}, 1.0)
    second = plan.steps[1]
    expr = plan.overlay.exprs(str(second.parts[0].inputs[0]), "a")[1]
    number = plan.steps[0].spaces[0]
    members = Members({"a": np.array([5, ABSENT, 0])})
    at = located(plan.overlay, expr, "a", (SHARED,), {(number, SHARED): members})
    assert at[:9].tolist() == list(range(45, 54)) and at[18:].tolist() == list(range(9))
    assert (at[9:18] < 0).all()


class TestMethods:
    @pytest.mark.parametrize("name", METHODS)
    def test_are_found_by_name(self, name: str) -> None:
        assert find_method(name).name == name and find_method(name).citation

    def test_unknown_ones_are_refused_with_the_nearest(self) -> None:
        with pytest.raises(UsageError, match=r"did you mean 'average'"):
            find_method("averge")

    def test_unknown_ones_are_refused_with_all(self) -> None:
        with pytest.raises(UsageError, match="zip, mtz, average, permute, rebasin"):
            find_method("xyz")
