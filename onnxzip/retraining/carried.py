"""Samples whose states are not those of the net that is to learn from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from onnxzip.errors import UnsupportedError
from onnxzip.exporting.trial import error_of
from onnxzip.retraining.batches import parts_of
from onnxzip.retraining.lesson import Lesson
from onnxzip.retraining.module import TorchNet

ROWS, ALIKE = 64, 0.1  # that are looked at; how far off, of the largest, states may be that the teachers' stand for


@torch.no_grad()
def check_states(net: TorchNet, lesson: Lesson) -> None:
    """Refuse samples in the midst of streams, where the net's states are far from its teachers': it would learn to go on from
    states that it never has, and forget how to go on from its own.

    Raises:
        UnsupportedError: naming the state, and what to do.
    """
    device = next(iter(net.parameters())).device
    for pool, task in [(p, t) for p in lesson.pools for t in p.tasks]:
        teacher = replace(lesson.teachers[task], silent=frozenset[str]())
        feeds = pool.rows.take(parts_of(pool)[1][:ROWS])
        begun = [name for name, own in teacher.origin.inputs.items() if own in teacher.origin.states and feeds[name].any()]
        ends = [output for own, output in teacher.origin.outputs.items() if own in teacher.origin.states]
        if begun and ends:
            said = teacher.answers(feeds)
            asked = {name: torch.tensor(a, device=device) for name, a in teacher.origin.asked(feeds).items()}
            mine = net.compute_all(asked, ends)
            if max(error_of(mine[name].cpu().numpy(), said[name]) for name in ends) > ALIKE:
                raise UnsupportedError(_why(task, begun))


def _why(task: str, begun: Collection[str]) -> str:
    states = " and ".join(map(repr, begun))
    return (
        f"task {task!r}: its samples begin in the midst of streams, with the original's {states}. The fused net shares the "
        "units of these, and goes on from states of its own: it cannot learn that from such samples. Give samples that begin "
        f"with zeros in {states}, of as many steps as the nets take, or leave the retraining out."
    )
