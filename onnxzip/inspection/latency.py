"""How long ONNX Runtime takes for one sample: medians, one thread, seeded noise, on the machine that asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxzip.loading.fixing import NONE_FIXED, Fixed
from onnxzip.net import Axis
from onnxzip.runtime import Session, open_file

SECONDS, MOST, LEAST, WARM_UP = 1.0, 200, 9, 3
NO_SIZES: Mapping[Axis, int] = {}


def median_milliseconds(
    name: str, content: Path | bytes, sizes: Mapping[Axis, int] = NO_SIZES, fixed: Fixed = NONE_FIXED,
    folder: Path | None = None,
) -> tuple[float, int]:
    """Median time of a run for one sample, in milliseconds, and of how many runs.

    Args:
        name: for messages.
        content: a file, or what is in it.
        sizes: of axes of inputs that have no number, as of `noise`.
        fixed: inputs that are one number, and this.
        folder: of what is in a file, where its params lie beside it.

    Raises:
        UnsupportedError: ONNX Runtime cannot run it, or numpy does not know the type of an input.
    """
    session = open_file(name, content, "cpu", 1, folder).fixed_at(fixed)
    feeds = noise(session, sizes)
    for _ in range(WARM_UP):
        session.run(feeds)
    found = _times(session, feeds)
    return 1000 * float(np.median(found)), len(found)


def noise(session: Session, sizes: Mapping[Axis, int] = NO_SIZES) -> dict[str, np.ndarray]:
    """One sample for each input: standard normal floats, zeros of other types.

    Args:
        sizes: of axes of inputs that have no number; such an axis that is not in it, as the batch, gets 1.
    """
    rng = np.random.default_rng(0)
    found, dtypes = {}, session.dtypes()
    for port in session.inputs:
        dtype = dtypes[port.name]
        shape = [d if isinstance(d, int) else sizes.get(Axis(port.name, k), 1) for k, d in enumerate(port.shape)]
        drawn = rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        found[port.name] = drawn.astype(dtype)
    return found


def _times(session: Session, feeds: Mapping[str, np.ndarray]) -> list[float]:
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < LEAST or (len(found) < MOST and time.perf_counter() - begun < SECONDS):
        start = time.perf_counter()
        session.run(feeds)
        found.append(time.perf_counter() - start)
    return found
