"""State-space models: a state for each channel, carried from token to token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo.convolutional import CLASSES
from zoo.transformers import VOCABULARY


class Scan(nn.Module):
    """Gu and Dao, 2023 (Mamba): what a state keeps and takes in depends on the token."""

    def __init__(self, c: int, states: int) -> None:
        super().__init__()
        m, self.states, self.rank = 2 * c, states, c // 4
        self.norm, self.into, self.out = nn.LayerNorm(c), nn.Linear(c, 2 * m, bias=False), nn.Linear(m, c, bias=False)
        self.window, self.steps = nn.Conv1d(m, m, 3, padding=2, groups=m), nn.Linear(self.rank, m)
        self.choose = nn.Linear(m, self.rank + 2 * states, bias=False)
        self.decay, self.skip = nn.Parameter(torch.rand(m, states)), nn.Parameter(torch.randn(m))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.into(self.norm(x)).chunk(2, -1)
        u = functional.silu(self.window(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, b, c = self.choose(u).split([self.rank, self.states, self.states], -1)
        step = functional.softplus(self.steps(step))
        keep = torch.exp(-step[..., None] * torch.exp(self.decay))
        take = (step * u)[..., None] * b[:, :, None]
        state, found = torch.zeros_like(take[:, 0]), []
        for t in range(x.shape[1]):
            state = keep[:, t] * state + take[:, t]
            found.append((state @ c[:, t, :, None])[..., 0])
        y = torch.stack(found, 1) + u * self.skip
        return x + self.out(y * functional.silu(gate))


class Mamba(nn.Module):
    """Gu and Dao, 2023."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.words, self.scans = nn.Embedding(VOCABULARY, c), nn.Sequential(Scan(c, 4), Scan(c, 4))
        self.norm, self.last = nn.LayerNorm(c), nn.Linear(c, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.norm(self.scans(self.words(ids))))
