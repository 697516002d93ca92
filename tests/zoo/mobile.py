"""Nets for small devices."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo.convolutional import CLASSES, Excite, Permuted, Residual, conv, head
from zoo.transformers import Attention, Block


class Ghost(nn.Module):
    """Han et al., CVPR 2020: half of the channels are cheap copies of the others."""

    def __init__(self, i: int, o: int, act: nn.Module | None = None) -> None:
        super().__init__()
        h = (o + 1) // 2
        self.out, self.first, self.cheap = o, conv(i, h, 1, act=act), conv(h, h, 3, 1, h, act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.out]


def ghostnet(w: int = 8) -> nn.Module:
    """Han et al., CVPR 2020."""
    relu = nn.ReLU()

    def block(i: int, m: int, o: int, s: int, excite: bool) -> nn.Module:
        down = conv(m, m, 3, s, m) if s > 1 else nn.Identity()
        gate = Excite(m, m // 4, relu, nn.Hardsigmoid()) if excite else nn.Identity()
        skip = None if (i, s) == (o, 1) else nn.Sequential(conv(i, i, 3, s, i), conv(i, o, 1))
        return Residual(nn.Sequential(Ghost(i, m, relu), down, gate, Ghost(m, o)), skip)

    blocks = [block(w, 2 * w, w, 1, False), block(w, 3 * w, 2 * w, 2, True), block(2 * w, 3 * w, 2 * w, 1, True)]
    return nn.Sequential(conv(3, w, 3, 2, act=relu), *blocks, conv(2 * w, 3 * w, 1, act=relu), head(3 * w))


class RepVgg(nn.Module):
    """Ding et al., CVPR 2021: a window, a point and the input itself, each with its norm, added up."""

    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        self.three, self.one = conv(i, o, 3, s), conv(i, o, 1, s)
        self.same = nn.BatchNorm2d(i) if (i, s) == (o, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.three(x) + self.one(x)
        return functional.relu(y if self.same is None else y + self.same(x))


def repvgg(w: int = 8) -> nn.Module:
    """Ding et al., CVPR 2021."""
    return nn.Sequential(RepVgg(3, w, 2), RepVgg(w, w, 1), RepVgg(w, 2 * w, 2), RepVgg(2 * w, 2 * w, 1), head(2 * w))


class MobileOne(nn.Module):
    """Vasu et al., CVPR 2023: several depthwise branches, then several points, with skips that are norms."""

    def __init__(self, i: int, o: int, k: int, s: int, g: int, branches: int = 2) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv(i, o, k, s, g) for _ in range(branches)])
        self.scale = conv(i, o, 1, s, g) if k > 1 else None
        self.skip = nn.BatchNorm2d(i) if (i, s) == (o, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        y = sum(b(x) for b in self.branches)
        y = y if self.scale is None else y + self.scale(x)
        return functional.relu(y if self.skip is None else y + self.skip(x))


def mobileone(w: int = 8) -> nn.Module:
    """Vasu et al., CVPR 2023."""
    early = [MobileOne(3, w, 3, 2, 1), MobileOne(w, w, 3, 1, w), MobileOne(w, w, 1, 1, 1)]
    late = [MobileOne(w, w, 3, 2, w), MobileOne(w, 2 * w, 1, 1, 1), MobileOne(2 * w, 2 * w, 3, 1, 2 * w)]
    return nn.Sequential(*early, *late, MobileOne(2 * w, 2 * w, 1, 1, 1), head(2 * w))


class MobileVit(nn.Module):
    """Mehta and Rastegari, ICLR 2022: tokens at one place of all patches attend to each other."""

    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        act = nn.SiLU()
        self.local = nn.Sequential(conv(c, c, act=act), nn.Conv2d(c, d, 1, bias=False))
        self.blocks, self.norm = nn.Sequential(Block(d, 2), Block(d, 2)), nn.LayerNorm(d)
        self.back, self.last = conv(d, c, 1, act=act), conv(2 * c, c, act=act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.local(x)
        n, d, h, w = y.shape
        y = y.reshape(n * d * (h // 2), 2, w // 2, 2).transpose(1, 2).reshape(n, d, (h // 2) * (w // 2), 4)
        y = y.transpose(1, 3).reshape(n * 4, (h // 2) * (w // 2), d)
        y = self.norm(self.blocks(y)).contiguous().view(n, 4, (h // 2) * (w // 2), d)
        y = y.transpose(1, 3).reshape(n * d * (h // 2), w // 2, 2, 2).transpose(1, 2).reshape(n, d, h, w)
        return self.last(torch.cat([x, self.back(y)], 1))


def mobilevit(w: int = 8) -> nn.Module:
    """Mehta and Rastegari, ICLR 2022."""
    act = nn.SiLU()
    first = nn.Sequential(conv(3, w, 3, 2, act=act), conv(w, 2 * w, 3, 2, act=act))
    return nn.Sequential(first, MobileVit(2 * w, 2 * w), conv(2 * w, 3 * w, 1, act=act), head(3 * w))


class Pooling(nn.Module):
    """Li et al., NeurIPS 2022 (EfficientFormer): pooling mixes the places, points mix the channels, scaled."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.wide, self.narrow = conv(c, 2 * c, 1, act=nn.GELU()), conv(2 * c, c, 1)
        self.a, self.b = nn.Parameter(torch.rand(c, 1, 1) + 0.2), nn.Parameter(torch.rand(c, 1, 1) + 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a * (functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x)
        return x + self.b * self.narrow(self.wide(x))


class BiasedBlock(nn.Module):
    """Attention with a bias for every pair of places, and scales of each channel."""

    def __init__(self, c: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.first, self.second, self.attention = nn.LayerNorm(c), nn.LayerNorm(c), Attention(c, heads, True)
        self.wide, self.narrow = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)
        self.biases = nn.Parameter(torch.randn(heads, tokens))
        at = torch.arange(tokens)
        self.register_buffer("index", (at[:, None] - at[None]).abs())
        self.a, self.b = nn.Parameter(torch.rand(c) + 0.2), nn.Parameter(torch.rand(c) + 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a * self.attention(self.first(x), self.biases[:, self.index])
        return x + self.b * self.narrow(functional.gelu(self.wide(self.second(x))))


class EfficientFormer(nn.Module):
    """Li et al., NeurIPS 2022."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.ReLU()
        stem = nn.Sequential(conv(3, w, 3, 2, act=act), conv(w, w, 3, 2, act=act))
        self.trunk = nn.Sequential(stem, Pooling(w), conv(w, 2 * w, 3, 2), Pooling(2 * w))
        self.block, self.norm, self.last = BiasedBlock(2 * w, 2, 16), nn.LayerNorm(2 * w), nn.Linear(2 * w, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x).flatten(2).transpose(1, 2)
        return self.last(self.norm(self.block(x)).mean(1))


class Grn(nn.Module):
    """Woo et al., CVPR 2023 (ConvNeXt V2): channels compete by their energy over all places."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.randn(1, 1, 1, c) / 2), nn.Parameter(torch.randn(1, 1, 1, c) / 5)

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (energy / (energy.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class ConvNextBlock(nn.Module):
    """Woo et al., CVPR 2023: as before, with the norm between the two layers."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.wide, self.narrow, self.grn = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), Grn(4 * c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(self.grn(functional.gelu(self.wide(y)))).permute(0, 3, 1, 2)


def convnext2(w: int = 8) -> nn.Module:
    """Woo et al., CVPR 2023."""
    first = nn.Sequential(nn.Conv2d(3, w, 4, 4), Permuted(w), ConvNextBlock(w), Permuted(w))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), Permuted(2 * w), nn.Flatten(), nn.Linear(2 * w, CLASSES))
    return nn.Sequential(first, nn.Conv2d(w, 2 * w, 2, 2), ConvNextBlock(2 * w), last)


class Scales(nn.Module):
    """Cai et al., ICCV 2023 (EfficientViT): linear attention, heads of two scales beside each other, ones for the sums."""

    def __init__(self, c: int, heads: int, d: int) -> None:
        super().__init__()
        t, self.d = 3 * heads * d, d
        self.qkv, self.wide = nn.Conv2d(c, t, 1, bias=False), nn.Conv2d(t, t, 5, padding=2, groups=t, bias=False)
        self.mix, self.last = nn.Conv2d(t, t, 1, groups=3 * heads, bias=False), conv(2 * heads * d, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.qkv(x)
        n, _, h, w = y.shape
        y = torch.cat([y, self.mix(self.wide(y))], 1).reshape(n, -1, 3 * self.d, h * w)
        q, k, v = (y[:, :, i * self.d : (i + 1) * self.d] for i in range(3))
        v = functional.pad(v, (0, 0, 0, 1), value=1.0)
        y = v @ functional.relu(k).transpose(-1, -2) @ functional.relu(q)
        y = y[:, :, :-1] / (y[:, :, -1:] + 1e-5)
        return x + self.last(y.reshape(n, -1, h, w))


def efficientvit(w: int = 8) -> nn.Module:
    """Cai et al., ICCV 2023."""
    act = nn.Hardswish()
    blocks = [Scales(2 * w, 2, w), Residual(nn.Sequential(conv(2 * w, 4 * w, 1, act=act), conv(4 * w, 2 * w, 1)))]
    return nn.Sequential(conv(3, w, 3, 2, act=act), conv(w, 2 * w, 3, 2, act=act), *blocks, head(2 * w))


class Blaze(nn.Module):
    """Bazarevsky et al., 2019 (BlazeFace): zeros stand in the skip for the channels that a block adds."""

    def __init__(self, i: int, o: int, s: int = 1) -> None:
        super().__init__()
        self.more, self.s = o - i, s
        self.branch = nn.Sequential(nn.Conv2d(i, i, 3, s, 1, groups=i), nn.Conv2d(i, o, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = functional.max_pool2d(x, 2) if self.s > 1 else x
        return functional.relu(self.branch(x) + functional.pad(skip, (0, 0, 0, 0, 0, self.more)))


class BlazeFace(nn.Module):
    """Bazarevsky et al., 2019: boxes and a score for each, at two scales."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        first = [nn.Conv2d(3, w, 5, 2, 2), nn.ReLU(), Blaze(w, w), Blaze(w, w + 4), Blaze(w + 4, 2 * w, 2)]
        self.first, self.second = nn.Sequential(*first), nn.Sequential(Blaze(2 * w, 3 * w, 2), Blaze(3 * w, 3 * w))
        self.scores = nn.ModuleList([nn.Conv2d(2 * w, 2, 1), nn.Conv2d(3 * w, 6, 1)])
        self.boxes = nn.ModuleList([nn.Conv2d(2 * w, 8, 1), nn.Conv2d(3 * w, 24, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        scales = (x, self.second(x))

        def rows(lasts: nn.ModuleList, n: int) -> Tensor:
            made = (last(v).permute(0, 2, 3, 1) for v, last in zip(scales, lasts, strict=True))
            return torch.cat([y.reshape(y.shape[0], -1, n) for y in made], 1)

        return torch.cat([rows(self.boxes, 4), rows(self.scores, 1)], 2)


class RepMixer(nn.Module):
    """Vasu et al., ICCV 2023 (FastViT): depthwise windows mix the places, points mix the channels, scaled."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.mixer, self.wide = conv(c, c, 1, g=c), conv(c, c, 3, g=c), conv(c, c, 7, g=c)
        self.points = nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.GELU(), nn.Conv2d(2 * c, c, 1))
        self.a, self.b = nn.Parameter(torch.rand(c, 1, 1) + 0.2), nn.Parameter(torch.rand(c, 1, 1) + 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a * (self.mixer(x) - self.norm(x))
        return x + self.b * self.points(self.wide(x))


def fastvit(w: int = 8) -> nn.Module:
    """Vasu et al., ICCV 2023: between stages, a depthwise layer makes two channels of each."""
    act = nn.GELU()
    first = nn.Sequential(conv(3, w, 3, 2, act=act), conv(w, w, 3, 2, w, act), RepMixer(w))
    return nn.Sequential(first, conv(w, 2 * w, 7, 2, w), RepMixer(2 * w), head(2 * w))
