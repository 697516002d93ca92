"""The losses of a batch, one a task: the only place where the net that is trained is run.

A module of its own, whose forward is one step's work, so that whatever wraps modules can wrap it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onnxzip.net.classes import VALUES
from onnxzip.peers import ALONE, Peers
from onnxzip.retraining.batches import Batch, Portion
from onnxzip.retraining.heads import Head
from onnxzip.retraining.module import TorchNet
from onnxzip.retraining.objective import TINY, Criterion, as_number


class Losses(nn.Module):
    """A net and what it is trained towards.

    Args:
        net: the fused net.
        heads: its outputs that teach.
        criteria: by task.
    """

    def __init__(self, net: TorchNet, heads: tuple[Head, ...], criteria: Mapping[str, Criterion]) -> None:
        super().__init__()
        self.net, self.heads, self.criteria = net, heads, dict(criteria)
        self.tasks = tuple(criteria)

    def forward(self, batch: Batch) -> Tensor:
        """The loss of every task, in their order, times its portion's weight: float32 [tasks]."""
        found = {
            task: loss * portion.weight for portion in batch for task, loss in self.of(portion, self.outputs(portion)).items()
        }
        return torch.stack([found[task] for task in self.tasks])

    def outputs(self, portion: Portion) -> dict[str, Tensor]:
        """What the net makes of a portion, by the fused net's names."""
        wanted = [h.output for h in self.heads if h.task in portion.tasks]
        with mixed(next(iter(portion.feeds.values())).device):
            return self.net.compute_all(portion.feeds, wanted)

    def of(self, portion: Portion, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss by task.

        Raises:
            UsageError: a loss of the user's gives no single number.
        """
        found = {}
        for task in portion.tasks:
            own = [h for h in self.heads if h.task == task]
            mine, wanted = {h.name: outputs[h.output] for h in own}, {h.name: portion.targets[h.output] for h in own}
            found[task] = as_number(task, self.criteria[task](mine, wanted, portion.labels.get(task)))
        return found


def mixed(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 where it is fast."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


@dataclass(frozen=True)
class Judgement:
    """How far one task is from its teacher on the rows that judge.

    Attributes:
        loss: mean of the task's loss.
        relative_error: ||student - teacher|| / ||teacher||, of the worst output.
        top1_agreement: fraction of samples with the teacher's class, of the worst output; None where there are no classes.
    """

    loss: float
    relative_error: float
    top1_agreement: float | None


def as_low(now: Judgement, start: Judgement) -> bool:
    """Whether the loss has not risen: all that can be asked where the teacher is not the only aim."""
    return now.loss <= start.loss


def as_close(now: Judgement, start: Judgement) -> bool:
    """Whether neither the loss nor the distance to the teacher has risen.

    The top-1 agreement is reported and not asked for: it moves by single samples.
    """
    return as_low(now, start) and now.relative_error <= start.relative_error


@torch.no_grad()
def judge(losses: Losses, portions: Iterable[Portion], peers: Peers = ALONE) -> dict[str, Judgement]:
    """Every task on the rows that judge; the only place where these are summed.

    Args:
        portions: those that this process looks at; its peers look at the others.
    """
    sums = {head.output: torch.zeros(5, dtype=torch.float64) for head in losses.heads}
    for portion in portions:
        outputs = losses.outputs(portion)
        found = losses.of(portion, outputs)
        for head in (h for h in losses.heads if h.task in portion.tasks):
            row = _sums(head, outputs[head.output].float(), portion.targets[head.output].float(), found[head.task])
            sums[head.output] += row
    whole = peers.sum("judgement", {name: row.numpy() for name, row in sums.items()})
    return {task: _judgement([whole[h.output].tolist() for h in losses.heads if h.task == task]) for task in losses.tasks}


def _sums(head: Head, student: Tensor, teacher: Tensor, loss: Tensor) -> Tensor:
    """float64: samples, loss, squared differences, squares, samples with the same class.

    Where the teacher is infinite there is no difference; an infinite number of the student's counts as 0 elsewhere.
    """
    count = len(student)
    if head.kind == VALUES or head.rows != 1:
        same = torch.full((), torch.nan)
    else:
        same = (student.argmax(head.axis) == teacher.argmax(head.axis)).double().mean()
    endless = teacher.isinf()
    student, teacher = student.where(~(endless | student.isinf()), 0.0), teacher.where(~endless, 0.0)
    wrong, energy = (student - teacher).double().square().sum(), teacher.double().square().sum()
    parts = count, count * loss.double(), wrong, energy, count * same
    return torch.stack([torch.as_tensor(p, dtype=torch.float64, device="cpu") for p in parts])


def _judgement(rows: list[list[float]]) -> Judgement:
    count, loss = rows[0][:2]
    return Judgement(
        loss / count,
        max(math.sqrt(wrong / max(energy, TINY)) for _, _, wrong, energy, _ in rows),
        min((same / n for n, _, _, _, same in rows if not math.isnan(same)), default=None),
    )
