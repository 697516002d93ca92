"""Outputs that are streams: each task has a layer of its own there, and what leads to it is shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from architectures import Architecture, Maker, layer_normed, model_of
from fusing import check_copies, check_nothing_added, check_valid, fuse, net_of
from onnxruntime import InferenceSession

import onnxzip
from onnxzip.analysis import own_ends
from onnxzip.errors import UnsupportedError
from onnxzip.exporting.metadata import read_origins
from onnxzip.exporting.originals import classes_in
from onnxzip.inspection.differing import diff
from onnxzip.loading import look_at
from onnxzip.net import Net
from onnxzip.retraining.heads import heads_of
from onnxzip.runtime import entries_of, to_model


def encoder(end: str) -> Architecture:
    """Two residual layers, and what comes behind them."""

    def build(m: Maker, w: int, classes: int) -> str | list[str]:
        x = m.matmul("tokens", 6, 2 * w)
        for _ in range(2):
            y = layer_normed(m, x, 2 * w)
            x = m.op("Add", x, m.matmul(m.relu(m.matmul(y, 2 * w, 3 * w)), 3 * w, 2 * w))
        if end == "sum":
            return x
        y = layer_normed(m, x, 2 * w)
        pooled = m.op("ReduceMean", y, axes=[1], keepdims=0)
        return {"norm": y, "pooled": pooled, "scored": [y, m.matmul(pooled, 2 * w, classes)]}[end]

    return Architecture(build, {"tokens": (7, 6)})


def convolutions(m: Maker, w: int, classes: int) -> str:
    """Residual convolutions whose maps come out."""
    x = m.conv("image", (2 * w, 3, 3, 3))
    for _ in range(2):
        x = m.op("Add", x, m.conv(m.relu(m.conv(x, (w, 2 * w, 3, 3))), (2 * w, w, 3, 3)))
    return m.relu(x)


NETS = {end: encoder(end) for end in ("sum", "norm", "pooled", "scored")}


def states(m: Maker, w: int, classes: int) -> list[str]:
    """Hidden units over time, and the last ones."""
    x = m.op("Transpose", m.relu(m.matmul("tokens", 6, w)), perm=[1, 0, 2])
    weights = m.normal(1, 4 * w, w, scale=0.5), m.normal(1, 4 * w, w, scale=0.5), m.normal(1, 8 * w, scale=0.1)
    every = m.op("LSTM", x, *weights, hidden_size=w, outputs=2)
    return [m.op("Squeeze", every, m.ints(1)), f"{every}_1"]


def features(m: Maker, w: int, classes: int) -> list[str]:
    """Residual convolutions whose pooled maps come out, and the classes that they tell."""
    maps = convolutions(m, w, classes)
    pooled = m.op("Flatten", m.op("GlobalAveragePool", maps), axis=1)
    return [pooled, m.gemm(pooled, 2 * w, classes)]


NETS["features"] = Architecture(features, {"image": (3, 8, 8)})
NETS["maps"] = Architecture(convolutions, {"image": (3, 8, 8)})
NETS["states"] = Architecture(states, {"tokens": (7, 6)})
ENDS = {
    "sum": "Add", "norm": "LayerNormalization", "pooled": "ReduceMean", "scored": "Add", "maps": "Relu", "states": "Squeeze",
    "features": "Gemm",
}


def pair(folder: Path, name: str) -> list[Net]:
    return [net_of(folder, model_of(NETS[name], seed, 4), task) for seed, task in ((1, "a"), (2, "b"))]


@pytest.mark.parametrize("name", NETS)
class TestStreamThatComesOut:
    def test_all_that_leads_to_it_is_shared(self, name: str, tmp_path: Path) -> None:
        nets = pair(tmp_path, name)
        fused = fuse(nets, 1.0)
        check_valid(fused, nets)
        assert not fused.plan.refusals
        assert all(s.shared == sum(s.counts.values()) for s in fused.plan.shared_spaces())
        assert len(fused.plan.extensions) == 1 and fused.net.size < 0.75 * sum(n.size for n in nets)
        last = {n.op_type for n in to_model(fused.net).graph.node if set(n.output) & {"a_out0", "b_out0"}}
        assert last == {ENDS[name]}

    def test_a_copy_gives_back_the_net(self, name: str, tmp_path: Path) -> None:
        check_copies(pair(tmp_path, name)[0])

    def test_where_nothing_is_shared_nothing_is_added(self, name: str, tmp_path: Path) -> None:
        check_nothing_added(pair(tmp_path, name))


def test_files(tmp_path: Path) -> None:
    """Numbers speak of the nets as they came; `diff` and `split` know the file."""
    files = {task: tmp_path / f"{task}.onnx" for task in ("a", "b")}
    for seed, file in enumerate(files.values()):
        file.write_bytes(model_of(NETS["norm"], seed, 4).SerializeToString())
    x = np.random.default_rng(0).standard_normal((60, 7, 6)).astype(np.float32)
    merged = onnxzip.merge(files, x)
    merged.save(tmp_path / "both.onnx")
    found = [t["macs"] for t in merged.report["tasks"].values()]
    assert found == [7 * (6 * 8 + 2 * 2 * 8 * 12)] * 2 and merged.report["extensions"]
    assert merged.report["merged"]["macs"] == found[0] + 2 * 7 * 8 * 8
    assert all(node["fused"] for node in diff(files["a"], tmp_path / "both.onnx", "a")["nodes"])
    assert [o.name for o in onnxzip.split(tmp_path / "both.onnx", "a").graph.output] == ["out0"]


def test_features_are_no_classes(tmp_path: Path) -> None:
    """What comes out beside the classes is the product of a layer, too, but is judged and taught as what it is."""
    files = {task: tmp_path / f"{task}.onnx" for task in ("a", "b")}
    for seed, file in enumerate(files.values()):
        file.write_bytes(model_of(NETS["features"], seed, 8).SerializeToString())
    x = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
    both, again = tmp_path / "both.onnx", tmp_path / "again.onnx"
    merged = onnxzip.merge(files, x)
    merged.save(both)
    onnxzip.merge({"ab": both, "c": files["a"]}, x).save(again)
    for file in (both, again):
        model = onnx.load(file)
        origins = read_origins(entries_of(model), str(file))
        told = classes_in(model, {t: (file, origin) for t, origin in origins.items()})
        assert all(c.scores == ("out1",) and c.labelled == "out1" for c in told.values())
        heads = heads_of(look_at(file, model), origins, {})
        assert [h.kind for h in heads if h.task == "a"] == ["values", "logits"]
    session = InferenceSession(merged.content)
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"image": x}), strict=True))
    (wanted,) = InferenceSession(str(files["a"])).run(["out1"], {"image": x})
    same = float(np.mean(found["a_out1"].argmax(1) == wanted.argmax(1)))
    assert abs(onnxzip.verify(both, files, x)["tasks"]["a"]["fidelity"]["top1_agreement"] - same) < 1e-9


def test_layers_that_would_be_too_large_are_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_ends, "MOST", 0.01)
    with pytest.raises(UnsupportedError, match="share nothing"):
        fuse(pair(tmp_path, "norm"), 1.0)
