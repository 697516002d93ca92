"""What the tests of the zip's stages share: a plan of nets, their samples as sources, a frontier that has swept them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnxzip.analysis import Plan, analyse
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.samples import Source
from onnxzip.calibration.store import Store
from onnxzip.loading import load_all

ROOMY = 1 << 30
MODELS = Path(__file__).parent.parent / "models"


def silent(count: int) -> None:
    """No progress."""


def planned(files: Mapping[str, Path], share: float, layout: str = "strands") -> Plan:
    """What is to be merged, with one share for all spaces."""
    return analyse(load_all(files), (("*", share),), layout)


def sources_of(plan: Plan, by_task: Mapping[str, np.ndarray]) -> list[Source]:
    """A source of its own for every task, of a plan with one input."""
    (port,) = plan.nets[plan.tasks[0]].inputs
    return [Source((task,), {port.name: x}, {}) for task, x in by_task.items()]


def images_of(task: str, count: int) -> np.ndarray:
    """Committed calibration images of one of the sample nets' tasks."""
    with np.load(MODELS / "data" / f"{task}-calibration.npz") as given:
        return np.asarray(given["x"][:count], np.float32) / 255


@contextmanager
def swept(plan: Plan, by_task: Mapping[str, np.ndarray], budget: int = ROOMY) -> Iterator[Frontier]:
    """A frontier that knows the targets of every step."""
    with Store(budget) as store:
        frontier = Frontier(plan, sources_of(plan, by_task), store, "cpu", 1, 0)
        frontier.sweep(plan.steps, False, silent)
        yield frontier
