"""What a zip comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxzip.analysis.strands import Owners
from onnxzip.linalg.ridge import Quality
from onnxzip.matching.match import Members


@dataclass(frozen=True)
class Zipped:
    """What the zip has found.

    Attributes:
        params: all params of the fused net.
        members: (space, strand) -> channels of the originals.
        fits: step -> strand -> how well its rows fit.
        same: space -> shared channels that are the same in all their nets, found without data.
        turned: spaces whose channels are axes of the originals' channels, not these themselves.
        orders: (param that says which unit stands where, task) -> which of the task's own units do.
    """

    params: Mapping[str, np.ndarray]
    members: Mapping[tuple[int, Owners], Members]
    fits: Mapping[str, Mapping[Owners, tuple[Quality, ...]]]
    same: Mapping[int, int]
    turned: frozenset[int] = frozenset()
    orders: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
