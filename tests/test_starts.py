"""Inputs that are streams: behind a layer that changes nothing they are shared, and so is all that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from architectures import Architecture, Maker, model_of
from fusing import check_all_shared, check_copies, check_nothing_added, check_valid, fuse, net_of
from netfiles import originals_outputs

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.inspection.differing import diff
from onnxzip.net import Net

every_layout = pytest.mark.parametrize("layout", ["strands", "wide"])


def backcasts(m: Maker, w: int, classes: int) -> str:
    """Oreshkin et al., ICLR 2020 (N-BEATS): each block takes from the series what it tells of the future."""
    x, found = "x", ""
    for _ in range(3):
        y = m.gemm(m.relu(m.gemm(m.relu(m.gemm(x, 12, 4 * w)), 4 * w, 4 * w)), 4 * w, 12 + classes)
        parts = m.op("Split", y, m.ints(12, classes), outputs=2, axis=1)
        x = m.op("Sub", x, parts)
        found = m.op("Add", found, f"{parts}_1") if found else f"{parts}_1"
    return found


def masks(m: Maker, w: int, classes: int) -> str:
    """Arik and Pfister, AAAI 2021 (TabNet): features masked step by step."""
    y, total = m.relu(m.gemm("x", 12, 2 * w)), ""
    for _ in range(2):
        mask = m.op("Softmax", m.gemm(y, 2 * w, 12), axis=-1)
        y = m.relu(m.gemm(m.op("Mul", mask, "x"), 12, 2 * w))
        total = m.op("Add", total, y) if total else y
    return m.gemm(total, 2 * w, classes)


def crosses(m: Maker, w: int, classes: int) -> str:
    """Wang et al., WWW 2021 (DCN): features times what layers make of all of them, beside a deep branch."""
    x = "x"
    for _ in range(2):
        x = m.op("Add", m.op("Mul", "x", m.gemm(x, 12, 12)), x)
    return m.gemm(m.op("Concat", x, m.relu(m.gemm("x", 12, 3 * w)), axis=1), 12 + 3 * w, classes)


def sampled(m: Maker, w: int, classes: int) -> list[str]:
    """Kingma and Welling, ICLR 2014 (VAE): mean and deviation, which come out, and noise."""
    y = m.relu(m.gemm("x", 12, 4 * w))
    mean, spread = m.gemm(y, 4 * w, 8), m.gemm(y, 4 * w, 8)
    z = m.op("Add", mean, m.op("Mul", m.op("Exp", spread), "noise"))
    return [m.gemm(m.relu(m.gemm(m.relu(m.gemm(z, 8, 6 * w)), 6 * w, 4 * w)), 4 * w, 12), mean, spread]


def denoised(m: Maker, w: int, classes: int) -> str:
    """Stages that take noise from what the one before has left, of maps that were images before."""
    x = "image"
    for _ in range(2):
        x = m.op("Sub", x, m.conv(m.relu(m.conv(x, (3 * w, 12, 3, 3))), (12, 3 * w, 3, 3)))
    return m.pool_head(m.relu(m.conv(x, (2 * w, 12, 3, 3))), 2 * w, classes)


NETS = {
    "backcasts": Architecture(backcasts, {"x": (12,)}),
    "masks": Architecture(masks, {"x": (12,)}),
    "crosses": Architecture(crosses, {"x": (12,)}),
    "sampled": Architecture(sampled, {"x": (12,), "noise": (8,)}),
    "denoised": Architecture(denoised, {"image": (12, 6, 6)}),
}


def pair(folder: Path, name: str) -> list[Net]:
    return [net_of(folder, model_of(NETS[name], seed, 6), task) for seed, task in ((1, "a"), (2, "b"))]


@pytest.mark.parametrize("name", NETS)
class TestStreamThatComesIn:
    @every_layout
    def test_all_that_reads_it_is_shared(self, name: str, layout: str, tmp_path: Path) -> None:
        nets = pair(tmp_path, name)
        for share in (1.0, 0.5):
            fused = fuse(nets, share, layout)
            check_valid(fused, nets)
            assert not fused.plan.refusals and all(s.shares_any for s in fused.plan.shared_spaces())
        whole = fuse(nets, 1.0, layout)
        check_all_shared(whole.plan)
        assert whole.net.size < 0.75 * sum(n.size for n in nets)

    def test_a_copy_gives_back_the_net(self, name: str, tmp_path: Path) -> None:
        check_copies(pair(tmp_path, name)[0])

    def test_where_nothing_is_shared_nothing_is_added(self, name: str, tmp_path: Path) -> None:
        check_nothing_added(pair(tmp_path, name))


def test_three_nets_and_a_fused_one(tmp_path: Path) -> None:
    """A fused file has the layer already; the net that is merged with it is given one."""
    files = {task: tmp_path / f"{task}.onnx" for task in ("a", "b", "c")}
    for seed, file in enumerate(files.values()):
        file.write_bytes(model_of(NETS["backcasts"], seed, 6).SerializeToString())
    x = np.random.default_rng(0).standard_normal((60, 12)).astype(np.float32)
    assert all(s["shared"] for s in onnxzip.merge(files, x).report["spaces"])
    two = onnxzip.merge({t: files[t] for t in ("a", "b")}, x)
    two.save(tmp_path / "two.onnx")
    again = onnxzip.merge({"two": tmp_path / "two.onnx", "c": files["c"]}, x)
    assert set(again.report["tasks"]) == {"two", "c"} and all(s["shared"] for s in again.report["spaces"])
    alone = onnxzip.merge({"two": tmp_path / "two.onnx", "c": files["c"]}, x, share=0.0)
    assert max(t["fidelity"]["relative_error"] for t in alone.report["tasks"].values()) < 1e-5


def test_files(tmp_path: Path) -> None:
    """Numbers speak of the nets as they came; `diff` and `split` know the file."""
    files = {task: tmp_path / f"{task}.onnx" for task in ("a", "b")}
    for seed, file in enumerate(files.values()):
        file.write_bytes(model_of(NETS["masks"], seed, 6).SerializeToString())
    x = np.random.default_rng(0).standard_normal((60, 12)).astype(np.float32)
    merged = onnxzip.merge(files, x)
    merged.save(tmp_path / "both.onnx")
    found = [t["macs"] for t in merged.report["tasks"].values()]
    assert found == [5 * 12 * 12 + 12 * 5] * 2 and merged.report["extensions"]
    assert merged.report["merged"]["macs"] == found[0] + 12 * 5 + 12 * 12
    assert all(node["fused"] for node in diff(files["a"], tmp_path / "both.onnx", "a")["nodes"])
    alone = onnxzip.split(tmp_path / "both.onnx", "a")
    assert originals_outputs(alone, {"x": x[:3]})[0].shape == (3, 5)


def test_a_narrow_stream_stays_each_tasks_own(tmp_path: Path) -> None:
    def build(m: Maker, w: int, classes: int) -> str:
        x = m.op("Sub", "image", m.conv(m.relu(m.conv("image", (w, 3, 3, 3))), (3, w, 3, 3)))
        return m.pool_head(m.relu(m.conv(x, (w, 3, 3, 3))), w, classes)

    nets = [net_of(tmp_path, model_of(Architecture(build), seed), task) for seed, task in ((1, "a"), (2, "b"))]
    plan = analyse(nets)
    assert not plan.extensions and [s.shared for s in plan.shared_spaces()] == [4, 0]


def attentive_step(m: Maker, w: int, classes: int) -> list[str]:
    """A step of a decoder that attends to a memory, with a state that is an input: nothing that asks the memory is shared."""
    state = m.op("Tanh", m.op("Add", "state", m.gemm("x", 6, 12)))
    asked = m.op("Unsqueeze", m.gemm(state, 12, 12), m.ints(2))
    weights = m.op("Softmax", m.op("MatMul", "memory", asked), axis=1)
    found = m.op("ReduceSum", m.op("Mul", "memory", weights), m.ints(1), keepdims=0)
    y = m.relu(m.gemm(m.op("Concat", found, state, axis=1), 24, 4 * w))
    return [m.gemm(y, 4 * w, classes), state]


@every_layout
def test_a_layer_that_frees_nothing_is_not_added(layout: str, tmp_path: Path) -> None:
    """What reads the words themselves is shared; a layer for each position of the memory would serve nobody."""
    def build(m: Maker, w: int, classes: int) -> list[str]:
        return [*attentive_step(m, w, classes), m.gemm(m.relu(m.gemm("x", 6, 4 * w)), 4 * w, classes)]

    family = Architecture(build, {"x": (6,), "memory": (5, 12), "state": (12,)})
    nets = [net_of(tmp_path, model_of(family, seed, 6), task) for seed, task in ((1, "a"), (2, "b"))]
    fused = fuse(nets, 1.0, layout)
    check_valid(fused, nets)
    assert not fused.plan.extensions and any(s.shares_any for s in fused.plan.shared_spaces())
    assert fused.net.size < sum(n.size for n in nets)
