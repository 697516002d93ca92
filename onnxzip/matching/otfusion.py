"""Channels matched layer by layer from the inputs on, by an optimal transport between incoming weights.

    T = argmin over transports with equal masses of sum_ij T_ij |a_i - b_j|^2,   b_j in the order of the spaces matched before

Model Fusion via Optimal Transport (Singh and Jaggi, NeurIPS 2020), its variant for weights without regularisation. Between
as many channels of equal mass each, one of the optimal transports is a permutation (Birkhoff), which the Hungarian method
finds exactly, and least distance is largest product. Between unequal numbers the optimal transport divides channels: no group
of channels is that, and it is refused.
"""

from __future__ import annotations

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.errors import UnsupportedError
from onnxzip.linalg.assignment import hungarian
from onnxzip.matching.alignment import Aligned
from onnxzip.matching.beforehand import Gather, matched_spaces, sharing
from onnxzip.matching.match import Members
from onnxzip.matching.rebasin import Assigned, as_matrices, members_by


def otfusion(plan: Plan, gather: Gather) -> dict[tuple[int, Owners], Members]:
    """Members of every strand of every space.

    Raises:
        UnsupportedError: two nets have unequal numbers of channels somewhere.
    """
    spaces = matched_spaces(plan)
    for space in spaces:
        _check_sizes(space)
    return members_by(plan, spaces, {other: _forward(plan, spaces, (plan.tasks[0], other)) for other in plan.tasks[1:]})


def _check_sizes(space: SpacePlan) -> None:
    sizes = {t: space.sizes[t] for t in sharing(space)}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{n} in {t!r}" for t, n in sizes.items())
        raise UnsupportedError(
            f"method 'otfusion' matches as many channels with as many; {space.name!r} has {told}. Use another method, or a "
            "share of 0 there."
        )


def _forward(plan: Plan, spaces: tuple[SpacePlan, ...], tasks: tuple[str, str]) -> Assigned:
    """Assignments between two nets, and the products of incoming weights that they were found by."""
    aligned = Aligned(plan, tasks)
    pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for space in (s for s in spaces if set(tasks) <= set(sharing(s))):
        products = aligned.written(space, pairs)
        pairs[space.number] = hungarian(-products)
        found[space.number] = as_matrices(products, pairs[space.number])
    return found
