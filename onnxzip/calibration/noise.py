"""Seeded normal noise where no data are given: a pool for all tasks whose inputs have the same sizes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxzip.calibration.checking import Feed, go_together, ports_of_all
from onnxzip.calibration.rows import ArrayRows, Pool
from onnxzip.config import LEAST_SAMPLES, DataOptions
from onnxzip.errors import InvalidDataError
from onnxzip.net import Port, per_sample

NOISE_SAMPLES = 1000
NOISE_BYTES = 512 << 20


def noise_for(feeds: Mapping[str, Feed], options: DataOptions, rng: np.random.Generator) -> tuple[Pool, ...]:
    """Pools of noise for all tasks.

    Raises:
        InvalidDataError: an input takes whole numbers.
    """
    return tuple(_noise(some, options, rng) for some in _alike(feeds))


def _alike(feeds: Mapping[str, Feed]) -> list[dict[str, Feed]]:
    """Tasks whose inputs have the same sizes, together."""
    groups: list[dict[str, Feed]] = []
    for task, feed in feeds.items():
        group = next((g for g in groups if go_together(feed, g.values())), None)
        if group is None:
            groups.append(group := {})
        group[task] = feed
    return groups


def _noise(feeds: Mapping[str, Feed], options: DataOptions, rng: np.random.Generator) -> Pool:
    ports = ports_of_all(feeds.values())
    per = 4 * sum(per_sample(p.shape[1:]) for p in ports)
    count = min(options.samples, max(LEAST_SAMPLES, min(NOISE_SAMPLES, NOISE_BYTES // max(per, 1))))
    noise = {p.name: _noise_of(p, count, rng) for p in ports}
    return Pool(tuple(feeds), ArrayRows(noise, ports, options, "noise"), {}, np.arange(count))


def _noise_of(port: Port, count: int, rng: np.random.Generator) -> np.ndarray:
    if port.dtype.kind != "f":
        raise InvalidDataError(f"input {port.name!r} is {port.dtype}: noise cannot stand in for it. Give --data.")
    return rng.standard_normal((count, *port.shape[1:]), np.float32)
