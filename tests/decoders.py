"""Decoders that begin with keys and values of what they have read before, and give back those of all."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import cast

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

WORDS, LONGEST, WIDTH, INNER, LAYERS = 50, 40, 16, 24, 2
HIDDEN = -1e9


def parts(**layers: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(layers)


class Decoder(nn.Module):
    """What both have in common: `forward` takes ids, a mask of all tokens, and keys and values of every layer."""

    heads = groups = 2

    @property
    def cache(self) -> tuple[int, int]:
        """Heads of a cache, and channels of each."""
        return self.groups, WIDTH // self.heads

    def attended(self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        scores = torch.where(seen, q @ keys.transpose(2, 3) / q.shape[-1] ** 0.5, torch.tensor(HIDDEN))
        joined = (scores.softmax(-1) @ values).transpose(1, 2)
        return joined.reshape(q.shape[0], q.shape[2], WIDTH)


class Gpt(Decoder):
    """As GPT-2: learned places, counted on from the cache, and one layer for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(
            parts(
                first=nn.LayerNorm(WIDTH), qkv=nn.Linear(WIDTH, 3 * WIDTH), out=nn.Linear(WIDTH, WIDTH),
                second=nn.LayerNorm(WIDTH), up=nn.Linear(WIDTH, INNER), down=nn.Linear(INNER, WIDTH),
            )
            for _ in range(LAYERS)
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        before, now = past[0].shape[2], ids.shape[1]
        at = torch.arange(before, before + now)
        seen = torch.arange(before + now)[None, :] <= at[:, None]
        x, present = self.words(ids) + self.places(at), list[Tensor]()
        for k, layer in enumerate(cast("list[nn.ModuleDict]", self.layers)):
            made = layer["qkv"](layer["first"](x)).chunk(3, -1)
            q, key, value = (y.view(*ids.shape, self.heads, -1).transpose(1, 2) for y in made)
            present += [torch.cat([past[2 * k], key], 2), torch.cat([past[2 * k + 1], value], 2)]
            x = x + layer["out"](self.attended(q, *present[-2:], seen))
            x = x + layer["down"](nn.functional.gelu(layer["up"](layer["second"](x)), approximate="tanh"))
        return (self.head(self.norm(x)), *present)


class RmsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        return scaled


def turned(x: Tensor, at: Tensor) -> Tensor:
    """Rotary embedding."""
    half = x.shape[-1] // 2
    angle = at[..., None] / 10000 ** (torch.arange(half) / half)
    cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Llama(Decoder):
    """As LLaMA, in the inputs that Optimum gives it: a mask of all tokens and the places of new ones; two queries a key."""

    heads, groups = 4, 2

    def __init__(self) -> None:
        super().__init__()
        inner = WIDTH * self.groups // self.heads
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(
            parts(
                first=RmsNorm(), q=nn.Linear(WIDTH, WIDTH, bias=False), k=nn.Linear(WIDTH, inner, bias=False),
                v=nn.Linear(WIDTH, inner, bias=False), out=nn.Linear(WIDTH, WIDTH, bias=False), second=RmsNorm(),
                gate=nn.Linear(WIDTH, INNER, bias=False), up=nn.Linear(WIDTH, INNER, bias=False),
                down=nn.Linear(INNER, WIDTH, bias=False),
            )
            for _ in range(LAYERS)
        )
        self.norm, self.head = RmsNorm(), nn.Linear(WIDTH, WORDS, bias=False)

    def repeated(self, x: Tensor) -> Tensor:
        n, groups, time, size = x.shape
        return x[:, :, None].expand(n, groups, self.heads // groups, time, size).reshape(n, self.heads, time, size)

    def forward(self, ids: Tensor, mask: Tensor, places: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        total, now = mask.shape[1], ids.shape[1]
        ahead = torch.arange(total)[None, :] <= torch.arange(total - now, total)[:, None]
        seen = ahead[None, None] & mask[:, None, None, :].bool()
        x, present = self.words(ids), list[Tensor]()
        for k, layer in enumerate(cast("list[nn.ModuleDict]", self.layers)):
            y = layer["first"](x)
            made = (layer["q"](y), self.heads), (layer["k"](y), self.groups), (layer["v"](y), self.groups)
            q, key, value = (z.view(*ids.shape, heads, -1).transpose(1, 2) for z, heads in made)
            present += [torch.cat([past[2 * k], turned(key, places)], 2), torch.cat([past[2 * k + 1], value], 2)]
            x = x + layer["out"](self.attended(turned(q, places), *map(self.repeated, present[-2:]), seen))
            y = layer["second"](x)
            x = x + layer["down"](nn.functional.silu(layer["gate"](y)) * layer["up"](y))
        return (self.head(self.norm(x)), *present)


DECODERS: Mapping[str, type[Decoder]] = {"GPT": Gpt, "LLaMA": Llama}
CACHES = [f"past_key_values.{k}.{what}" for k in range(LAYERS) for what in ("key", "value")]
PRESENT = [name.replace("past_key_values", "present") for name in CACHES]


def reads(kind: str) -> dict[str, dict[int, str]]:
    """Inputs of a decoder, and the names of their sizes."""
    words = {"input_ids": {0: "batch", 1: "tokens"}}
    places = {"attention_mask": {0: "batch", 1: "past + tokens"}, "position_ids": {0: "batch", 1: "tokens"}}
    return words | (places if kind == "LLaMA" else {}) | {name: {0: "batch", 2: "past"} for name in CACHES}


def samples(kind: str, count: int, past: int, tokens: int, seed: int) -> dict[str, np.ndarray]:
    """Tokens behind a cache of noise; of the mask, some of what lies in the cache is hidden."""
    rng = np.random.default_rng(seed)
    sizes, found = DECODERS[kind]().cache, {"input_ids": rng.integers(0, WORDS, (count, tokens))}
    if kind == "LLaMA":
        hidden = rng.random((count, past)) < 0.2
        found["attention_mask"] = np.concatenate([1 - hidden, np.ones((count, tokens))], axis=1).astype(np.int64)
        found["position_ids"] = np.tile(np.arange(past, past + tokens), (count, 1))
    shape = (count, sizes[0], past, sizes[1])
    return found | {name: rng.standard_normal(shape, np.float32) for name in CACHES}


def decoder(kind: str, seed: int) -> Decoder:
    """A decoder with random params."""
    torch.manual_seed(seed)
    net = DECODERS[kind]().eval()
    for part in net.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.6, 1.4)
            nn.init.normal_(part.bias, 0, 0.2)
    return net


def exported(kind: str, net: Decoder, dialect: str) -> ModelProto:
    """A decoder as torch writes it, for any number of tokens behind any number of others."""
    axes, examples = reads(kind), {k: torch.from_numpy(a) for k, a in samples(kind, 2, 5, 3, 0).items()}
    names, outputs = list(axes), ["logits", *PRESENT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dialect == "torchscript":
            file = io.BytesIO()
            dynamic = axes | {name: {0: "batch"} for name in outputs}
            torch.onnx.export(
                net, tuple(examples.values()), file, input_names=names, output_names=outputs, opset_version=14,
                dynamic_axes=dynamic, dynamo=False,
            )
            return onnx.load_from_string(file.getvalue())
        batch, free = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim.DYNAMIC
        sizes = [{0: batch, **dict.fromkeys(some.keys() - {0}, free)} for some in axes.values()]
        own = len(axes) - len(CACHES)
        program = torch.onnx.export(
            net, tuple(examples.values()), input_names=names, output_names=outputs, opset_version=18, dynamo=True,
            dynamic_shapes=(*sizes[:own], tuple(sizes[own:])), verbose=False,
        )
        assert program is not None
        return program.model_proto
