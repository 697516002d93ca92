"""The lines themselves, where they are computed from shapes and attributes."""

from __future__ import annotations

import pytest
from operator_samples import B, Sample, p, use, x
from operator_samples_shaped import window

LINES = [
    (use("Add", x(B, 4, 3), p(4, 1)), "a0 a1 a2, a1 1 -> a0 a1 a2"),
    (use("Mul", x(B, 4, 3), x(B, 4, 1)), "a0 a1 a2, a0 a1 1 -> a0 a1 a2"),
    (use("Flatten", x(B, 4, 3, 2), axis=1), "f0 f1 f2 f3 -> f0 (f1 f2 f3)"),
    (use("Flatten", x(B, 4, 1, 1), axis=1), "f0 f1 1 1 -> f0 f1"),
    (use("Flatten", x(B, 4), axis=0), "f0 f1 -> 1 (f0 f1)"),
    (use("Reshape", x(B, 6, 5), shape=(-1, 2, 3, 5)), "f0 (f1 f2) f3 -> f0 f1 f2 f3"),
    (use("Reshape", x(B, 3, 4), shape=(-1, 4)), "f0 f1 f2 -> (f0 f1) f2"),
    (use("Reshape", x(-3, 4), shape=(-1, 3, 4)), "(f0 f1) f2 -> f0 f1 f2"),
    (use("Reshape", x(B, 6, 4, 5), shape=(-1, 4, 6, 5)), "f0 i1 i2 f1 -> f0 o1 o2 f1"),
    (use("Unsqueeze", x(B, 4), axes=(1,)), "f0 f1 -> f0 1 f1"),
    (use("Transpose", x(B, 4, 3), perm=(0, 2, 1)), "a0 a1 a2 -> a0 a2 a1"),
    (use("Concat", x(B, 4, 3), x(B, 2, 3), axis=1), "a0 p0 a2, a0 p1 a2 -> a0 (p0+p1) a2"),
    (use("Slice", x(B, 7), starts=(1,), ends=(5,), axes=(1,)), "a0 (p1+q1+r1) -> a0 q1"),
    (use("Slice", x(B, 7), starts=(0,), ends=(7,), axes=(1,)), "a0 q1 -> a0 q1"),
    (use("ReduceMean", x(B, 4, 3, 2), axes=(2, 3)), "a0 a1 a2 a3 -> a0 a1 1 1"),
    (use("ReduceMean", x(B, 4, 3, 2), axes=(2, 3), keepdims=0), "a0 a1 a2 a3 -> a0 a1"),
    (use("Conv", x(B, 4, 5), p(8, 1, 3), group=4, **window(3)), "n c *s, (c m) 1 *k -> n (c m) *t"),
    (use("Conv", x(B, 4, 5), p(6, 2, 3), group=2, **window(3)), "n (i0+i1) *s, (o0+o1) 1 *k -> n (o0+o1) *t"),
    (use("MatMul", x(B, 1, 3, 4), x(B, 2, 4, 5)), "b0 1 m i, b0 b1 i o -> b0 b1 m o"),
    (use("Einsum", x(B, 3, 4), p(4, 5), equation="...i,io->...o"), "*z i, i o -> *z o"),
]


@pytest.mark.parametrize(("sample", "line"), LINES, ids=str)
def test_lines(sample: Sample, line: str) -> None:
    assert sample.operator.line_for(sample.view()).text == line


def test_what_needs_all_channels_and_what_keeps_their_order() -> None:
    def names(sample: Sample) -> tuple[set[str], set[str]]:
        line = sample.operator.line_for(sample.view())
        return set(line.whole), set(line.pinned)

    for sample, name in ((use("LRN", x(B, 6, 3), size=3), "c"), (use("CumSum", x(B, 4, 3), axis=1), "a1")):
        assert names(sample) == (set(), set())
        assert sample.operator.line_for(sample.view()).ordered == {name}
    assert names(use("Softmax", x(B, 4, 3), axis=1)) == ({"a1"}, set())
    assert names(use("ReduceMean", x(B, 4, 3, 2), axes=(2, 3))) == ({"a2", "a3"}, set())
    assert names(use("LayerNormalization", x(B, 3, 4), p(4), axis=2)) == ({"a2"}, set())
    assert names(use("Pad", x(B, 4, 5), pads=(0, 1, 0, 0, 0, 0))) == ({"o1"}, {"i1", "o1"})
    assert names(use("Pad", x(B, 4, 5), pads=(0, -1, 0, 0, 0, 0))) == (set(), {"i1", "o1"})
    assert names(use("Slice", x(B, 7), starts=(0,), ends=(7,), axes=(1,), steps=(2,))) == (set(), {"i1", "o1"})
    assert names(use("Reshape", x(B, 6, 4), shape=(-1, 4, 6))) == (set(), {"i1", "i2", "o1", "o2"})
