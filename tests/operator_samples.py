"""Small uses of every registered operator, for the laws that each must obey.

A shape entry -1 is the batch. `x` is a computed input, `p` a param; attributes that are not given have their schema's default,
as in the canonical form of a net.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch

from onnxzip.net import Node, Shape, bind_batch
from onnxzip.ops import Operator, View, find, registered

Draw = Callable[[np.random.Generator, Shape], np.ndarray]
B = -1


def normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.standard_normal(shape)


def positive(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.uniform(0.2, 2.0, shape)


def inner(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.uniform(-0.9, 0.9, shape)


def above_one(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.uniform(1.1, 3.0, shape)


def truths(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.uniform(size=shape) < 0.5


def ones(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.ones(shape)


def zeros(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.zeros(shape)


def indices(*values: int, shape: Shape | None = None) -> Draw:
    return lambda rng, _: np.array(values, np.int64).reshape(_ if shape is None else shape)


@dataclass(frozen=True)
class Source:
    """Where an input comes from."""

    shape: Shape
    param: bool
    draw: Draw


def x(*shape: int, draw: Draw = normal) -> Source:
    return Source(shape, False, draw)


def p(*shape: int, draw: Draw = normal) -> Source:
    return Source(shape, True, draw)


@dataclass(frozen=True, eq=False)
class Sample:
    """One use of an operator.

    Attributes:
        outputs: how many outputs the node has.
        standard: whether ONNX Runtime has such a node (a MatMul with bias is ours alone).
        canonical: whether loading leaves such a node as it is.
    """

    op: str
    inputs: tuple[Source | None, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    standard: bool = True
    canonical: bool = True

    @property
    def operator(self) -> Operator:
        operator = find(self.op)
        assert operator is not None, f"{self.op} is not registered"
        return operator

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, s.shape)) if s else "-" for s in self.inputs)
        return f"{self.op}[{shapes}]" + "".join(f" {k}={v}" for k, v in self.attrs.items()).replace(" ", "")

    def arrays(self, batch: int) -> list[np.ndarray | None]:
        """Reproducible inputs; params do not depend on the batch."""
        rngs = [np.random.default_rng([k, batch if s and not s.param else 0]) for k, s in enumerate(self.inputs)]
        return [s and s.draw(rng, bind_batch(s.shape, batch)) for s, rng in zip(self.inputs, rngs, strict=True)]

    def run(self, arrays: list[np.ndarray | None], attrs: dict[str, Any] | None = None) -> list[np.ndarray]:
        """The torch function on these inputs."""
        tensors = [None if a is None else torch.from_numpy(np.array(a)) for a in arrays]
        result = self.operator.torch(*tensors, **self.keywords(self.full_attrs if attrs is None else attrs))
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        return [r.numpy() for r in results[: self.outputs]]

    def keywords(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """What the torch function is told."""
        return attrs | {"outputs": self.outputs} if self.operator.told_outputs else attrs

    @property
    def full_attrs(self) -> dict[str, Any]:
        """As loading completes them."""
        defaults = {}
        for name, attribute in onnx.defs.get_schema(self.op, 26).attributes.items():
            if attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
                value = onnx.helper.get_attribute_value(attribute.default_value)
                plain = [v.decode() if isinstance(v, bytes) else v for v in (value if isinstance(value, list) else [value])]
                defaults[name] = tuple(plain) if isinstance(value, list) else plain[0]
        return defaults | dict.fromkeys(self.operator.constants.values()) | self.attrs

    def view(self) -> View:
        """The node between its shapes, the batch found by giving it two values."""
        return _view(self)


@cache
def _view(sample: Sample) -> View:
    second, third = ([a.shape for a in sample.run(sample.arrays(b))] for b in (2, 3))
    shapes = zip(second, third, strict=True)
    outputs = tuple(tuple(a if a == b else a - b for a, b in zip(s, t, strict=True)) for s, t in shapes)
    names = tuple(None if s is None else f"in{k}" for k, s in enumerate(sample.inputs))
    node = Node("sample", sample.op, names, tuple(f"out{k}" for k in range(sample.outputs)), sample.full_attrs)
    inputs = tuple(None if s is None else s.shape for s in sample.inputs)
    return View(node, inputs, outputs, tuple(s is not None and s.param for s in sample.inputs))


def use(
    op: str, *inputs: Source | None, outputs: int = 1, standard: bool = True, canonical: bool = True, **attrs: Any
) -> Sample:
    return Sample(op, inputs, attrs, outputs, standard, canonical)


def window(*kernel: int, **changed: Any) -> dict[str, Any]:
    """Attributes of a window, spelled out."""
    rank = len(kernel)
    plain = {"kernel_shape": kernel, "strides": (1,) * rank, "dilations": (1,) * rank, "pads": (0,) * 2 * rank}
    return plain | changed


DOMAINS = dict.fromkeys(("Log", "Sqrt", "Reciprocal"), positive) | dict.fromkeys(("Asin", "Acos", "Atanh"), inner)
DOMAINS |= {"Acosh": above_one, "Not": truths}
POINTWISE = [
    use(operator.name, x(B, 4, 3, 3, draw=DOMAINS.get(operator.name, normal)), standard=operator.name != "Swish")
    for operator in registered()
    if operator.line == "*x -> *x"
] + [
    use("Gelu", x(B, 4), approximate="tanh"),
    use("LeakyRelu", x(B, 4), alpha=0.3),
    use("Clip", x(B, 4, 2), min=-0.3, max=0.5),
    use("Clip", x(B, 4), max=0.1),
    use("Cast", x(B, 4), to=1),
    use("Cast", x(B, 4), to=7),
    use("Dropout", x(B, 4), outputs=2),
    use("PRelu", x(B, 4, 3, 3), p(4, 1, 1)),
    use("PRelu", x(B, 4), p(1)),
    use("PRelu", x(B, 4), x(B, 4)),
]
ARITHMETIC = [
    use(op, *inputs)
    for op in ("Add", "Sub", "Mul", "Div")
    for inputs in (
        (x(B, 4, 3), x(B, 4, 3, draw=positive)),
        (x(B, 4, 3), p(4, 1, draw=positive)),
        (p(4, 1), x(B, 4, 3, draw=positive)),
        (x(B, 4, 3), p(draw=positive)),
        (x(B, 4, 3), x(B, 4, 1, draw=positive)),
        (x(B, 1, 3), p(4, 1, draw=positive)),
        (x(B, 3), x(4, 1, 3, draw=positive)),
    )
] + [
    *(use(op, x(B, 4, 2), x(B, 4, 2)) for op in ("Max", "Min", "Sum", "Mean")),
    *(use(op, x(B, 4), x(B, 4), x(B, 4)) for op in ("Max", "Min", "Sum", "Mean")),
    *(use(op, x(B, 4), p(4)) for op in ("Max", "Min", "Sum", "Mean")),
    use("Pow", x(B, 4, draw=positive), p(1)),
    use("Pow", x(B, 4, draw=positive), x(B, 4)),
    use("Where", x(B, 4, 1, draw=truths), x(B, 4, 3), x(B, 1, 3)),
    use("Where", p(4, draw=truths), x(B, 4), p()),
    use("Einsum", x(B, 2, 3, 4), x(B, 2, 5, 4), equation="bhld,bhmd->bhlm"),
    use("Einsum", x(B, 3, 4), p(4, 5), equation="...i,io->...o"),
    use("Einsum", x(B, 3), p(4, 3), equation="ij, kj"),
]
