"""Convolutional nets of well-known architectures, a few channels wide, as torch modules of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5


def conv(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: nn.Module | None = None, d: int = 1) -> nn.Sequential:
    """Conv, BatchNorm, activation."""
    return nn.Sequential(
        nn.Conv2d(i, o, k, s, d * (k // 2), d, g, bias=False), nn.BatchNorm2d(o), nn.Identity() if act is None else act
    )


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class Residual(nn.Module):
    """A branch and its skip, which is projected where the shape changes."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.skip, self.act = branch, skip or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch(x) + self.skip(x))


def resnet(w: int = 8) -> nn.Module:
    """He et al., CVPR 2016: basic blocks, then bottlenecks."""
    relu = nn.ReLU()

    def basic(i: int, o: int, s: int) -> nn.Module:
        skip = None if (i, s) == (o, 1) else conv(i, o, 1, s)
        return Residual(nn.Sequential(conv(i, o, 3, s, act=relu), conv(o, o)), skip, relu)

    def bottleneck(i: int, m: int, o: int, s: int) -> nn.Module:
        skip = None if (i, s) == (o, 1) else conv(i, o, 1, s)
        return Residual(nn.Sequential(conv(i, m, 1, act=relu), conv(m, m, 3, s, act=relu), conv(m, o, 1)), skip, relu)

    return nn.Sequential(
        conv(3, w, 7, 2, act=relu), nn.MaxPool2d(3, 2, 1), basic(w, w, 1), basic(w, 2 * w, 2), basic(2 * w, 2 * w, 1),
        bottleneck(2 * w, w, 4 * w, 2), bottleneck(4 * w, w, 4 * w, 1), head(4 * w),
    )


class Excite(nn.Module):
    """Squeeze and excitation: Hu et al., CVPR 2018."""

    def __init__(self, channels: int, squeezed: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up, self.act, self.gate = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1), act, gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.act(self.down(functional.adaptive_avg_pool2d(x, 1)))))


def inverted(i: int, m: int, o: int, k: int, s: int, act: nn.Module, excite: nn.Module | None) -> nn.Module:
    """Expand, depthwise, project: Sandler et al., CVPR 2018."""
    parts = [*([conv(i, m, 1, act=act)] if m != i else []), conv(m, m, k, s, m, act), excite or nn.Identity(), conv(m, o, 1)]
    return Residual(nn.Sequential(*parts)) if (i, s) == (o, 1) else nn.Sequential(*parts)


def mobilenet_v2(w: int = 8) -> nn.Module:
    """Sandler et al., CVPR 2018."""
    act = nn.ReLU6()
    blocks = [inverted(w, w, w, 3, 1, act, None), inverted(w, 3 * w, 2 * w, 3, 2, act, None)]
    blocks += [inverted(2 * w, 4 * w, 2 * w, 3, 1, act, None), inverted(2 * w, 4 * w, 3 * w, 3, 2, act, None)]
    return nn.Sequential(conv(3, w, 3, 2, act=act), *blocks, conv(3 * w, 5 * w, 1, act=act), head(5 * w))


