"""Operators that treat every scalar alone: `*x -> *x`.

f(s x) = s f(x) for every s > 0 holds for those of class SCALING, and is what lets channels be matched up to a scale.
"""

from __future__ import annotations

import math
from typing import Any

from onnxzip.net import Node
from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import aligned, first, floats, names, parameter, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register

_FLOATING = frozenset({1, 10, 11, 16})  # TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16


def _log(x: Any) -> Any:
    """Where it is infinite it has no gradient: 1 / 0, times that of a loss which leaves such places out, is NaN."""
    endless = x == 0
    return torch.log(torch.where(endless, torch.ones_like(x), x)).masked_fill(endless, -math.inf)


def _selu(x: Any, *, alpha: float, gamma: float) -> Any:
    return gamma * (torch.relu(x) + alpha * torch.expm1(torch.clamp(x, max=0)))


def _shrink(x: Any, *, bias: float, lambd: float) -> Any:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


def _gelu(x: Any, *, approximate: str) -> Any:
    return torch.nn.functional.gelu(x, approximate=approximate)


def _is_infinite(x: Any, *, detect_negative: int, detect_positive: int) -> Any:
    return torch.isinf(x) & (((x > 0) & bool(detect_positive)) | ((x < 0) & bool(detect_negative)))


def _clip(x: Any, *, min: Any = None, max: Any = None) -> Any:
    """Between two bounds by hardtanh, which is one pass where the gradient of clamp takes four."""
    low, high = floats(min), floats(max)
    if low and high and low[0] <= high[0] and x.is_floating_point():
        return torch.nn.functional.hardtanh(x, low[0], high[0])
    return torch.clamp(x, low[0] if low else None, high[0] if high else None) if low or high else x


def _cast_line(view: View) -> Line:
    """To a floating type it changes no number that matters; to any other it rounds."""
    linear = int(view.attrs["to"]) in _FLOATING
    return Line("*x -> *x", symmetry=Symmetry.LINEAR if linear else Symmetry.PERMUTATION)


def _cast(x: Any, *, to: int, **_: Any) -> Any:
    kinds = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool"}
    kinds |= {10: "float16", 11: "float64", 16: "bfloat16"}
    return x.to(getattr(torch, kinds[int(to)]))


def _dropout_line(view: View) -> Line:
    return Line("*x -> *x" + ", *x" * (len(view.outputs) - 1))


def _dropout(x: Any, **_: Any) -> Any:
    """In inference: x itself, and a mask that keeps everything."""
    return x, torch.ones_like(x, dtype=torch.bool)


def _prelu_line(view: View) -> Line:
    """Slopes are broadcast to x; computed ones do not stay as they are when x is scaled."""
    x, slope = first(view), view.inputs[1]
    assert slope is not None
    axes = names(len(x))
    bound = Symmetry.SCALING if parameter(view, 1) else Symmetry.PERMUTATION
    return Line(text([axes, aligned(slope, axes, x)], [axes]), symmetry=bound)


def _clip_bounds(node: Node) -> tuple[float, float]:
    lowest, highest = node.attrs.get("min"), node.attrs.get("max")
    return -math.inf if lowest is None else float(lowest), math.inf if highest is None else float(highest)


