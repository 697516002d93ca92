"""Small nets of every family that a merge must cope with, each built from a seed, a width and a number of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

IMAGE = (3, 12, 12)
TOKENS = 9
Ports = dict[str, tuple[int, ...]]


@dataclass
class Maker:
    """A graph in the making; weights are drawn from one generator, in the order of the calls."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    params: list[TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs: object) -> str:
        """Add a node; the name of its (first) output."""
        number = len(self.nodes)
        names = [f"v{number}" if k == 0 else f"v{number}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, f"{kind}_{number}", domain=domain, **attrs))
        return names[0]

    def param(self, array: np.ndarray) -> str:
        name = f"p{len(self.params)}"
        self.params.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.param(np.array(values, np.int64))

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.param((scale * self.rng.standard_normal(shape)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.param(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def conv(self, x: str, shape: Sequence[int], bias: bool = True, **attrs: object) -> str:
        """A Conv with weights [out, in per group, ...]; "same" pads where none are given."""
        if "pads" not in attrs and "auto_pad" not in attrs:
            attrs["pads"] = [k // 2 for k in shape[2:]] * 2
        weight = self.normal(*shape, scale=float(np.sqrt(2 / np.prod(shape[1:]))))
        return self.op("Conv", x, weight, *([self.normal(shape[0], scale=0.1)] if bias else []), **attrs)

    def gemm(self, x: str, inputs: int, outputs: int) -> str:
        weight = self.normal(outputs, inputs, scale=float(np.sqrt(2 / inputs)))
        return self.op("Gemm", x, weight, self.normal(outputs, scale=0.1), transB=1)

    def matmul(self, x: str, inputs: int, outputs: int) -> str:
        y = self.op("MatMul", x, self.normal(inputs, outputs, scale=float(np.sqrt(2 / inputs))))
        return self.op("Add", y, self.normal(outputs, scale=0.1))

    def norm(self, x: str, channels: int) -> str:
        scale, shift, mean = self.positive(channels), self.normal(channels, scale=0.1), self.normal(channels, scale=0.1)
        return self.op("BatchNormalization", x, scale, shift, mean, self.positive(channels))

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def pool_head(self, x: str, channels: int, classes: int) -> str:
        return self.gemm(self.op("Flatten", self.op("GlobalAveragePool", x)), channels, classes)


Build = Callable[[Maker, int, int], "str | list[str]"]


@dataclass(frozen=True)
class Architecture:
    """A family of nets.

    Attributes:
        build: (maker, width, classes) -> outputs; it reads the inputs by name.
        inputs: name -> shape of one sample.
        shares_all: whether everything between inputs and outputs can be shared at all.
        integers: names of inputs that are numbers below TOKENS.
    """

    build: Build
    inputs: Ports = field(default_factory=lambda: {"image": IMAGE})
    shares_all: bool = True
    integers: tuple[str, ...] = ()


def model_of(architecture: Architecture, seed: int, width: int = 4, classes: int = 5) -> ModelProto:
    """One net of a family."""
    maker = Maker(np.random.default_rng(seed))
    made = architecture.build(maker, width, classes)
    outputs = [made] if isinstance(made, str) else made
    for k, value in enumerate(outputs):
        maker.nodes.append(helper.make_node("Identity", [value], [f"out{k}"], f"last{k}"))
    kinds = {n: TensorProto.INT64 if n in architecture.integers else TensorProto.FLOAT for n in architecture.inputs}
    ports = [helper.make_tensor_value_info(n, kinds[n], ["N", *s]) for n, s in architecture.inputs.items()]
    ends = [helper.make_tensor_value_info(f"out{k}", TensorProto.FLOAT, None) for k in range(len(outputs))]
    graph = helper.make_graph(maker.nodes, "net", ports, ends, maker.params)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


ARCHITECTURES: dict[str, Architecture] = {}


def family(
    inputs: Ports | None = None, shares_all: bool = True, integers: tuple[str, ...] = ()
) -> Callable[[Build], Build]:
    """Enter a builder in the table, under its name."""

    def enter(build: Build) -> Build:
        ports = inputs if inputs is not None else {"image": IMAGE}
        ARCHITECTURES[build.__name__] = Architecture(build, ports, shares_all, integers)
        return build

    return enter


@family({"x": (20,)})
def mlp(m: Maker, w: int, classes: int) -> str:
    a = m.relu(m.gemm("x", 20, 3 * w))
    b = m.op("Tanh", m.gemm(a, 3 * w, 2 * w))
    return m.gemm(b, 2 * w, classes)


@family({"x": (6, 10)})
def tokens(m: Maker, w: int, classes: int) -> str:
    a = m.op("Sigmoid", m.matmul("x", 10, 3 * w))
    b = m.relu(m.matmul(a, 3 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", b, axes=[1], keepdims=0), 2 * w, classes)


@family({"x": (6, 10)})
def class_token(m: Maker, w: int, classes: int) -> str:
    """A learned token, repeated for every sample, in front of a sequence."""
    sequence = m.matmul("x", 10, 2 * w)
    batch = m.op("Gather", m.op("Shape", "x"), m.ints(0), axis=0)
    token = m.op("Expand", m.normal(1, 1, 2 * w), m.op("Concat", batch, m.ints(1, 2 * w), axis=0))
    x = m.relu(m.matmul(m.op("Concat", token, sequence, axis=1), 2 * w, 3 * w))
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 3 * w, classes)


@family()
def lenet(m: Maker, w: int, classes: int) -> str:
    a = m.op("MaxPool", m.op("Tanh", m.conv("image", (w, 3, 5, 5))), kernel_shape=[2, 2], strides=[2, 2])
    b = m.op("AveragePool", m.relu(m.conv(a, (2 * w, w, 3, 3), pads=[0, 0, 0, 0])), kernel_shape=[2, 2], strides=[2, 2])
    c = m.relu(m.gemm(m.op("Flatten", b), 2 * w * 4, 3 * w))
    return m.gemm(c, 3 * w, classes)


@family()
def vgg(m: Maker, w: int, classes: int) -> str:
    x, before = "image", 3
    for channels in (w, w, 2 * w):
        x = m.relu(m.norm(m.conv(x, (channels, before, 3, 3), bias=False), channels))
        x, before = m.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), channels
    return m.gemm(m.op("Flatten", x), 2 * w, classes)


def basic_block(m: Maker, x: str, before: int, after: int, stride: int) -> str:
    a = m.relu(m.norm(m.conv(x, (after, before, 3, 3), bias=False, strides=[stride, stride]), after))
    b = m.norm(m.conv(a, (after, after, 3, 3), bias=False), after)
    skip = x if (before, stride) == (after, 1) else m.norm(m.conv(x, (after, before, 1, 1), strides=[stride, stride]), after)
    return m.relu(m.op("Add", b, skip))


@family()
def resnet(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.norm(m.conv("image", (w, 3, 3, 3)), w))
    x = basic_block(m, x, w, w, 1)
    x = basic_block(m, x, w, 2 * w, 2)
    x = basic_block(m, x, 2 * w, 2 * w, 1)
    return m.pool_head(x, 2 * w, classes)


@family()
def sums_joined(m: Maker, w: int, classes: int) -> str:
    """A sum of activations that nothing reads but the sum with a branch (the fusions of HRNet)."""
    near, far, x = (m.relu(m.conv("image", (w, 3, 3, 3))) for _ in range(3))
    x = m.op("Add", m.op("Add", near, m.op("Sigmoid", m.conv(far, (w, w, 1, 1)))), m.conv(x, (w, w, 3, 3)))
    return m.pool_head(m.relu(m.conv(m.relu(x), (2 * w, w, 3, 3))), 2 * w, classes)


@family()
def bottleneck(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    before = w
    for _ in range(2):
        a = m.relu(m.conv(x, (w, before, 1, 1)))
        b = m.relu(m.conv(a, (w, w, 3, 3)))
        c = m.conv(b, (2 * w, w, 1, 1))
        x = m.relu(m.op("Add", x if before == 2 * w else m.conv(x, (2 * w, before, 1, 1)), c))
        before = 2 * w
    return m.pool_head(x, before, classes)


@family()
def preactivation(m: Maker, w: int, classes: int) -> str:
    x = m.conv("image", (w, 3, 3, 3))
    for _ in range(2):
        a = m.conv(m.relu(m.norm(x, w)), (w, w, 3, 3))
        x = m.op("Add", x, m.conv(m.relu(m.norm(a, w)), (w, w, 3, 3)))
    return m.pool_head(m.relu(m.norm(x, w)), w, classes)


def relu6(m: Maker, x: str) -> str:
    return m.op("Clip", x, m.param(np.float32(0)), m.param(np.float32(6)))


@family()
def mobilenet(m: Maker, w: int, classes: int) -> str:
    x = relu6(m, m.norm(m.conv("image", (w, 3, 3, 3)), w))
    before = w
    for after, stride in ((w, 1), (2 * w, 2), (2 * w, 1)):
        e = relu6(m, m.norm(m.conv(x, (2 * before, before, 1, 1)), 2 * before))
        d = relu6(m, m.norm(m.conv(e, (2 * before, 1, 3, 3), group=2 * before, strides=[stride, stride]), 2 * before))
        y = m.norm(m.conv(d, (after, 2 * before, 1, 1)), after)
        x = m.op("Add", x, y) if (before, stride) == (after, 1) else y
        before = after
    return m.pool_head(relu6(m, m.conv(x, (3 * w, before, 1, 1))), 3 * w, classes)


@family()
def inception(m: Maker, w: int, classes: int) -> str:
    x, before = m.relu(m.conv("image", (w, 3, 3, 3))), w
    for _ in range(2):
        one = m.relu(m.conv(x, (w, before, 1, 1)))
        three = m.relu(m.conv(m.relu(m.conv(x, (w, before, 1, 1))), (w + 2, w, 3, 3)))
        pooled = m.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        last = m.relu(m.conv(pooled, (w, before, 1, 1)))
        x, before = m.op("Concat", one, three, last, axis=1), 3 * w + 2
    return m.pool_head(x, before, classes)


@family()
def twins(m: Maker, w: int, classes: int) -> str:
    """Branches that differ in nothing but their places behind."""
    first, second, third, fourth = (m.relu(m.conv("image", (w, 3, 3, 3))) for _ in range(4))
    less, more = (m.conv(x, (w, w, 1, 1)) for x in (first, second))
    x = m.op("Concat", m.op("Sub", less, more), third, fourth, axis=1)
    return m.pool_head(m.relu(m.conv(x, (w, 3 * w, 3, 3))), w, classes)


@family()
def densenet(m: Maker, w: int, classes: int) -> str:
    x, before = m.conv("image", (w, 3, 3, 3)), w
    for _ in range(2):
        y = m.conv(m.relu(m.norm(x, before)), (w, before, 3, 3))
        x, before = m.op("Concat", x, y, axis=1), before + w
    x = m.conv(m.relu(m.norm(x, before)), (w, before, 1, 1))
    return m.pool_head(m.relu(m.norm(x, w)), w, classes)


@family()
def squeeze_excite(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (2 * w, 3, 3, 3)))
    s = m.relu(m.conv(m.op("GlobalAveragePool", x), (w, 2 * w, 1, 1)))
    x = m.op("Mul", x, m.op("Sigmoid", m.conv(s, (2 * w, w, 1, 1))))
    return m.pool_head(m.relu(m.conv(x, (2 * w, 2 * w, 3, 3))), 2 * w, classes)


@family()
def grouped(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (2 * w, 3, 3, 3)))
    x = m.relu(m.conv(x, (2 * w, w, 3, 3), group=2))
    x = m.relu(m.conv(x, (4 * w, 2 * w, 1, 1)))
    x = m.relu(m.conv(x, (4 * w, w, 3, 3), group=4))
    return m.pool_head(x, 4 * w, classes)


@family()
def shuffled(m: Maker, w: int, classes: int) -> str:
    """Half of the channels passes by, then both halves take turns; later halves begin in the middle of a turn."""
    h = w + 1
    def turns(a: str, b: str) -> str:
        x = m.op("Reshape", m.op("Concat", a, b, axis=1), m.ints(0, 2, h, 6, 6))
        return m.op("Reshape", m.op("Transpose", x, perm=[0, 2, 1, 3, 4]), m.ints(0, 2 * h, 6, 6))

    x = m.relu(m.conv("image", (w, 3, 3, 3), strides=[2, 2]))
    x = turns(m.relu(m.conv(x, (h, w, 1, 1))), m.relu(m.conv(x, (h, w, 3, 3))))
    for _ in range(3):
        low = m.op("Split", x, m.ints(h, h), outputs=2, axis=1)
        y = m.conv(m.relu(m.conv(f"{low}_1", (h, h, 1, 1))), (h, 1, 3, 3), group=h)
        x = turns(low, m.relu(m.conv(y, (h, h, 1, 1))))
    return m.pool_head(m.relu(m.conv(x, (3 * w, 2 * h, 1, 1))), 3 * w, classes)


@family()
def multiplier(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    x = m.relu(m.conv(x, (2 * w, 1, 3, 3), group=w))
    return m.pool_head(m.relu(m.conv(x, (w, 2 * w, 1, 1))), w, classes)


@family({"signal": (2, 24)})
def conv1d(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("signal", (w, 2, 5), strides=[2]))
    x = m.relu(m.conv(x, (2 * w, w, 3), dilations=[2], pads=[2, 2]))
    return m.pool_head(m.op("MaxPool", x, kernel_shape=[2], strides=[2]), 2 * w, classes)


@family()
def odd_windows(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3), strides=[2, 1], pads=[0, 1, 1, 2]))
    x = m.relu(m.conv(x, (w, w, 2, 3), dilations=[2, 2], pads=[1, 2, 1, 2]))
    x = m.relu(m.conv(x, (w, w, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]))
    return m.pool_head(x, w, classes)


@family()
def upsampler(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3), strides=[2, 2]))
    x = m.relu(m.op("ConvTranspose", x, m.normal(w, 2 * w, 3, 3, scale=0.3), m.normal(2 * w, scale=0.1), pads=[1, 1, 1, 1]))
    return m.op("ConvTranspose", x, m.normal(2 * w, classes, 2, 2, scale=0.3), m.normal(classes, scale=0.1), strides=[2, 2])


@family()
def unet(m: Maker, w: int, classes: int) -> str:
    a = m.relu(m.conv("image", (w, 3, 3, 3)))
    b = m.relu(m.conv(m.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), (2 * w, w, 3, 3)))
    up = m.op("Resize", b, "", m.param(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    c = m.relu(m.conv(m.op("Concat", up, a, axis=1), (w, 3 * w, 3, 3)))
    return m.conv(c, (classes, w, 1, 1))


@family()
def gated(m: Maker, w: int, classes: int) -> str:
    x = m.conv("image", (2 * w, 3, 3, 3))
    half = m.op("Split", x, m.ints(w, w), outputs=2, axis=1)
    x = m.op("Mul", half, m.op("Sigmoid", f"{half}_1"))
    y = m.conv(x, (2 * w, w, 3, 3))
    low = m.op("Slice", y, m.ints(0), m.ints(w), m.ints(1))
    high = m.op("Slice", y, m.ints(w), m.ints(2 * w), m.ints(1))
    return m.pool_head(m.op("Mul", m.op("Tanh", low), m.op("Sigmoid", high)), w, classes)


@family()
def prelu(m: Maker, w: int, classes: int) -> str:
    x = m.op("PRelu", m.conv("image", (w, 3, 3, 3)), m.param(np.full((w, 1, 1), 0.25, np.float32)))
    x = m.op("PRelu", m.conv(x, (w, w, 3, 3)), m.positive(w, 1, 1))
    return m.pool_head(x, w, classes)


@family()
def scaled(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    x = m.op("Add", m.op("Mul", x, m.positive(w, 1, 1)), m.normal(1, w, 1, 1, scale=0.1))
    x = m.relu(m.conv(m.op("Tanh", x), (w, w, 3, 3)))
    return m.pool_head(m.op("Div", m.op("Sub", x, m.param(np.float32(0.5))), m.param(np.float32(0.25))), w, classes)


@family()
def padded(m: Maker, w: int, classes: int) -> str:
    x = m.op("Pad", "image", m.ints(0, 0, 1, 1, 0, 0, 2, 0), mode="reflect")
    x = m.relu(m.conv(x, (w, 3, 3, 3), pads=[0, 0, 0, 0]))
    x = m.op("Pad", x, m.ints(0, 0, 1, 0, 0, 0, 0, 1))
    return m.pool_head(m.relu(m.conv(x, (2 * w, w, 3, 3))), 2 * w, classes)


@family()
def channel_minor(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3), strides=[4, 4]))
    x = m.op("Flatten", m.op("Transpose", x, perm=[0, 2, 3, 1]))
    return m.gemm(m.relu(m.gemm(x, 9 * w, 3 * w)), 3 * w, classes)


@family()
def reshaped(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (2 * w, 3, 3, 3), strides=[2, 2]))
    x = m.op("Unsqueeze", m.op("Reshape", x, m.ints(0, 2 * w, 36)), m.ints(2))
    x = m.op("Transpose", m.op("Squeeze", x, m.ints(2)), perm=[0, 2, 1])
    x = m.relu(m.matmul(x, 2 * w, w))
    return m.gemm(m.op("Reshape", x, m.ints(0, 36 * w)), 36 * w, classes)


