"""What a signature promises, held against every operator of the registry: the maps of its channels commute with it.

Permutations are applied to inputs and params alike. Scalings and linear maps are applied to computed inputs; other params
stay, and those of a node with weights follow it: rows with its output channels, columns inversely with its input channels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from channel_maps import acted, mixing, permutation, scaling
from channel_uses import BATCH, Use, grouped
from operator_samples import Sample
from operator_samples_shaped import SAMPLES

from onnxzip.ops import Symmetry, registered, registry

CANONICAL = [s for s in SAMPLES if s.canonical]
WEIGHTED = [s for s in CANONICAL if s.operator.linear is not None and not s.inputs[0].param and s.inputs[1].param]
each = pytest.mark.parametrize("sample", SAMPLES, ids=str)


def mapped_matrix(use: Use, rows: dict[str, np.ndarray], columns: dict[str, np.ndarray]) -> np.ndarray:
    """The weights of a grouped node, each group's matrix mapped by its own names."""
    linear = use.sample.operator.linear
    channel = linear.channel(use.view)
    matrix = linear.to_matrix(use.view, use.arrays[1])
    out, into = use.right[0][channel].names, use.terms[0][channel].names
    matrix = np.stack([np.einsum("po,okj,ij->pki", rows[o], m, columns[i]) for m, o, i in zip(matrix, out, into, strict=True)])
    return linear.from_matrix(use.view, matrix)


@each
def test_permuted_channels_come_out_permuted(sample: Sample) -> None:
    use, rng = Use(sample), np.random.default_rng(1)
    maps = {n: np.eye(k) if n in use.fixed else permutation(rng, k) for n, k in use.lengths.items()}
    arrays = list(use.arrays)
    for k, terms in zip(use.present, use.terms, strict=False):
        arrays[k] = acted(use.arrays[k], terms, maps)
    if grouped(use):
        arrays[1] = mapped_matrix(use, maps, maps)
    use.assert_maps(arrays, maps)


def channel_names(use: Use) -> set[str]:
    """Names whose channels may be mapped by more than permutations."""
    inputs = range(len(use.present))
    free = {n for n, k in use.symbolic.items() if k > 0} - use.fixed - use.line.whole
    if use.sample in WEIGHTED:
        channel = use.sample.operator.linear.channel(use.view)
        return free & {*use.terms[0][channel].names, *use.right[0][channel].names}
    return free & {n for k in inputs if not use.view.constant[use.present[k]] for n in use.names(k)}


def assert_commutes(use: Use, maps: dict[str, np.ndarray]) -> None:
    arrays = list(use.arrays)
    if use.sample in WEIGHTED:
        use_weights(use, arrays, maps)
    for k, terms in zip(use.present, use.terms, strict=False):
        if not use.view.constant[k]:
            arrays[k] = acted(use.arrays[k], terms, maps)
    use.assert_maps(arrays, maps)


def use_weights(use: Use, arrays: list[np.ndarray | None], maps: dict[str, np.ndarray]) -> None:
    """Weights and bias follow: rows with the output, columns inversely with the input; a diagonal's two cancel."""
    linear = use.sample.operator.linear
    into, out = use.names(0), {n for term in use.right[0] for n in term.names}
    rows = use.identities() | {n: m for n, m in maps.items() if n in out}
    columns = use.identities() | {n: np.linalg.inv(m).T for n, m in maps.items() if n in into - out}
    both = {n: np.eye(k) if n in into & out else rows[n] @ columns[n] for n, k in use.lengths.items()}
    arrays[linear.weight] = acted(arrays[linear.weight], use.terms[linear.weight], both)
    if grouped(use):
        arrays[linear.weight] = mapped_matrix(use, rows, columns)
    if len(arrays) > linear.bias and arrays[linear.bias] is not None:
        arrays[linear.bias] = acted(arrays[linear.bias], use.terms[linear.bias], rows)


SCALABLE = [s for s in CANONICAL if s.operator.symmetry_for(s.view()) >= Symmetry.SCALING]
MIXABLE = [s for s in SCALABLE if s.operator.symmetry_for(s.view()) == Symmetry.LINEAR]


@pytest.mark.parametrize("sample", SCALABLE, ids=str)
def test_positive_factors_of_channels_come_out_alike(sample: Sample) -> None:
    use, rng = Use(sample), np.random.default_rng(2)
    names = channel_names(use)
    assert_commutes(use, {n: scaling(rng, k) if n in names else np.eye(k) for n, k in use.lengths.items()})


@pytest.mark.parametrize("sample", MIXABLE, ids=str)
def test_mixed_channels_come_out_mixed_alike(sample: Sample) -> None:
    use, rng = Use(sample), np.random.default_rng(3)
    names = channel_names(use)
    assert_commutes(use, {n: mixing(rng, k) if n in names else np.eye(k) for n, k in use.lengths.items()})


def test_every_symmetry_is_witnessed() -> None:
    """An operator whose class is wide has a sample that shows it, and no sample goes beyond its operator's class."""
    widest: dict[str, Symmetry] = {}
    for sample in SAMPLES:
        shown = sample.operator.symmetry_for(sample.view())
        widest[sample.op] = max(widest.get(sample.op, shown), shown)
    assert widest == {operator.name: operator.symmetry for operator in registered()}


@pytest.mark.parametrize(
    ("op", "wrong"),
    [("BatchNormalization", "n c h w, c, d, c, c -> n c h w"), ("Softmax", "n c h -> n h c"), ("Gemm", "n i, o j, o -> n o")],
)
def test_a_wrong_line_is_caught(op: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = next(s for s in SAMPLES if s.op == op)
    record = dataclasses.replace(sample.operator, line=wrong)
    monkeypatch.setitem(registry._OPERATORS, op, record)
    with pytest.raises(AssertionError):
        test_permuted_channels_come_out_permuted(sample)


@pytest.mark.parametrize("sample", WEIGHTED, ids=str)
def test_a_node_with_weights_is_a_matrix_product_over_gathered_inputs(sample: Sample) -> None:
    """y[b, g o, p] = sum_k sum_i M[g, o, k, i] x[b, g i, taps[p, k]] + bias[g o], and the matrix gives the weights back."""
    use, linear = Use(sample), sample.operator.linear
    x, weight = use.arrays[0], use.arrays[linear.weight]
    matrix, taps, axis = linear.to_matrix(use.view, weight), linear.taps(use.view), linear.channel(use.view)
    assert linear.diagonal(use.view) == (matrix.shape[0] == x.shape[axis] and matrix.shape[0] > 1)
    np.testing.assert_array_equal(linear.from_matrix(use.view, matrix), weight)
    flat = np.moveaxis(x, axis, 1).reshape(BATCH if axis else 1, matrix.shape[0], matrix.shape[3], -1)
    read = np.where(taps >= 0, flat[..., np.maximum(taps, 0)], 0.0)
    y = np.einsum("gokn,bgnpk->bgop", matrix, read).reshape(len(flat), -1, len(taps))
    bias = use.arrays[linear.bias] if len(use.arrays) > linear.bias else None
    want = np.moveaxis(use.outputs[0], axis, 1).reshape(y.shape)
    np.testing.assert_allclose(y + (0.0 if bias is None else bias[:, None]), want, rtol=1e-9, atol=1e-9)
