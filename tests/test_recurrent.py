"""Recurrent nodes in a merge: their hidden units are channels that weights produce, and are shared as any others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from architectures import Architecture, Maker, model_of
from evaluation import evaluate
from fusing import check_close, check_tasks, check_valid, fuse, net_of, outputs, permuted, samples_for
from merging import MODELS
from netfiles import check_canonical, check_same
from onnx import TensorProto
from onnxruntime import InferenceSession
from random_graphs import Step, grown

import onnxzip
from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Taken
from onnxzip.fusion import over_time, underway
from onnxzip.fusion.rejoining import joined_recurrence
from onnxzip.fusion.taking import take
from onnxzip.inspection.differing import diff
from onnxzip.inspection.inspecting import inspect
from onnxzip.matching.methods import METHODS
from onnxzip.net import Net, Port, macs
from onnxzip.ops.recurrent import GATES
from onnxzip.runtime import to_model

DATA = MODELS / "data"
HALVES = {t: MODELS / f"lstm-fashion-{t}.onnx" for t in ("low", "high")}
CALIBRATION = {t: DATA / f"fashion-{t}-calibration.npz" for t in HALVES}
KINDS = {"LSTM": 0, "GRU": 1, "RNN": 2}
STEPS, UNITS = 9, 6
RESETS_BEHIND = {"linear_before_reset": 1}


def net(folder: Path, kind: str, weights: int, name: str) -> Net:
    """Two convolutions, a recurrent node over the positions, a linear node over its hidden units."""
    steps: list[Step] = [("pooled", 0), ("linear", 7), ("as_tokens", 1), ("recurrent", KINDS[kind]), ("linear", 1)]
    return net_of(folder, grown(steps, weights)[0], name)


@pytest.mark.parametrize("kind", KINDS)
class TestRecurrent:
    def test_hidden_units_are_shared(self, kind: str, tmp_path: Path) -> None:
        nets = [net(tmp_path, kind, k, name) for k, name in ((1, "a"), (2, "b"))]
        fused = fuse(nets, 1.0)
        check_valid(fused, nets)
        assert [s.shared for s in fused.plan.shared_spaces()] == [8, 6, 4, 6]
        assert [n.op for n in fused.net.nodes].count(kind) == 1
        assert not fused.plan.refusals

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


def sequence(
    kind: str, direction: str = "forward", units: int = UNITS, peepholes: bool = False, zeros: bool = False, **attrs: object
) -> Architecture:
    """A layer, a recurrent node that its states say much to, the mean of these over time, a head.

    Args:
        zeros: whether zeros are its first states, as Keras writes them: as many as there are samples, one value a direction.
    """

    def build(m: Maker, width: int, classes: int) -> str:
        x = m.op("Transpose", m.relu(m.matmul("x", 5, width)), perm=[1, 0, 2])
        d, rows = 1 + (direction == "bidirectional"), GATES[kind] * units
        w, r, b = m.normal(d, rows, width), m.normal(d, rows, units, scale=0.6), m.normal(d, 2 * rows, scale=0.1)
        more = ["", "", "", m.normal(d, 3 * units, scale=0.2)] if peepholes else []
        if zeros:
            count = m.op("Concat", m.ints(1), m.op("Shape", "x", start=0, end=1), m.ints(units), axis=0)
            more = ["", *[m.op("Concat", *[m.op("Expand", m.param(np.float32(0)), count)] * d, axis=0)] * 2]
        y = m.op(kind, x, w, r, b, *more, hidden_size=units, direction=direction, **attrs)
        y = m.op("Reshape", m.op("Transpose", y, perm=[0, 2, 1, 3]), m.ints(0, 0, d * units))
        return m.matmul(m.op("ReduceMean", y, axes=[0], keepdims=0), d * units, classes)

    return Architecture(build, {"x": (STEPS, 5)})


class Spoilt:
    """Takes params of recurrent nodes, R, b and what units hear of others, with noise in them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rng = np.random.default_rng(1)

    def __call__(self, plan: Plan, taken: Taken, *others: Any) -> tuple[np.ndarray, bool]:
        array, same = take(plan, taken, *others)
        role = next((r for r in plan.overlay.roles if r.op in GATES and taken.laid in r.inputs[2:4]), None)
        if role is None:
            return array, same
        self.names.append(taken.name)
        return array + 0.1 * self.rng.standard_normal(array.shape).astype(np.float32), False