@family()
def spatial_attention(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    mean = m.op("ReduceMean", x, axes=[1], keepdims=1)
    high = m.op("ReduceMax", x, axes=[1], keepdims=1)
    gate = m.op("Sigmoid", m.conv(m.op("Concat", mean, high, axis=1), (1, 2, 3, 3)))
    x = m.relu(m.conv(m.op("Mul", x, gate), (2 * w, w, 3, 3)))
    return m.gemm(m.op("ReduceMean", x, axes=[2, 3], keepdims=0), 2 * w, classes)


@family()
def mean_joined(m: Maker, w: int, classes: int) -> str:
    """A channel that no weights make, of channels that they do."""
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    x = m.op("Concat", x, m.op("ReduceMean", x, axes=[1], keepdims=1), axis=1)
    x = m.relu(m.conv(x, (2 * w, w + 1, 3, 3)))
    return m.gemm(m.op("ReduceMean", x, axes=[2, 3], keepdims=0), 2 * w, classes)


@family({"x": (10,)})
def interactions(m: Maker, w: int, classes: int) -> str:
    """Chosen products of features with each other, joined to features (Naumov et al., 2019): no weights make them."""
    features = [m.relu(m.gemm("x", 10, 2 * w))]
    features += [m.relu(m.gemm(features[0], 2 * w, 2 * w))]
    features += [m.relu(m.gemm(features[1], 2 * w, 2 * w))]
    y = m.op("Concat", *(m.op("Unsqueeze", f, m.ints(1)) for f in features), axis=1)
    y = m.op("Reshape", m.op("MatMul", y, m.op("Transpose", y, perm=[0, 2, 1])), m.ints(0, 9))
    y = m.op("Gather", y, m.ints(1, 2, 5), axis=1)
    return m.gemm(m.relu(m.gemm(m.op("Concat", features[0], y, axis=1), 2 * w + 3, 3 * w)), 3 * w, classes)


@family()
def softmax_head(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3), strides=[2, 2]))
    x = m.op("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    return m.op("Softmax", m.pool_head(x, w, classes), axis=1)


@family({"x": (5, 10)})
def layer_norm(m: Maker, w: int, classes: int) -> str:
    x = m.matmul("x", 10, 2 * w)
    x = m.op("LayerNormalization", x, m.positive(2 * w), m.normal(2 * w, scale=0.1), axis=-1)
    x = m.relu(m.matmul(x, 2 * w, 3 * w))
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 3 * w, classes)