_FUNCTIONS: dict[str, tuple[Any, Symmetry]] = {
    "LeakyRelu": (lambda x, alpha: torch.nn.functional.leaky_relu(x, alpha), Symmetry.SCALING),
    "Abs": (lambda x: torch.abs(x), Symmetry.SCALING),
    "Neg": (lambda x: -x, Symmetry.LINEAR),
    "Identity": (lambda x: x, Symmetry.LINEAR),
    "Elu": (lambda x, alpha: torch.nn.functional.elu(x, alpha), Symmetry.PERMUTATION),
    "Selu": (_selu, Symmetry.PERMUTATION),
    "Celu": (lambda x, alpha: torch.nn.functional.celu(x, alpha), Symmetry.PERMUTATION),
    "ThresholdedRelu": (lambda x, alpha: torch.where(x > alpha, x, torch.zeros_like(x)), Symmetry.PERMUTATION),
    "Sigmoid": (lambda x: torch.sigmoid(x), Symmetry.PERMUTATION),
    "HardSigmoid": (lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1), Symmetry.PERMUTATION),
    "HardSwish": (lambda x: torch.nn.functional.hardswish(x), Symmetry.PERMUTATION),
    "Swish": (lambda x, alpha: x * torch.sigmoid(alpha * x), Symmetry.PERMUTATION),
    "Gelu": (_gelu, Symmetry.PERMUTATION),
    "Mish": (lambda x: torch.nn.functional.mish(x), Symmetry.PERMUTATION),
    "Softplus": (lambda x: torch.nn.functional.softplus(x), Symmetry.PERMUTATION),
    "Softsign": (lambda x: x / (1 + torch.abs(x)), Symmetry.PERMUTATION),
    "Shrink": (_shrink, Symmetry.PERMUTATION),
    "Tanh": (lambda x: torch.tanh(x), Symmetry.PERMUTATION),
    "Exp": (lambda x: torch.exp(x), Symmetry.PERMUTATION),
    "Log": (_log, Symmetry.PERMUTATION),
    "Sqrt": (lambda x: torch.sqrt(x), Symmetry.PERMUTATION),
    "Reciprocal": (lambda x: torch.reciprocal(x), Symmetry.PERMUTATION),
    "Erf": (lambda x: torch.erf(x), Symmetry.PERMUTATION),
    "Floor": (lambda x: torch.floor(x), Symmetry.PERMUTATION),
    "Ceil": (lambda x: torch.ceil(x), Symmetry.PERMUTATION),
    "Round": (lambda x: torch.round(x), Symmetry.PERMUTATION),
    "Sign": (lambda x: torch.sign(x), Symmetry.PERMUTATION),
    "Sin": (lambda x: torch.sin(x), Symmetry.PERMUTATION),
    "Cos": (lambda x: torch.cos(x), Symmetry.PERMUTATION),
    "Tan": (lambda x: torch.tan(x), Symmetry.PERMUTATION),
    "Asin": (lambda x: torch.asin(x), Symmetry.PERMUTATION),
    "Acos": (lambda x: torch.acos(x), Symmetry.PERMUTATION),
    "Atan": (lambda x: torch.atan(x), Symmetry.PERMUTATION),
    "Sinh": (lambda x: torch.sinh(x), Symmetry.PERMUTATION),
    "Cosh": (lambda x: torch.cosh(x), Symmetry.PERMUTATION),
    "Asinh": (lambda x: torch.asinh(x), Symmetry.PERMUTATION),
    "Acosh": (lambda x: torch.acosh(x), Symmetry.PERMUTATION),
    "Atanh": (lambda x: torch.atanh(x), Symmetry.PERMUTATION),
    "IsNaN": (lambda x: torch.isnan(x), Symmetry.PERMUTATION),
    "IsInf": (_is_infinite, Symmetry.PERMUTATION),
    "Not": (lambda x: ~x, Symmetry.PERMUTATION),
}

for _name, (_function, _symmetry) in _FUNCTIONS.items():
    register(Operator(_name, "*x -> *x", _function, _symmetry))

register(
    Operator("Relu", "*x -> *x", lambda x: torch.relu(x), Symmetry.SCALING, bounds=lambda node: (0.0, float("inf")))
)
register(
    Operator("Clip", "*x -> *x", _clip, Symmetry.PERMUTATION, constants={1: "min", 2: "max"}, bounds=_clip_bounds)
)
register(Operator("Cast", _cast_line, _cast, Symmetry.LINEAR))
register(Operator("Dropout", _dropout_line, _dropout, Symmetry.LINEAR, constants={1: "ratio", 2: "training_mode"}))
register(Operator("PRelu", _prelu_line, lambda x, slope: torch.where(x >= 0, x, slope * x), Symmetry.SCALING))
