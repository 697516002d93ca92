"""Methods of merging: how channels are matched and how their rows are made. Each is one record with its source."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxzip.errors import UsageError
from onnxzip.linalg.assignment import greedy, hungarian
from onnxzip.linalg.ridge import GRID
from onnxzip.matching.importance import Importance, equal, outgoing

Assign = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Method:
    """How two nets become one.

    Attributes:
        name: on the command line.
        citation: where it comes from.
        summary: one line.
        assign: (cost [groups, channels], number of pairs) -> pairs, cheapest first.
        needs_data: whether it looks at samples at all.
        original_targets: fit the ORIGINAL nets' pre-activations; else the original rows applied to the fused inputs.
        importance: how much each channel's error counts in the pair costs.
        match_damping: in the pair costs, relative to the mean diagonal.
        grid: dampings of the fits, strongest first; of several the best on held-out rows is taken.
        rectify: whether fits look through the activation behind them, where that cuts off.
        refit: whether own rows and heads are fitted, too, where their inputs have changed.
    """

    name: str
    citation: str
    summary: str
    assign: Assign
    needs_data: bool = True
    original_targets: bool = True
    importance: Importance = outgoing
    match_damping: float = 3e-2
    grid: tuple[float, ...] = GRID
    refit: bool = True
    rectify: bool = True


def in_place(cost: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Channels as they stand: the first with the first."""
    both = np.arange(min(count, *cost.shape))
    return both, both


ZIP = Method(
    "zip", "this project, after He, Zhou, Thiele, NeurIPS 2018",
    "least squares to the original nets' pre-activations, damped towards the matched rows, everything behind refitted",
    hungarian,
)
MTZ = Method(
    "mtz", "He, Zhou, Thiele: Multi-Task Zipping via Layer-wise Neuron Sharing, NeurIPS 2018, arXiv 1805.09791",
    "greedy pairs by the layer-wise Hessian metric, Hessian-weighted mean of the incoming weights, nothing refitted", greedy,
    original_targets=False, importance=equal, match_damping=1e-9, grid=(1e-9,), refit=False, rectify=False,
)
AVERAGE = Method(
    "average", "the plain mean of weights (model soups: Wortsman et al., ICML 2022)",
    "channels as they stand, mean of their weights", in_place, needs_data=False, importance=equal, refit=False, rectify=False,
)

METHODS = {m.name: m for m in (ZIP, MTZ, AVERAGE)}


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        UsageError: there is none; with the nearest name.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, 1, 0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"method {name!r} is not known{hint} (methods: {', '.join(METHODS)})")