def layer_normed(m: Maker, x: str, channels: int) -> str:
    return m.op("LayerNormalization", x, m.positive(channels), m.normal(channels, scale=0.1), axis=-1)


@family({"x": (6, 10)})
def token_mixer(m: Maker, w: int, classes: int) -> str:
    """MLP-Mixer: one MLP over the 6 tokens of each channel, one over the channels of each token."""
    x = m.matmul("x", 10, 2 * w)
    y = m.op("Transpose", layer_normed(m, x, 2 * w), perm=[0, 2, 1])
    y = m.matmul(m.relu(m.matmul(y, 6, 8)), 8, 6)
    x = m.op("Add", x, m.op("Transpose", y, perm=[0, 2, 1]))
    x = m.op("Add", x, m.matmul(m.relu(m.matmul(layer_normed(m, x, 2 * w), 2 * w, 3 * w)), 3 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", layer_normed(m, x, 2 * w), axes=[1], keepdims=0), 2 * w, classes)


@family()
def token_gate(m: Maker, w: int, classes: int) -> str:
    """gMLP: half of the channels, mixed across the 9 patches, scale the other half."""
    x = m.op("Reshape", m.conv("image", (2 * w, 3, 4, 4), pads=[0] * 4, strides=[4, 4]), m.ints(0, 2 * w, 9))
    x = m.op("Transpose", x, perm=[0, 2, 1])
    y = m.relu(m.matmul(layer_normed(m, x, 2 * w), 2 * w, 4 * w))
    a, b = (m.op("Slice", y, m.ints(k * 2 * w), m.ints((k + 1) * 2 * w), m.ints(2)) for k in (0, 1))
    b = m.op("Transpose", m.matmul(m.op("Transpose", b, perm=[0, 2, 1]), 9, 9), perm=[0, 2, 1])
    x = m.op("Add", x, m.matmul(m.op("Mul", a, b), 2 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 2 * w, classes)


@family({"x": (6, 10)}, shares_all=False)
def unknown_operator(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.matmul("x", 10, 2 * w))
    x = m.relu(m.matmul(x, 2 * w, 2 * w))
    x = m.op("BitShift", m.op("Cast", x, to=TensorProto.UINT32), m.param(np.array(1, np.uint32)), direction="LEFT")
    x = m.op("Cast", x, to=TensorProto.FLOAT)
    x = m.relu(m.matmul(x, 2 * w, 3 * w))
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 3 * w, classes)


@family()
def image_joined(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    x = m.relu(m.conv(m.op("Concat", x, "image", axis=1), (w, w + 3, 3, 3)))
    x = m.op("Concat", "image", x, axis=1)
    return m.pool_head(m.relu(m.conv(x, (2 * w, w + 3, 3, 3))), 2 * w, classes)


@family()
def image_gated(m: Maker, w: int, classes: int) -> str:
    gate = m.op("Sigmoid", m.conv("image", (1, 3, 3, 3)))
    x = m.op("Concat", m.op("Mul", "image", gate), m.relu(m.conv("image", (w, 3, 3, 3))), axis=1)
    return m.pool_head(m.relu(m.conv(x, (2 * w, w + 3, 3, 3))), 2 * w, classes)


@family({"x": (3, 10)}, shares_all=False)
def turned_features(m: Maker, w: int, classes: int) -> str:
    """PointNet's T-Net: features times a matrix made of them; they are joined with what is made of the product."""
    x = m.relu(m.conv("x", (w, 3, 1)))
    turn = m.op("Reshape", m.gemm(m.op("ReduceMax", x, axes=[2], keepdims=0), w, w * 4), m.ints(0, w, 4))
    x = m.op("Transpose", m.op("MatMul", m.op("Transpose", x, perm=[0, 2, 1]), turn), perm=[0, 2, 1])
    y = m.relu(m.conv(x, (w, 4, 1)))
    low, high = (m.op("ReduceMax", v, axes=[2], keepdims=0) for v in (x, y))
    return m.gemm(m.op("Concat", m.op("Slice", low, m.ints(0), m.ints(2), m.ints(1)), high, axis=1), w + 2, classes)


@family({"x": (3, 10)})
def predicted_matrix(m: Maker, w: int, classes: int) -> str:
    """Features [n, w, length] times a matrix [n, 4, w] that is made of them."""
    x = m.relu(m.conv("x", (w, 3, 1)))
    matrix = m.op("Reshape", m.gemm(m.op("ReduceMax", x, axes=[2], keepdims=0), w, 4 * w), m.ints(0, 4, w))
    y = m.relu(m.conv(m.op("MatMul", matrix, x), (2 * w, 4, 1)))
    return m.gemm(m.op("ReduceMax", y, axes=[2], keepdims=0), 2 * w, classes)


@family({"x": (3, 10)}, shares_all=False)
def predicted_residual(m: Maker, w: int, classes: int) -> str:
    """As above, but weights make channels of both axes of the matrix elsewhere: these stay as they are."""
    x = m.relu(m.conv(m.relu(m.conv("x", (w, 3, 1))), (4, w, 1)))
    matrix = m.op("Reshape", m.gemm(m.op("ReduceMax", x, axes=[2], keepdims=0), 4, 20), m.ints(0, 5, 4))
    y = m.op("Add", m.op("MatMul", matrix, x), m.conv(x, (5, 4, 1)))
    return m.gemm(m.op("ReduceMax", m.relu(m.conv(y, (w, 5, 1))), axes=[2], keepdims=0), w, classes)


@family()
def two_outputs(m: Maker, w: int, classes: int) -> list[str]:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    y = m.relu(m.conv(x, (2 * w, w, 3, 3), strides=[2, 2]))
    return [m.pool_head(y, 2 * w, classes), m.conv(x, (2, w, 1, 1))]


@family({"image": IMAGE, "x": (7,)})
def two_inputs(m: Maker, w: int, classes: int) -> str:
    a = m.op("Flatten", m.op("GlobalMaxPool", m.relu(m.conv("image", (w, 3, 3, 3)))))
    b = m.relu(m.gemm("x", 7, 2 * w))
    c = m.relu(m.gemm(m.op("Concat", a, b, axis=1), 3 * w, 3 * w))
    return m.gemm(c, 3 * w, classes)


@family({"x": (6, 10)})
def rotated_pairs(m: Maker, w: int, classes: int) -> str:
    """As before, but channels next to each other are turned as a pair (GPT-J's spelling of rotary positions, of one key)."""
    x = m.matmul("x", 10, 2 * w)
    v, angle = heads_of(m, x, 2 * w, 1, 4), np.outer(np.arange(6), np.repeat([1.0, 0.1], 2)).astype(np.float32)
    cos, sin = m.param(np.cos(angle)), m.param(np.sin(angle))

    def partly(y: str, heads: int) -> str:
        turning, still = (m.op("Slice", y, m.ints(a), m.ints(b), m.ints(3)) for a, b in ((0, 4), (4, 7)))
        even, odd = (m.op("Slice", turning, m.ints(k), m.ints(4), m.ints(3), m.ints(2)) for k in (0, 1))
        deep = [m.op("Unsqueeze", y, m.ints(4)) for y in (m.op("Neg", odd), even)]
        across = m.op("Reshape", m.op("Concat", *deep, axis=4), m.ints(0, heads, 6, 4))
        return m.op("Concat", m.op("Add", m.op("Mul", turning, cos), m.op("Mul", across, sin)), still, axis=3)

    q, k = (partly(heads_of(m, x, 2 * w, heads, 7), heads) for heads in (w // 2, 1))
    scores = m.op("MatMul", q, m.op("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = m.op("Transpose", m.op("MatMul", m.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    x = m.op("Add", x, m.matmul(m.op("Reshape", mixed, m.ints(0, 0, 2 * w)), 2 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 2 * w, classes)


@family(shares_all=False)
def image_scaled(m: Maker, w: int, classes: int) -> str:
    y = m.relu(m.conv("image", (2 * w, 3, 3, 3)))
    x = m.op("Concat", m.relu(m.conv(y, (w, 2 * w, 3, 3))), "image", axis=1)
    x = m.relu(m.conv(x, (w + 3, 1, 3, 3), group=w + 3))
    x = m.relu(m.conv(x, (2 * w, w + 3, 1, 1)))
    return m.pool_head(m.relu(m.conv(m.op("Concat", x, y, axis=1), (w, 4 * w, 1, 1))), w, classes)


@family(shares_all=False)
def computed_weights(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    level = m.op("ReduceMean", x, axes=[0, 1, 2, 3], keepdims=1)
    x = m.relu(m.op("Conv", x, m.op("Mul", m.normal(w, w, 3, 3, scale=0.3), level), pads=[1, 1, 1, 1]))
    return m.pool_head(m.relu(m.conv(x, (w, w, 3, 3))), w, classes)


@family(shares_all=False)
def integers(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    x = m.relu(m.conv(x, (w, w, 3, 3)))
    found = m.op("TopK", x, m.ints(5), outputs=2, axis=3)
    x = m.op("Add", found, m.op("Cast", f"{found}_1", to=TensorProto.FLOAT))
    return m.pool_head(m.relu(m.conv(x, (w, w, 3, 3))), w, classes)


@family(shares_all=False)
def overlapping(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv(m.relu(m.conv("image", (w, 3, 3, 3))), (3 * w, w, 3, 3)))
    low, high = (m.op("Slice", x, m.ints(a * w), m.ints((a + 2) * w), m.ints(1)) for a in (0, 1))
    return m.pool_head(m.relu(m.conv(m.op("Add", low, high), (2 * w, 2 * w, 3, 3))), 2 * w, classes)


@family()
def narrow_gate(m: Maker, w: int, classes: int) -> str:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    x = m.op("Mul", x, m.op("Sigmoid", m.conv(x, (1, w, 3, 3))))
    return m.pool_head(m.relu(m.conv(x, (2 * w, w, 3, 3))), 2 * w, classes)


@family(shares_all=False)
def inner_output(m: Maker, w: int, classes: int) -> list[str]:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    y = m.relu(m.conv(x, (w, w, 3, 3)))
    return [m.pool_head(m.relu(m.conv(y, (w, w, 3, 3))), w, classes), y, "image"]


@family()
def three_ways(m: Maker, w: int, classes: int) -> str:
    x = m.conv("image", (3 * w, 3, 3, 3))
    part = m.op("Split", x, m.ints(w, w, w), outputs=3, axis=1)
    x = m.op("Max", part, f"{part}_1", f"{part}_2")
    x = m.op("Sum", x, m.conv(x, (w, w, 3, 3)), m.conv(x, (w, w, 1, 1)))
    x = m.op("Sub", x, m.conv(m.relu(x), (w, w, 3, 3)))
    return m.pool_head(m.op("Concat", x, m.op("Add", x, x), axis=1), 2 * w, classes)


def heads_of(m: Maker, x: str, width: int, heads: int, inner: int) -> str:
    """[batch, tokens, width] -> [batch, heads, tokens, inner]."""
    y = m.op("Reshape", m.matmul(x, width, heads * inner), m.ints(0, 0, heads, inner))
    return m.op("Transpose", y, perm=[0, 2, 1, 3])


def attention(m: Maker, x: str, width: int, heads: int, inner: int = 4, bias: str = "") -> str:
    """Multi-head attention of a sequence to itself."""
    q, k, v = (heads_of(m, x, width, heads, inner) for _ in range(3))
    scores = m.op("MatMul", m.op("Div", q, m.param(np.float32(np.sqrt(inner)))), m.op("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = m.op("MatMul", m.op("Softmax", m.op("Add", scores, bias) if bias else scores, axis=-1), v)
    y = m.op("Reshape", m.op("Transpose", mixed, perm=[0, 2, 1, 3]), m.ints(0, 0, heads * inner))
    return m.matmul(y, heads * inner, width)


def scaled_norm(m: Maker, x: str, width: int) -> str:
    return m.op("LayerNormalization", x, m.positive(width), m.normal(width, scale=0.1), axis=-1)


@family({"x": (6, 10)})
def encoder(m: Maker, w: int, classes: int, inner: int = 4) -> str:
    """Two layers with their norms in front, positions learned, a bias of each head for every pair of tokens."""
    x = m.op("Add", m.matmul("x", 10, 2 * w), m.normal(1, 6, 2 * w, scale=0.3))
    for _ in range(2):
        x = m.op("Add", x, attention(m, scaled_norm(m, x, 2 * w), 2 * w, w // 2, inner, m.normal(1, w // 2, 6, 6)))
        hidden = m.op("Mul", y := m.matmul(scaled_norm(m, x, 2 * w), 2 * w, 3 * w), m.op("Sigmoid", y))
        x = m.op("Add", x, m.matmul(hidden, 3 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", scaled_norm(m, x, 2 * w), axes=[1], keepdims=0), 2 * w, classes)


@family({"ids": (6,)}, integers=("ids",))
def token_encoder(m: Maker, w: int, classes: int) -> str:
    """Embedded tokens and positions, number 0 masked, norms behind the sums, the first token's output."""
    tables = m.op("Gather", m.normal(TOKENS, 2 * w, scale=0.5), "ids"), m.normal(1, 6, 2 * w, scale=0.3)
    x = scaled_norm(m, m.op("Add", *tables), 2 * w)
    known = m.op("Clip", m.op("Cast", "ids", to=TensorProto.FLOAT), m.param(np.float32(0)), m.param(np.float32(1)))
    masked = m.op("Mul", m.op("Sub", known, m.param(np.float32(1))), m.param(np.float32(100)))
    bias = m.op("Unsqueeze", masked, m.ints(1, 2))
    for _ in range(2):
        x = scaled_norm(m, m.op("Add", x, attention(m, x, 2 * w, w // 2, bias=bias)), 2 * w)
        y = m.matmul(m.op("Relu", m.matmul(x, 2 * w, 3 * w)), 3 * w, 2 * w)
        x = scaled_norm(m, m.op("Add", x, y), 2 * w)
    first = m.op("Gather", x, m.param(np.array(0)), axis=1)
    return m.gemm(m.op("Tanh", m.gemm(first, 2 * w, 2 * w)), 2 * w, classes)


@family({"x": (6, 10)})
def joint_projection(m: Maker, w: int, classes: int) -> str:
    """Queries, keys and values from one matrix, taken apart by an axis of three."""
    x = m.matmul("x", 10, 2 * w)
    y = m.op("Reshape", m.matmul(x, 2 * w, 3 * w * 2), m.ints(0, 0, 3, w // 2, 4))
    q, k, v = (m.op("Gather", m.op("Transpose", y, perm=[2, 0, 3, 1, 4]), m.param(np.array(i)), axis=0) for i in range(3))
    mixed = m.op("MatMul", m.op("Softmax", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1), v)
    y = m.op("Reshape", m.op("Transpose", mixed, perm=[0, 2, 1, 3]), m.ints(0, 0, 2 * w))
    x = m.op("Add", x, m.matmul(y, 2 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 2 * w, classes)


def turned(m: Maker, y: str, cos: str, sin: str) -> str:
    """[batch, heads, tokens, 4], turned by the angles of its tokens."""
    low, high = (m.op("Slice", y, m.ints(a), m.ints(a + 2), m.ints(3)) for a in (0, 2))
    return m.op("Add", m.op("Mul", y, cos), m.op("Mul", m.op("Concat", m.op("Neg", high), low, axis=3), sin))


def turned_attention(m: Maker, x: str, q: str, k: str, v: str, w: int) -> str:
    angle = np.outer(np.arange(6), np.tile([1.0, 0.1], 2)).astype(np.float32)
    cos, sin = m.param(np.cos(angle)), m.param(np.sin(angle))
    scores = m.op("MatMul", turned(m, q, cos, sin), m.op("Transpose", turned(m, k, cos, sin), perm=[0, 1, 3, 2]))
    mixed = m.op("MatMul", m.op("Softmax", scores, axis=-1), v)
    y = m.op("Reshape", m.op("Transpose", mixed, perm=[0, 2, 1, 3]), m.ints(0, 0, 2 * w))
    return m.op("Add", x, m.matmul(y, 2 * w, 2 * w))


@family({"x": (6, 10)})
def time_first(m: Maker, w: int, classes: int, first: bool = True) -> str:
    """Attention as torch's MultiheadAttention writes it: positions in front of the batch, then both along one axis."""
    def turned(y: str) -> str:
        return m.op("Transpose", y, perm=[1, 0, 2]) if first else y

    def heads(y: str) -> str:  # [N heads, 6, 4]
        if first:
            return m.op("Transpose", m.op("Reshape", y, m.ints(6, -1, 4)), perm=[1, 0, 2])
        y = m.op("Transpose", m.op("Reshape", y, m.ints(0, 0, w // 2, 4)), perm=[0, 2, 1, 3])
        return m.op("Reshape", y, m.ints(-1, 6, 4))

    def together(y: str) -> str:
        y = m.op("Reshape", y, m.ints(-1, w // 2, 6, 4))
        y = m.op("Transpose", y, perm=[2, 0, 1, 3] if first else [0, 2, 1, 3])
        return m.op("Reshape", y, m.ints(-1, 2 * w))

    x = turned(m.matmul("x", 10, 2 * w))
    q, k, v = (heads(m.matmul(x, 2 * w, 2 * w)) for _ in range(3))
    scores = m.op("Softmax", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = m.matmul(together(m.op("MatMul", scores, v)), 2 * w, 2 * w)
    x = m.op("Add", x, m.op("Reshape", y, m.ints(6, -1, 2 * w) if first else m.ints(-1, 6, 2 * w)))
    x = m.op("Add", x, m.matmul(m.relu(m.matmul(x, 2 * w, 3 * w)), 3 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", turned(x), axes=[1], keepdims=0), 2 * w, classes)


@family({"x": (4, 3, 6, 6)})
def frames(m: Maker, w: int, classes: int, first: bool = True) -> str:
    """Images of a film, one behind the other along the batch: those of the same moment together, or those of one film."""
    def turned(y: str, *perm: int) -> str:
        return m.op("Transpose", y, perm=perm) if first else y

    x = m.op("Reshape", turned("x", 1, 0, 2, 3, 4), m.ints(-1, 3, 6, 6))
    x = m.relu(m.norm(m.conv(x, (2 * w, 3, 3, 3), strides=[2, 2]), 2 * w))
    size = m.op("Concat", m.op("Slice", m.op("Shape", x), m.ints(0), m.ints(2)), m.ints(6, 6), axis=0)
    x = m.op("Resize", x, "", "", size, mode="nearest")
    x = m.relu(m.conv(m.conv(x, (2 * w, 1, 3, 3), group=2 * w), (3 * w, 2 * w, 1, 1)))
    x = m.relu(m.gemm(m.op("Flatten", m.op("GlobalAveragePool", x)), 3 * w, 2 * w))
    x = turned(m.op("Reshape", x, m.ints(4, -1, 2 * w) if first else m.ints(-1, 4, 2 * w)), 1, 0, 2)
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 2 * w, classes)


@family({"x": (6, 10)})
def rotated(m: Maker, w: int, classes: int) -> str:
    """Rotary positions: the order inside a head has a meaning, that of the heads has none."""
    x = m.matmul("x", 10, 2 * w)
    q, k, v = (heads_of(m, x, 2 * w, w // 2, 4) for _ in range(3))
    x = turned_attention(m, x, q, k, v, w)
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 2 * w, classes)


@family({"x": (6, 10)})
def rotated_jointly(m: Maker, w: int, classes: int) -> str:
    """Rotary positions of queries and keys that one matrix makes together with the values."""
    x = m.matmul("x", 10, 2 * w)
    parts = m.op("Split", m.matmul(x, 2 * w, 6 * w), m.ints(*[2 * w] * 3), outputs=3, axis=2)
    q, k, v = (
        m.op("Transpose", m.op("Reshape", y, m.ints(0, 0, w // 2, 4)), perm=[0, 2, 1, 3])
        for y in (parts, f"{parts}_1", f"{parts}_2")
    )
    x = turned_attention(m, x, q, k, v, w)
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 2 * w, classes)


@family({"x": (6, 10)})
def rotated_partly(m: Maker, w: int, classes: int) -> str:
    """All queries of one key, of which positions turn a part (multi-query attention with partial rotary positions)."""
    x = m.matmul("x", 10, 2 * w)
    v, angle = heads_of(m, x, 2 * w, 1, 4), np.outer(np.arange(6), np.tile([1.0, 0.1], 2)).astype(np.float32)
    cos, sin = m.param(np.cos(angle)), m.param(np.sin(angle))

    def partly(y: str) -> str:
        turning, still = (m.op("Slice", y, m.ints(a), m.ints(b), m.ints(3)) for a, b in ((0, 4), (4, 7)))
        return m.op("Concat", turned(m, turning, cos, sin), still, axis=3)

    q, k = (partly(heads_of(m, x, 2 * w, heads, 7)) for heads in (w // 2, 1))
    scores = m.op("MatMul", q, m.op("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = m.op("Transpose", m.op("MatMul", m.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    x = m.op("Add", x, m.matmul(m.op("Reshape", mixed, m.ints(0, 0, 2 * w)), 2 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", x, axes=[1], keepdims=0), 2 * w, classes)


@family(shares_all=False)
def input_added(m: Maker, w: int, classes: int) -> str:
    """A net that corrects its own input."""
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    y = m.conv(m.relu(m.conv(x, (2 * w, w, 3, 3))), (3, 2 * w, 3, 3))
    return m.op("Add", y, "image")


@family(shares_all=False)
def input_masked(m: Maker, w: int, classes: int) -> list[str]:
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    y = m.conv(m.relu(m.conv(x, (2 * w, w, 3, 3))), (3, 2 * w, 3, 3))
    return [m.op("Mul", "image", m.op("Sigmoid", y)), m.op("Sub", "image", y)]


@family()
def input_kept(m: Maker, w: int, classes: int) -> str:
    """The input beside what is computed from it."""
    x = m.relu(m.conv(m.relu(m.conv("image", (w, 3, 3, 3))), (2 * w, w, 3, 3)))
    return m.op("Concat", m.conv(x, (classes, 2 * w, 1, 1)), "image", axis=1)


@family(shares_all=False)
def input_added_within(m: Maker, w: int, classes: int) -> str:
    """Behind the skip nothing is shared; before it all is."""
    x = m.relu(m.conv("image", (2 * w, 3, 3, 3)))
    x = m.op("Add", m.relu(m.conv(x, (3, 2 * w, 3, 3))), "image")
    return m.pool_head(m.relu(m.conv(x, (2 * w, 3, 3, 3))), 2 * w, classes)


@family({"x": (20,), "z": (7,)}, shares_all=False)
def second_input_multiplied(m: Maker, w: int, classes: int) -> str:
    a = m.relu(m.gemm("x", 20, 3 * w))
    b = m.op("Mul", m.gemm(a, 3 * w, 7), "z")
    return m.gemm(m.relu(m.gemm(b, 7, 2 * w)), 2 * w, classes)


@family(shares_all=False)
def input_joined_and_added(m: Maker, w: int, classes: int) -> str:
    """Features that read the input beside them, and then correct it."""
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    x = m.relu(m.conv(m.op("Concat", x, "image", axis=1), (2 * w, w + 3, 3, 3)))
    return m.op("Add", "image", m.conv(m.op("Concat", "image", x, axis=1), (3, 2 * w + 3, 3, 3)))


@family(shares_all=False)
def input_added_to_half(m: Maker, w: int, classes: int) -> str:
    """One layer makes a correction of the input and features."""
    x = m.relu(m.conv("image", (w, 3, 3, 3)))
    half = m.op("Split", m.conv(x, (w + 3, w, 3, 3)), m.ints(3, w), outputs=2, axis=1)
    x = m.op("Concat", m.op("Add", half, "image"), m.relu(f"{half}_1"), axis=1)
    return m.pool_head(m.relu(m.conv(x, (2 * w, w + 3, 3, 3))), 2 * w, classes)


@family()
def fused_maps(m: Maker, w: int, classes: int) -> str:
    """A weighted sum of maps, and activations, with single numbers of each net's own (BiFPN, PReLU)."""
    def number() -> str:
        return m.param(m.rng.uniform(0.3, 1.3, ()).astype(np.float32))

    x = m.op("PRelu", m.conv("image", (2 * w, 3, 3, 3)), number())
    y = m.conv(m.relu(m.conv(x, (w, 2 * w, 3, 3))), (2 * w, w, 3, 3))
    x = m.op("Add", m.op("Mul", x, number()), m.op("Div", m.relu(y), number()))
    return m.pool_head(m.relu(m.conv(m.op("Sub", x, number()), (3 * w, 2 * w, 3, 3))), 3 * w, classes)


@family()
def tied_gate(m: Maker, w: int, classes: int) -> str:
    """Two layers that are applied to means and to maxima of channels alike (CBAM)."""
    x = m.relu(m.conv("image", (2 * w, 3, 3, 3)))
    down, up = m.normal(w, 2 * w, 1, 1, scale=0.5), m.normal(2 * w, w, 1, 1, scale=0.5)
    pools = (m.op(kind, x) for kind in ("GlobalAveragePool", "GlobalMaxPool"))
    gates = [m.op("Conv", m.relu(m.op("Conv", p, down)), up) for p in pools]
    x = m.op("Mul", x, m.op("Sigmoid", m.op("Add", *gates)))
    return m.pool_head(m.relu(m.conv(x, (3 * w, 2 * w, 3, 3))), 3 * w, classes)


@family()
def split_attention(m: Maker, w: int, classes: int) -> str:
    """A grouped layer makes two versions of each channel, of which a softmax chooses (ResNeSt)."""
    x = m.relu(m.conv(m.relu(m.conv("image", (2 * w, 3, 3, 3))), (2 * w, w, 3, 3), group=2))
    parts = m.op("Reshape", x, m.ints(0, 2, w, *IMAGE[1:]))
    y = m.op("GlobalAveragePool", m.op("ReduceSum", parts, m.ints(1), keepdims=0))
    y = m.conv(m.relu(m.conv(y, (w, w, 1, 1))), (2 * w, w, 1, 1))
    chosen = m.op("Softmax", m.op("Reshape", y, m.ints(0, 2, w, 1, 1)), axis=1)
    x = m.op("ReduceSum", m.op("Mul", parts, chosen), m.ints(1), keepdims=0)
    return m.pool_head(m.relu(m.conv(x, (3 * w, w, 3, 3))), 3 * w, classes)


@family()
def channel_attention(m: Maker, w: int, classes: int) -> str:
    """Channels attend to channels (DANet)."""
    x = m.relu(m.conv("image", (2 * w, 3, 3, 3)))
    flat = m.op("Reshape", x, m.ints(0, 2 * w, IMAGE[1] * IMAGE[2]))
    scores = m.op("MatMul", flat, m.op("Transpose", flat, perm=[0, 2, 1]))
    scores = m.op("Mul", scores, m.param(np.float32(0.01)))
    mixed = m.op("MatMul", m.op("Softmax", scores, axis=-1), flat)
    x = m.op("Add", x, m.op("Reshape", mixed, m.ints(0, 2 * w, *IMAGE[1:])))
    return m.pool_head(m.relu(m.conv(x, (3 * w, 2 * w, 3, 3))), 3 * w, classes)


@family({"x": (6, 10)})
def crossed_heads(m: Maker, w: int, classes: int) -> str:
    """Channels attend to channels head by head; a number for each channel of queries, keys and values (Restormer, XCiT)."""
    y = m.op("Mul", m.matmul(m.matmul("x", 10, 2 * w), 2 * w, 6 * w), m.positive(6 * w))
    y = m.op("Transpose", m.op("Reshape", y, m.ints(0, 0, 3, w // 2, 4)), perm=[2, 0, 3, 4, 1])
    q, k, v = (m.op("Gather", y, m.param(np.array(i)), axis=0) for i in range(3))
    scores = m.op("Mul", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 1, 3, 2])), m.positive(w // 2, 1, 1))
    mixed = m.op("Transpose", m.op("MatMul", m.op("Softmax", scores, axis=-1), v), perm=[0, 3, 1, 2])
    y = m.relu(m.matmul(m.op("Reshape", mixed, m.ints(0, 0, 2 * w)), 2 * w, 2 * w))
    return m.matmul(m.op("ReduceMean", y, axes=[1], keepdims=0), 2 * w, classes)


@family()
def channel_window(m: Maker, w: int, classes: int) -> str:
    """A window that runs along the channels makes their gates (ECA)."""
    x = m.conv(m.relu(m.conv("image", (w, 3, 3, 3))), (2 * w, w, 3, 3))
    y = m.op("Transpose", m.op("Squeeze", m.op("GlobalAveragePool", x), m.ints(3)), perm=[0, 2, 1])
    y = m.op("Transpose", m.conv(y, (1, 1, 3), bias=False), perm=[0, 2, 1])
    x = m.op("Mul", x, m.op("Sigmoid", m.op("Unsqueeze", y, m.ints(3))))
    return m.pool_head(m.relu(m.conv(m.relu(x), (3 * w, 2 * w, 3, 3))), 3 * w, classes)


@family({"x": (6,)})
def maxout(m: Maker, w: int, classes: int) -> str:
    """Goodfellow et al., ICML 2013: each unit is the largest of three, of which all first ones come first."""
    x = m.relu(m.gemm("x", 6, w + 1))
    pieces = m.op("Reshape", m.gemm(x, w + 1, 3 * w), m.ints(0, 3, w))
    return m.gemm(m.relu(m.op("ReduceMax", pieces, axes=[1], keepdims=0)), w, classes)


@family({"x": (6,)})
def tokens_made(m: Maker, w: int, classes: int) -> str:
    """A layer makes the features of three tokens, another one reads them token by token."""
    x = m.op("Reshape", m.relu(m.gemm("x", 6, 3 * w)), m.ints(0, 3, w))
    return m.gemm(m.op("ReduceMean", m.relu(m.matmul(x, w, w + 1)), axes=[1], keepdims=0), w + 1, classes)


@family({"x": (10, 5)})
def attention_pooled(m: Maker, w: int, classes: int) -> str:
    """Ilse et al., ICML 2018: tokens weighed by one channel of attention, by a product of matrices [n, 1, t] and [n, t, c]."""
    x = m.relu(m.matmul("x", 5, 2 * w))
    score = m.matmul(m.op("Tanh", m.matmul(x, 2 * w, w)), w, 1)
    weights = m.op("Transpose", m.op("Softmax", score, axis=1), perm=[0, 2, 1])
    return m.gemm(m.op("Squeeze", m.op("MatMul", weights, x), m.ints(1)), 2 * w, classes)


@family({"x": (7, 5)})
def learned_query(m: Maker, w: int, classes: int, repeat: str = "Expand") -> str:
    """A query that is repeated for every sample, and goes through a layer then; two heads attend to tokens."""
    x, d = m.relu(m.matmul("x", 5, 2 * w)), 2 * w
    batch = m.op("Slice", m.op("Shape", x), m.ints(0), m.ints(1))
    query = m.op(repeat, m.normal(1, 1, d), m.op("Concat", batch, m.ints(1, d if repeat == "Expand" else 1), axis=0))

    def heads(value: str, perm: list[int]) -> str:
        return m.op("Transpose", m.op("Reshape", m.matmul(value, d, d), m.ints(0, 0, 2, w)), perm=perm)

    scores = m.op("MatMul", heads(query, [0, 2, 1, 3]), heads(x, [0, 2, 3, 1]))
    found = m.op("MatMul", m.op("Softmax", scores, axis=-1), heads(x, [0, 2, 1, 3]))
    return m.gemm(m.op("Reshape", m.op("Transpose", found, perm=[0, 2, 1, 3]), m.ints(0, d)), d, classes)


@family({"x": (7, 5)})
def tiled_query(m: Maker, w: int, classes: int) -> str:
    """The same, as SigLIP has it."""
    return learned_query(m, w, classes, "Tile")


@family({"x": (7, 5)})
def einsum_attention(m: Maker, w: int, classes: int) -> str:
    """Self-attention as Keras writes it, heads [2, w] made and read by einsums."""

    def dense(value: str, equation: str, shape: tuple[int, ...], bias: tuple[int, ...]) -> str:
        return m.op("Add", m.op("Einsum", value, m.normal(*shape), equation=equation), m.normal(*bias))

    x = m.relu(dense("x", "abc,cd->abd", (5, 2 * w), (2 * w,)))
    q, k, v = (dense(x, "abc,cde->abde", (2 * w, 2, w), (2, w)) for _ in range(3))
    scores = m.op("Softmax", m.op("Einsum", k, q, equation="aecd,abcd->acbe"), axis=-1)
    found = m.op("Einsum", scores, v, equation="acbe,aecd->abcd")
    y = m.relu(dense(found, "abcd,cde->abe", (2, w, 2 * w), (2 * w,)))
    return m.gemm(m.op("ReduceMean", y, axes=[1], keepdims=0), 2 * w, classes)


@family({"x": (7, 5)})
def predicted_taps(m: Maker, w: int, classes: int) -> str:
    """A convolution over tokens whose three taps are made for each token (Wu et al., ICLR 2019), by a Gather of windows."""
    x = m.relu(m.matmul("x", 5, 2 * w))
    taps = m.op("Unsqueeze", m.op("Softmax", m.matmul(x, 2 * w, 3), axis=-1), m.ints(2))
    padded = m.op("Pad", m.matmul(x, 2 * w, w + 1), m.ints(0, 1, 0, 0, 1, 0))
    windows = m.op("Gather", padded, m.param(np.arange(7)[:, None] + np.arange(3)), axis=1)
    y = m.relu(m.op("Squeeze", m.op("MatMul", taps, windows), m.ints(2)))
    return m.gemm(m.op("ReduceMean", y, axes=[1], keepdims=0), w + 1, classes)


def experts(m: Maker, x: str, w: int, gates: str) -> str:
    """The sum of three layers, each weighed by a gate."""
    made = [m.op("Unsqueeze", m.relu(m.gemm(x, 2 * w, w)), m.ints(1)) for _ in range(3)]
    return m.op("Squeeze", m.op("MatMul", m.op("Unsqueeze", gates, m.ints(1)), m.op("Concat", *made, axis=1)), m.ints(1))


@family({"x": (6,)})
def gated_experts(m: Maker, w: int, classes: int) -> str:
    """A gate for each expert (Ma et al., KDD 2018)."""
    x = m.relu(m.gemm("x", 6, 2 * w))
    return m.gemm(experts(m, x, w, m.op("Softmax", m.gemm(x, 2 * w, 3), axis=-1)), w, classes)


@family({"x": (6,)})
def chosen_experts(m: Maker, w: int, classes: int) -> str:
    """A gate chooses two of three experts (Shazeer et al., ICLR 2017)."""
    x = m.relu(m.gemm("x", 6, 2 * w))
    gates = m.op("Softmax", m.gemm(x, 2 * w, 3), axis=-1)
    best = m.op("TopK", gates, m.ints(2), outputs=2, axis=-1)
    chosen = m.op("ScatterElements", m.op("Mul", gates, m.param(np.float32(0))), f"{best}_1", best, axis=-1)
    return m.gemm(experts(m, x, w, chosen), w, classes)


@family({"x": (6, 10)})
def grouped_queries(m: Maker, w: int, classes: int) -> str:
    """Two queries for each of w / 2 keys and values, without rotary positions (Ainslie et al., EMNLP 2023)."""
    x, kv, d = m.matmul("x", 10, 2 * w), w // 2, 4

    def heads(size: int, shape: tuple[int, ...], perm: list[int]) -> str:
        return m.op("Transpose", m.op("Reshape", m.matmul(x, 2 * w, size), m.ints(0, 0, *shape)), perm=perm)

    q = heads(2 * kv * d, (kv, 2, d), [0, 2, 3, 1, 4])
    k, v = heads(kv * d, (kv, 1, d), [0, 2, 3, 4, 1]), heads(kv * d, (kv, 1, d), [0, 2, 3, 1, 4])
    found = m.op("MatMul", m.op("Softmax", m.op("MatMul", q, k), axis=-1), v)
    y = m.op("Reshape", m.op("Transpose", found, perm=[0, 3, 1, 2, 4]), m.ints(0, 0, 2 * kv * d))
    y = m.relu(m.matmul(y, 2 * kv * d, 2 * w))
    return m.matmul(m.op("ReduceMean", y, axes=[1], keepdims=0), 2 * w, classes)


@family()
def multiplied_twice(m: Maker, w: int, classes: int) -> str:
    """Depthwise layers that double the channels, beside dense ones (PiT)."""
    x, before = m.relu(m.conv("image", (w, 3, 3, 3))), w
    for _ in range(2):
        dense = m.conv(x, (2 * before, before, 1, 1))
        x = m.relu(m.op("Add", dense, m.op("Tanh", m.conv(x, (2 * before, 1, 3, 3), group=before))))
        before *= 2
    return m.pool_head(x, before, classes)


@family({"x": (3, 4, 5)})
def graph_convolutions(m: Maker, w: int, classes: int) -> str:
    """Joints of a skeleton over time, one matrix for all layers of what reaches which joint (ST-GCN)."""
    x, before, reach = "x", 3, m.normal(5, 5, scale=0.5)
    for n in (2 * w, 2 * w, 3 * w):
        y = m.op("Einsum", m.conv(x, (n, before, 1, 1)), reach, equation="nctv,vw->nctw")
        x = m.relu(y if before != n else m.op("Add", x, y))
        before = n
    return m.pool_head(x, before, classes)


@family({"x": (6, 10)})
def normed_queries(m: Maker, w: int, classes: int) -> str:
    """Norms of queries and keys along the channels of each head, the same for all heads (Henry et al., 2020)."""
    x, heads, d = m.matmul("x", 10, 2 * w), w // 2, 4

    def made(perm: list[int]) -> str:
        return m.op("Transpose", m.op("Reshape", m.matmul(x, 2 * w, heads * d), m.ints(0, 0, heads, d)), perm=perm)

    q, k = (layer_normed(m, made([0, 2, 1, 3]), d) for _ in range(2))
    scores = m.op("MatMul", q, m.op("Transpose", k, perm=[0, 1, 3, 2]))
    found = m.op("Transpose", m.op("MatMul", m.op("Softmax", scores, axis=-1), made([0, 2, 1, 3])), perm=[0, 2, 1, 3])
    y = m.relu(m.matmul(m.op("Reshape", found, m.ints(0, 0, heads * d)), heads * d, 2 * w))
    return m.matmul(m.op("ReduceMean", y, axes=[1], keepdims=0), 2 * w, classes)


@family({"x": (6, 10)})
def single_head(m: Maker, w: int, classes: int) -> str:
    """One head, and a bias of its own for each pair of positions (EfficientViT's cascades of heads)."""
    x = m.relu(m.matmul("x", 10, 2 * w))
    q, k, v = (m.matmul(x, 2 * w, w) for _ in range(3))
    scores = m.op("Add", m.op("MatMul", q, m.op("Transpose", k, perm=[0, 2, 1])), m.normal(6, 6))
    y = m.relu(m.matmul(m.op("MatMul", m.op("Softmax", scores, axis=-1), v), w, 2 * w))
    return m.matmul(m.op("ReduceMean", y, axes=[1], keepdims=0), 2 * w, classes)
