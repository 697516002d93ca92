"""What a task is trained towards.

    distillation  mean over heads of S |student - teacher|^2 / var(teacher) + T^2 KL(teacher_T || student_T)
                  the second term for logits and probabilities only; _T: softmax of logits / T
    labels        (1 - F) distillation + F cross-entropy
    custom        whatever a callable of the user's makes of outputs, the teacher's outputs and labels

T = 2 by default (Hinton, Vinyals, Dean 2015, arXiv 1503.02531; measured on LeNet-5, fashion + digits, 300 steps: with T = 1,
2, 3 0.7, 0.5, 0.7 points, hardly beyond noise). S = 5 beside KL (measured on LeNet-300-100, mean of four pairs, 300 steps,
one seed: with S = 6 1.77 % of the test images get another class than the teacher's, with 3 1.79 %; with momentum
0.95, S = 3 1.79 %, S = 1 1.87 %), else 1.
The loss of a head without KL is its share of the teacher's variance that is not explained: 1 for a student that knows the mean
alone, the same for outputs of every scale.

Places where the teacher is infinite (logits that a net masks) leave the loss: they count as no error and no variance. One that
is infinite in the student alone counts as `APART` standard deviations, and has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from onnxzip.errors import UsageError
from onnxzip.foreign import blamed, in_short, name_of, named_callable
from onnxzip.net.classes import PROBABILITIES, VALUES
from onnxzip.retraining.heads import Head

TINY = 1e-12
SQUARES = 5.0  # S, beside KL
APART = 10.0
MASKED = -1e4  # in front of a softmax: a probability of 0
Outputs = Mapping[str, Tensor]


class Criterion(Protocol):
    """The loss of one task on some samples."""

    def __call__(self, outputs: Outputs, targets: Outputs, labels: Tensor | None) -> Tensor:
        """A scalar from outputs of student and teacher by their original names, and classes [samples] where there are any."""


@dataclass(frozen=True)
class Distillation:
    """The default criterion of one task.

    Attributes:
        heads: of the task.
        variances: of the teacher's output, by head's original name.
        temperature: T.
        label_weight: F.
    """

    heads: tuple[Head, ...]
    variances: Mapping[str, float]
    temperature: float
    label_weight: float

    def __call__(self, outputs: Outputs, targets: Outputs, labels: Tensor | None) -> Tensor:
        losses = [self._of(head, outputs[head.name].float(), targets[head.name].float()) for head in self.heads]
        loss = torch.stack(losses).mean()
        scored = next((h for h in self.heads if h.labelled), None)
        if not self.label_weight or labels is None or scored is None:
            return loss
        hard = functional.nll_loss(log_probabilities(outputs[scored.name].float(), scored, 1.0), labels)
        return (1 - self.label_weight) * loss + self.label_weight * hard

    def _of(self, head: Head, student: Tensor, teacher: Tensor) -> Tensor:
        variance = max(self.variances[head.name], TINY)
        endless, apart = teacher.isinf(), student.isinf() & ~teacher.isinf()
        near = torch.where(endless | apart, teacher, student).where(~endless, 0.0)
        squares = functional.mse_loss(near, teacher.where(~endless, 0.0), reduction="sum")
        loss = (squares / variance + APART**2 * apart.sum()) / student.numel()  # of any part of a batch alike
        if head.kind == VALUES:
            return loss
        student, teacher = torch.where(apart, teacher, student).where(~endless, MASKED), teacher.where(~endless, MASKED)
        t = 1.0 if head.kind == PROBABILITIES else self.temperature
        mine, wanted = log_probabilities(student, head, t), log_probabilities(teacher, head, t)
        divergence = functional.kl_div(mine, wanted, reduction="none", log_target=True).sum(head.axis).mean()
        return SQUARES * loss + t * t * divergence


def log_probabilities(x: Tensor, head: Head, temperature: float) -> Tensor:
    """Logarithms of probabilities from what a head gives."""
    return x.clamp_min(TINY).log() if head.kind == PROBABILITIES else (x / temperature).log_softmax(head.axis)


def custom_loss(given: str | Callable[..., Any]) -> Criterion:
    """The user's criterion from a callable or from `module:callable`; the current folder is searched, too.

    Raises:
        UsageError: there is no such callable, or its module fails; later, whatever it fails with when it is called.
    """
    where = f"--loss {called(given)}"
    with blamed(where, "its module fails", UsageError):
        try:
            found = named_callable(given) if isinstance(given, str) else given
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(f"{where}: no such Python callable ({in_short(error)}). Write module:callable.") from error

    def criterion(outputs: Outputs, targets: Outputs, labels: Tensor | None) -> Tensor:
        with blamed(where, "failed", UsageError):
            return found(outputs, targets, labels)  # type: ignore[no-any-return]

    return criterion


def as_number(task: str, loss: object) -> Tensor:
    """A loss as a scalar.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise UsageError(f"task {task!r}: the loss is no tensor of one number. Let your callable return a mean.")
    return loss.reshape(())


def try_loss(given: str | Callable[..., Any], task: str, targets: Outputs, labels: Tensor | None) -> None:
    """Call the user's criterion once: with what a teacher says of some samples, and as outputs with what it says of others.

    Args:
        targets: by their original names; outputs are the same rows, each one further.

    Raises:
        UsageError: it fails, or gives no single number, NaN, or a number that no gradient goes through.
    """
    outputs = {name: x.to(torch.promote_types(x.dtype, torch.float32)).roll(1, 0) for name, x in targets.items()}
    loss = as_number(task, custom_loss(given)({n: x.requires_grad_() for n, x in outputs.items()}, targets, labels))
    where = f"--loss {called(given)}: task {task!r}: the loss"
    if not loss.requires_grad:
        raise UsageError(f"{where} has no gradient. Compute it from the outputs by torch alone, and do not detach them.")
    if bool(loss.isnan()):
        raise UsageError(f"{where} is NaN, on what the original net says of some of the samples. Return a finite number.")


def called(loss: str | Callable[..., Any]) -> str:
    """What messages and checkpoints call a loss: `module:callable` where it has such a name."""
    if isinstance(loss, str):
        return loss
    return name_of(loss) or str(getattr(loss, "__qualname__", type(loss).__name__))
