"""Pairing rows with columns at least cost, and greedily."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def hungarian(cost: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of least total cost, cheapest pair first; min(rows, columns) of them.

    Args:
        cost: [rows, columns], finite.
    """
    rows, columns = linear_sum_assignment(cost)
    order = np.argsort(cost[rows, columns], kind="stable")
    return rows[order], columns[order]


def greedy(cost: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs taken one after the other, each the cheapest that is left: the assignment of Multi-Task Zipping
    (He, Zhou, Thiele, NeurIPS 2018, algorithm 1)."""
    free_rows, free_columns = np.ones(cost.shape[0], bool), np.ones(cost.shape[1], bool)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(cost, axis=None, kind="stable"):
        i, j = divmod(int(flat), cost.shape[1])
        if free_rows[i] and free_columns[j]:
            pairs.append((i, j))
            free_rows[i] = free_columns[j] = False
            if len(pairs) == min(cost.shape):
                break
    chosen = np.array(pairs, np.intp).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]
