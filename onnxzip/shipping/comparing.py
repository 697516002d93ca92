"""What was shipped against the fused net: both run on the same samples, task by task.

max error = max |shipped - fused| / max |fused|    relative error = ||shipped - fused|| / ||fused||, of the worst output
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxzip.calibration.samples import Source
from onnxzip.exporting.opening import opened
from onnxzip.exporting.trial import TINY, check_alike, in_numbers
from onnxzip.exporting.verifying import run_rows
from onnxzip.shipping.preparing import Prepared

ANY = sys.float_info.max  # as a tolerance: every finite number passes
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Likeness:
    """How close one task of a shipped net is to the fused net.

    Attributes:
        samples: compared.
        max_error, relative_error: of the worst output.
        agreement: top-1, of the worst output [batch, classes]; None where there is none.
    """

    samples: int
    max_error: float
    relative_error: float
    agreement: float | None


def compare_with_fused(
    what: str,
    run: Run,
    prepared: Prepared,
    sources: tuple[Source, ...],
    rows: Callable[[Source], np.ndarray],
    tolerance: float,
) -> dict[str, Likeness]:
    """Every task of a shipped net against the fused net.

    Args:
        what: is compared, for messages.
        run: outputs of the shipped net by their names in it.
        sources: samples; every task in one.
        rows: which samples of a source.
        tolerance: largest max error that passes.

    Raises:
        VerificationError: an output has another shape, or is further off.
    """
    session = opened("fused", prepared.reference, "cpu")
    found = {}
    for source in sources:
        picked = rows(source)
        feeds = {name: array[picked] for name, array in source.inputs.items()}
        samples = len(next(iter(feeds.values())))
        wanted, shipped = run_rows(session, feeds), run(prepared.fed(feeds))
        for task in source.tasks:
            names = prepared.outputs_of[task]
            theirs = {f: np.moveaxis(shipped[m], prepared.axes.get(m, 0), 0) for f, m in names.items()}
            ours = {f: wanted[f] for f in names}
            errors = check_alike(f"{what}: task {task!r}", theirs, ours, tolerance, prepared.bounded(task))
            found[task] = _likeness([(theirs[f], ours[f]) for f in names], samples, max(errors.values()))
    return found


def _likeness(pairs: list[tuple[np.ndarray, np.ndarray]], samples: int, error: float) -> Likeness:
    numbers = [in_numbers(s, w) for s, w in pairs]
    norms = [np.linalg.norm(s - w) / max(float(np.linalg.norm(w)), TINY) for s, w in numbers]
    classes = [(s, w) for s, w in pairs if w.ndim == 2 and w.shape[1] >= 2]
    agreements = [float(np.mean(s.argmax(axis=1) == w.argmax(axis=1))) for s, w in classes]
    return Likeness(samples, error, float(max(norms)), min(agreements, default=None))
