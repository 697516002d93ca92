"""What a map of every name's channels does to a value whose axes a line describes: products act by Kronecker products of their
parts' matrices, concatenations by block diagonals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
from scipy.linalg import block_diag

from onnxzip.net import Shape
from onnxzip.ops import Line
from onnxzip.ops.notation import Term, expand, parse

Terms = list[Term]


def terms_of(line: Line, ranks: Sequence[int]) -> list[Terms]:
    """Terms of every axis of the present inputs and of the outputs."""
    left, right = parse(line.text)
    assert len(left) + len(right) == len(ranks), f"line {line.text!r} does not speak of {len(ranks)} values"
    return [expand(pattern, rank) for pattern, rank in zip([*left, *right], ranks, strict=True)]


def lengths_of(line: Line, values: Sequence[Terms], shapes: Sequence[Shape]) -> dict[str, int]:
    """Channels of every name; a name that has two lengths, or none, is an error of the line."""
    lengths = dict(line.sizes)
    pairs = [(t, d) for terms, shape in zip(values, shapes, strict=True) for t, d in zip(terms, shape, strict=True)]
    for term, d in pairs:
        if term.single is not None:
            known = lengths.setdefault(term.single, d)
            assert known == d, f"{term.single} of {line.text!r} is {known} and {d} long"
    for term, d in pairs:
        missing = [n for n in term.names if n not in lengths]
        if missing:
            known = [lengths[n] for n in term.names if n in lengths]
            lengths[missing[0]] = d - sum(known) if term.sum else d // int(np.prod(known))
        total = [lengths[n] for n in term.names]
        assert not term.names or (sum(total) if term.sum else np.prod(total)) == d, f"{term} of {line.text!r} is not {d} long"
    return lengths


def starred_on_one_side(line: Line, values: Sequence[Terms], inputs: int) -> set[str]:
    """Names from a star that does not stand in inputs and outputs alike: positions, not channels."""
    left, right = ({n for terms in side for t in terms for n in t.names} for side in (values[:inputs], values[inputs:]))
    return {n for n in left ^ right if n.endswith("_")}


def axis_map(term: Term, maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The matrix that acts on an axis."""
    parts = [maps[n] for n in term.names]
    return np.asarray(block_diag(*parts)) if term.sum else reduce(np.kron, parts)


def acted(value: np.ndarray, terms: Terms, maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The value with every axis mapped that has names."""
    result = value.astype(np.float64)
    for axis, term in enumerate(terms):
        if term.names:
            result = np.moveaxis(np.tensordot(axis_map(term, maps), result, (1, axis)), 0, axis)
    return result.astype(value.dtype)


def permutation(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.eye(n)[rng.permutation(n)]


def scaling(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.diag(rng.uniform(0.3, 3.0, n))


def mixing(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.eye(n) + 0.3 * rng.standard_normal((n, n))
