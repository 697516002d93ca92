"""The zoo: every net with its inputs, random weights from a seed, and its export in two dialects."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn
from zoo import attentive, convolutional, mobile, pyramids, scans, sequences, transformers

from onnxzip.net import Net

IMAGE = {"image": (3, 32, 32)}
DIALECTS = ("torchscript", "dynamo")
LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("light_*.onnx"))


@dataclass(frozen=True)
class Entry:
    """One net.

    Attributes:
        build: the module.
        inputs: name -> shape of one sample; integers: those that are numbers, with their bounds.
        free: axes of all inputs that are exported without a number, besides the batch, by the name of their size.
    """

    build: Callable[[], nn.Module]
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: IMAGE)
    integers: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[int, str] = field(default_factory=dict)


SOUND, IDS = {"x": (1, 64)}, {"ids": (transformers.TOKENS,)}
TEXT = {"ids": (transformers.TOKENS,), "mask": (transformers.TOKENS,)}
ZOO: dict[str, Entry] = {
    "ResNet": Entry(convolutional.resnet),
    "MobileNetV2": Entry(convolutional.mobilenet_v2),
    "MobileNetV3": Entry(convolutional.mobilenet_v3),
    "EfficientNet": Entry(convolutional.efficientnet),
    "ConvNeXt": Entry(convolutional.convnext),
    "DenseNet": Entry(convolutional.densenet),
    "ShuffleNetV2": Entry(convolutional.shufflenet),
    "Inception": Entry(convolutional.inception),
    "U-Net": Entry(convolutional.UNet),
    "YOLO": Entry(convolutional.Yolo),
    "CRNN": Entry(convolutional.Crnn),
    "ECA-Net": Entry(attentive.eca_net),
    "CBAM": Entry(attentive.cbam_net),
    "CoordAtt": Entry(attentive.coordatt),
    "SKNet": Entry(attentive.sknet),
    "ResNeSt": Entry(attentive.resnest),
    "DANet": Entry(attentive.DaNet),
    "Restormer": Entry(attentive.restormer),
    "EfficientDet": Entry(pyramids.EfficientDet),
    "RetinaNet": Entry(pyramids.RetinaNet),
    "PANet": Entry(pyramids.PaNet),
    "DeepLabV3+": Entry(pyramids.DeepLab),
    "HRNet": Entry(pyramids.HrNet),
    "Attention U-Net": Entry(pyramids.AttentionUNet),
    "GhostNet": Entry(mobile.ghostnet),
    "RepVGG": Entry(mobile.repvgg),
    "MobileOne": Entry(mobile.mobileone),
    "MobileViT": Entry(mobile.mobilevit),
    "EfficientFormer": Entry(mobile.EfficientFormer),
    "ConvNeXt V2": Entry(mobile.convnext2),
    "EfficientViT": Entry(mobile.efficientvit),
    "BlazeFace": Entry(mobile.BlazeFace),
    "FastViT": Entry(mobile.fastvit),
    "Conv-TasNet": Entry(sequences.ConvTasNet, SOUND),
    "WaveNet": Entry(sequences.WaveNet, SOUND),
    "Mamba": Entry(scans.Mamba, IDS, {"ids": transformers.VOCABULARY}),
    "ViT": Entry(transformers.Vit),
    "Swin": Entry(transformers.Swin),
    "DETR": Entry(transformers.Detr),
    "BERT": Entry(transformers.Bert, TEXT, {"ids": transformers.VOCABULARY, "mask": 2}),
    "T5": Entry(sequences.T5, IDS, {"ids": transformers.VOCABULARY}),
    "Llama": Entry(sequences.Llama, IDS, {"ids": transformers.VOCABULARY}),
    "Phi-3": Entry(sequences.Phi3, IDS, {"ids": transformers.VOCABULARY}),
    "TextCNN": Entry(sequences.TextCnn, IDS, {"ids": transformers.VOCABULARY}),
    "Wide & Deep": Entry(partial(sequences.WideAndDeep, transformers.TOKENS), IDS, {"ids": transformers.VOCABULARY}),
    "BiLSTM tagger": Entry(sequences.Tagger, IDS, {"ids": transformers.VOCABULARY}),
    "Attended GRU": Entry(sequences.AttendedStates, IDS, {"ids": transformers.VOCABULARY}),
    "CRN": Entry(sequences.Crn, {"x": (1, 6, 16)}),
    "Gated convolutions": Entry(sequences.GatedConvs, IDS, {"ids": transformers.VOCABULARY}),
}


def module_of(entry: Entry, seed: int) -> nn.Module:
    """A net with random weights; statistics, scales and shifts of norms are random, too."""
    torch.manual_seed(seed)
    net = entry.build().eval()
    for part in net.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(part.weight, 0.6, 1.4)
            nn.init.normal_(part.bias, 0, 0.2)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.2)
            nn.init.uniform_(part.running_var, 0.6, 1.4)
    return net


def inputs_of(entry: Entry, count: int, seed: int) -> dict[str, Tensor]:
    """Noise, and random numbers for inputs that are numbers."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(0, entry.integers[name], (count, *shape), generator=g) if name in entry.integers
        else torch.randn((count, *shape), generator=g)
        for name, shape in entry.inputs.items()
    }


def exported(net: nn.Module, entry: Entry, dialect: str) -> ModelProto:
    """A net as torch writes it, with a dynamic batch.

    Args:
        dialect: `torchscript`, at opset 14, or `dynamo`, at opset 18.
    """
    examples = inputs_of(entry, 2, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dialect == "torchscript":
            file = io.BytesIO()
            torch.onnx.export(
                net, tuple(examples.values()), file, input_names=list(examples), output_names=["out"], opset_version=14,
                dynamic_axes={name: {0: "batch", **entry.free} for name in examples} | {"out": {0: "batch"}}, dynamo=False,
            )
            return onnx.load_from_string(file.getvalue())
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.onnx.export(
            net, tuple(examples.values()), input_names=list(examples), output_names=["out"], opset_version=18, dynamo=True,
            dynamic_shapes=tuple({0: batch, **dict.fromkeys(entry.free, torch.export.Dim.DYNAMIC)} for _ in examples),
            verbose=False,
        )
        assert program is not None
        return program.model_proto


def filled(net: Net, seed: int) -> Net:
    """A net that comes without weights, with random ones."""
    rng = np.random.default_rng(seed)

    def drawn(array: np.ndarray) -> np.ndarray:
        scale = np.sqrt(2 / np.prod(array.shape[1:])) if array.ndim > 1 else 0.1
        return np.asarray(scale * rng.standard_normal(array.shape, np.float32), np.float32)

    params = {k: drawn(a) if a.dtype == np.float32 and a.size > 1 else a for k, a in net.params.items()}
    return replace(net, params=params)
