"""Nets for sound and for text, a few channels wide, as torch modules of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo.transformers import CLASSES, VOCABULARY


class GlobalNorm(nn.Module):
    """gLN of Luo and Mesgarani (TASLP 2019): over channels and time."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(1, c, 1) + 0.5), nn.Parameter(torch.randn(1, c, 1) / 5)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2), keepdim=True)
        var = ((x - mean) ** 2).mean((1, 2), keepdim=True)
        return self.gamma * (x - mean) / (var + 1e-8).sqrt() + self.beta


class TasBlock(nn.Module):
    """A wide window of each channel between two layers, with slopes and norms of its own."""

    def __init__(self, c: int, h: int, d: int) -> None:
        super().__init__()
        first, second = (nn.PReLU(init=0.1 + 0.3 * torch.rand(1).item()) for _ in range(2))
        window = nn.Conv1d(h, h, 3, padding=d, dilation=d, groups=h)
        self.net = nn.Sequential(nn.Conv1d(c, h, 1), first, GlobalNorm(h), window, second, GlobalNorm(h))
        self.skip, self.residual = nn.Conv1d(h, c, 1), nn.Conv1d(h, c, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.net(x)
        return x + self.residual(y), self.skip(y)


class ConvTasNet(nn.Module):
    """Luo and Mesgarani, TASLP 2019: a mask for each speaker over a learned basis."""

    def __init__(self, w: int = 8, speakers: int = 2) -> None:
        super().__init__()
        self.speakers = speakers
        self.encoder, self.decoder = nn.Conv1d(1, 2 * w, 8, 4, bias=False), nn.ConvTranspose1d(2 * w, 1, 8, 4, bias=False)
        self.first, self.blocks = nn.Sequential(GlobalNorm(2 * w), nn.Conv1d(2 * w, w, 1)), nn.ModuleList()
        for d in (1, 2):
            self.blocks.append(TasBlock(w, 2 * w, d))
        self.masks = nn.Sequential(nn.PReLU(), nn.Conv1d(w, speakers * 2 * w, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        basis = functional.relu(self.encoder(x))
        y, total = self.first(basis), torch.zeros(())
        for block in self.blocks:
            y, skip = block(y)
            total = total + skip
        n, c, t = basis.shape
        parts = self.masks(total).view(n, self.speakers, c, t) * basis.unsqueeze(1)
        return self.decoder(parts.view(n * self.speakers, c, t)).view(n, self.speakers, -1)


class WaveNet(nn.Module):
    """van den Oord et al., 2016: causal windows, one half gates the other one, all layers are added up."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.first, self.windows = nn.Conv1d(1, w, 1), nn.ModuleList(nn.Conv1d(w, 2 * w, 2, dilation=d) for d in (1, 2, 4))
        self.skips = nn.ModuleList(nn.Conv1d(w, 2 * w, 1) for _ in range(3))
        self.residuals = nn.ModuleList(nn.Conv1d(w, w, 1) for _ in range(3))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(2 * w, w, 1), nn.ReLU(), nn.Conv1d(w, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), torch.zeros(())
        for k, (window, skip, residual) in enumerate(zip(self.windows, self.skips, self.residuals, strict=True)):
            a, b = window(functional.pad(x, (2**k, 0))).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            total, x = total + skip(y), x + residual(y)
        return self.last(total)


class RmsNorm(nn.Module):
    """Zhang and Sennrich, NeurIPS 2019."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(c) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotated(x: Tensor) -> Tensor:
    """Su et al., 2021: positions as angles."""
    d, t = x.shape[-1], x.shape[-2]
    angle = torch.outer(torch.arange(t, dtype=torch.float32), 1.0 / 100 ** (torch.arange(0, d, 2) / d))
    cos, sin = (torch.cat([f, f], -1) for f in (angle.cos(), angle.sin()))
    low, high = x[..., : d // 2], x[..., d // 2 :]
    return x * cos + torch.cat([-high, low], -1) * sin


class LlamaBlock(nn.Module):
    """Touvron et al., 2023: grouped queries, rotary positions, SwiGLU."""

    def __init__(self, c: int, heads: int, groups: int, m: int) -> None:
        super().__init__()
        self.heads, self.groups, self.d = heads, groups, c // heads
        self.q, self.k, self.v = (nn.Linear(c, n * self.d, bias=False) for n in (heads, groups, groups))
        self.o, self.first, self.second = nn.Linear(c, c, bias=False), RmsNorm(c), RmsNorm(c)
        self.gate, self.up = nn.Linear(c, m, bias=False), nn.Linear(c, m, bias=False)
        self.down = nn.Linear(m, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        y = self.first(x)
        q = self.q(y).view(n, t, self.heads, self.d).transpose(1, 2)
        k, v = (m(y).view(n, t, self.groups, self.d).transpose(1, 2) for m in (self.k, self.v))
        many = self.heads // self.groups
        k, v = (z[:, :, None].expand(-1, -1, many, -1, -1).reshape(n, self.heads, t, self.d) for z in (rotated(k), v))
        scores = rotated(q) @ k.transpose(2, 3) * self.d ** -0.5
        scores = scores + torch.full((t, t), -1e9).triu(1)
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))
        y = self.second(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """Touvron et al., 2023."""

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.words, self.norm, self.last = nn.Embedding(VOCABULARY, w), RmsNorm(w), nn.Linear(w, VOCABULARY, bias=False)
        self.blocks = nn.Sequential(LlamaBlock(w, 4, 2, 24), LlamaBlock(w, 4, 2, 24))

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.norm(self.blocks(self.words(ids))))


class PhiBlock(nn.Module):
    """Queries, keys and values from one matrix, gate and value from another one; rotary positions."""

    def __init__(self, c: int, heads: int, m: int) -> None:
        super().__init__()
        self.heads, self.d = heads, c // heads
        self.joint, self.o = nn.Linear(c, 3 * c, bias=False), nn.Linear(c, c, bias=False)
        self.first, self.second = RmsNorm(c), RmsNorm(c)
        self.up, self.down = nn.Linear(c, 2 * m, bias=False), nn.Linear(m, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (z.view(n, t, self.heads, self.d).transpose(1, 2) for z in self.joint(self.first(x)).chunk(3, -1))
        scores = rotated(q) @ rotated(k).transpose(2, 3) * self.d ** -0.5 + torch.full((t, t), -1e9).triu(1)
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))
        gate, up = self.up(self.second(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Phi3(nn.Module):
    """Abdin et al., 2024."""

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.words, self.norm, self.last = nn.Embedding(VOCABULARY, w), RmsNorm(w), nn.Linear(w, VOCABULARY, bias=False)
        self.blocks = nn.Sequential(PhiBlock(w, 4, 24), PhiBlock(w, 4, 24))

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.norm(self.blocks(self.words(ids))))


class T5Layer(nn.Module):
    """Attention without a scale, and two layers, with norms in front."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads, self.d = heads, c // heads
        self.q, self.k, self.v, self.o = (nn.Linear(c, c, bias=False) for _ in range(4))
        self.first, self.second = RmsNorm(c), RmsNorm(c)
        self.wide, self.narrow = nn.Linear(c, 2 * c, bias=False), nn.Linear(2 * c, c, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        n, t, c = x.shape
        y = self.first(x)
        q, k, v = (m(y).view(n, t, self.heads, self.d).transpose(1, 2) for m in (self.q, self.k, self.v))
        a = (q @ k.transpose(3, 2) + bias).softmax(-1)
        x = x + self.o((a @ v).transpose(1, 2).reshape(n, t, c))
        return x + self.narrow(functional.relu(self.wide(self.second(x))))


class T5(nn.Module):
    """Raffel et al., JMLR 2020: the encoder; one table of biases by bucketed distance, read by all layers."""

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.words, self.table = nn.Embedding(VOCABULARY, w), nn.Embedding(8, 4)
        self.norm, self.last = RmsNorm(w), nn.Linear(w, CLASSES)
        self.layers = nn.ModuleList([T5Layer(w, 4), T5Layer(w, 4)])

    def bias(self, t: int) -> Tensor:
        at = torch.arange(t)
        relative = at[None] - at[:, None]
        buckets, n = (relative > 0).to(torch.long) * 4, relative.abs()
        large = 2 + (torch.log(n.float().clamp(min=1) / 2) / torch.log(torch.tensor(8.0)) * 2).to(torch.long)
        buckets = buckets + torch.where(n < 2, n, torch.minimum(large, torch.full_like(large, 3)))
        return self.table(buckets).permute(2, 0, 1)[None]

    def forward(self, ids: Tensor) -> Tensor:
        x, bias = self.words(ids), self.bias(ids.shape[1])
        for layer in self.layers:
            x = layer(x, bias)
        return self.last(self.norm(x).mean(1))


class GatedConv(nn.Module):
    """A block like Mamba's (Gu and Dao, 2023) without its state: two halves, a causal depthwise window, a gate."""

    def __init__(self, c: int, m: int) -> None:
        super().__init__()
        self.norm, self.window = RmsNorm(c), nn.Conv1d(m, m, 4, padding=3, groups=m)
        self.into, self.out = nn.Linear(c, 2 * m, bias=False), nn.Linear(m, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, gate = self.into(self.norm(x)).chunk(2, -1)
        a = self.window(a.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        return x + self.out(functional.silu(a) * functional.silu(gate))


class GatedConvs(nn.Module):
    """A decoder of such blocks."""

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.words, self.norm, self.last = nn.Embedding(VOCABULARY, w), RmsNorm(w), nn.Linear(w, VOCABULARY, bias=False)
        self.blocks = nn.Sequential(GatedConv(w, 2 * w), GatedConv(w, 2 * w))

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.norm(self.blocks(self.words(ids))))


class TextCnn(nn.Module):
    """Kim, EMNLP 2014: windows of several lengths over embedded words, of each the largest answer."""

    def __init__(self, d: int = 12, c: int = 10) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, d)
        self.windows = nn.ModuleList(nn.Conv1d(d, c, k) for k in (2, 3, 4))
        self.head = nn.Linear(3 * c, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).transpose(1, 2)
        return self.head(torch.cat([functional.relu(w(x)).amax(-1) for w in self.windows], 1))


class WideAndDeep(nn.Module):
    """Cheng et al., DLRS 2016: categories, each embedded by a table of its own, joined and read by a few layers."""

    def __init__(self, columns: int, d: int = 6, h: int = 20) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(VOCABULARY, d + k % 2) for k in range(columns))
        joined = sum(t.embedding_dim for t in self.tables)
        self.deep = nn.Sequential(nn.Linear(joined, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU())
        self.head = nn.Linear(h, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        found = [table(ids[:, k]) for k, table in enumerate(self.tables)]
        return self.head(self.deep(torch.cat(found, 1)))


class Tagger(nn.Module):
    """Lample et al., NAACL 2016, without its last layer: LSTMs in both directions over tokens, a class for each of them."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(VOCABULARY, 2 * w), nn.Linear(2 * w, CLASSES)
        self.states = nn.LSTM(2 * w, w, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.states(self.table(ids))[0])


class Crn(nn.Module):
    """Tan and Wang, Interspeech 2018: convolutions along frequency, LSTMs along time, convolutions back."""

    def __init__(self, w: int = 4, frequencies: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, w, (1, 3), (1, 2), (0, 1)), nn.Conv2d(w, 2 * w, (1, 3), (1, 2), (0, 1))
        self.states = nn.LSTM(2 * w * frequencies, 2 * w * frequencies, batch_first=True)
        self.back = nn.ConvTranspose2d(4 * w, w, (1, 4), (1, 2), (0, 1))
        self.last = nn.ConvTranspose2d(2 * w, 1, (1, 4), (1, 2), (0, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = functional.elu(self.first(x))
        second = functional.elu(self.second(first))
        n, c, t, f = second.shape
        over_time, _ = self.states(second.permute(0, 2, 1, 3).reshape(n, t, c * f))
        states = over_time.reshape(n, t, c, f).permute(0, 2, 1, 3)
        back = functional.elu(self.back(torch.cat([states, second], 1)))
        return torch.sigmoid(self.last(torch.cat([back, first], 1)))


class AttendedStates(nn.Module):
    """Yang et al., NAACL 2016: states of GRUs in both directions, weighed by how much each has to say."""

    def __init__(self, w: int = 8) -> None:
        super().__init__()
        self.table, self.states = nn.Embedding(VOCABULARY, w), nn.GRU(w, w, bidirectional=True, batch_first=True)
        self.key, self.query, self.last = nn.Linear(2 * w, w), nn.Linear(w, 1, bias=False), nn.Linear(2 * w, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.states(self.table(ids))
        weights = self.query(torch.tanh(self.key(states))).softmax(1)
        return self.last((weights * states).sum(1))
