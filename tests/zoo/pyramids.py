"""Nets that join several scales: detectors and nets that tell what each pixel is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo.convolutional import CLASSES, Residual, conv


class FastFusion(nn.Module):
    """Tan et al., CVPR 2020: a mean of maps with learned weights above zero."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.rand(count) + 0.5)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        w = functional.relu(self.weights)
        w = w / (w.sum() + 1e-4)
        return sum(w[k] * m for k, m in enumerate(maps))


def separable(c: int, act: nn.Module | None = None) -> nn.Module:
    """A window of each channel, then points."""
    return nn.Sequential(nn.Conv2d(c, c, 3, 1, 1, groups=c, bias=False), conv(c, c, 1, act=act))


def doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0)


def halved(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, 2, 1)


class BiFpn(nn.Module):
    """Tan et al., CVPR 2020: three scales, down and up again."""

    def __init__(self, c: int) -> None:
        super().__init__()
        act = nn.SiLU()
        self.fuse = nn.ModuleList([FastFusion(2), FastFusion(2), FastFusion(3), FastFusion(2)])
        self.convs = nn.ModuleList([nn.Sequential(act, separable(c)) for _ in range(4)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        p3, p4, p5 = maps
        m4 = self.convs[0](self.fuse[0]([p4, doubled(p5)]))
        o3 = self.convs[1](self.fuse[1]([p3, doubled(m4)]))
        o4 = self.convs[2](self.fuse[2]([p4, m4, halved(o3)]))
        o5 = self.convs[3](self.fuse[3]([p5, halved(o4)]))
        return [o3, o4, o5]


class Stages(nn.Module):
    """Three scales of features, each brought to as many channels."""

    def __init__(self, w: int, act: nn.Module) -> None:
        super().__init__()
        self.stem = conv(3, w, 3, 2, act=act)
        sizes = ((w, w, 1), (w, 2 * w, 2), (2 * w, 3 * w, 2))
        self.stages = nn.ModuleList(conv(i, o, 3, s, act=act) for i, o, s in sizes)
        self.laterals = nn.ModuleList(nn.Conv2d(o, w, 1) for _, o, _ in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        return maps


class EfficientDet(nn.Module):
    """Tan et al., CVPR 2020: one head for all scales, with norms of each scale's own."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.stages, self.pyramids = Stages(w, nn.SiLU()), nn.Sequential(BiFpn(w), BiFpn(w))
        self.tower, self.last = nn.Sequential(nn.Conv2d(w, w, 3, 1, 1, groups=w), nn.Conv2d(w, w, 1)), nn.Conv2d(w, CLASSES, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.pyramids(self.stages(x))
        found = [self.last(functional.silu(norm(self.tower(m)))) for norm, m in zip(self.norms, maps, strict=True)]
        return torch.cat([f.flatten(2) for f in found], 2)


class RetinaNet(nn.Module):
    """Lin et al., ICCV 2017, with a factor of each scale's own (Tian et al., FCOS, ICCV 2019)."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.ReLU()
        self.stages, self.smooth = Stages(w, act), nn.ModuleList(nn.Conv2d(w, w, 3, 1, 1) for _ in range(3))
        towers = [nn.Sequential(nn.Conv2d(w, w, 3, 1, 1), act, nn.Conv2d(w, w, 3, 1, 1), act) for _ in range(2)]
        self.towers, self.classes, self.boxes = nn.ModuleList(towers), nn.Conv2d(w, CLASSES, 3, 1, 1), nn.Conv2d(w, 4, 3, 1, 1)
        self.factors = nn.Parameter(torch.rand(3) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        maps, found = self.stages(x), []
        for k in (1, 0):
            maps[k] = maps[k] + doubled(maps[k + 1])
        for k, m in enumerate(smooth(m) for smooth, m in zip(self.smooth, maps, strict=True)):
            classes, boxes = self.classes(self.towers[0](m)), self.boxes(self.towers[1](m))
            found.append(torch.cat([classes, torch.relu(self.factors[k] * boxes)], 1).flatten(2))
        return torch.cat(found, 2)


class PaNet(nn.Module):
    """Liu et al., CVPR 2018: sums with what is scaled up, then with what is scaled down again."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.stages, self.smooth = Stages(w, nn.ReLU()), nn.ModuleList(nn.Conv2d(w, w, 3, 1, 1) for _ in range(3))
        self.down = nn.ModuleList(nn.Conv2d(w, w, 3, 2, 1) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(w, CLASSES, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stages(x)
        for k in (1, 0):
            size = maps[k].shape[2:]
            maps[k] = maps[k] + functional.interpolate(maps[k + 1], size=size, mode="bilinear", align_corners=False)
        maps = [s(m) for s, m in zip(self.smooth, maps, strict=True)]
        for k, down in enumerate(self.down):
            maps[k + 1] = maps[k + 1] + down(maps[k])
        return torch.cat([h(m).flatten(2) for h, m in zip(self.heads, maps, strict=True)], 2)


class Aspp(nn.Module):
    """Chen et al., ECCV 2018 (DeepLabV3+): wide windows side by side, and the mean of the whole image."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        act = nn.ReLU()
        self.branches = nn.ModuleList([conv(i, o, 1, act=act), conv(i, o, d=2, act=act), conv(i, o, d=3, act=act)])
        self.pooled, self.last = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(i, o, 1, act=act)), conv(4 * o, o, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.last(torch.cat([*(b(x) for b in self.branches), pooled], 1))


class DeepLab(nn.Module):
    """Chen et al., ECCV 2018."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.ReLU()
        self.early, self.low = nn.Sequential(conv(3, w, 3, 2, act=act), conv(w, w, act=act)), conv(w, w // 2, 1, act=act)
        self.late = nn.Sequential(conv(w, 2 * w, 3, 2, act=act), conv(2 * w, 3 * w, d=2, act=act), Aspp(3 * w, w))
        self.last = nn.Sequential(conv(w + w // 2, w, act=act), nn.Conv2d(w, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        up = functional.interpolate(self.late(early), size=early.shape[-2:], mode="bilinear", align_corners=False)
        y = self.last(torch.cat([up, self.low(early)], 1))
        return functional.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


class HrNet(nn.Module):
    """Sun et al., CVPR 2019: scales side by side, each the sum of all, scaled."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.ReLU()

        def basic(c: int) -> nn.Module:
            return Residual(nn.Sequential(conv(c, c, act=act), conv(c, c)), None, act)

        self.stem = conv(3, w, 3, 2, act=act)
        self.start = nn.ModuleList([conv(w, w, act=act), conv(w, 2 * w, 3, 2, act=act)])
        self.one = nn.ModuleList([basic(w), basic(2 * w)])
        self.down, self.up = conv(w, 2 * w, 3, 2), conv(2 * w, w, 1)
        self.third = conv(2 * w, 4 * w, 3, 2, act=act)
        self.two = nn.ModuleList([basic(w), basic(2 * w), basic(4 * w)])
        self.up10, self.up20, self.up21 = conv(2 * w, w, 1), conv(4 * w, w, 1), conv(4 * w, 2 * w, 1)
        self.last = nn.Sequential(conv(7 * w, 2 * w, 1, act=act), nn.Conv2d(2 * w, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, b = (o(s(x)) for s, o in zip(self.start, self.one, strict=True))
        a, b = functional.relu(a + doubled(self.up(b))), functional.relu(self.down(a) + b)
        a, b, c = (m(t) for m, t in zip(self.two, (a, b, self.third(b)), strict=True))
        a = functional.relu(a + doubled(self.up10(b)) + doubled(doubled(self.up20(c))))
        b = functional.relu(b + doubled(self.up21(c)))
        size = a.shape[-2:]
        big = [functional.interpolate(t, size=size, mode="bilinear", align_corners=False) for t in (b, c)]
        return self.last(torch.cat([a, *big], 1))


class AttentionGate(nn.Module):
    """Oktay et al., MIDL 2018: what lies below tells which places of the skip matter."""

    def __init__(self, g: int, c: int, m: int) -> None:
        super().__init__()
        self.g, self.x = conv(g, m, 1), conv(c, m, 1)
        self.psi = conv(m, 1, 1, act=nn.Sigmoid())

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return x * self.psi(functional.relu(self.g(g) + self.x(x)))


class AttentionUNet(nn.Module):
    """Oktay et al., MIDL 2018."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.ReLU()
        self.down = nn.ModuleList([conv(3, w, act=act), conv(w, 2 * w, act=act), conv(2 * w, 3 * w, act=act)])
        sizes = ((3 * w, 2 * w), (2 * w, w))
        self.up = nn.ModuleList(nn.Sequential(nn.Upsample(scale_factor=2.0), conv(i, o, act=act)) for i, o in sizes)
        self.gates = nn.ModuleList([AttentionGate(2 * w, 2 * w, w), AttentionGate(w, w, w // 2)])
        self.merge = nn.ModuleList([conv(4 * w, 2 * w, act=act), conv(2 * w, w, act=act)])
        self.last = nn.Conv2d(w, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for k, layer in enumerate(self.down):
            x = layer(functional.max_pool2d(x, 2) if k else x)
            kept.append(x)
        for up, gate, merge, skip in zip(self.up, self.gates, self.merge, kept[-2::-1], strict=True):
            x = up(x)
            x = merge(torch.cat([gate(x, skip), x], 1))
        return self.last(x)
