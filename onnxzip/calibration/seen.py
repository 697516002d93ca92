"""Which samples a fused net was made from, so that what judges it later is new to it, in whatever file and order it comes.

A sample is known by two bytes of the hash of its inputs, but for those that not all tasks have: of 2,000 samples that is 4 KB,
and one sample in 33 that is new is taken for one of them, which does no harm: another one judges.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from onnxzip.calibration.rows import Pool, Rows
from onnxzip.calibration.sources import Parting

READ = 64  # samples at a time
NOBODY = np.zeros(0, np.uint16)


def fingerprints(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What samples are known by: uint16 [samples].

    Args:
        inputs: input -> array [samples, ...].
    """
    found = []
    for row in zip(*inputs.values(), strict=True):
        digest = hashlib.blake2b(digest_size=2)
        for array in row:
            digest.update(np.ascontiguousarray(array).tobytes())
        found.append(digest.digest())
    return np.frombuffer(b"".join(found), "<u2").astype(np.uint16)


def of_all(inputs: Mapping[str, np.ndarray], tasks: Iterable[Collection[str]]) -> dict[str, np.ndarray]:
    """Those inputs of samples that all tasks have.

    Args:
        tasks: the names of the inputs of each.
    """
    every = list(tasks)
    return {k: v for k, v in inputs.items() if all(k in names for names in every)}


def to_text(marks: np.ndarray) -> str:
    """Fingerprints, each once, as text."""
    return base64.b64encode(np.unique(marks).astype("<u2").tobytes()).decode()


def from_text(text: str) -> np.ndarray:
    """What `to_text` made text of.

    Raises:
        ValueError: that text is none of it.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), "<u2").astype(np.uint16)


def judged(pool: Pool, samples: int, seen: np.ndarray, part: Parting, tasks: Collection[Collection[str]] = ()) -> Pool:
    """A pool of so many rows at most, judged by rows that have not been seen; as usual where there are none.

    Args:
        seen: fingerprints of samples.
        part: rows in order -> those to train on, and those that judge usually. They are the first choice, the others the next.
        tasks: as of `of_all`.
    """
    order = pool.order[:samples]
    rest, usual = part(order)
    judges = _unseen(pool.rows, np.concatenate([usual, rest, pool.order[len(order) :]]), seen, len(usual), tasks)
    if not len(judges):
        return replace(pool, order=order)
    train = order[~np.isin(order, judges)][: len(order) - len(judges)]
    return replace(pool, order=np.concatenate([train, judges]), judges=judges)


def _unseen(
    rows: Rows, order: np.ndarray, seen: np.ndarray, wanted: int, tasks: Collection[Collection[str]]
) -> np.ndarray:
    """The first so many rows in order that have not been seen."""
    found = [order[:0]]
    for start in range(0, len(order), READ):
        some = order[start : start + READ]
        found.append(some[~np.isin(fingerprints(of_all(rows.take(some), tasks)), seen)] if len(seen) else some)
        if sum(map(len, found)) >= wanted:
            break
    return np.concatenate(found)[:wanted]
