"""Einsum: its equation is a line already, `bhld,bhmd->bhlm` -> `b h l d, b h m d -> b h l m`; and Det, `*z m k -> *z`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _terms(subscript: str) -> list[str]:
    return ["*z" if letter == "." else letter for letter in subscript.replace("...", ".")]


def _line(view: View) -> Line:
    """An equation without an arrow names its output by the letters that occur once, in order of the alphabet."""
    equation = str(view.attrs["equation"]).replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow:
        counts = Counter(left.replace(",", "").replace(".", ""))
        right = "..." * ("..." in left) + "".join(sorted(c for c, n in counts.items() if n == 1))
    return Line(text([_terms(s) for s in left.split(",")], [_terms(right)]))


def _einsum(*values: Any, equation: str) -> Any:
    return torch.einsum(equation, *values)


register(Operator("Einsum", _line, _einsum, Symmetry.PERMUTATION))
register(
    Operator(
        "Det", lambda view: Line("*z m k -> *z", pinned=frozenset({"m", "k"}), symmetry=Symmetry.PERMUTATION),
        lambda x: torch.linalg.det(x), Symmetry.PERMUTATION,
    )
)
