"""Pairing rows with columns at least cost, and greedily."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Cost = NDArray[np.floating]
Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]


def hungarian(cost: Cost, count: int | None = None) -> Pairs:
    """The given number of pairs of least total cost, cheapest pair first.

    Fewer pairs than rows and columns: dummy rows and columns take up, at no cost, those that are to stay alone (the
    k-cardinality assignment problem: Dell'Amico and Martello, Discrete Applied Mathematics, 1997).

    Args:
        cost: [rows, columns], finite.
        count: of pairs; None for min(rows, columns).
    """
    many, wide = cost.shape
    count = min(many, wide) if count is None else min(count, many, wide)
    padded = np.zeros((many + wide - count, many + wide - count))
    padded[:many, :wide] = cost
    padded[many:, wide:] = 1 + 2 * float(np.abs(cost).sum())
    rows, columns = linear_sum_assignment(padded)
    real = (rows < many) & (columns < wide)
    rows, columns = rows[real], columns[real]
    order = np.argsort(cost[rows, columns], kind="stable")
    return rows[order], columns[order]


def greedy(cost: Cost, count: int | None = None) -> Pairs:
    """Pairs taken one after the other, each the cheapest that is left: the assignment of Multi-Task Zipping
    (He, Zhou, Thiele, NeurIPS 2018, algorithm 1)."""
    free_rows, free_columns = np.ones(cost.shape[0], bool), np.ones(cost.shape[1], bool)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(cost, axis=None, kind="stable"):
        i, j = divmod(int(flat), cost.shape[1])
        if free_rows[i] and free_columns[j]:
            pairs.append((i, j))
            free_rows[i] = free_columns[j] = False
            if len(pairs) == (min(cost.shape) if count is None else min(count, *cost.shape)):
                break
    chosen = np.array(pairs, np.intp).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]
