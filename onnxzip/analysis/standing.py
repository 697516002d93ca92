"""Where the batch stands in a value. All else but the channels are positions of a sample, in C order with the batch left out.

    [N, C, H, W], [N, T, C]     nothing stands in front of the batch
    [T, N, C], [(T N), C]       T positions do, whether the batch has an axis of its own or not
    [(N W), P, C]               W of the W * P positions stand behind it, along the same axis
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxzip.analysis.spaces import Expr
from onnxzip.errors import UnsupportedError
from onnxzip.ops import Linear, View


def in_front(value: str, exprs: Sequence[Expr], channel: int) -> int:
    """Positions in front of the batch in a value with these axes; 1 where there are none, 0 where there is no batch.

    Raises:
        UnsupportedError: the samples do not lie at even distances.
    """
    batched = [d for d, expr in enumerate(exprs) if expr.size < 0]
    if not batched:
        return 0
    along = _in_front(exprs[batched[0]])
    if len(batched) > 1 or batched == [channel] or along is None:
        shape = ", ".join(str(e.size) if e.size > 0 else "N" if e.size == -1 else f"{-e.size}N" for e in exprs)
        raise UnsupportedError(
            f"value {value!r} of the shape [{shape}]: its samples (N) cannot be told apart, so that no weights that read or "
            "make it can be fitted. Export the nets with a batch of 1."
        )
    return along * math.prod(e.size for d, e in enumerate(exprs[: batched[0]]) if d != channel)


def _in_front(expr: Expr) -> int | None:
    """Along one axis; None where the samples do not lie at even distances. A batch that was never taken apart comes first."""
    if expr.kind == "atom":
        return 1
    if expr.kind == "product":
        first = next((k for k, p in enumerate(expr.parts) if p.size < 0), len(expr.parts))
        inner = _in_front(expr.parts[first]) if first < len(expr.parts) else None
        return None if inner is None else inner * math.prod(p.size for p in expr.parts[:first])
    found = [(_in_front(p), p.size) for p in expr.parts]
    fronts = [front for front, _ in found if front is not None]
    if len(fronts) < len(found) or len({size / front for (_, size), front in zip(found, fronts, strict=True)}) > 1:
        return None
    if expr.kind == "sum":
        return sum(fronts)
    return fronts[0] if len(set(fronts)) == 1 else None


def taps_of(linear: Linear, view: View) -> np.ndarray:
    """Which positions of a sample each output position reads: `Linear.taps` for all entries along the first axis.

    Raises:
        UnsupportedError: the node's windows run along the batch.
    """
    taps = linear.taps(view)
    if not len(taps):
        where = f"{view.node.op} {view.node.name!r}"
        raise UnsupportedError(f"{where}: its windows run along the batch. Export the nets with a batch of 1.")
    assert view.inputs[0] is not None
    first, *behind = (1 if d == linear.channel(view) else abs(n) for d, n in enumerate(view.inputs[0]))
    if first == 1:
        return taps
    moved = taps + math.prod(behind) * np.arange(first)[:, None, None]
    return np.where(taps < 0, -1, moved).reshape(-1, taps.shape[1])