def pair(folder: Path, family: Architecture) -> list[Net]:
    return [net_of(folder, model_of(family, seed, 8), name) for seed, name in ((1, "a"), (2, "b"))]


FAMILIES = {
    "LSTM": sequence("LSTM"), "LSTM reverse": sequence("LSTM", "reverse"), "GRU": sequence("GRU"),
    "GRU that resets behind": sequence("GRU", **RESETS_BEHIND), "RNN": sequence("RNN"),
    "LSTM with peepholes": sequence("LSTM", peepholes=True),
    "RNN of other functions": sequence("RNN", activations=["Softsign"]),
    "both directions": sequence("LSTM", "bidirectional"),
    "both directions from zeros": sequence("LSTM", "bidirectional", zeros=True),
    "both directions of a GRU": sequence("GRU", "bidirectional", **RESETS_BEHIND),
}


@pytest.mark.parametrize("name", FAMILIES)
class TestSequences:
    def test_two_nets_share_all(self, name: str, tmp_path: Path) -> None:
        nets = pair(tmp_path, FAMILIES[name])
        fused = fuse(nets, 1.0)
        check_valid(fused, nets)
        assert not fused.plan.refusals
        assert all(s.shared == sum(s.counts.values()) for s in fused.plan.shared_spaces())
        assert sum(n.op in GATES for n in fused.net.nodes) == 1 + name.startswith("both")

    def test_a_permuted_copy_gives_back_the_net(self, name: str, tmp_path: Path) -> None:
        """Units of two directions are permuted apart."""
        one = pair(tmp_path, FAMILIES[name])[0]
        nets = [one, permuted(one, 5, "b")]
        check_tasks(fuse(nets, 1.0), nets, 1e-4)

    def test_what_units_say_to_each_other_is_found(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A permuted copy tells no leaders; from noise in place of their R and b the fit comes to the original ones."""
        one = pair(tmp_path, FAMILIES[name])[0]
        nets, spoilt = [one, permuted(one, 5, "b")], Spoilt()
        monkeypatch.setattr(underway, "take", spoilt)
        check_tasks(fuse(nets, 1.0), nets, 2e-3)
        assert len(spoilt.names) == 2 * (1 + name.startswith("both"))
        monkeypatch.setattr(over_time, "ROUNDS", 0)
        with pytest.raises(AssertionError):
            check_tasks(fuse(nets, 1.0), nets, 2e-3)

    def test_files_hold_usual_nodes(self, name: str, tmp_path: Path) -> None:
        """Nothing is shared: the params of both files and no other ones, in nodes that have all their weights."""
        nets = pair(tmp_path, FAMILIES[name])
        for net in nets:
            check_canonical(net)
            check_same(tmp_path / f"{net.name}.onnx", net)
        fused = fuse(nets, 0.0)
        check_tasks(fused, nets, 1e-5)
        nodes = [n for n in to_model(fused.net).graph.node if n.op_type in GATES]
        assert len(nodes) == 2 * (1 + name.startswith("both")) and all(n.input[1] and n.input[3] for n in nodes)
        assert fused.net.size == sum(n.size for n in nets)
        assert macs(fused.net) == sum(macs(n) for n in nets)


def relative_errors(merged: onnxzip.Merged, folder: Path) -> list[float]:
    merged.save(folder / "both.onnx")
    found = onnxzip.verify(folder / "both.onnx", HALVES, {t: DATA / f"fashion-{t}-test.npz" for t in HALVES})
    return [task["fidelity"]["relative_error"] for task in found["tasks"].values()]


class TestSampleNets:
    """LSTMs that read images row by row."""

    @pytest.mark.parametrize(("share", "size"), [(1.0, 0.51), (0.5, 0.67)])
    def test_zip_loses_little(self, share: float, size: float, tmp_path: Path) -> None:
        merged = onnxzip.merge(HALVES, CALIBRATION, share=share)
        assert merged.report["merged"]["params_ratio"] < size
        assert max(relative_errors(merged, tmp_path)) < 0.12

    @pytest.mark.parametrize("share", [1.0, 0.5])
    def test_without_the_fit_it_loses_more(self, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(over_time, "ROUNDS", 0)
        assert min(relative_errors(onnxzip.merge(HALVES, CALIBRATION, share=share), tmp_path)) > 0.2

    def test_a_merged_net_is_taken_apart_and_merged_again(self, tmp_path: Path) -> None:
        both, digits = tmp_path / "both.onnx", MODELS / "lstm-digits.onnx"
        onnxzip.merge(HALVES, CALIBRATION, samples=100).save(both)
        (told,) = (n for n in inspect(both)["nodes"] if n["op"] == "LSTM")
        assert told["owners"] == ["low", "high"] and told["share"] == 1 and 0 < told["error"] < 0.1
        assert [n.op_type for n in onnxzip.split(both, "low").graph.node].count("LSTM") == 1
        changes = {n["name"]: n for n in diff(HALVES["low"], both, "low")["nodes"]}
        assert all(n["fused"] for n in changes.values())
        onnxzip.merge(HALVES, CALIBRATION, samples=100, share=0.5).save(tmp_path / "half.onnx")
        changes = {n["name"]: n for n in diff(HALVES["low"], tmp_path / "half.onnx", "low")["nodes"]}
        layer, node = changes["/rows/LSTM.input"], changes["/rows/LSTM"]
        assert len(layer["fused"]) == len(node["fused"]) == 2 and layer["dropped"] == layer["foreign"] == 0
        assert all(0.1 < one["change"] < 3 for one in (layer, node))
        again = onnxzip.merge({"both": both, "digits": digits}, DATA / "digits-calibration.npz", samples=100)
        assert list(again.report["tasks"]) == ["both", "digits"] and again.report["merged"]["params_ratio"] < 0.52


def half_frozen(kind: str, direction: str) -> Architecture:
    """One layer and half of the hidden units are the same in all such nets, and do not listen to the other half."""

    def build(m: Maker, width: int, classes: int) -> str:
        frozen, d, gates, half = np.random.default_rng(0), 1 + (direction == "bidirectional"), GATES[kind], UNITS // 2
        layer = m.param(frozen.standard_normal((5, width)).astype(np.float32))
        x = m.op("Transpose", m.relu(m.op("MatMul", "x", layer)), perm=[1, 0, 2])

        def param(scale: float, *shape: int) -> np.ndarray:
            """Rows of the frozen half, and of the net's own: [directions, blocks, units, ...]."""
            first, second = (scale * r.standard_normal((d, *shape)).astype(np.float32) for r in (frozen, m.rng))
            first[:, :, half:] = second[:, :, half:]
            return first

        w, r, b = param(0.5, gates, UNITS, width), param(0.6, gates, UNITS, UNITS), param(0.1, 2 * gates, UNITS)
        r[:, :, :half, half:] = 0
        arrays = (w.reshape(d, -1, width), r.reshape(d, -1, UNITS), b.reshape(d, -1))
        y = m.op(kind, x, *map(m.param, arrays), hidden_size=UNITS, direction=direction)
        y = m.op("Reshape", m.op("Transpose", y, perm=[0, 2, 1, 3]), m.ints(0, 0, d * UNITS))
        return m.matmul(m.op("ReduceMean", y, axes=[0], keepdims=0), d * UNITS, classes)

    return Architecture(build, {"x": (STEPS, 5)})


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
class TestSomeUnits:
    """Half of the hidden units are shared; each net's own ones read these, and each other."""

    def test_all_nets_run(self, kind: str, direction: str, layout: str, tmp_path: Path) -> None:
        nets = pair(tmp_path, sequence(kind, direction))
        fused = fuse(nets, 0.5, layout)
        check_valid(fused, nets)
        assert not fused.plan.refusals
        assert all(s.shared == s.sizes["a"] // 2 for s in fused.plan.shared_spaces())
        directions = 1 + (direction == "bidirectional")
        nodes = [n for n in to_model(fused.net).graph.node if n.op_type == kind]
        assert len(nodes) == directions * (3 if layout == "strands" else 1)
        widths = {fused.net.shapes[n.input[1]][2] for n in nodes}
        assert widths == ({4, 8 + UNITS // 2} if layout == "strands" else {12})

    def test_what_own_units_hear_is_exact_where_the_others_are(
        self, kind: str, direction: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From noise in place of what units say to each other the fit comes to the original net, too."""
        nets = pair(tmp_path, half_frozen(kind, direction))
        nets[1] = permuted(nets[1], 5)
        shares = [("*", 0.5), ("MatMul*", 1.0)]
        check_tasks(fuse(nets, shares, layout), nets, 1e-5)
        spoilt = Spoilt()
        monkeypatch.setattr(underway, "take", spoilt)
        check_tasks(fuse(nets, shares, layout), nets, 2e-3)
        assert len(spoilt.names) == (1 + (direction == "bidirectional")) * (8 if layout == "strands" else 2)
        monkeypatch.setattr(over_time, "ROUNDS", 0)
        with pytest.raises(AssertionError):
            check_tasks(fuse(nets, shares, layout), nets, 2e-3)


@pytest.mark.parametrize("layout", ["strands", "wide"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "zip"])
def test_other_methods_share_some_units(method: str, layout: str, tmp_path: Path) -> None:
    nets = pair(tmp_path, FAMILIES["LSTM"])
    fused = fuse(nets, 0.5, layout, method)
    check_valid(fused, nets)
    assert [s.shared for s in fused.plan.shared_spaces()] == [4, 3]


def test_nets_with_other_numbers_of_units_share_those_of_the_narrower(tmp_path: Path) -> None:
    nets = [net_of(tmp_path, model_of(sequence("LSTM", units=u), u, 8), f"units{u}") for u in (6, 4)]
    fused = fuse(nets, 1.0)
    check_valid(fused, nets)
    assert [s.shared for s in fused.plan.shared_spaces()] == [8, 4]
    assert sorted(fused.net.shapes[str(n.inputs[2])][2] for n in fused.net.nodes if n.op == "LSTM") == [2, 4]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_own_units_hear_others_over_any_number_of_steps(direction: str, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.onnx" for name in ("a", "b")}
    for seed, file in enumerate(files.values()):
        model = model_of(half_frozen("LSTM", direction), seed, 8)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "steps"
        onnx.save(model, file)
    rng = np.random.default_rng(0)
    merged = onnxzip.merge(files, rng.standard_normal((100, STEPS, 5)).astype(np.float32), share={"*": 0.5, "MatMul*": 1.0})
    fused = InferenceSession(merged.content)
    assert [n.op_type for n in onnx.load_from_string(merged.content).graph.node].count("LSTM") == 3
    for steps in (1, 2, 30):
        x = rng.standard_normal((4, steps, 5)).astype(np.float32)
        for found, file in zip(fused.run(None, {"x": x}), files.values(), strict=True):
            (want,) = InferenceSession(str(file)).run(None, {"x": x})
            check_close(found, want, 1e-5)


def test_units_of_a_gru_are_shared_all_or_not_at_all(tmp_path: Path) -> None:
    """What others say cannot be added to gates of which one is reset."""
    nets = [net_of(tmp_path, model_of(sequence("GRU", units=u), u, 8), f"units{u}") for u in (6, 4)]
    fused = fuse(nets, 1.0)
    check_valid(fused, nets)
    assert [n.op for n in fused.net.nodes].count("GRU") == 2
    assert any("order that strands break" in r.why for r in fused.plan.refusals)
    nets = pair(tmp_path, FAMILIES["GRU"])
    assert fuse(nets, [("MatMul*", 1.0), ("GRU*", 0.5)]).plan.shared_spaces()[1].shared == UNITS


def test_three_nets_share_some_units(tmp_path: Path) -> None:
    """Units that two of three own hear those of all; each net's own ones hear both."""
    nets = [net_of(tmp_path, model_of(sequence("LSTM", units=u), u, 8), f"units{u}") for u in (8, 7, 5)]
    fused = fuse(nets, 0.6)
    check_valid(fused, nets)
    assert [dict(s.counts) for s in fused.plan.shared_spaces()][1] == {
        frozenset({"units8", "units7", "units5"}): 3, frozenset({"units8", "units7"}): 1, frozenset({"units8"}): 4,
        frozenset({"units7"}): 3, frozenset({"units5"}): 2,
    }
    shapes = fused.net.shapes
    read = [(shapes[str(n.inputs[2])][2], shapes[str(n.inputs[1])][2]) for n in fused.net.nodes if n.op == "LSTM"]
    assert sorted(read) == [(1, 5 + 3), (2, 8 + 3), (3, 5), (3, 8 + 4), (4, 8 + 4)]


def test_functions_with_numbers_of_two_directions_stay_together(tmp_path: Path) -> None:
    """Which number belongs to which function of which direction is not looked into: each net keeps its node."""
    functions = {"activations": ["LeakyRelu", "LeakyRelu"], "activation_alpha": [0.1, 0.3]}
    nets = pair(tmp_path, sequence("RNN", "bidirectional", **functions))
    fused = fuse(nets, 1.0)
    check_valid(fused, nets)
    assert [n.op for n in fused.net.nodes].count("RNN") == 2


def last_states(m: Maker, width: int, classes: int) -> str:
    """Two directions that are asked for what they end with, over as many steps of each sample as its numbers say."""
    longest = m.op("ArgMax", m.op("ReduceMax", "x", axes=[2], keepdims=0), axis=1, keepdims=0)
    lengths = m.op("Cast", m.op("Add", longest, m.ints(1)), to=TensorProto.INT32)
    x = m.op("Transpose", m.relu(m.matmul("x", 5, width)), perm=[1, 0, 2])
    w, r, b = m.normal(2, 18, width), m.normal(2, 18, 6, scale=0.6), m.normal(2, 36, scale=0.1)
    every = m.op("GRU", x, w, r, b, lengths, hidden_size=6, direction="bidirectional", outputs=2)
    rows = m.op("Reshape", m.op("Transpose", f"{every}_1", perm=[1, 0, 2]), m.ints(0, 12))
    return m.matmul(rows, 12, classes)


def test_last_states_over_samples_of_other_lengths(tmp_path: Path) -> None:
    """Such units are shared as well; what they say to each other is not fitted."""
    family = Architecture(last_states, {"x": (STEPS, 5)})
    nets = pair(tmp_path, family)
    fused = fuse(nets, 1.0)
    check_valid(fused, nets)
    assert [n.op for n in fused.net.nodes].count("GRU") == 2
    nets[1] = permuted(nets[0], 5, "b")
    check_tasks(fuse(nets, 1.0), nets, 1e-4)


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


def test_a_node_that_reads_its_gates_runs_as_it_is(tmp_path: Path) -> None:
    """Before exporting joins them, and where it cannot: gates that something else reads, too."""
    net = pair(tmp_path, FAMILIES["GRU that resets behind"])[0]
    node = next(n for n in net.nodes if n.op == "GRU")
    assert node.inputs[1] is None
    gates = Port(str(node.inputs[0]), np.dtype(np.float32), net.shapes[str(node.inputs[0])])
    open_ended = replace(net, outputs=(*net.outputs, gates))
    assert joined_recurrence(open_ended).nodes == open_ended.nodes
    found, want = outputs(open_ended, samples_for(net)), outputs(joined_recurrence(net), samples_for(net))
    check_close(found[net.outputs[0].name], want[net.outputs[0].name], 1e-6)
