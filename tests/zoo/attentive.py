"""Convolutional nets with attention: gates over channels and places, layers that are chosen, as torch modules of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo.convolutional import CLASSES, Permuted, Residual, conv, head


class EfficientChannels(nn.Module):
    """Wang et al., CVPR 2020 (ECA): a window that runs along the channels gives each its gate."""

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        self.window = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.adaptive_avg_pool2d(x, 1)
        y = self.window(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)


def eca_net(w: int = 8) -> nn.Module:
    """Wang et al., CVPR 2020."""
    relu = nn.ReLU()

    def block(i: int, o: int, s: int) -> nn.Module:
        skip = None if (i, s) == (o, 1) else conv(i, o, 1, s)
        return Residual(nn.Sequential(conv(i, o, 3, s, act=relu), conv(o, o), EfficientChannels()), skip, relu)

    return nn.Sequential(conv(3, w, 3, 2, act=relu), block(w, w, 1), block(w, 2 * w, 2), head(2 * w))


class SplitAttention(nn.Module):
    """Zhang et al., CVPRW 2022 (ResNeSt): a softmax between the splits that the groups of one layer make."""

    def __init__(self, i: int, o: int, radix: int = 2) -> None:
        super().__init__()
        self.radix, m, act = radix, max(4, o // 2), nn.ReLU()
        self.conv = conv(i, o * radix, 3, g=radix, act=act)
        self.down, self.up = conv(o, m, 1, act=act), nn.Conv2d(m, o * radix, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c = x.shape[:2]
        split = x.reshape(n, self.radix, c // self.radix, *x.shape[2:])
        a = self.up(self.down(functional.adaptive_avg_pool2d(split.sum(1), 1)))
        a = a.view(n, 1, self.radix, -1).transpose(1, 2).softmax(1).reshape(n, -1, 1, 1)
        return (split * a.reshape(n, self.radix, c // self.radix, 1, 1)).sum(1)


def resnest(w: int = 8) -> nn.Module:
    """Zhang et al., CVPRW 2022."""
    relu = nn.ReLU()

    def block(i: int, m: int, o: int, s: int) -> nn.Module:
        skip = None if (i, s) == (o, 1) else nn.Sequential(nn.AvgPool2d(s), conv(i, o, 1))
        branch = [conv(i, m, 1, act=relu), SplitAttention(m, m), nn.AvgPool2d(s), conv(m, o, 1)]
        return Residual(nn.Sequential(*branch), skip, relu)

    return nn.Sequential(conv(3, w, 3, 2, act=relu), block(w, w, 2 * w, 1), block(2 * w, w, 2 * w, 2), head(2 * w))


class SelectiveKernel(nn.Module):
    """Li et al., CVPR 2019 (SKNet): a softmax between branches of different windows."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        act = nn.ReLU()
        self.branches = nn.ModuleList([conv(i, o, act=act), conv(i, o, act=act, d=2)])
        self.down = conv(o, o // 2, 1, act=act)
        self.up = nn.ModuleList([nn.Conv2d(o // 2, o, 1) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        feats = torch.stack([b(x) for b in self.branches], 1)
        z = self.down(feats.sum(1).mean((2, 3), keepdim=True))
        a = torch.stack([u(z) for u in self.up], 1).softmax(1)
        return (feats * a).sum(1)


def sknet(w: int = 8) -> nn.Module:
    """Li et al., CVPR 2019."""
    relu = nn.ReLU()

    def block(i: int, m: int, o: int) -> nn.Module:
        branch = [conv(i, m, 1, act=relu), SelectiveKernel(m, m), conv(m, o, 1)]
        return Residual(nn.Sequential(*branch), None if i == o else conv(i, o, 1), relu)

    return nn.Sequential(conv(3, w, 3, 2, act=relu), block(w, w, 2 * w), block(2 * w, w, 2 * w), head(2 * w))


class PositionAttention(nn.Module):
    """Fu et al., CVPR 2019 (DANet)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Conv2d(c, c // 2, 1), nn.Conv2d(c, c // 2, 1), nn.Conv2d(c, c, 1)
        self.gamma = nn.Parameter(torch.rand(1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k = self.q(x).view(n, -1, h * w).permute(0, 2, 1), self.k(x).view(n, -1, h * w)
        a = torch.softmax(torch.bmm(q, k), -1)
        out = torch.bmm(self.v(x).view(n, -1, h * w), a.permute(0, 2, 1)).view(n, c, h, w)
        return self.gamma * out + x


class ChannelAttention(nn.Module):
    """Fu et al., CVPR 2019 (DANet)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k = x.view(n, c, -1), x.view(n, c, -1).permute(0, 2, 1)
        e = torch.bmm(q, k) / (h * w)
        e = torch.max(e, -1, keepdim=True)[0].expand_as(e) - e
        out = torch.bmm(torch.softmax(e, -1), x.view(n, c, -1)).view(n, c, h, w)
        return self.gamma * out + x


class DaNet(nn.Module):
    """Fu et al., CVPR 2019."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        act = nn.ReLU()
        self.trunk = nn.Sequential(conv(3, w, 3, 2, act=act), conv(w, 2 * w, 3, 2, act=act))
        self.a = nn.Sequential(conv(2 * w, w, act=act), PositionAttention(w), conv(w, w, act=act))
        self.b = nn.Sequential(conv(2 * w, w, act=act), ChannelAttention(), conv(w, w, act=act))
        self.last = nn.Conv2d(w, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return self.last(self.a(x) + self.b(x))


class Cbam(nn.Module):
    """Woo et al., ECCV 2018: channels by mean and maximum over places, then places by both over channels."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(c, c // 2, 1, bias=False), nn.ReLU(), nn.Conv2d(c // 2, c, 1, bias=False))
        self.window = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = self.mlp(functional.adaptive_avg_pool2d(x, 1)) + self.mlp(functional.adaptive_max_pool2d(x, 1))
        x = x * a.sigmoid()
        places = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * self.window(places).sigmoid()


def cbam_net(w: int = 8) -> nn.Module:
    """Woo et al., ECCV 2018."""
    relu = nn.ReLU()

    def block(i: int, o: int, s: int) -> nn.Module:
        skip = None if (i, s) == (o, 1) else conv(i, o, 1, s)
        return Residual(nn.Sequential(conv(i, o, 3, s, act=relu), conv(o, o), Cbam(o)), skip, relu)

    return nn.Sequential(conv(3, w, 3, 2, act=relu), block(w, w, 1), block(w, 2 * w, 2), head(2 * w))


class Coordinates(nn.Module):
    """Hou et al., CVPR 2021 (CoordAtt): gates along rows and columns, from one layer over both side by side."""

    def __init__(self, c: int) -> None:
        super().__init__()
        m = max(4, c // 2)
        self.first, self.rows, self.columns = conv(c, m, 1, act=nn.Hardswish()), nn.Conv2d(m, c, 1), nn.Conv2d(m, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        rows = x.mean(3, keepdim=True)
        columns = x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        y = self.first(torch.cat([rows, columns], 2))
        rows, columns = torch.split(y, [h, w], 2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid()


def coordatt(w: int = 8) -> nn.Module:
    """Hou et al., CVPR 2021."""
    act = nn.ReLU6()

    def block(i: int, m: int, o: int, s: int) -> nn.Module:
        branch = nn.Sequential(conv(i, m, 1, act=act), conv(m, m, 3, s, m, act), Coordinates(m), conv(m, o, 1))
        return Residual(branch) if (i, s) == (o, 1) else branch

    return nn.Sequential(conv(3, w, 3, 2, act=act), block(w, 2 * w, w, 1), block(w, 2 * w, 2 * w, 2), head(2 * w))


class Transposed(nn.Module):
    """Zamir et al., CVPR 2022 (Restormer): channels attend to channels, head by head, with a temperature of each head."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads, self.temperature = heads, nn.Parameter(torch.rand(heads, 1, 1) + 0.5)
        self.qkv, self.window = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(3 * c, 3 * c, 3, 1, 1, groups=3 * c)
        self.last = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = (t.reshape(n, self.heads, c // self.heads, h * w) for t in self.window(self.qkv(x)).chunk(3, 1))
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        a = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.last((a @ v).reshape(n, c, h, w))


class GatedHalves(nn.Module):
    """Zamir et al., CVPR 2022: half of the channels gates the other one."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(c, 4 * c, 1), nn.Conv2d(2 * c, c, 1)
        self.window = nn.Conv2d(4 * c, 4 * c, 3, 1, 1, groups=4 * c)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.window(self.wide(x)).chunk(2, 1)
        return self.narrow(functional.gelu(a) * b)


def restormer(w: int = 8) -> nn.Module:
    """Zamir et al., CVPR 2022."""
    a = Residual(nn.Sequential(Permuted(2 * w), Transposed(2 * w, 2)))
    b = Residual(nn.Sequential(Permuted(2 * w), GatedHalves(2 * w)))
    last = nn.Sequential(nn.Conv2d(2 * w, w, 3, 1, 1), nn.ReLU(), head(w))
    return nn.Sequential(conv(3, w, 3, 2, act=nn.ReLU()), nn.Conv2d(w, 2 * w, 3, 2, 1), a, b, last)
