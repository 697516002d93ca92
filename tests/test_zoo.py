"""Nets of well-known architectures with random weights, as torch exports them, obey the laws of the merge.

Some of them by default; all of them, in both dialects and with those that come with onnx, by `pytest -m zoo`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
from fusing import check_all_shared, check_close, fuse, net_of, outputs, permuted
from zoo.catalogue import DIALECTS, LIGHT, ZOO, exported, filled, inputs_of, module_of
from zoo.laws import examine, off

from onnxzip.analysis import analyse
from onnxzip.calibration.samples import Source
from onnxzip.fusion.assembling import output_name
from onnxzip.loading import load, load_all

SAME, NEAR = 1e-4, 1e-3
FAST = ["ConvNeXt", "ShuffleNetV2", "YOLO", "CRNN", "Swin", "BERT", "ECA-Net", "RetinaNet", "Conv-TasNet", "WaveNet",
        "TextCNN", "Wide & Deep", "BiLSTM tagger", "CRN"]
APART = {"Conv-TasNet"}  # dynamo leaves out an epsilon of 1e-8


def check(name: str, dialect: str, folder: Path) -> None:
    entry = ZOO[name]
    net = net_of(folder, exported(module_of(entry, 1), entry, dialect), "net")
    feeds, fresh = ({k: v.numpy() for k, v in inputs_of(entry, n, seed).items()} for n, seed in ((60, 3), (9, 8)))
    found = examine(net, feeds, fresh)
    assert max(found.same, found.unshared, found.reordered) < SAME, found
    assert found.nearly < NEAR, found
    assert not found.refusals and found.shared == found.spaces > 0, found


@pytest.mark.parametrize("name", FAST)
def test_some(name: str, tmp_path: Path) -> None:
    check(name, "torchscript", tmp_path)


@pytest.mark.zoo
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ZOO)
def test_all(name: str, dialect: str, tmp_path: Path) -> None:
    if dialect == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("torch's dynamo exporter needs onnxscript")
    check(name, dialect, tmp_path)


def check_across(name: str, folder: Path) -> None:
    """What one exporter writes of a net plays the parts of what the other one writes, node by node."""
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("torch's dynamo exporter needs onnxscript")
    entry, paths = ZOO[name], {d: folder / f"{d}.onnx" for d in DIALECTS}
    for dialect, path in paths.items():
        onnx.save(exported(module_of(entry, 1), entry, dialect), path)
    first, second = load_all({"a": paths["torchscript"], "b": paths["dynamo"]})
    second = off(permuted(second, 5))
    feeds, fresh = ({k: v.numpy() for k, v in inputs_of(entry, n, seed).items()} for n, seed in ((60, 3), (9, 8)))
    fused = fuse([first, second], sources=[Source(("a", "b"), feeds, {})])
    assert all(set(role.members) == {"a", "b"} for role in fused.plan.overlay.roles)
    check_all_shared(fused.plan)
    found = outputs(fused.net, fresh)
    for net in (first, second):
        for port, want in outputs(net, fresh).items():
            check_close(found[output_name(net.name, port)], want, NEAR)


@pytest.mark.parametrize("name", ["MobileNetV3", "ShuffleNetV2", "ViT", "WaveNet", "CBAM"])
def test_some_across_dialects(name: str, tmp_path: Path) -> None:
    check_across(name, tmp_path)


@pytest.mark.zoo
@pytest.mark.parametrize("name", [n for n in ZOO if n not in APART])
def test_all_across_dialects(name: str, tmp_path: Path) -> None:
    check_across(name, tmp_path)


@pytest.mark.zoo
@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_nets_that_come_with_onnx_can_be_shared_throughout(path: Path) -> None:
    nets = [filled(load(path, name), seed) for name, seed in (("a", 1), ("b", 2))]
    check_all_shared(analyse(nets))
