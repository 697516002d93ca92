"""Fused operators of ONNX Runtime's optimizers, taken apart into the standard ones that they are made of.

Each is a piece of ONNX text over i0, i1, ... (its inputs), o0, o1, ... (its outputs) and values in between; what is not here
stays as it is. Their meaning: ONNX Runtime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, NodeProto, parser

from onnxzip.runtime import put_nodes, value_of

VENDOR = "com.microsoft"
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


@dataclass(frozen=True)
class _Call:
    """One use of a fused operator: its attributes, which of its inputs and outputs are there, the opset around it, and which
    inputs are products without a bias."""

    attrs: Mapping[str, Any]
    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]
    opset: int
    products: tuple[bool, ...]

    def has(self, at: int) -> bool:
        return at < len(self.inputs) and self.inputs[at]

    def gives(self, at: int) -> bool:
        return at < len(self.outputs) and self.outputs[at]


def _number(name: str, value: float) -> str:
    return f"{name} = Constant <value = float {{{float(value):.9g}}}> ()"


def _ints(name: str, *values: int) -> str:
    return f"{name} = Constant <value = int64[{len(values)}] {{{', '.join(map(str, values))}}}> ()"


def _reduced(out: str, op: str, x: str, call: _Call) -> str:
    """Over the last axis, which is an attribute before opset 18."""
    if call.opset < 18 and op != "ReduceSum":
        return f"{out} = {op} <axes = [-1], keepdims = 1> ({x})"
    return f"{_ints(out + '_axes', -1)} {out} = {op} <keepdims = 1> ({x}, {out}_axes)"


def _gelu(x: str, y: str, call: _Call) -> str:
    if call.opset >= 20:
        return f"{y} = Gelu ({x})"
    return (
        f"{_number('g0', 0.5**0.5)} {_number('g1', 1)} {_number('g2', 0.5)} g3 = Mul ({x}, g0) g4 = Erf (g3) "
        f"g5 = Add (g4, g1) g6 = Mul ({x}, g5) {y} = Mul (g6, g2)"
    )


def _tanh_gelu(x: str, y: str, call: _Call) -> str:
    if call.opset >= 20:
        return f'{y} = Gelu <approximate = "tanh"> ({x})'
    return (
        f"{_number('g0', 0.044715)} {_number('g1', 0.7978845608)} {_number('g2', 1)} {_number('g3', 0.5)} g4 = Mul ({x}, {x}) "
        f"g5 = Mul (g4, {x}) g6 = Mul (g5, g0) g7 = Add ({x}, g6) g8 = Mul (g7, g1) g9 = Tanh (g8) ga = Add (g9, g2) "
        f"gb = Mul ({x}, ga) {y} = Mul (gb, g3)"
    )


def _layer_norm(x: str, scale: str, bias: str, y: str, call: _Call) -> str:
    """Over the last axis."""
    epsilon = float(call.attrs.get("epsilon", 1e-12))
    if call.opset >= 17:
        read = ", ".join(v for v in (x, scale, bias) if v)
        return f"{y} = LayerNormalization <axis = -1, epsilon = {epsilon:.9g}> ({read})"
    last = f"{y} = Add (n6, {bias})" if bias else f"{y} = Identity (n6)"
    return (
        f"{_number('n0', epsilon)} {_reduced('n1', 'ReduceMean', x, call)} n2 = Sub ({x}, n1) n3 = Mul (n2, n2) "
        f"{_reduced('n4', 'ReduceMean', 'n3', call)} n5 = Add (n4, n0) n7 = Sqrt (n5) n8 = Div (n2, n7) "
        f"n6 = Mul (n8, {scale}) {last}"
    )


def _rms_norm(x: str, scale: str, y: str, call: _Call) -> str:
    epsilon = float(call.attrs.get("epsilon", 1e-5))
    return (
        f"{_number('n0', epsilon)} n1 = Mul ({x}, {x}) {_reduced('n2', 'ReduceMean', 'n1', call)} n3 = Add (n2, n0) "
        f"n4 = Sqrt (n3) n5 = Div ({x}, n4) {y} = Mul (n5, {scale})"
    )


def _activated(x: str, y: str, call: _Call) -> str:
    """The activation that a fused node ends with."""
    name, numbers = call.attrs.get("activation", ""), [float(v) for v in call.attrs.get("activation_params", ())]
    if not name:
        return f"{y} = Identity ({x})"
    if name == "Clip":
        return f"{_number('c0', numbers[0])} {_number('c1', numbers[1])} {y} = Clip ({x}, c0, c1)"
    keys = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(name, ())
    given = ", ".join(f"{k} = {v:.9g}" for k, v in zip(keys, numbers, strict=False))
    return f"{y} = {name} {f'<{given}>' if given else ''} ({x})"


def _fused_conv(call: _Call) -> str:
    conv = f"y = Conv ({', '.join(f'i{k}' for k in range(3) if call.has(k))})"
    added = "z = Add (y, i3)" if call.has(3) else "z = Identity (y)"
    return f"{conv} {added} {_activated('z', 'o0', call)}"


def _fused_gemm(call: _Call) -> str:
    return f"y = Gemm ({', '.join(f'i{k}' for k in range(3) if call.has(k))}) {_activated('y', 'o0', call)}"


def _fused_matmul(call: _Call) -> str | None:
    if call.attrs.get("transBatchA") or call.attrs.get("transBatchB"):
        return None
    names, parts = ["i0", "i1"], []
    for k, key in enumerate(("transA", "transB")):
        if call.attrs.get(key):
            parts.append(f't{k} = Einsum <equation = "...ij->...ji"> (i{k})')
            names[k] = f"t{k}"
    alpha = float(call.attrs.get("alpha", 1.0))
    if alpha == 1.0:
        return " ".join([*parts, f"o0 = MatMul ({', '.join(names)})"])
    return " ".join([*parts, f"p = MatMul ({', '.join(names)})", _number("a", alpha), "o0 = Mul (p, a)"])


def _fast_gelu(call: _Call) -> str:
    return f"s = Add (i0, i1) {_tanh_gelu('s', 'o0', call)}" if call.has(1) else _tanh_gelu("i0", "o0", call)


def _quick_gelu(call: _Call) -> str:
    alpha = float(call.attrs.get("alpha", 1.702))
    angle = "b = Identity (i0)" if alpha == 1.0 else f"{_number('a', alpha)} b = Mul (i0, a)"
    return f"{angle} c = Sigmoid (b) o0 = Mul (i0, c)"


def _norm_of_sum(call: _Call, bias: int, norm: Callable[[str], str]) -> str | None:
    """Of both first inputs, and of a bias: that of the layer that one of them comes from. Statistics, outputs of their own,
    are not given."""
    if call.gives(1) or call.gives(2):
        return None
    total = "o3" if call.gives(3) else "s"
    if call.has(bias):
        branch, other = ("i1", "i0") if call.products[1] and not call.products[0] else ("i0", "i1")
        return f"s0 = Add ({branch}, i{bias}) {total} = Add (s0, {other}) {norm(total)}"
    return f"{total} = Add (i0, i1) {norm(total)}"


def _skip_layer_norm(call: _Call) -> str | None:
    return _norm_of_sum(call, 4, lambda x: _layer_norm(x, "i2", "i3" if call.has(3) else "", "o0", call))


def _skip_rms_norm(call: _Call) -> str | None:
    return _norm_of_sum(call, 3, lambda x: _rms_norm(x, "i2", "o0", call))


def _plain_rms_norm(call: _Call) -> str | None:
    """Over the last axis, without its statistics."""
    return None if call.gives(1) or call.attrs.get("axis", -1) != -1 else _rms_norm("i0", "i1", "o0", call)


def _heads(call: _Call, biased: str) -> str:
    """softmax(Q K' scale + bias) V for q, k, v of [batch, length, channels], per head."""
    heads = int(call.attrs["num_heads"])
    scale = call.attrs.get("scale", 0.0)
    found = [_ints("shape", 0, 0, heads, -1), _ints("flat", 0, 0, -1)]
    for name, order in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3")):
        found.append(f"{name}h = Reshape ({name}, shape) {name}t = Transpose <perm = [{order}]> ({name}h)")
    found.append(
        _number("scale", scale) if scale
        else f"dims = Shape (qt) {_ints('three', 3)} width = Gather (dims, three) real = Cast <to = 1> (width) "
        "root = Sqrt (real) scale = Reciprocal (root)"
    )
    found.append("qk = MatMul (qt, kt) scores = Mul (qk, scale)")
    found.append(f"biased = Add (scores, {biased})" if biased else "biased = Identity (scores)")
    found.append("weights = Softmax <axis = -1> (biased) y = MatMul (weights, vt)")
    found.append("yt = Transpose <perm = [0, 2, 1, 3]> (y) o0 = Reshape (yt, flat)")
    return " ".join(found)


def _split_in_three(names: str, x: str, axis: int, call: _Call) -> str:
    return f"{names} = Split <axis = {axis}{', num_outputs = 3' if call.opset >= 18 else ''}> ({x})"


def _attention(call: _Call) -> str | None:
    """Without masks, caches and parts of unequal width."""
    if any(map(call.has, (3, 4, 6))) or call.gives(1) or call.attrs.get("unidirectional") or "qkv_hidden_sizes" in call.attrs:
        return None
    projected = "p = MatMul (i0, i1) s = Add (p, i2)" if call.has(2) else "s = MatMul (i0, i1)"
    return f"{projected} {_split_in_three('q, k, v', 's', -1, call)} {_heads(call, 'i5' if call.has(5) else '')}"


def _multi_head_attention(call: _Call) -> str | None:
    if any(map(call.has, (4, 6, 7))) or not (call.has(1) and call.has(2)) or call.gives(1) or call.attrs.get("unidirectional"):
        return None
    named = "q = Identity (i0) k = Identity (i1) v = Identity (i2)"
    if call.has(3):
        named = f"{_split_in_three('b0, b1, b2', 'i3', 0, call)} q = Add (i0, b0) k = Add (i1, b1) v = Add (i2, b2)"
    return f"{named} {_heads(call, 'i5' if call.has(5) else '')}"


_FORMS: dict[str, Callable[[_Call], str | None]] = {
    "Gelu": lambda call: _gelu("i0", "o0", call),
    "BiasGelu": lambda call: f"s = Add (i0, i1) {_gelu('s', 'o0', call)}",
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "SimplifiedLayerNormalization": _plain_rms_norm,
    "Attention": _attention,
    "MultiHeadAttention": _multi_head_attention,
}
# attributes that the first node of a form takes over
_TAKEN_OVER = {"FusedConv": _CONV, "FusedGemm": ("alpha", "beta", "transA", "transB")}


def take_apart(model: ModelProto, opset: int) -> None:
    """Replace every fused node that has a form, in place; nodes without a name are called by their output."""
    products = {node.output[0] for node in model.graph.node if node.op_type in ("MatMul", "FusedMatMul")}
    nodes = [new for node in model.graph.node for new in (_parts(node, opset, products) or [node])]
    if len(nodes) != len(model.graph.node) or any(a is not b for a, b in zip(nodes, model.graph.node, strict=True)):
        put_nodes(model.graph, nodes)


def _parts(node: NodeProto, opset: int, products: Set[str]) -> list[NodeProto] | None:
    form = _FORMS.get(node.op_type) if node.domain == VENDOR else None
    if form is None:
        return None
    attrs = {a.name: value_of(a) for a in node.attribute}
    made = tuple(v in products for v in node.input)
    text = form(_Call(attrs, tuple(map(bool, node.input)), tuple(map(bool, node.output)), opset, made))
    if text is None:
        return None
    read, written = ([f"{k}{at}" for at in range(len(side))] for k, side in (("i", node.input), ("o", node.output)))
    header = f'<domain: "{VENDOR}", opset_import: ["": {opset}]> form ({", ".join(read)}) => ({", ".join(written)})'
    parts = list(parser.parse_function(f"{header} {{ {text} }}").node)
    names = dict(zip(read, node.input, strict=True)) | dict(zip(written, node.output, strict=True))
    prefix = node.name or node.output[0]
    for k, part in enumerate(parts):
        part.name = f"{prefix}.{k}"
        part.input[:] = [names.get(v, f"{prefix}.{v}") if v else "" for v in part.input]
        part.output[:] = [names.get(v, f"{prefix}.{v}") for v in part.output]
    parts[0].attribute.extend(a for a in node.attribute if a.name in _TAKEN_OVER.get(node.op_type, ()))
    return parts
