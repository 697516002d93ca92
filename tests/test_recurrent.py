"""Recurrent nodes in a merge: the trunk before them is shared, each net keeps its own, and the report says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import Architecture, Maker, model_of
from fusing import check_close, check_tasks, check_valid, fuse, net_of, outputs, permuted, samples_for
from random_graphs import Step, grown

from onnxzip.net import Net
from onnxzip.ops.evaluate import evaluate

KINDS = {"LSTM": 0, "GRU": 1, "RNN": 2}


def net(folder: Path, kind: str, weights: int, name: str) -> Net:
    """Two convolutions, a recurrent node over the positions, a linear node over its hidden units."""
    steps: list[Step] = [("pooled", 0), ("linear", 7), ("as_tokens", 1), ("recurrent", KINDS[kind]), ("linear", 1)]
    return net_of(folder, grown(steps, weights)[0], name)


@pytest.mark.parametrize("kind", KINDS)
class TestRecurrent:
    def test_the_trunk_is_shared_and_the_node_is_each_nets_own(self, kind: str, tmp_path: Path) -> None:
        nets = [net(tmp_path, kind, k, name) for k, name in ((1, "a"), (2, "b"))]
        fused = fuse(nets, 1.0)
        check_valid(fused, nets)
        assert [s.shared for s in fused.plan.shared_spaces()] == [8, 6]
        assert [n.op for n in fused.net.nodes].count(kind) == 2
        assert any(f"none are fitted for {kind}" in r.why for r in fused.plan.refusals)

    def test_a_permuted_copy_gives_back_the_net(self, kind: str, tmp_path: Path) -> None:
        one = net(tmp_path, kind, 1, "a")
        nets = [one, permuted(one, 5, "b")]
        check_tasks(fuse(nets, 1.0), nets, 1e-4)
        check_tasks(fuse(nets, 0.0), nets, 1e-5)

    def test_the_merged_net_can_be_trained(self, kind: str, tmp_path: Path) -> None:
        fused = fuse([net(tmp_path, kind, k, name) for k, name in ((1, "a"), (2, "b"))], 1.0).net
        feeds = samples_for(fused, 5, 8)
        found = evaluate(fused, {name: torch.from_numpy(x) for name, x in feeds.items()})
        for name, want in outputs(fused, feeds).items():
            check_close(found[name].numpy(), want, 1e-5)


def stateful(m: Maker, width: int, classes: int) -> str:
    """A linear node, and two recurrent ones in turn that begin with a state which is an input of the net."""
    x = m.op("Transpose", m.relu(m.matmul("x", 6, width)), perm=[1, 0, 2])
    state = m.op("Transpose", "state", perm=[1, 0, 2])
    for size in (width, 4):
        w, r, b = m.normal(1, 12, size), m.normal(1, 12, 4), m.normal(1, 24, scale=0.1)
        x = m.op("Squeeze", m.op("GRU", x, w, r, b, "", state, hidden_size=4), m.ints(1))
    return m.matmul(m.op("ReduceMean", x, axes=[0], keepdims=0), 4, classes)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_node_runs_once_though_it_reads_what_is_its_nets_own_and_what_all_have(share: float, tmp_path: Path) -> None:
    family = Architecture(stateful, {"x": (7, 6), "state": (1, 4)})
    nets = [net_of(tmp_path, model_of(family, seed), name) for seed, name in ((1, "a"), (2, "b"))]
    fused = fuse(nets, share)
    check_valid(fused, nets)
    assert [n.op for n in fused.net.nodes].count("GRU") == 4
    if not share:
        check_tasks(fused, nets, 1e-5)
