"""Nets of one start, whose weights are nearly the same in the same places: shared in part, they lose more than shared wholly.

In layout `strands` shared rows read shared channels alone, and most of what these nets have in common is then missing there.
Measured, relative error of the outputs, weights off by a thousandth: LeNet-5 0.0002 at share 1 and 0.06 at 0.5, a
classifier of 22 layers 0.002 and 0.12; the latter in layout `wide`, whose rows read everything, 0.002 at 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxzip.analysis.plan import Plan
from onnxzip.analysis.roles import Role
from onnxzip.analysis.steps import weights_of

AKIN = 0.25  # of the weights' size: further training moves them less; nets of different starts are 1.3 apart


def notes_on_kinship(plan: Plan) -> Iterator[str]:
    """What is to be said of nets that are akin and share a part of their spaces in layout `strands`."""
    shared = [p for p in plan.shared_spaces() if p.shares_any]
    partly = [p for p in shared if any(len(s.key) == 1 for s in p.strands)]
    if 2 * len(partly) > len(shared) and (distance := apart(plan)) < AKIN:
        yield (
            f"the nets' weights are {100 * distance:.2g} % apart: nets of one start lose hardly anything at share 1. Where "
            "they share less in layout strands, shared rows read shared channels alone, and they lose more, in a larger file; "
            "in layout wide they do not"
        )


def apart(plan: Plan) -> float:
    """Distance of the weights that make channels, over their size, in the places where they stand; inf where none can be
    compared."""
    distance, size, shared = 0.0, 0.0, {p.number for p in plan.shared_spaces()}
    for part in (part for step in plan.steps if not shared.isdisjoint(step.spaces) for part in step.parts):
        arrays = [array for task in part.members if (array := _weights(plan, part, task)) is not None]
        for array in (a for a in arrays[1:] if a.shape == arrays[0].shape):
            distance += float(np.square(np.subtract(array, arrays[0], dtype=np.float32)).sum())
            size += float(np.square(arrays[0], dtype=np.float32).sum())
    return float(np.sqrt(distance / size)) if size else np.inf


def _weights(plan: Plan, part: Role, task: str) -> np.ndarray | None:
    found = weights_of(plan.overlay, part, task)
    return None if found is None else plan.nets[task].params.get(str(part.members[task].inputs[found[0].weight]))
