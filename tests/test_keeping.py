"""Which channels each net keeps: the first ones tell most, leaders are dealt out evenly, and that is what pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusing import fuse, make
from test_fidelity import increase

from onnxzip.analysis.strands import counts_for
from onnxzip.fusion.keeping import AHEAD, Ranking, deal, emphasis, followers_of, grouped_of
from onnxzip.linalg.subset import pivots, unexplained
from onnxzip.matching import methods

SIZES = [{"a": 6, "b": 6}, {"a": 7, "b": 4}, {"a": 6, "b": 6, "c": 6}, {"a": 5, "b": 8, "c": 6}]


class TestDeal:
    @pytest.mark.parametrize("sizes", SIZES)
    @pytest.mark.parametrize("share", [1.0, 0.85, 0.6, 0.1])
    def test_first_channels_stay_a_nets_own_then_lead_and_the_last_follow(self, sizes: dict[str, int], share: float) -> None:
        room = {o: n for o, n in counts_for(sizes, share).items() if len(o) > 1}
        rng = np.random.default_rng(3)
        rankings = {t: Ranking(rng.permutation(n), rng.random(n)) for t, n in sizes.items()}
        dealt = deal(room, rankings)
        assert {o: sum(frozenset(g) == o for g in dealt.groups) for o in room} == room
        for task, size in sizes.items():
            shared = [g[task] for g in dealt.groups if task in g]
            assert len(set(shared)) == len(shared) == grouped_of(room, task)
            led = [c for c in shared if dealt.leads[task][c]]
            place = {int(c): k for k, c in enumerate(rankings[task].order)}
            own = {*range(size)} - {*shared}
            before = (led, own) if len(own) < size / 4 else (own, led)  # few own channels come second
            kinds = [sorted(place[c] for c in some) for some in (*before, {*shared} - {*led})]
            assert [k for kind in kinds for k in kind] == list(range(size))
            assert len(kinds[2]) == followers_of(room, task)
        for owners in room:
            led_by = [sum(bool(dealt.leads[t][g[t]]) for g in dealt.groups if frozenset(g) == owners) for t in owners]
            assert sum(led_by) == room[owners] and max(led_by) - min(led_by) <= 1
        for group, cost in zip(dealt.groups, dealt.costs, strict=True):
            assert cost == pytest.approx(sum(rankings[t].lost[c] for t, c in group.items() if not dealt.leads[t][c]))


class TestPivots:
    def covariance(self) -> np.ndarray:
        x = np.random.default_rng(1).standard_normal((400, 9)) @ np.diag([1, 5, 2, 3, 1, 4, 1, 2, 1])
        x[:, 4] = x[:, 1] + 0.01 * x[:, 4]
        return np.cov(x.T)

    def test_a_copy_is_worth_nothing_beside_what_it_copies(self) -> None:
        order = pivots(self.covariance()).order.tolist()
        assert {order[0], order[-1]} == {1, 4}

    @pytest.mark.parametrize("count", [0, 1, 4, 9])
    def test_what_is_left_is_what_the_first_do_not_explain(self, count: int) -> None:
        covariance = self.covariance()
        found = pivots(covariance)
        want = np.diag(unexplained(covariance, found.order[:count]))
        np.testing.assert_allclose(found.left(count), want, atol=1e-6 * np.trace(covariance))

    def test_every_pivot_has_the_largest_variance_left(self) -> None:
        found = pivots(self.covariance())
        for k, column in enumerate(found.order):
            assert found.left(k)[column] == pytest.approx(found.left(k).max())

    def test_of_channels_that_are_constant_any_order_will_do(self) -> None:
        assert sorted(pivots(np.zeros((3, 3))).order) == [0, 1, 2]


def test_who_leads_counts_before_the_others() -> None:
    assert emphasis(["a", "b"], ("b",)) == {"a": 1 / AHEAD, "b": 1.0}
    assert set(emphasis(["a", "b"], ()).values()) == {1.0}


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("family", ["mlp", "lenet", "resnet"])
def test_siblings_are_paired_where_they_stand_and_nobody_leads_them(family: str, share: float, tmp_path: Path) -> None:
    net, rng = make(tmp_path, family, 1, "a"), np.random.default_rng(5)
    moved = {k: (v * (1 + 0.1 * rng.standard_normal(v.shape))).astype(v.dtype) for k, v in net.params.items()}
    fused = fuse([net, replace(net, name="b", params=moved)], share)
    shared = [m for (_, key), m in fused.zipped.members.items() if len(key) == 2]
    assert shared
    for members in shared:
        assert np.array_equal(members.index["a"], members.index["b"])
        assert not any(leads.any() for leads in members.leads.values())


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("family", ["mlp", "lenet", "resnet", "mobilenet"])
def test_each_shared_channel_follows_one_net_and_each_net_leads_half(family: str, share: float, tmp_path: Path) -> None:
    nets = [make(tmp_path, family, 1, "a"), make(tmp_path, family, 2, "b")]
    fused = fuse(nets, share)
    checked = 0
    for (_, key), members in fused.zipped.members.items():
        if len(key) == 2 and members.leads:
            leads = np.stack([members.leads[t] for t in sorted(key)])
            assert (leads.sum(axis=0) <= 1).all()
            assert leads.sum() >= 0.7 * leads.shape[1]  # in a small layer two nets may be akin by chance
            assert abs(int(leads[0].sum()) - int(leads[1].sum())) <= 1
            checked += 1
    assert checked


def test_following_costs_less_than_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two LeNet-300-100, everything shared: 0.0 points of test error on average, rows for the mean of the originals 0.8."""
    following = increase(1.0, "zip", "lenet300")
    monkeypatch.setitem(methods.METHODS, "zip", replace(methods.ZIP, follow=False))
    assert following < increase(1.0, "zip", "lenet300") / 2
