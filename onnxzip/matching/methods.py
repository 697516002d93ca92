"""Methods of merging: how channels are matched and how their rows are made. Each is one record with its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from onnxzip.errors import UsageError
from onnxzip.linalg.assignment import greedy, hungarian
from onnxzip.linalg.ridge import GRID
from onnxzip.matching.beforehand import Beforehand
from onnxzip.matching.grouping import Assign
from onnxzip.matching.importance import Importance, equal, outgoing
from onnxzip.matching.otfusion import otfusion
from onnxzip.matching.permute import permute
from onnxzip.matching.rebasin import rebasin
from onnxzip.matching.zipit import zipit
from onnxzip.values import nearest


class Rows(Enum):
    """What the rows of a fused net are.

    MEAN: the mean of the matched rows. FUSED: fitted to what the fused net computes up to there. ORIGINAL: fitted to what
    the original nets do.
    """

    MEAN = "mean"
    FUSED = "fused"
    ORIGINAL = "original"


def even(energy: float) -> float:
    """Tasks weigh alike: the mean energy of each one's targets becomes one, but where there is none."""
    return 1.0 / energy if energy > 0 else 1.0


def as_they_are(energy: float) -> float:
    """Tasks weigh as much as their targets are large."""
    return 1.0


@dataclass(frozen=True)
class Method:
    """How nets become one.

    Attributes:
        name: on the command line.
        citation: where it comes from.
        summary: one line.
        assign: (cost [groups, channels], number of pairs) -> pairs, cheapest first.
        beforehand: matches all spaces from the original nets; None to match each one when the zip comes to it.
        needs_data: whether it looks at samples at all.
        rows: what the fused rows are.
        balance: mean energy of a task's targets -> weight of the task in shared fits.
        original_targets: fit the ORIGINAL nets' pre-activations; else the original rows applied to the fused inputs.
        shrink: factor of the products of different inputs, in fits to what the original nets compute.
        repair_skips: whether a branch's target is the original sum less the FUSED skip.
        importance: how much each channel's error counts in the pair costs.
        match_damping: in the pair costs, relative to the mean diagonal.
        grid: dampings of the fits, strongest first; of several the best on held-out rows is taken.
        rectify: whether fits look through the activation behind them, where that cuts off.
        refit: whether own rows and heads are fitted, too, where their inputs have changed.
        follow: whether a shared channel follows one of its originals before the others; else the mean of all.
        rank: whether channels are kept by what they tell of all; else the first of them as they stand.
        turn: whether spaces whose basis is free are brought along their principal axes.
        restore: whether each fused channel gets back mean and variance of its originals (REPAIR).
    """

    name: str
    citation: str
    summary: str
    assign: Assign
    beforehand: Beforehand | None = None
    needs_data: bool = True
    rows: Rows = Rows.FUSED
    balance: Callable[[float], float] = even
    original_targets: bool = True
    shrink: float = 1.0
    repair_skips: bool = True
    importance: Importance = outgoing
    match_damping: float = 3e-2
    grid: tuple[float, ...] = GRID
    refit: bool = True
    rectify: bool = True
    follow: bool = False
    rank: bool = True
    turn: bool = False
    restore: bool = False

    @property
    def needs_targets(self) -> bool:
        """Whether it looks at what the original nets compute, step by step."""
        return self.rows is not Rows.MEAN or self.restore


