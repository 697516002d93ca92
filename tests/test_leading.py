"""Whom shared channels follow: leaders are dealt out evenly, a followed row is its leader's, and that is what pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusing import fuse, make
from test_fidelity import increase

from onnxzip.fusion.leading import AHEAD, dealt, emphasis
from onnxzip.matching import methods

RANDOM = np.random.default_rng(3).random


class TestDealt:
    @pytest.mark.parametrize(("leaders", "groups"), [(2, 8), (2, 7), (3, 9), (3, 11), (2, 1)])
    def test_every_group_has_one_leader_and_leaders_have_equally_many(self, leaders: int, groups: int) -> None:
        found = dealt(RANDOM((leaders, groups)))
        assert sorted(np.concatenate(found)) == list(range(groups))
        sizes = [len(f) for f in found]
        assert max(sizes) <= -(-groups // leaders)

    def test_the_dearest_choices_are_made_first(self) -> None:
        """All prefer the first leader; it gets those that would lose most with the other."""
        losses = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 9.0, 8.0, 2.0]])
        first, second = dealt(losses)
        assert list(first) == [1, 2]
        assert list(second) == [0, 3]

    def test_for_two_leaders_no_other_even_deal_is_cheaper(self) -> None:
        losses = RANDOM((2, 6))
        first, second = dealt(losses)
        mine = losses[0, first].sum() + losses[1, second].sum()
        for code in range(1 << 6):
            chosen = np.array([code >> k & 1 for k in range(6)], bool)
            if chosen.sum() == 3:
                assert mine <= losses[0, chosen].sum() + losses[1, ~chosen].sum() + 1e-12


def test_who_leads_counts_before_the_others() -> None:
    assert emphasis(["a", "b"], "b") == {"a": 1 / AHEAD, "b": 1.0}
    assert set(emphasis(["a", "b"], None).values()) == {1.0}


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
            assert leads.sum() >= 0.8 * leads.shape[1]  # in a small layer two nets may be akin by chance
            assert abs(int(leads[0].sum()) - int(leads[1].sum())) <= 1
            checked += 1
    assert checked


def test_following_costs_less_than_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two LeNet-300-100, everything shared: 0.0 points of test error on average, rows for the mean of the originals 0.8."""
    following = increase(1.0, "zip", "lenet300")
    monkeypatch.setitem(methods.METHODS, "zip", replace(methods.ZIP, follow=False))
    assert following < increase(1.0, "zip", "lenet300") / 2
