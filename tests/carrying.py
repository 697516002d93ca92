"""Nets that go on from frames of calls before, as torch exports them in two dialects; streams of calls through them.

Each reads `x` and gives `y`; an input `c` comes back as the output `nc`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import torch
from fusing import permuted
from merging import fed
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn.functional import glu, pad, silu

from onnxzip.fusion.rejoining import joined_recurrence
from onnxzip.loading import load_all
from onnxzip.loading.carried import without_orders
from onnxzip.net import in_file
from onnxzip.runtime import to_model

Shapes = Mapping[str, tuple[int | str, ...]]
Arrays = dict[str, np.ndarray]
N, WIDTH = "N", 12


class Tcn(nn.Module):
    """Residual causal blocks, each with its cache; `c0` holds frames of x itself."""

    shapes: ClassVar[Shapes] = {"x": (N, 10, 8), "c0": (N, 8, 2), "c1": (N, WIDTH, 4), "c2": (N, WIDTH, 4)}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(8, WIDTH, 3), nn.Linear(WIDTH, 5)
        self.deep = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, dilation=2, groups=g) for g in (1, WIDTH))
        self.up, self.down = (
            nn.ModuleList(nn.Conv1d(a, b, 1) for _ in range(2)) for a, b in ((WIDTH, 16), (16, WIDTH))
        )

    def block(self, k: int, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.cat([c, x], 2)
        return (x + self.down[k](self.up[k](self.deep[k](z)).relu())).relu(), z[:, :, -4:]

    def forward(self, x: Tensor, c0: Tensor, c1: Tensor, c2: Tensor) -> tuple[Tensor, ...]:
        z = torch.cat([c0, x.transpose(1, 2)], 2)
        y, n1 = self.block(0, self.stem(z).relu(), c1)
        y, n2 = self.block(1, y, c2)
        return self.head(y.transpose(1, 2)), z[:, :, -2:], n1, n2


class OneCache(Tcn):
    """The caches of all blocks one behind the other along time, as wekws writes them."""

    shapes: ClassVar[Shapes] = {"x": (N, 10, 8), "c": (N, WIDTH, 8)}

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        y, n1 = self.block(0, self.stem(pad(x.transpose(1, 2), (1, 1))).relu(), c[:, :, :4])
        y, n2 = self.block(1, y, c[:, :, 4:])
        return self.head(y.transpose(1, 2)), torch.cat([n1, n2], 2)


class Rolled(Tcn):
    """The layer reads the cache that comes back, of which the oldest frame has gone."""

    shapes: ClassVar[Shapes] = {"x": (N, 1, 8), "c1": (N, WIDTH, 5), "c2": (N, WIDTH, 5)}

    def forward(self, x: Tensor, c1: Tensor, c2: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        y = self.stem(pad(x.transpose(1, 2), (1, 1))).relu()
        n1 = torch.cat([c1[:, :, 1:], y], 2)
        y = self.deep[0](n1).relu()
        n2 = torch.cat([c2[:, :, 1:], y], 2)
        return self.head(self.deep[1](n2).transpose(1, 2).relu()), n1, n2


class Beside(Tcn):
    """The cache that comes back is put together beside what the layer reads."""

    shapes: ClassVar[Shapes] = {"x": (N, 1, 8), "c": (N, WIDTH, 4)}

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        y = self.stem(pad(x.transpose(1, 2), (1, 1))).relu()
        z = y + self.deep[0](torch.cat([c, y], 2))
        return self.head(z.relu().transpose(1, 2)), torch.cat([c[:, :, 1:], y], 2)


class Enhancer(nn.Module):
    """Convolutions over time and bins, a GRU between them."""

    shapes: ClassVar[Shapes] = {"x": (N, 2, 4, 16), "e": (N, 8, 2, 8), "d": (N, 8, 2, 4), "h": (1, N, 10)}

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, (1, 5), (1, 2), (0, 2)), nn.Conv2d(8, 8, (3, 5), (1, 2), (0, 2))
        self.down, self.gru, self.up = nn.Linear(32, 10), nn.GRU(10, 10, batch_first=True), nn.Linear(10, 32)
        self.third, self.wider = nn.Conv2d(8, 8, (3, 3), 1, (0, 1)), nn.ConvTranspose2d(8, 8, (1, 4), (1, 2), (0, 1))
        self.last = nn.ConvTranspose2d(8, 2, (1, 4), (1, 2), (0, 1))

    def forward(self, x: Tensor, e: Tensor, d: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        first = self.first(x).relu()
        z = torch.cat([e, first], 2)
        second = self.second(z).relu()
        n, channels, steps, bins = second.shape
        y, now = self.gru(self.down(second.permute(0, 2, 1, 3).reshape(n, steps, channels * bins)).relu(), h)
        y = self.up(y).reshape(n, steps, channels, bins).permute(0, 2, 1, 3) + second
        w = torch.cat([d, y], 2)
        return self.last(self.wider(self.third(w).relu()).relu() + first), z[:, :, -2:], w[:, :, -2:], now


class Packed(nn.Module):
    """One sample at a time; caches of two layers are one input [2, 1, channels, frames, bins], as GTCRN has them."""

    shapes: ClassVar[Shapes] = {"x": (1, 2, 1, 8), "c": (2, 1, 6, 2, 4), "h": (2, 1, 5)}

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, (1, 3), (1, 2), (0, 1)), nn.ConvTranspose2d(6, 2, (1, 4), (1, 2), (0, 1))
        self.second, self.third = nn.Conv2d(6, 6, 3, 1, (0, 1)), nn.Conv2d(6, 6, (2, 3), 1, (0, 1), groups=6)
        self.down, self.gru, self.up = nn.Linear(24, 5), nn.GRU(5, 5, 2, batch_first=True), nn.Linear(5, 24)

    def forward(self, x: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        x = self.first(x).relu()
        z = torch.cat([c[0], x], 2)
        y = self.second(z).relu() + x
        g, now = self.gru(self.down(y.permute(0, 2, 1, 3).reshape(1, 1, 24)).relu(), h)
        y = y + self.up(g).reshape(1, 1, 6, 4).permute(0, 2, 1, 3)
        w = torch.cat([c[1][:, :, 1:], y], 2)
        return self.last(self.third(w).relu()), torch.stack([z[:, :, 1:], w]), now


class Zipformer(nn.Module):
    """Keys and values of the last frames [frames, N, channels], and a module of convolutions."""

    shapes: ClassVar[Shapes] = {"x": (4, N, 8), "k": (6, N, 16), "v": (6, N, 16), "c": (N, 16, 4)}

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.widen = nn.Linear(8, 16), nn.Linear(16, 5), nn.Linear(16, 32)
        self.q, self.k, self.v, self.o, self.narrow = (nn.Linear(16, 16) for _ in range(5))
        self.deep = nn.Conv1d(16, 16, 5, groups=16)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        x = self.first(x).relu()
        keys, values = torch.cat([k, self.k(x)], 0), torch.cat([v, self.v(x)], 0)
        q, heads, read = (z.reshape(-1, x.shape[1], 4, 4).permute(1, 2, 0, 3) for z in (self.q(x), keys, values))
        a = (q @ heads.transpose(2, 3) / 2).softmax(-1) @ read
        x = x + self.o(a.permute(2, 0, 1, 3).reshape(-1, x.shape[1], 16))
        z = torch.cat([c, glu(self.widen(x), -1).permute(1, 2, 0)], 2)
        return self.last(x + self.narrow(silu(self.deep(z)).permute(2, 0, 1))), keys[-6:], values[-6:], z[:, :, -4:]


class Heads(Zipformer):
    """Keys and values of the last frames by heads [N, heads, frames, channels]."""

    shapes: ClassVar[Shapes] = {"x": (N, 4, 8), "k": (N, 4, 6, 4), "v": (N, 4, 6, 4)}

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x = self.first(x).relu()
        q, now, read = (z.reshape(x.shape[0], -1, 4, 4).transpose(1, 2) for z in (self.q(x), self.k(x), self.v(x)))
        keys, values = torch.cat([k, now], 2), torch.cat([v, read], 2)
        a = (q @ keys.transpose(2, 3) / 2).softmax(-1) @ values
        return self.last(x + self.o(a.transpose(1, 2).reshape(x.shape[0], -1, 16))), keys[:, :, -6:], values[:, :, -6:]


KINDS = (Tcn, OneCache, Rolled, Beside, Enhancer, Packed, Zipformer, Heads)
DIALECTS = ("torchscript", "dynamo")


def exported(kind: type[nn.Module], seed: int, dialect: str = "torchscript") -> ModelProto:
    """A net with random weights, for any number of samples where it takes several."""
    torch.manual_seed(seed)
    net = kind().eval()
    for p in net.parameters():
        p.data.mul_(1.5 if p.ndim > 1 else 1)
    names = list(kind.shapes)
    ends = ["y", *(f"n{name}" for name in names[1:])]
    feeds = tuple(torch.zeros([3 if d == N else d for d in kind.shapes[name]]) for name in names)
    axes = {name: at.index(N) for name, at in kind.shapes.items() if N in at}
    axes |= {end: axes["x" if end == "y" else end[1:]] for end in ends if axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dialect == "torchscript":
            file = io.BytesIO()
            torch.onnx.export(
                net, feeds, file, input_names=names, output_names=ends, opset_version=17, dynamo=False,
                dynamic_axes={name: {axis: "batch"} for name, axis in axes.items()} or None,
            )
            return onnx.load_from_string(file.getvalue())
        batch = torch.export.Dim("batch", min=1, max=512)
        program = torch.onnx.export(
            net, feeds, input_names=names, output_names=ends, opset_version=18, dynamo=True, verbose=False,
            dynamic_shapes=tuple({axes[name]: batch} for name in names) if axes else None,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def in_other_order(path: Path, seed: int) -> ModelProto:
    """The net of a file with its channels in another order, and what it goes on from as well."""
    net = load_all({"n": path, "m": path})[0]
    return to_model(in_file(without_orders(joined_recurrence(permuted(net, seed)))))


def calls(kind: type[nn.Module], count: int, seed: int, zeros: bool = False) -> Arrays:
    """Samples in the midst of streams, as noise, or at the begin of streams."""
    rng, found = np.random.default_rng(seed), {}
    for name, shape in kind.shapes.items():
        batch = shape.index(N) if N in shape else shape.index(1)
        size = [count if d == batch else int(n) for d, n in enumerate(shape)]
        found[name] = np.zeros(size, np.float32) if zeros and name != "x" else rng.standard_normal(size, np.float32)
    return found


def streamed(
    path: Path | bytes, kind: type[nn.Module], samples: int, seed: int, count: int = 4, prefix: str = ""
) -> list[Arrays]:
    """What a net has read in some calls, on states of its own, and said as `y`."""
    now, found = calls(kind, samples, 0, zeros=True), list[Arrays]()
    for k in range(count):
        read = {**now, "x": calls(kind, samples, 100 * seed + k)["x"]}
        said = fed(path, read)
        found.append({**read, "y": said[f"{prefix}y"]})
        now |= {name: said[f"{prefix}n{name}"] for name in now if name != "x"}
    return found


def apart(found: list[Arrays], want: list[Arrays]) -> float:
    """How far two nets come apart along a stream: the largest difference of `y`, relative to the largest that is wanted."""
    return max(float(np.abs(f["y"] - w["y"]).max() / np.abs(w["y"]).max()) for f, w in zip(found, want, strict=True))
