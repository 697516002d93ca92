"""A sample of an operator together with everything that its line says of it."""

from __future__ import annotations

import math

import numpy as np
from channel_maps import acted, lengths_of, starred_on_one_side, terms_of
from operator_samples import Sample

from onnxzip.net import Shape, bind_batch

BATCH = 2


class Use:
    """A sample at a batch of two.

    Attributes:
        terms: of the present inputs, then of the outputs; `right` are those of the outputs.
        symbolic, lengths: channels of every name, the batch as -1 and as a number.
        fixed: names whose channels may not even be permuted.
    """

    def __init__(self, sample: Sample) -> None:
        self.sample, self.view, self.arrays = sample, sample.view(), sample.arrays(BATCH)
        self.line = sample.operator.line_for(self.view)
        self.outputs = sample.run(self.arrays)
        self.present = [k for k, a in enumerate(self.arrays) if a is not None]
        values = [self.arrays[k] for k in self.present] + self.outputs
        self.terms = terms_of(self.line, [v.ndim for v in values])
        self.right = self.terms[len(self.present) :]
        shapes = [s for s in self.view.inputs if s is not None] + list(self.view.outputs)
        self.symbolic = lengths_of(self.line, self.terms, shapes)
        self.lengths = dict(zip(self.symbolic, bind_batch(tuple(self.symbolic.values()), BATCH), strict=True))
        self.fixed = starred_on_one_side(self.line, self.terms, len(self.present)) | self.line.ordered | self.line.pinned

    def identities(self) -> dict[str, np.ndarray]:
        return {n: np.eye(k) for n, k in self.lengths.items()}

    def names(self, k: int) -> set[str]:
        """All names on one of the values (present inputs, then outputs)."""
        return {n for term in self.terms[k] for n in term.names}

    def assert_maps(self, arrays: list[np.ndarray | None], maps: dict[str, np.ndarray]) -> None:
        for got, want, terms in zip(self.sample.run(arrays), self.outputs, self.right, strict=True):
            np.testing.assert_allclose(got, acted(want, terms, maps), rtol=1e-6, atol=1e-6, err_msg=self.line.text)

    def selected_shape(self, k: int, shape: Shape, lengths: dict[str, int]) -> Shape:
        """A value's shape when its names have these lengths."""
        sizes = [[lengths[n] for n in term.names] for term in self.terms[k]]
        joined = [sum(s) if term.sum else math.prod(s) for s, term in zip(sizes, self.terms[k], strict=True)]
        return tuple(j if term.names else d for j, term, d in zip(joined, self.terms[k], shape, strict=True))


def grouped(use: Use) -> bool:
    """Whether the line cannot name the columns of its weights, because every group has its own."""
    return use.sample.operator.linear is not None and any(
        not t.names and d != 1 for t, d in zip(use.terms[1], use.arrays[1].shape, strict=True)
    )
