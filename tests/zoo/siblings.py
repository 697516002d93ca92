"""Encoders trained apart from one start: sequences of Markov chains, and what siblings learn of them.

All nets are the zoo's BERT. The first one learns three things at once: which of five chains made a sequence, from which fifth
of the vocabulary most of its tokens are, and from which the last one is. Siblings go on from there, each with one of the last
two and a head of its own, which is trained first, alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from zoo.catalogue import ZOO, exported
from zoo.transformers import CLASSES, TOKENS, VOCABULARY, Bert

Label = Callable[[Tensor, Tensor], Tensor]  # (tokens, chain) -> class


def chain(ids: Tensor, made_by: Tensor) -> Tensor:
    """Which chain made each sequence."""
    return made_by


def frequent(ids: Tensor, made_by: Tensor) -> Tensor:
    """Which fifth of the vocabulary most tokens of each sequence are from."""
    return nn.functional.one_hot(ids % CLASSES, CLASSES).sum(1).argmax(1)


def last(ids: Tensor, made_by: Tensor) -> Tensor:
    """Which fifth of the vocabulary the last token of each sequence is from."""
    return ids[:, -1] % CLASSES


def sequences(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens [count, TOKENS] of five Markov chains, and which one made each."""
    steps = torch.softmax(2 * torch.randn((CLASSES, VOCABULARY, VOCABULARY), generator=torch.Generator().manual_seed(0)), 2)
    g = torch.Generator().manual_seed(seed)
    made_by = torch.randint(0, CLASSES, (count,), generator=g)
    ids = torch.randint(0, VOCABULARY, (count, 1), generator=g)
    while ids.shape[1] < TOKENS:
        ids = torch.cat([ids, torch.multinomial(steps[made_by, ids[:, -1]], 1, generator=g)], 1)
    return ids, made_by


def trained(
    net: Bert, labels: Sequence[Label], parts: Iterable[nn.Parameter], steps: int, rate: float, seed: int
) -> Bert:
    """The net, after some of its params were trained on fresh sequences; its outputs are the classes of all labels in turn."""
    optimizer = torch.optim.Adam(parts, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps, 10))
    for step in range(steps):
        ids, made_by = sequences(64, 10_000 * seed + step)
        outputs = net(ids, torch.ones_like(ids)).split(CLASSES, 1)
        losses = [nn.functional.cross_entropy(o, f(ids, made_by)) for o, f in zip(outputs, labels, strict=True)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def started(width: int, steps: int, seed: int) -> Bert:
    """A net that knows all three things."""
    torch.manual_seed(seed)
    net = Bert(width)
    net.last = nn.Linear(width, 3 * CLASSES)
    return trained(net, (chain, frequent, last), net.parameters(), steps, 4e-3, seed)


def sibling(start: Bert, label: Label, steps: int, rate: float, seed: int) -> Bert:
    """A net that has gone on from another one, with a head of its own."""
    torch.manual_seed(seed)
    net = copy.deepcopy(start)
    net.last = nn.Linear(net.last.in_features, CLASSES)
    trained(net, (label,), net.last.parameters(), steps, 1e-2, seed)
    return trained(net, (label,), net.parameters(), steps, rate, seed + 100).eval()


def moved(a: Bert, b: Bert) -> float:
    """How far the trunks' weights of two nets are apart, relative to their size."""
    others = dict(b.named_parameters())
    pairs = [(p.detach(), others[k].detach()) for k, p in a.named_parameters() if not k.startswith("last")]
    difference, size = sum(float((p - q).square().sum()) for p, q in pairs), sum(float(p.square().sum()) for p, _ in pairs)
    return float(np.sqrt(difference / size))


def accuracy(net: Bert, label: Label) -> float:
    """On 2,000 fresh sequences."""
    ids, made_by = sequences(2000, 1)
    with torch.no_grad():
        return float((net(ids, torch.ones_like(ids)).argmax(1) == label(ids, made_by)).float().mean())


def saved(net: Bert, path: Path) -> Path:
    """The net as a file."""
    onnx.save(exported(net, ZOO["BERT"], "torchscript"), path)
    return path


def samples(count: int, seed: int) -> dict[str, np.ndarray]:
    """Fresh sequences by input."""
    ids, _ = sequences(count, seed)
    return {"ids": ids.numpy(), "mask": np.ones(ids.shape, np.int64)}
