"""Nets of the `transformers` package, tiny and with random weights, as torch exports them in two dialects.

Each is merged with a copy of itself whose channels stand in another order: all that can be shared is shared, and the outputs
are the same. Those that read text are exported for any number of tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fusing import check_all_shared
from sizing import check_at, fused_with_copy, input_dims, planned_with_copy
from torch import Tensor, nn
from zoo.catalogue import DIALECTS, Entry, exported, inputs_of, module_of
from zoo.laws import examine

from onnxzip.loading import load

transformers: Any = pytest.importorskip("transformers", reason="builds nets of the transformers package, in no extra")

WORDS, LONGEST, TOKENS, HEADS, LAYERS, CLASSES = 50, 40, 9, 2, 2, 3
EAGER = {"attn_implementation": "eager", "num_labels": CLASSES}
SIZE = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 24}
SAME, NEAR = 1e-4, 1e-3


def random(net: nn.Module) -> nn.Module:
    """Params that begin as zeros are made random: exporters take equal ones for one."""
    for param in net.parameters():
        if not param.any():
            nn.init.normal_(param, 0, 0.2)
    return net


class Text(nn.Module):
    """Tokens and their mask to logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = random(net)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.net(input_ids=ids, attention_mask=mask).logits
        return logits


class Image(nn.Module):
    """Pixels to logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = random(net)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net(pixels).logits
        return logits


def bert() -> nn.Module:
    config = transformers.BertConfig(vocab_size=WORDS, max_position_embeddings=LONGEST, **SIZE, **EAGER)
    return Text(transformers.BertForSequenceClassification(config))


def distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(
        vocab_size=WORDS, max_position_embeddings=LONGEST, dim=16, n_layers=LAYERS, n_heads=HEADS, hidden_dim=24, **EAGER
    )
    return Text(transformers.DistilBertForSequenceClassification(config))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=LONGEST, n_embd=16, n_layer=LAYERS, n_head=HEADS, n_inner=24, use_cache=False,
        attn_implementation="eager",
    )
    return Text(transformers.GPT2LMHeadModel(config))


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=WORDS, max_position_embeddings=LONGEST, use_cache=False, attn_implementation="eager", **SIZE
    )
    return Text(transformers.LlamaForCausalLM(config))


def vit() -> nn.Module:
    return Image(transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=4, **SIZE, **EAGER)))


def swin() -> nn.Module:
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[HEADS, HEADS], window_size=4, drop_path_rate=0.0,
        **EAGER,
    )
    return Image(transformers.SwinForImageClassification(config))


def text(build: Callable[[], nn.Module]) -> Entry:
    return Entry(build, {"ids": (TOKENS,), "mask": (TOKENS,)}, {"ids": WORDS, "mask": 2}, {1: "tokens"})


NETS = {
    "BERT": text(bert),
    "DistilBERT": text(distilbert),
    "GPT-2": text(gpt2),
    "Llama": text(llama),
    "ViT": Entry(vit, {"pixels": (3, 16, 16)}),
    "Swin": Entry(swin, {"pixels": (3, 32, 32)}),
}
TEXTS = [name for name, entry in NETS.items() if entry.free]


def feeds_of(entry: Entry, count: int, seed: int, tokens: int = TOKENS) -> dict[str, np.ndarray]:
    """Samples; of text, the first token is never hidden."""
    sized = Entry(entry.build, {k: (tokens,) if entry.free else v for k, v in entry.inputs.items()}, entry.integers)
    feeds = {k: v.numpy() for k, v in inputs_of(sized, count, seed).items()}
    if "mask" in feeds:
        feeds["mask"][:, 0] = 1
    return feeds


@pytest.fixture(scope="module", params=[(name, dialect) for name in NETS for dialect in DIALECTS], ids="-".join)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """A net's name, a dialect, and the file."""
    name, dialect = request.param
    if dialect == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("torch's dynamo exporter needs onnxscript")
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp(name) / "net.onnx"
    onnx.save(exported(module_of(NETS[name], 1), NETS[name], dialect), path)
    return name, dialect, path


def test_laws_of_the_merge(file: tuple[str, str, Path]) -> None:
    name, _, path = file
    entry, net = NETS[name], load(path)
    tokens = net.inputs[0].shape[1]
    found = examine(net, feeds_of(entry, 60, 3, tokens), feeds_of(entry, 9, 8, tokens))
    assert max(found.same, found.unshared, found.reordered) < SAME, found
    assert found.nearly < NEAR, found
    assert not found.refusals and found.shared == found.spaces > 0, found


def test_the_plan_names_the_heads(file: tuple[str, str, Path]) -> None:
    """One space of heads for each layer, shared as wholes; TorchScript names them by their module."""
    _, dialect, path = file
    plan = planned_with_copy(path)
    check_all_shared(plan)
    heads = [s for s in plan.shared_spaces() if s.inside]
    assert len(heads) == LAYERS and all(s.sizes == {"a": HEADS, "b": HEADS} and s.shared == HEADS for s in heads)
    assert dialect == "dynamo" or all("att" in s.name for s in heads)


def test_any_number_of_tokens(file: tuple[str, str, Path]) -> None:
    name, _, path = file
    entry = NETS[name]
    if name not in TEXTS:
        pytest.skip(f"{name} is for images of one size")
    size = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1].dim_param
    fused = fused_with_copy(path, feeds_of(entry, 60, 3), {size: TOKENS})
    assert input_dims(fused) == {"ids": ["batch", size], "mask": ["batch", size]}
    for tokens in (TOKENS, 2, 21, LONGEST):
        check_at(fused, path, feeds_of(entry, 4, 8, tokens), SAME)
