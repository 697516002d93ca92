"""Gemm and MatMul with a constant right-hand side: `n i, o i, o -> n o` and `*b i, i o, o -> *b o`.

Loading brings Gemm to transA = 0, transB = 1, alpha = beta = 1, and reads `MatMul + Add` as one node: a MatMul with a third
input, the bias, which exporting takes apart again where ONNX has no such node.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import aligned, names
from onnxzip.ops.records import Line, Linear, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _weighted(view: View) -> Symmetry:
    """A product with one matrix of params follows every linear map; any other follows permutations alone."""
    bias = view.inputs[2] if len(view.inputs) > 2 else None
    shared = bias is not None and (not bias or bias[-1] != view.outputs[0][-1])
    plain = not view.attrs.get("transA") and view.attrs.get("alpha", 1.0) == view.attrs.get("beta", 1.0) == 1.0
    matrix = view.constant[1] and not view.constant[0] and len(view.inputs[1] or ()) == 2
    return Symmetry.LINEAR if matrix and plain and not shared else Symmetry.PERMUTATION


def _gemm_line(view: View) -> Line:
    a = "i n" if view.attrs["transA"] else "n i"
    b = "o i" if view.attrs["transB"] else "i o"
    if len(view.inputs) < 3 or view.inputs[2] is None:
        return Line(f"{a}, {b} -> n o", symmetry=_weighted(view))
    bias = " ".join(aligned(view.inputs[2], ["n", "o"], view.outputs[0]))
    return Line(f"{a}, {b}, {bias} -> n o", symmetry=_weighted(view))


def _gemm(a: Any, b: Any, c: Any = None, *, alpha: float, beta: float, transA: int, transB: int) -> Any:
    a, b = a.T if transA else a, b if transB else b.T
    if alpha == beta == 1.0 and (c is None or c.shape == b.shape[:1]):
        return torch.nn.functional.linear(a, b, c)
    y = alpha * torch.nn.functional.linear(a, b)
    return y if c is None else y + beta * c


def _matmul_line(view: View) -> Line:
    """Batch axes broadcast from the right; a left or right operand of rank one has no axis to give to the result."""
    x, w = view.inputs[0], view.inputs[1]
    assert x is not None and w is not None
    rank = max(len(x), len(w))
    batch = names(rank - 2, "b")
    full = view.outputs[0][: rank - 2]

    def operand(shape: tuple[int, ...], last: str) -> str:
        if len(shape) == 1:
            return "i"
        return " ".join([*aligned(shape[:-2], batch, full), *last.split()])

    left, right = operand(x, "m i"), operand(w, "i o")
    out = " ".join([*batch, *(["m"] if len(x) > 1 else []), *(["o"] if len(w) > 1 else [])])
    bias = ", o" if len(view.inputs) > 2 and view.inputs[2] is not None else ""
    return Line(f"{left}, {right}{bias} -> {out}", symmetry=_weighted(view))


def _matmul(x: Any, w: Any, b: Any = None) -> Any:
    y = torch.matmul(x, w)
    return y if b is None else y + b


def _rows(view: View) -> np.ndarray:
    """Every row of x is a position of its own: [S, 1]."""
    assert view.inputs[0] is not None
    return np.arange(math.prod(abs(d) for d in view.inputs[0][1:-1]))[:, None]


register(
    Operator(
        "Gemm", _gemm_line, _gemm, Symmetry.LINEAR,
        linear=Linear(
            lambda v: np.zeros((1, 1), np.int64),
            lambda v, w: (w if v.attrs["transB"] else w.T)[None, :, None, :],
            lambda v, m: m[0, :, 0, :] if v.attrs["transB"] else m[0, :, 0, :].T,
            lambda v: 1,
            lambda v: False,
        ),
    )
)
register(
    Operator(
        "MatMul", _matmul_line, _matmul, Symmetry.LINEAR,
        linear=Linear(
            _rows,
            lambda v, w: w.T[None, :, None, :],
            lambda v, m: m[0, :, 0, :].T,
            lambda v: len(v.inputs[0] or ()) - 1,
            lambda v: False,
        ),
    )
)
