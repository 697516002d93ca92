"""Transformers, a few channels wide, as torch modules of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES, VOCABULARY, TOKENS = 5, 50, 12


class Attention(nn.Module):
    """Vaswani et al., NeurIPS 2017; queries, keys and values from one matrix or from three."""

    def __init__(self, width: int, heads: int, joint: bool) -> None:
        super().__init__()
        self.heads, self.joint, self.last = heads, joint, nn.Linear(width, width)
        self.inner = nn.ModuleList([nn.Linear(width, 3 * width)] if joint else [nn.Linear(width, width) for _ in range(3)])

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        n, tokens, width = x.shape
        if self.joint:
            q, k, v = self.inner[0](x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (m(x).reshape(n, tokens, self.heads, width // self.heads).transpose(1, 2) for m in self.inner)
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5
        mixed = (scores if bias is None else scores + bias).softmax(-1) @ v
        return self.last(mixed.transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    """Attention and two layers, with the norms in front of them."""

    def __init__(self, width: int, heads: int, joint: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads, joint)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))


class Vit(nn.Module):
    """Dosovitskiy et al., ICLR 2021."""

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, w, 8, 8), nn.Parameter(torch.randn(1, 1, w))
        self.places, self.norm, self.last = nn.Parameter(torch.randn(1, 17, w)), nn.LayerNorm(w), nn.Linear(w, CLASSES)
        self.blocks = nn.Sequential(Block(w, 4), Block(w, 4))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.last(self.norm(self.blocks(x))[:, 0])


class BertLayer(nn.Module):
    """Attention and two layers, with the norms behind the sums."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads, False)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.first(x + self.attention(x, bias))
        return self.second(x + self.narrow(functional.gelu(self.wide(x))))


class Bert(nn.Module):
    """Devlin et al., NAACL 2019."""

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(VOCABULARY, w), nn.Embedding(32, w), nn.Embedding(2, w)
        self.norm, self.layers = nn.LayerNorm(w), nn.ModuleList([BertLayer(w, 4), BertLayer(w, 4)])
        self.pooler, self.last = nn.Linear(w, w), nn.Linear(w, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])[None]
        x = self.norm(self.words(ids) + self.places(places) + self.kinds(torch.zeros_like(ids)))
        bias = (1.0 - mask[:, None, None].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        return self.last(torch.tanh(self.pooler(x[:, 0])))


class SwinBlock(nn.Module):
    """Liu et al., ICCV 2021: attention inside windows, which every second block shifts."""

    def __init__(self, width: int, heads: int, size: int, window: int, shift: int) -> None:
        super().__init__()
        self.size, self.window, self.shift, self.heads = size, window, shift, heads
        self.first, self.second, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads, True)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None] + window - 1
        self.register_buffer("index", apart[0] * (2 * window - 1) + apart[1])
        self.register_buffer("mask", self.masked())

    def masked(self) -> Tensor:
        """[windows, 1, tokens, tokens]: what the shift has brought together does not see each other."""
        region = torch.zeros(1, self.size, self.size, 1)
        if self.shift:
            cuts = [slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None)]
            for k, (a, b) in enumerate((a, b) for a in cuts for b in cuts):
                region[:, a, b] = k
        tokens = self.windows(region)[:, :, 0]
        return ((tokens[:, None] != tokens[:, :, None]) * -100.0)[:, None]

    def windows(self, x: Tensor) -> Tensor:
        n, count, w = x.shape[0], self.size // self.window, self.window
        return x.reshape(n, count, w, count, w, -1).transpose(2, 3).reshape(n * count * count, w * w, x.shape[-1])

    def whole(self, x: Tensor) -> Tensor:
        count, w = self.size // self.window, self.window
        return x.reshape(-1, count, count, w, w, x.shape[-1]).transpose(2, 3).reshape(-1, self.size, self.size, x.shape[-1])

    def attend(self, x: Tensor) -> Tensor:
        a, windows = self.attention, self.mask.shape[0]
        n, tokens, width = x.shape
        q, k, v = a.inner[0](x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5 + self.table[self.index].permute(2, 0, 1)[None]
        if self.shift:
            scores = scores.reshape(-1, windows, self.heads, tokens, tokens) + self.mask
            scores = scores.reshape(-1, self.heads, tokens, tokens)
        return a.last((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        y, s = self.first(x), self.shift
        if s:
            y = torch.roll(y, (-s, -s), (1, 2))
        y = self.whole(self.attend(self.windows(y)))
        if s:
            y = torch.roll(y, (s, s), (1, 2))
        x = x + y
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))


class Swin(nn.Module):
    """Liu et al., ICCV 2021: two stages, patches merged between them."""

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, w, 4, 4), nn.LayerNorm(w)
        self.early = nn.Sequential(SwinBlock(w, 2, 8, 4, 0), SwinBlock(w, 2, 8, 4, 2))
        self.merge = nn.Sequential(nn.LayerNorm(4 * w), nn.Linear(4 * w, 2 * w, bias=False))
        self.late, self.last = SwinBlock(2 * w, 4, 4, 4, 0), nn.Sequential(nn.LayerNorm(2 * w), nn.Linear(2 * w, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        x = self.early(self.norm(self.patches(image).permute(0, 2, 3, 1)))
        x = torch.cat([x[:, a::2, b::2] for b in (0, 1) for a in (0, 1)], -1)
        x = self.late(self.merge(x))
        return self.last[1](self.last[0](x).mean((1, 2)))


class Detr(nn.Module):
    """Carion et al., ECCV 2020: learned queries attend to each other and to the places of a small convolutional net."""

    def __init__(self, d: int = 16, queries: int = 5, layers: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, d, 4, 4), nn.ReLU(), nn.Conv2d(d, d, 2, 2))
        self.queries = nn.Parameter(torch.randn(queries, d))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(d, 2, 2 * d, 0.0, batch_first=True) for _ in range(layers))
        self.head = nn.Linear(d, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        places = self.stem(image).flatten(2).transpose(1, 2)
        x = self.queries.unsqueeze(0).expand(image.shape[0], -1, -1)
        for layer in self.decoder:
            x = layer(x, places)
        return self.head(x)
