"""What the processes of one merge add up, put together and agree on: moments, rows, and the outcome of a step.

All of them solve the same sums. The first one's solution counts, since another kind of processor may round it differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxzip.analysis.strands import Owners
from onnxzip.calibration.samples import HELD_OUT, hand
from onnxzip.linalg.moments import Sums
from onnxzip.matching.match import Matches, Members
from onnxzip.peers import Peers

Equations = tuple[np.ndarray, np.ndarray]  # z [rows, columns] and p [rows, targets]


def add_up(peers: Peers, name: str, mine: Sequence[Sums]) -> None:
    """Let sums over the samples of one process become those over the samples of all."""
    if peers.size == 1:
        return
    own = {f"{g}.{part}": array for g, sums in enumerate(mine) for part, array in sums.arrays().items()}
    for key, array in peers.sum(name, own).items():
        own[key][...] = array


def row_order(total: int, size: int, times: int, held: bool) -> np.ndarray:
    """Where the rows of all processes, one after the other, stand as one process would have them: int [rows].

    Args:
        total: samples of the source; times: rows of each; held: of the samples that are held out, or of the others.
    """
    samples = np.concatenate([hand(total, place, size) for place in range(size)])
    samples = samples[(samples % HELD_OUT == HELD_OUT - 1) == held]
    return np.asarray((np.argsort(samples)[:, None] * times + np.arange(times)).reshape(-1))


def gathered(peers: Peers, name: str, mine: Sequence[Equations], order: np.ndarray) -> tuple[Equations, ...]:
    """Rows (z, p) of all processes, in an order of `row_order`."""
    found = peers.gather(name, {f"{g}.{part}": a for g, rows in enumerate(mine) for part, a in zip("zp", rows, strict=True)})
    return tuple((found[f"{g}.z"][order], found[f"{g}.p"][order]) for g in range(len(mine)))


def agreed(
    peers: Peers, name: str, params: Mapping[str, np.ndarray], made: Matches
) -> tuple[dict[str, np.ndarray], dict[tuple[int, Owners], Members]]:
    """Params and members of one step, as the first process has found them."""
    if peers.size == 1:
        return dict(params), dict(made)
    keys = list(made)
    outcome = {f"param.{k}": a for k, a in params.items()}
    for k, key in enumerate(keys):
        outcome |= {f"index.{k}.{t}": a for t, a in made[key].index.items()}
        outcome |= {f"leads.{k}.{t}": a for t, a in made[key].leads.items()}
    outcome |= {f"cost.{k}": made[key].cost for k, key in enumerate(keys)}
    found = peers.first(name, outcome)
    members = {
        key: replace(
            made[key],
            index={t: found[f"index.{k}.{t}"] for t in made[key].index},
            leads={t: found[f"leads.{k}.{t}"] for t in made[key].leads},
            cost=found[f"cost.{k}"],
        )
        for k, key in enumerate(keys)
    }
    return {k: found[f"param.{k}"] for k in params}, members
