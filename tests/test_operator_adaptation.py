"""Channels dropped from a node's inputs are missing from its outputs, and nothing else changes, once `adapt` has rewritten
the attributes that speak of their number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from channel_maps import acted
from channel_uses import Use, grouped
from operator_samples import Sample
from operator_samples_shaped import SAMPLES

from onnxzip.ops.recurrent import GATES, may_part


def droppable(use: Use) -> set[str]:
    """Names that may lose channels: those of which the node does not need all, and over which it does not sum."""
    inputs = {n for k in range(len(use.present)) for n in use.names(k)}
    outputs = {n for terms in use.right for t in terms for n in t.names}
    summed = inputs - outputs if use.sample.op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum") else set()
    return {n for n, k in use.symbolic.items() if k > 0} - use.fixed - use.line.whole - summed


def drop(use: Use, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """A selection matrix for every name, and the number of channels that it leaves."""
    maps, lengths = use.identities(), dict(use.symbolic)
    for name in droppable(use):
        count = int(rng.integers(1, use.lengths[name] + 1))
        maps[name] = np.eye(use.lengths[name])[np.sort(rng.permutation(use.lengths[name])[:count])]
        lengths[name] = count
    return maps, lengths


def deafened(use: Use, maps: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The node's inputs; hidden units that may run apart do not listen to dropped ones: a layout adds what those say."""
    arrays = list(use.arrays)
    if use.sample.op in GATES and may_part(use.sample.op, use.view.inputs, use.view.node.outputs):
        kept = maps["h"].any(axis=0)
        by_gate = arrays[2].copy().reshape(-1, GATES[use.sample.op], len(kept), len(kept))
        by_gate[..., kept[:, None] & ~kept] = 0
        arrays[2] = by_gate.reshape(arrays[2].shape)
    return arrays


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_dropped_channels_are_missing_from_the_outputs(sample: Sample, seed: int) -> None:
    use = Use(sample)
    if grouped(use):
        assert sample.attrs["group"] > 1, "only groups keep a line from naming its weights"
        return
    maps, lengths = drop(use, np.random.default_rng(seed))
    whole = deafened(use, maps)
    arrays, inputs = list(whole), list(use.view.inputs)
    for at, k in enumerate(use.present):
        arrays[k] = acted(whole[k], use.terms[at], maps)
        inputs[k] = use.selected_shape(at, use.view.inputs[k], lengths)
    outputs = tuple(use.selected_shape(len(use.present) + k, shape, lengths) for k, shape in enumerate(use.view.outputs))
    adapt = sample.operator.adapt
    changed = adapt(use.view.node, tuple(inputs), outputs, lengths) if adapt is not None else {}
    wanted = sample.run(whole, sample.full_attrs)
    for got, want, terms in zip(sample.run(arrays, sample.full_attrs | changed), wanted, use.right, strict=True):
        np.testing.assert_allclose(got, acted(want, terms, maps), rtol=1e-6, atol=1e-6, err_msg=use.line.text)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.operator.adapt is not None], ids=str)
def test_what_adapts_is_derived(sample: Sample) -> None:
    """Where nothing is dropped nothing changes but the spelling, and two nets may differ in whatever does change."""
    use, operator = Use(sample), sample.operator
    changed = operator.adapt(use.view.node, use.view.inputs, use.view.outputs, use.symbolic)
    assert set(changed) <= operator.derived | {"axes", "steps"}
    for got, want in zip(sample.run(use.arrays, sample.full_attrs | changed), use.outputs, strict=True):
        np.testing.assert_array_equal(got, want)
