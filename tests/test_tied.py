"""Weights that several nodes of a net share: they are one param in the file of the net, and one in that of the fused net."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fusing import check_all_shared, check_tasks, check_valid, fuse, permuted
from merging import fed, images, outputs_of, run
from onnx import numpy_helper, parser

import onnxzip
from onnxzip.fusion.assembling import assemble
from onnxzip.loading import load

NET = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,1,6,6] image) => (float[N,4,6,6] fine, float[N,4,3,3] coarse) {
    [first] a = Conv <pads = [1,1,1,1]> (image, w0, b0)
    b = Relu (a)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (b)
    [tower_fine] c = Conv <pads = [1,1,1,1]> (b, w1, b1)
    d = Relu (c)
    [head_fine] fine = Conv (d, w2, b2)
    [tower_coarse] f = Conv <pads = [1,1,1,1]> (p, w1, b1)
    g = Relu (f)
    [head_coarse] coarse = Conv (g, w2, b2)
}"""
SHAPES = {"w0": (6, 1, 3, 3), "b0": (6,), "w1": (16, 6, 3, 3), "b1": (16,), "w2": (4, 16, 1, 1), "b2": (4,)}


def write_net(path: Path, seed: int, text: str = NET, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Path:
    """A detector: one head, for two scales; or another net."""
    model, rng = parser.parse_model(text), np.random.default_rng(seed)
    for name, shape in shapes.items():
        scale = np.sqrt(2 / max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 0.1
        model.graph.initializer.append(numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        write_net(tmp_path / f"{name}.onnx", seed)
    np.savez(tmp_path / "d.npz", image=images(80))
    return tmp_path


def merged(share: str = "0") -> dict[str, float]:
    """Merge the two; what the report says of the size."""
    ran = run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "--share", share, "-o", "m.onnx", "--json")
    assert ran.code == 0, ran.err
    found: dict[str, float] = json.loads(ran.out)["merged"]
    return found


def sizes(path: Path) -> dict[str, int]:
    return {t.name: int(np.prod(t.dims)) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


class TestNothingShared:
    def test_the_fused_net_is_no_larger_than_its_originals(self, folder: Path) -> None:
        report = merged()
        assert report["params"] == sum(sizes(folder / "m.onnx").values()) == 2 * sum(sizes(folder / "a.onnx").values())
        assert report["params_ratio"] == 1.0

    def test_plan_says_so_beforehand(self, folder: Path) -> None:
        ran = run("plan", "a.onnx", "b.onnx", "--share", "0", "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["merged"]["params"] == merged()["params"]

    def test_both_nodes_read_one_param(self, folder: Path) -> None:
        merged()
        reads = {n.name: n.input[1:] for n in onnx.load("m.onnx").graph.node if n.op_type == "Conv"}
        fine, coarse = ({k: v for k, v in reads.items() if kind in k} for kind in ("fine", "coarse"))
        assert len(fine) == len(coarse) == 4
        assert sorted(map(list, fine.values())) == sorted(map(list, coarse.values()))

    def test_metadata_know_what_is_there(self, folder: Path) -> None:
        merged()
        shown = run("inspect", "m.onnx", "--json")
        assert shown.code == 0, shown.err
        owned = json.loads(next(p.value for p in onnx.load("m.onnx").metadata_props if p.key == "onnxzip.owners"))
        names = [p for _, _, params in owned for p in params]
        assert len(names) == len(set(names)) and set(names) >= set(sizes(folder / "m.onnx"))
        for name in "ab":
            changed = run("diff", f"{name}.onnx", "m.onnx", "--json")
            assert changed.code == 0, changed.err
            assert json.loads(changed.out)["summary"]["change"] == 0

    def test_a_task_alone_and_a_bundle_compute_the_same(self, folder: Path) -> None:
        merged()
        x, both = images(5, 9), outputs_of(folder / "m.onnx", images(5, 9))
        assert run("bundle", "m.onnx", "-o", "parts").code == 0
        for name in "ab":
            assert run("split", "m.onnx", "--task", name, "-o", "alone.onnx", "--force").code == 0
            assert sum(sizes(folder / "alone.onnx").values()) == sum(sizes(folder / f"{name}.onnx").values())
            for file in (folder / "alone.onnx", folder / "parts" / f"{name}.onnx"):
                for port, y in fed(file, {"image": x}).items():
                    np.testing.assert_allclose(y, both[f"{name}_{port}"], rtol=1e-5, atol=1e-6)

    def test_it_can_be_merged_again(self, folder: Path) -> None:
        merged()
        write_net(folder / "c.onnx", 3)
        again = onnxzip.merge({"both": "m.onnx", "c": "c.onnx"}, images(80), share=0.0)
        assert again.report["merged"]["params_ratio"] == 1.0
        again.save("three.onnx")
        assert json.loads(run("diff", "a.onnx", "three.onnx", "--json").out)["summary"]["change"] == 0

    def test_retraining_trains_it_as_one(self, folder: Path) -> None:
        merged()
        assert len(onnxzip.to_torch("m.onnx").params()) == len(sizes(folder / "m.onnx"))
        better = onnxzip.retrain("m.onnx", {"a": "a.onnx", "b": "b.onnx"}, images(80), steps=3)
        assert {t.name for t in better.model.graph.initializer} == {t.name for t in onnx.load("m.onnx").graph.initializer}


LOOP = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,1,6,6] image) => (float[N,6,6,6] y) {
    [zeroth] r = Conv <pads = [1,1,1,1]> (image, wr, br)
    z = Relu (r)
    [first] a = Conv (z, w0, b0)
    b = Relu (a)
    [once] c = Conv <pads = [1,1,1,1]> (b, w1, b1)
    d = Relu (c)
    [twice] e = Conv <pads = [1,1,1,1]> (d, w1, b1)
    y = Relu (e)
}"""
LOOP_SHAPES = {"wr": (8, 1, 3, 3), "br": (8,), "w0": (6, 8, 1, 1), "b0": (6,), "w1": (6, 6, 3, 3), "b1": (6,)}

POOLED = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,1,6,6] image) => (float[N,4] y, float[N,4] z) {
    [first] a = Conv <pads = [1,1,1,1]> (image, w0, b0)
    b = Relu (a)
    c = GlobalAveragePool (b)
    d = Flatten (c)
    [mean] y = Gemm <transB = 1> (d, w1, b1)
    e = GlobalMaxPool (b)
    f = Flatten (e)
    [peak] z = Gemm <transB = 1> (f, w1, b1)
}"""
POOLED_SHAPES = {"w0": (60, 1, 3, 3), "b0": (60,), "w1": (4, 60), "b1": (4,)}

LATER = """<ir_version: 8, opset_import: ["": 17]>
net (float[N,1,6,6] image) => (float[N,4] y) {
    [first] a = Conv <pads = [1,1,1,1]> (image, w0, b0)
    b = Relu (a)
    [tower_fine] c = Conv <pads = [1,1,1,1]> (b, w1)
    d = Relu (c)
    [behind_fine] e = Conv (d, w2, b2)
    f = GlobalAveragePool (e)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (b)
    [coarse] g = Conv <pads = [1,1,1,1]> (p, w3, b3)
    h = Relu (g)
    hb = Add (h, p)
    [tower_coarse] i = Conv <pads = [1,1,1,1]> (hb, w1)
    j = Relu (i)
    [behind_coarse] k = Conv (j, w2, b2)
    l = GlobalAveragePool (k)
    m = Add (f, l)
    n = Flatten (m)
    [last] y = Gemm <transB = 1> (n, w4, b4)
}"""
LATER_SHAPES = {
    "w0": (6, 1, 3, 3), "b0": (6,), "w1": (6, 6, 3, 3), "w2": (8, 6, 1, 1), "b2": (8,), "w3": (6, 6, 3, 3), "b3": (6,),
    "w4": (4, 8), "b4": (4,),
}
DEPTHWISE = LATER.replace("<pads = [1,1,1,1]> (b, w1)", "<pads = [1,1,1,1], group = 6> (b, w1)").replace(
    "<pads = [1,1,1,1]> (hb, w1)", "<pads = [1,1,1,1], group = 6> (hb, w1)"
)


class TestSharedTrunk:
    """What the tied weights read is shared, so that they are fitted to it: once, for all of their uses."""

    @pytest.mark.parametrize("share", ["0.5", "1"])
    def test_the_fused_net_is_smaller_than_its_originals(self, folder: Path, share: str) -> None:
        assert merged(share)["params_ratio"] < 1.0
        names = sizes(folder / "m.onnx")
        assert sum("w1" in name for name in names) == (1 if share == "1" else 3)
        assert sum("w2" in name for name in names) == 2

    @pytest.mark.parametrize("method", ["zip", "mtz", "average", "zipit", "regmean"])
    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_every_method_writes_them_once(self, folder: Path, method: str, layout: str) -> None:
        found = onnxzip.merge({"a": "a.onnx", "b": "b.onnx"}, images(80), share=1.0, layout=layout, method=method)
        assert sum("w1" in t.name for t in found.model.graph.initializer) == 1
        assert sum("w2" in t.name for t in found.model.graph.initializer) == 2

    @pytest.mark.parametrize("text", [LATER, DEPTHWISE], ids=["later", "depthwise"])
    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("layout", ["strands", "wide"])
    def test_a_net_is_found_again_in_its_copy(self, folder: Path, text: str, share: float, layout: str) -> None:
        """Whatever comes before whichever use: all is shared, the tied weights are one param."""
        shapes = LATER_SHAPES | ({"w1": (6, 1, 3, 3)} if text == DEPTHWISE else {})
        net = load(write_net(folder / "c.onnx", 3, text, shapes), "c")
        other = load(write_net(folder / "d.onnx", 4, text, shapes), "d")
        fused = fuse([net, permuted(net, 5, "copy")], share, layout)
        if share == 1:
            check_all_shared(fused.plan)
        if share != 0.5:
            check_tasks(fused, [net, replace(net, name="copy")], 1e-4)
        check_valid(fused, [net, replace(net, name="copy")])
        check_valid(unlike := fuse([net, other], share, layout), [net, other])
        written = {n.inputs[1] for n in assemble(unlike.plan, unlike.zipped.params).nodes if "tower" in n.name}
        assert len(written) == {0.0: 2, 0.5: 3 if layout == "strands" else 1, 1.0: 1}[share]

    def test_the_fit_is_better_than_none(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        nets = {"a": "a.onnx", "b": "b.onnx"}
        fitted = onnxzip.merge(nets, images(400))
        monkeypatch.setattr("onnxzip.fusion.together._go_together", lambda *_: False)
        left = onnxzip.merge(nets, images(400))
        for task in "ab":
            errors = [m.report["tasks"][task]["fidelity"]["relative_error"] for m in (fitted, left)]
            assert errors[0] < 0.8 * errors[1]

    def test_more_columns_than_rows(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """There are no moments then, but the rows of all uses."""
        for name, seed in (("a", 1), ("b", 2)):
            write_net(folder / f"{name}.onnx", seed, POOLED, POOLED_SHAPES)
        fitted = onnxzip.merge({"a": "a.onnx", "b": "b.onnx"}, images(40))
        assert sum("w1" in t.name for t in fitted.model.graph.initializer) == 2
        monkeypatch.setattr("onnxzip.fusion.together._go_together", lambda *_: False)
        left = onnxzip.merge({"a": "a.onnx", "b": "b.onnx"}, images(40))
        for task in "ab":
            errors = [m.report["tasks"][task]["fidelity"]["relative_error"] for m in (fitted, left)]
            assert errors[0] < errors[1]

    @pytest.mark.parametrize("text", [
        POOLED.replace("(f, w1, b1)", "(f, w1, b2)"), POOLED.replace("[peak] z = Gemm", "[peak] u = Gemm").replace(
            "(f, w1, b1)", "(f, w1, b1) z = Sigmoid (u)").replace("[mean] y = Gemm", "[mean] v = Gemm").replace(
            "(d, w1, b1)", "(d, w1, b1) y = Relu (v)"),
    ], ids=["biases", "activations"])  # fmt: skip
    @pytest.mark.parametrize("count", [40, 400])
    def test_uses_may_have_biases_and_activations_of_their_own(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, count: int
    ) -> None:
        nets = {"a": "a.onnx", "b": "b.onnx"}
        for name, seed in (("a", 1), ("b", 2)):
            write_net(folder / f"{name}.onnx", seed, text, POOLED_SHAPES | {"b2": (4,)})
        fitted = onnxzip.merge(nets, images(count))
        assert sum("w1" in t.name for t in fitted.model.graph.initializer) == 2
        monkeypatch.setattr("onnxzip.fusion.together._go_together", lambda *_: False)
        left = onnxzip.merge(nets, images(count))
        for task in "ab":
            errors = [m.report["tasks"][task]["fidelity"]["relative_error"] for m in (fitted, left)]
            assert errors[0] < errors[1]

    def test_a_layer_applied_to_its_own_output_is_one_param(self, folder: Path) -> None:
        for name, seed in (("a", 1), ("b", 2)):
            write_net(folder / f"{name}.onnx", seed, LOOP, LOOP_SHAPES)
        found = onnxzip.merge({"a": "a.onnx", "b": "b.onnx"}, images(80), share=1.0)
        kept = {t.name: t for t in found.model.graph.initializer if "w1" in t.name}
        assert len(kept) == 1
        assert found.report["merged"]["params_ratio"] < 1.0