def in_place(cost: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Channels as they stand: the first with the first."""
    both = np.arange(min(count, *cost.shape))
    return both, both


ZIP = Method(
    "zip", "this project, after He, Zhou, Thiele, NeurIPS 2018",
    "least squares to the original nets' pre-activations, each shared channel after one of its originals, everything refitted",
    hungarian, follow=True, turn=True,
)
# Below share 1 the paper's shared neurons share weights, not work: each task runs them on the shared inputs and, with weights
# of its own, on its own inputs (their published VGG code: W_merged beside W_inter of each task). A graph that runs a shared
# row once has no place for the latter: in layout `strands` such a row loses what it read of the tasks' own channels. In layout
# `wide` it reads them all, both tasks' at once, and the formulas hold over all columns.
MTZ = Method(
    "mtz", "He, Zhou, Thiele: Multi-Task Zipping via Layer-wise Neuron Sharing, NeurIPS 2018, arXiv 1805.09791",
    "greedy pairs by the layer-wise Hessian metric, Hessian-weighted mean of the incoming weights, nothing refitted", greedy,
    balance=as_they_are, original_targets=False, importance=equal, match_damping=1e-9, grid=(1e-9,), refit=False,
    rectify=False,
)
AVERAGE = Method(
    "average", "the plain mean of weights (model soups: Wortsman et al., ICML 2022)",
    "channels as they stand, mean of their weights", in_place, needs_data=False, rows=Rows.MEAN, importance=equal, refit=False,
    rectify=False, repair_skips=False,
)
PERMUTE = replace(
    AVERAGE, name="permute",
    citation="Li, Yosinski, Clune, Lipson, Hopcroft: Convergent Learning, 2015; activation matching of Git Re-Basin",
    summary="channels of highest correlation on all tasks' samples, mean of their weights",
    assign=hungarian, beforehand=permute, needs_data=True,
)
REBASIN = replace(
    AVERAGE, name="rebasin",
    citation="Ainsworth, Hayase, Srinivasa: Git Re-Basin, ICLR 2023, arXiv 2209.04836, weight matching",
    summary="channels of most similar weights, by coordinate descent over all spaces, mean of their weights",
    assign=hungarian, beforehand=rebasin,
)
OTFUSION = replace(
    AVERAGE, name="otfusion", citation="Singh, Jaggi: Model Fusion via Optimal Transport, NeurIPS 2020, arXiv 1910.05653",
    summary="channels of most similar incoming weights, layer by layer, by exact transport; mean of their weights",
    assign=hungarian, beforehand=otfusion,
)
REGMEAN = replace(
    PERMUTE, name="regmean",
    citation="Jin, Ren, Preotiuc-Pietro, Cheng: RegMean, ICLR 2023, arXiv 2212.09849; matched first, as in PLeaS (Nasery "
    "et al., CVPR 2025, arXiv 2407.02447)",
    summary="channels as `permute` matches them, least squares on what the original nets compute",
    rows=Rows.ORIGINAL, balance=as_they_are, shrink=0.9, grid=(1e-9,),
)

ZIPIT = replace(
    PERMUTE, name="zipit", citation="Stoica et al.: ZipIt! Merging Models from Different Tasks without Training, ICLR 2024, "
    "arXiv 2305.03053",
    summary="channels of all nets side by side merged greedily by correlation, within a net, too; mean of their weights",
    beforehand=zipit,
)

METHODS = {m.name: m for m in (ZIP, MTZ, AVERAGE, PERMUTE, REBASIN, OTFUSION, ZIPIT, REGMEAN)}


def restoring(method: Method) -> Method:
    """A method whose fused channels get back mean and variance of their originals.

    REPAIR: Jordan, Sedghi, Saukh, Entezari, Neyshabur, ICLR 2023, arXiv 2211.08403.

    Raises:
        UsageError: it has no use for what the fused net computes.
    """
    if method.rows is Rows.ORIGINAL:
        raise UsageError(
            f"--repair needs what the fused net computes, and method {method.name!r} runs the original nets alone; drop "
            "--repair or choose another method"
        )
    return replace(method, needs_data=True, restore=True)


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        UsageError: there is none; with the nearest name.
    """
    if name in METHODS:
        return METHODS[name]
    near = nearest(name, METHODS)
    hint = f"; did you mean {near!r}?" if near else ""
    raise UsageError(f"method {name!r} is not known{hint} (methods: {', '.join(METHODS)})")
