"""Small random nets drawn from the registry, grown step by step from a list of (step, number).

A step reads the last value, and sometimes an earlier one, and leaves a new value; where it does not fit it does nothing. So
every list is a net, and a shorter list is a smaller one. Values are images [N, C, H, W] or tokens [N, L, C].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from architectures import Maker
from onnx import ModelProto, TensorProto, helper

from onnxzip.ops import registered

# pointwise operators that a random net cannot take anywhere: no value, values without bound, or jumps that a rounding decides
UNFIT = frozenset(
    {
        "Acos", "Acosh", "Asin", "Atanh", "Ceil", "Cosh", "Exp", "Floor", "Identity", "IsInf", "IsNaN", "Log", "Not",
        "Reciprocal", "Round", "Shrink", "Sign", "Sinh", "Sqrt", "Swish", "Tan", "ThresholdedRelu", "Clip",
    }
)
POINTWISE = tuple(o.name for o in registered() if o.line == "*x -> *x" and o.name not in UNFIT)
REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")
OPSET, IMAGE = 23, (3, 6, 6)
Step = tuple[str, int]


@dataclass
class Grown:
    """A net in the making: the last value, and all values by their shape (without the batch)."""

    maker: Maker
    value: str
    shape: tuple[int, ...]
    earlier: dict[tuple[int, ...], list[str]] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)

    @property
    def channels(self) -> int:
        return self.shape[0] if self.image else self.shape[-1]

    @property
    def image(self) -> bool:
        return len(self.shape) == 3

    def put(self, value: str, *shape: int) -> None:
        self.earlier.setdefault(self.shape, []).append(self.value)
        self.value, self.shape = value, shape

    def other(self, n: int) -> str | None:
        """An earlier value of the same shape."""
        found = self.earlier.get(self.shape, [])
        return found[n % len(found)] if found else None


STEPS: dict[str, Callable[[Grown, int], None]] = {}


def step(image: bool | None) -> Callable[[Callable[[Grown, int], None]], Callable[[Grown, int], None]]:
    """Enter a step in the table: for images, for tokens, or (None) for both."""

    def enter(function: Callable[[Grown, int], None]) -> Callable[[Grown, int], None]:
        def fitting(net: Grown, n: int) -> None:
            if image is None or net.image == image:
                before = net.value
                function(net, n)
                if net.value != before:
                    net.used.append(function.__name__)

        STEPS[function.__name__] = fitting
        return function

    return enter


@step(None)
def linear(net: Grown, n: int) -> None:
    m, out = net.maker, (4, 6, 8)[n % 3]
    if net.image:
        k = (1, 3)[n // 3 % 2]
        net.put(m.conv(net.value, (out, net.channels, k, k), bias=bool(n // 6 % 2)), out, *net.shape[1:])
    else:
        net.put(m.matmul(net.value, net.channels, out), *net.shape[:-1], out)


@step(None)
def pointwise(net: Grown, n: int) -> None:
    net.put(net.maker.op(POINTWISE[n % len(POINTWISE)], net.value), *net.shape)


@step(None)
def bounded(net: Grown, n: int) -> None:
    m = net.maker
    net.put(m.op("Clip", net.value, m.param(np.float32(-n % 3)), m.param(np.float32(1 + n % 5))), *net.shape)


@step(None)
def joined(net: Grown, n: int) -> None:
    """With an earlier value of the same shape."""
    if (other := net.other(n)) is not None:
        op = ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean")[n // 3 % 7]
        net.put(net.maker.op(op, *((net.value, other) if n % 2 else (other, net.value))), *net.shape)


@step(None)
def chosen(net: Grown, n: int) -> None:
    if (other := net.other(n)) is not None:
        m = net.maker
        truth = m.op(("Greater", "LessOrEqual")[n % 2], other, m.param(np.float32(0.1)))
        net.put(m.op("Where", truth, net.value, m.op("Mul", net.value, m.param(np.float32(0.5)))), *net.shape)


@step(None)
def beside(net: Grown, n: int) -> None:
    """Concatenated with an earlier value of the same shape."""
    if (other := net.other(n)) is not None and net.channels <= 8:
        axis = 1 if net.image else 2
        shape = (2 * net.channels, *net.shape[1:]) if net.image else (*net.shape[:-1], 2 * net.channels)
        net.put(net.maker.op("Concat", net.value, other, axis=axis), *shape)


@step(None)
def parted(net: Grown, n: int) -> None:
    """Halves of the channels, multiplied, added or swapped."""
    if net.channels % 2:
        return None
    m, half, axis = net.maker, net.channels // 2, 1 if net.image else 2
    if n % 4 == 3:
        a, b = (m.op("Slice", net.value, m.ints(k * half), m.ints((k + 1) * half), m.ints(axis)) for k in (0, 1))
    else:
        a = m.op("Split", net.value, m.ints(half, half), outputs=2, axis=axis)
        b = f"{a}_1"
    if n % 4 == 2:
        return net.put(m.op("Concat", b, a, axis=axis), *net.shape)
    shape = (half, *net.shape[1:]) if net.image else (*net.shape[:-1], half)
    return net.put(m.op(("Mul", "Add")[n % 2], a, b), *shape)


@step(None)
def affine(net: Grown, n: int) -> None:
    m = net.maker
    shape = (net.channels, 1, 1) if net.image else (net.channels,)
    net.put(m.op(("Add", "Mul", "Div", "Sub")[n % 4], net.value, m.positive(*shape)), *net.shape)


@step(None)
def sloped(net: Grown, n: int) -> None:
    net.put(net.maker.op("PRelu", net.value, net.maker.positive(*((net.channels, 1, 1) if net.image else (1,)))), *net.shape)


@step(None)
def gated(net: Grown, n: int) -> None:
    """By a mean, or the largest, over positions or over channels."""
    m = net.maker
    axes = ([2, 3], [1]) if net.image else ([1], [2])
    level = m.op(REDUCTIONS[n % 4], net.value, m.ints(*axes[n // 4 % 2]), keepdims=1)
    net.put(m.op("Mul", net.value, m.op("Sigmoid", level)), *net.shape)


@step(True)
def depthwise(net: Grown, n: int) -> None:
    times = 1 + n % 2 if net.channels <= 6 else 1
    w = net.maker.conv(net.value, (net.channels * times, 1, 3, 3), group=net.channels)
    net.put(w, net.channels * times, *net.shape[1:])


@step(True)
def grouped(net: Grown, n: int) -> None:
    if net.channels % 2 == 0:
        net.put(net.maker.conv(net.value, (6, net.channels // 2, 3, 3), group=2), 6, *net.shape[1:])


@step(True)
def transposed(net: Grown, n: int) -> None:
    w = net.maker.normal(net.channels, 4, 3, 3, scale=0.3)
    net.put(net.maker.op("ConvTranspose", net.value, w, net.maker.normal(4, scale=0.1), pads=[1, 1, 1, 1]), 4, *net.shape[1:])


@step(True)
def normalised(net: Grown, n: int) -> None:
    m, c = net.maker, net.channels
    if n % 4 == 0:
        y = m.norm(net.value, c)
    elif n % 4 == 1:
        y = m.op("InstanceNormalization", net.value, m.positive(c), m.normal(c))
    elif n % 4 == 2 and c % 2 == 0:
        y = m.op("GroupNormalization", net.value, m.positive(c), m.normal(c), num_groups=2)
    else:
        y = m.op("LRN", net.value, size=3)
    net.put(y, *net.shape)


@step(True)
def pooled(net: Grown, n: int) -> None:
    op = ("MaxPool", "AveragePool", "LpPool")[n % 3]
    if min(net.shape[1:]) < 4 or n // 3 % 2:
        net.put(net.maker.op(op, net.value, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), *net.shape)
    else:
        sizes = [d // 2 for d in net.shape[1:]]
        net.put(net.maker.op(op, net.value, kernel_shape=[2, 2], strides=[2, 2]), net.channels, *sizes)


@step(True)
def resized(net: Grown, n: int) -> None:
    if max(net.shape[1:]) <= 6:
        scales = net.maker.param(np.array([1, 1, 2, 2], np.float32))
        y = net.maker.op("Resize", net.value, "", scales, mode=("nearest", "linear")[n % 2])
        net.put(y, net.channels, *(2 * d for d in net.shape[1:]))


@step(True)
def padded(net: Grown, n: int) -> None:
    if max(net.shape[1:]) <= 6:
        y = net.maker.op("Pad", net.value, net.maker.ints(0, 0, 1, 0, 0, 0, 0, 1), mode=("constant", "reflect", "edge")[n % 3])
        net.put(y, net.channels, net.shape[1] + 1, net.shape[2] + 1)


@step(True)
def shuffled(net: Grown, n: int) -> None:
    """The channel shuffle of ShuffleNet."""
    if net.channels % 2 == 0:
        m, (c, h, w) = net.maker, net.shape
        y = m.op("Transpose", m.op("Reshape", net.value, m.ints(0, 2, c // 2, h, w)), perm=[0, 2, 1, 3, 4])
        net.put(m.op("Reshape", y, m.ints(0, c, h, w)), *net.shape)


@step(True)
def spread(net: Grown, n: int) -> None:
    c, h, w = net.shape
    if n % 2 and c % 4 == 0 and h <= 6:
        net.put(net.maker.op("DepthToSpace", net.value, blocksize=2, mode=("DCR", "CRD")[n // 2 % 2]), c // 4, 2 * h, 2 * w)
    elif h % 2 == w % 2 == 0 and c <= 4:
        net.put(net.maker.op("SpaceToDepth", net.value, blocksize=2), 4 * c, h // 2, w // 2)


@step(True)
def channels_last(net: Grown, n: int) -> None:
    """There and back, with something in between."""
    m = net.maker
    y = m.op("Transpose", net.value, perm=[0, 2, 3, 1])
    y = m.op("Softmax", y, axis=3) if n % 3 == 0 else m.relu(y) if n % 3 == 1 else m.matmul(y, net.channels, net.channels)
    net.put(m.op("Transpose", y, perm=[0, 3, 1, 2]), *net.shape)


@step(True)
def picked(net: Grown, n: int) -> None:
    """Channels by number: some keep their place in both nets."""
    if net.channels > 2:
        net.put(net.maker.op("Gather", net.value, net.maker.ints(0, 2, 1), axis=1), 3, *net.shape[1:])


@step(True)
def repeated(net: Grown, n: int) -> None:
    if net.channels <= 6 and max(net.shape) <= 8:
        times = ((2, 1, 1), (1, 2, 1))[n % 2]
        y = net.maker.op("Tile", net.value, net.maker.ints(1, *times))
        net.put(y, *(d * t for d, t in zip(net.shape, times, strict=True)))


@step(None)
def running(net: Grown, n: int) -> None:
    axis = (2, 3)[n % 2] if net.image else (1, 2)[n % 2]
    net.put(net.maker.op("CumSum", net.value, net.maker.param(np.array(axis, np.int64)), reverse=n // 2 % 2), *net.shape)


@step(True)
def as_tokens(net: Grown, n: int) -> None:
    m, (c, h, w) = net.maker, net.shape
    y = m.op("Reshape", net.value, m.ints(0, c, h * w))
    if n % 3:
        return net.put(m.op("Transpose", y, perm=[0, 2, 1]), h * w, c)
    return net.put(y, c, h * w)


@step(False)
def normalised_tokens(net: Grown, n: int) -> None:
    m, c = net.maker, net.channels
    y = m.op("LayerNormalization", net.value, m.positive(c), m.normal(c)) if n % 2 else m.op("Softmax", net.value, axis=-1)
    net.put(y, *net.shape)


@step(False)
def attended(net: Grown, n: int) -> None:
    """Products of two computed values, spelled out, as an Einsum, or as one node."""
    m, c = net.maker, net.channels
    q, k, v = (m.matmul(net.value, c, 8) for _ in range(3))
    if n % 3 == 0:
        y = m.op("Attention", q, k, v, q_num_heads=2, kv_num_heads=2) if OPSET >= 23 else v
    elif n % 3 == 1:
        y = m.op("MatMul", m.op("Softmax", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 2, 1])), axis=-1), v)
    else:
        y = m.op("Einsum", m.op("Tanh", m.op("Einsum", q, k, equation="bld,bmd->blm")), v, equation="blm,bmd->bld")
    net.put(y, *net.shape[:-1], 8)


@step(False)
def recurrent(net: Grown, n: int) -> None:
    m, c, (name, gates) = net.maker, net.channels, (("LSTM", 4), ("GRU", 3), ("RNN", 1))[n % 3]
    if net.shape[0] <= 12:
        x = m.op("Transpose", net.value, perm=[1, 0, 2])
        w, r, b = m.normal(1, 4 * gates, c, scale=0.3), m.normal(1, 4 * gates, 4, scale=0.3), m.normal(1, 8 * gates, scale=0.1)
        y = m.op("Squeeze", m.op(name, x, w, r, b, hidden_size=4), m.ints(1))
        net.put(m.op("Transpose", y, perm=[1, 0, 2]), net.shape[0], 4)


def grown(steps: Sequence[Step], seed: int, classes: int = 3) -> tuple[ModelProto, list[str]]:
    """The net of a list of steps, and the steps that did something."""
    net = Grown(Maker(np.random.default_rng(seed)), "image", IMAGE)
    STEPS["linear"](net, 2)
    for name, number in steps:
        STEPS[name](net, number)
    m = net.maker
    if net.image:
        end = m.pool_head(net.value, net.channels, classes)
    else:
        end = m.matmul(m.op("ReduceMean", net.value, m.ints(1), keepdims=0), net.channels, classes)
    m.nodes.append(helper.make_node("Identity", [end], ["out"], "last"))
    ends = (("image", IMAGE), ("out", (classes,)))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in ends]
    graph = helper.make_graph(m.nodes, "net", ports[:1], ports[1:], m.params)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return model, net.used
