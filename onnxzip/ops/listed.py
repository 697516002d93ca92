"""Operators of ONNX that have no record, each with the reason: what `plan` says of a node that it leaves alone.

Every operator of the default domain either has a record or stands here.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxzip.ops.registry import find

REWRITTEN = "loading leaves none of these: they become params, other operators, or follow from shapes"
_CONTROL = "control flow is kept as it is, for each net on its own"
COUNTED = "how much it gives depends on the data"
_DRAWN = "it draws random numbers"
_LEARNT = "it belongs to training"
_ROUNDED = "it computes with quantised numbers: merge the float nets and quantise the result"
_INTEGERS = "it works on the bits of integers"
OTHER = "it holds no tensor of numbers: sequences, optional values, text, files"
_NEW = "it belongs to an opset that ONNX Runtime does not run yet"

_LISTED: Mapping[str, tuple[str, ...]] = {
    REWRITTEN: (
        "Constant", "ConstantOfShape", "CastLike", "Shape", "Size", "Range", "EyeLike", "BlackmanWindow", "HammingWindow",
        "HannWindow", "MelWeightMatrix", "Upsample", "Scatter",
    ),
    _CONTROL: ("If", "Loop", "Scan", "SequenceMap"),
    COUNTED: ("Compress", "NonMaxSuppression", "NonZero", "Unique"),
    _DRAWN: ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    _LEARNT: ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"),
    _ROUNDED: (
        "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul",
        "QuantizeLinear",
    ),
    _INTEGERS: ("BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
    OTHER: (
        "ConcatFromSequence", "ImageDecoder", "Optional", "OptionalGetElement", "OptionalHasElement", "RegexFullMatch",
        "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
        "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer",
    ),
    _NEW: ("CausalConvWithState", "LinearAttention", "SwiGLU"),
}


def listed() -> dict[str, str]:
    """Why each operator has no record, by name."""
    return {name: why for why, group in _LISTED.items() for name in group}


def why_unknown(op: str) -> str | None:
    """Why an operator is left alone; None where it has a record."""
    if find(op) is not None:
        return None
    why = listed().get(op)
    return f"operator {op} is not registered" if why is None else f"operator {op} is not registered: {why}"
