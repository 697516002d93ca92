"""Covariances of rows that come batch by batch, over the samples of all processes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxzip.linalg.covariance import centred
from onnxzip.peers import Peers

ROUNDING = 1e-12  # of sums in float64


def covariance_of(batches: Iterable[np.ndarray], name: str, peers: Peers) -> np.ndarray:
    """Of the columns of all batches [rows, columns] together: float64 [columns, columns].

    Args:
        name: of the sums, the same in all processes.
    """
    zz, z, count = np.zeros(()), np.zeros(()), np.zeros(())
    for batch in batches:
        rows = np.asarray(batch, np.float64)
        zz, z, count = zz + rows.T @ rows, z + rows.sum(axis=0), count + len(rows)
    total = peers.sum(name, {"zz": zz, "z": z, "count": count})
    return centred(total["zz"], total["z"], total["count"], ROUNDING)