def mobilenet_v3(w: int = 8) -> nn.Module:
    """Howard et al., ICCV 2019: hard swish, excited blocks, a head of two layers."""
    act, gate = nn.Hardswish(), nn.Hardsigmoid()
    blocks = [inverted(w, w, w, 3, 2, nn.ReLU(), Excite(w, w // 2, nn.ReLU(), gate))]
    blocks += [inverted(w, 3 * w, 2 * w, 5, 2, act, None)]
    blocks += [inverted(2 * w, 4 * w, 2 * w, 5, 1, act, Excite(4 * w, w, nn.ReLU(), gate)), conv(2 * w, 4 * w, 1, act=act)]
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * w, 5 * w), act, nn.Linear(5 * w, CLASSES))
    return nn.Sequential(conv(3, w, 3, 2, act=act), *blocks, last)


def efficientnet(w: int = 8) -> nn.Module:
    """Tan and Le, ICML 2019."""
    act, gate = nn.SiLU(), nn.Sigmoid()
    blocks = [inverted(w, w, w, 3, 1, act, Excite(w, w // 4, act, gate))]
    blocks += [inverted(w, 4 * w, 2 * w, 3, 2, act, Excite(4 * w, w // 4, act, gate))]
    blocks += [inverted(2 * w, 4 * w, 2 * w, 5, 1, act, Excite(4 * w, w // 2, act, gate))]
    return nn.Sequential(conv(3, w, 3, 2, act=act), *blocks, conv(2 * w, 6 * w, 1, act=act), head(6 * w))


class Permuted(nn.Module):
    """LayerNorm over channels of an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Liu et al., CVPR 2022: depthwise, norm and two layers with the channels last, a scale for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(functional.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext(w: int = 8) -> nn.Module:
    """Liu et al., CVPR 2022."""
    return nn.Sequential(
        nn.Conv2d(3, w, 4, 4), Permuted(w), ConvNextBlock(w), ConvNextBlock(w), Permuted(w), nn.Conv2d(w, 2 * w, 2, 2),
        ConvNextBlock(2 * w), nn.AdaptiveAvgPool2d(1), Permuted(2 * w), nn.Flatten(), nn.Linear(2 * w, CLASSES),
    )


class DenseLayer(nn.Module):
    """Huang et al., CVPR 2017: norms in front, the result beside the input."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 2 * growth, 1, bias=False))
        self.second = nn.Sequential(nn.BatchNorm2d(2 * growth), nn.ReLU(), nn.Conv2d(2 * growth, growth, 3, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.second(self.first(x))], 1)


def densenet(w: int = 8) -> nn.Module:
    """Huang et al., CVPR 2017."""
    g = w // 2
    between = nn.Sequential(nn.BatchNorm2d(w + 2 * g), nn.ReLU(), nn.Conv2d(w + 2 * g, w, 1, bias=False), nn.AvgPool2d(2))
    last = nn.Sequential(nn.BatchNorm2d(w + 2 * g), nn.ReLU(), head(w + 2 * g))
    layers = [DenseLayer(w, g), DenseLayer(w + g, g)]
    return nn.Sequential(conv(3, w, 3, 2, act=nn.ReLU()), *layers, between, DenseLayer(w, g), DenseLayer(w + g, g), last)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """Ma et al., ECCV 2018: half of the channels passes by, then both halves are shuffled."""

    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        self.stride, h, n, act = s, o // 2, i if s == 2 else i // 2, nn.ReLU()
        self.branch = nn.Sequential(conv(n, h, 1, act=act), conv(h, h, 3, s, h), conv(h, h, 1, act=act))
        self.skip = nn.Sequential(conv(i, i, 3, s, i), conv(i, h, 1, act=act)) if s == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        a, b = (x, x) if self.stride == 2 else x.chunk(2, 1)
        return shuffled(torch.cat([self.skip(a), self.branch(b)], 1))


def shufflenet(w: int = 8) -> nn.Module:
    """Ma et al., ECCV 2018."""
    units = [ShuffleUnit(i * w, o * w, s) for i, o, s in ((1, 2, 2), (2, 2, 1), (2, 4, 2), (4, 4, 1))]
    return nn.Sequential(conv(3, w, 3, 2, act=nn.ReLU()), *units, conv(4 * w, 4 * w, 1, act=nn.ReLU()), head(4 * w))


class Branches(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([b(x) for b in self.branches], 1)


def inception(w: int = 8) -> nn.Module:
    """Szegedy et al., CVPR 2016: parallel branches, factorised windows."""
    act = nn.ReLU()

    def block(i: int) -> nn.Module:
        five = nn.Sequential(conv(i, w // 2, 1, act=act), conv(w // 2, w, 5, act=act))
        long = nn.Sequential(
            conv(i, w, 1, act=act), nn.Conv2d(w, w, (1, 7), padding=(0, 3)), act, nn.Conv2d(w, w, (7, 1), padding=(3, 0)), act
        )
        return Branches(conv(i, w, 1, act=act), five, long, nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(i, w, 1, act=act)))

    down = Branches(conv(4 * w, 2 * w, 3, 2, act=act), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(conv(3, w, 3, 2, act=act), block(w), down, block(6 * w), head(4 * w))


class UNet(nn.Module):
    """Ronneberger et al., MICCAI 2015."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.ReLU()
        sizes = ((3, w), (w, 2 * w), (2 * w, 3 * w))
        self.down = nn.ModuleList(nn.Sequential(conv(i, o, act=act), conv(o, o, act=act)) for i, o in sizes)
        self.up = nn.ModuleList([nn.ConvTranspose2d(3 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)])
        self.merge = nn.ModuleList([conv(4 * w, 2 * w, act=act), conv(2 * w, w, act=act)])
        self.last = nn.Conv2d(w, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for k, layer in enumerate(self.down):
            x = layer(functional.max_pool2d(x, 2) if k else x)
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.last(x)


class C2f(nn.Module):
    """Jocher et al., YOLOv8 (2023): halves, of which one goes through bottlenecks; all stages side by side."""

    def __init__(self, i: int, o: int, count: int, skip: bool) -> None:
        super().__init__()
        act, h = nn.SiLU(), o // 2
        self.first, self.last = conv(i, o, 1, act=act), conv((2 + count) * h, o, 1, act=act)
        parts = [nn.Sequential(conv(h, h, act=act), conv(h, h, act=act)) for _ in range(count)]
        self.parts = nn.ModuleList(Residual(p) if skip else p for p in parts)

    def forward(self, x: Tensor) -> Tensor:
        stages = list(self.first(x).chunk(2, 1))
        for part in self.parts:
            stages.append(part(stages[-1]))
        return self.last(torch.cat(stages, 1))


class Sppf(nn.Module):
    """Jocher, YOLOv5 (2021): three pools, one after the other, side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = conv(channels, channels // 2, 1, act=nn.SiLU()), conv(2 * channels, channels, 1, act=nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.first(x)]
        for _ in range(3):
            stages.append(functional.max_pool2d(stages[-1], 5, 1, 2))
        return self.last(torch.cat(stages, 1))


class Yolo(nn.Module):
    """A backbone, a neck that goes up and down again, boxes and classes at two scales, all cells in one output."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.SiLU()
        self.early = nn.Sequential(conv(3, w, 3, 2, act=act), conv(w, 2 * w, 3, 2, act=act), C2f(2 * w, 2 * w, 1, True))
        self.late = nn.Sequential(conv(2 * w, 4 * w, 3, 2, act=act), C2f(4 * w, 4 * w, 1, True), Sppf(4 * w))
        self.up, self.down = C2f(6 * w, 2 * w, 1, False), conv(2 * w, 2 * w, 3, 2, act=act)
        self.deep = C2f(6 * w, 4 * w, 1, False)
        self.boxes, self.classes = nn.ModuleList(), nn.ModuleList()
        for c in (2 * w, 4 * w):
            self.boxes.append(nn.Sequential(conv(c, w, act=act), nn.Conv2d(w, 4, 1)))
            self.classes.append(nn.Sequential(conv(c, w, act=act), nn.Conv2d(w, CLASSES, 1)))

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        late = self.late(early)
        up = self.up(torch.cat([functional.interpolate(late, scale_factor=2.0), early], 1))
        scales: Sequence[Tensor] = (up, self.deep(torch.cat([self.down(up), late], 1)))
        found = [torch.cat([b(s), c(s)], 1).flatten(2) for b, c, s in zip(self.boxes, self.classes, scales, strict=True)]
        boxes, classes = torch.cat(found, 2).split([4, CLASSES], 1)
        return torch.cat([boxes * 2, classes.sigmoid()], 1)


class Crnn(nn.Module):
    """Shi et al., TPAMI 2017: columns of an image as a sequence, an LSTM in both directions, a class for each column."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.ReLU()
        self.trunk = nn.Sequential(
            conv(3, w, act=act), nn.MaxPool2d(2), conv(w, 2 * w, act=act), nn.MaxPool2d((4, 1)), conv(2 * w, 2 * w, act=act),
            nn.MaxPool2d((4, 1)),
        )
        self.sequence, self.last = nn.LSTM(2 * w, w, bidirectional=True), nn.Linear(2 * w, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.sequence(self.trunk(x).squeeze(2).permute(2, 0, 1))
        return self.last(y).permute(1, 0, 2)
