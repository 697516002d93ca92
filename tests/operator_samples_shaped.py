"""Samples of operators with weights, windows and axes; the whole table of samples."""

from __future__ import annotations

from operator_samples import ARITHMETIC, POINTWISE, B, Sample, indices, ones, p, positive, use, window, x, zeros
from operator_samples_indexed import MORE

WEIGHTED = [
    use("Conv", x(B, 4, 5, 5), p(6, 4, 3, 3), p(6), **window(3, 3)),
    use("Conv", x(B, 4, 6, 5), p(6, 4, 3, 2), **window(3, 2, strides=(2, 1), dilations=(1, 2), pads=(1, 0, 2, 1))),
    use("Conv", x(B, 4, 7), p(3, 4, 3), p(3), **window(3, pads=(1, 1))),
    use("Conv", x(B, 2, 4, 3, 3), p(3, 2, 2, 2, 2), **window(2, 2, 2)),
    use("Conv", x(B, 4, 5, 5), p(4, 1, 3, 3), p(4), group=4, **window(3, 3, pads=(1, 1, 1, 1))),
    use("Conv", x(B, 4, 5, 5), p(8, 1, 3, 3), p(8), group=4, **window(3, 3)),
    use("Conv", x(B, 6, 5, 5), p(8, 3, 3, 3), p(8), group=2, **window(3, 3)),
    use("ConvTranspose", x(B, 4, 3, 3), p(4, 5, 2, 2), p(5), **window(2, 2, strides=(2, 2)), output_padding=(0, 0)),
    use(
        "ConvTranspose", x(B, 4, 3, 4), p(4, 5, 3, 3), output_padding=(1, 0),
        **window(3, 3, strides=(2, 2), pads=(1, 0, 1, 1), dilations=(1, 2)),
    ),
    use("ConvTranspose", x(B, 4, 3), p(4, 1, 3), p(4), group=4, **window(3, strides=(2,)), output_padding=(0,)),
    use("ConvTranspose", x(B, 4, 3), p(4, 2, 3), p(8), group=4, **window(3, strides=(2,)), output_padding=(0,)),
    use("ConvTranspose", x(B, 4, 3), p(4, 3, 3), p(6), group=2, **window(3, strides=(2,)), output_padding=(0,)),
    use("Gemm", x(B, 4), p(5, 4), p(5), transB=1),
    use("Gemm", x(B, 4), p(5, 4), transB=1),
    use("Gemm", x(B, 4), p(4, 5), p(5)),
    use("MatMul", x(B, 2, 3, 4), p(2, 4, 5), canonical=False),
    use("Gemm", x(B, 4), p(4, 5), p(1), alpha=0.5, beta=2.0, canonical=False),
    use("Gemm", x(4, B), p(4, 5), p(1, 5), transA=1, canonical=False),
    use("MatMul", x(B, 4), p(4, 5)),
    use("MatMul", x(B, 3, 4), p(4, 5), p(5), standard=False),
    use("MatMul", x(B, 2, 3, 4), x(B, 2, 4, 5)),
    use("MatMul", x(B, 2, 3, 4), x(2, 4, 5)),
    use("MatMul", x(B, 1, 3, 4), x(B, 2, 4, 5)),
    use("MatMul", x(B, 4), p(4), canonical=False),
    use("BatchNormalization", x(B, 4, 3, 3), p(4), p(4), p(4, draw=zeros), p(4, draw=ones), epsilon=0.0),
    use("BatchNormalization", x(B, 4), p(4), p(4), p(4, draw=zeros), p(4, draw=ones), epsilon=0.0),
    use("BatchNormalization", x(B, 4, 3), p(4), p(4), p(4), p(4, draw=positive), canonical=False),
]
POOLS = [
    use(op, x(B, 3, 7, 6), **attrs)
    for op in ("MaxPool", "AveragePool", "LpPool")
    for attrs in (
        window(2, 2, strides=(2, 2)),
        window(3, 2, strides=(2, 2), pads=(1, 0, 1, 1), ceil_mode=1),
        window(3, 3, strides=(2, 3), pads=(1, 1, 1, 1), dilations=(2, 1)),
    )
] + [
    use("AveragePool", x(B, 3, 7, 6), count_include_pad=1, **window(3, 2, strides=(2, 2), pads=(1, 0, 1, 1))),
    use("LpPool", x(B, 3, 7), p=3, **window(3)),
    *(use(op, x(B, 3, 4, 5)) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")),
    use("GlobalAveragePool", x(B, 3, 4)),
]
REDUCED = [
    use(op, x(B, 4, 3, 2, draw=positive), **attrs)
    for op in (
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
        "ReduceLogSumExp", "ReduceProd",
    )
    for attrs in ({"axes": (2, 3)}, {"axes": (1,), "keepdims": 0}, {"noop_with_empty_axes": 1})
]
NORMALISED = [
    *(use(op, x(B, 4, 3), axis=1) for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")),
    *(use(op, x(B, 3, 4), axis=2) for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")),
    use("LpNormalization", x(B, 4, 3), axis=1, p=1),
    use("MeanVarianceNormalization", x(B, 4, 3, 3), axes=(2, 3)),
    use("InstanceNormalization", x(B, 4, 3, 3), p(4), p(4)),
    use("GroupNormalization", x(B, 6, 3, 3), p(6), p(6), num_groups=2),
    use("GroupNormalization", x(B, 6, 3), p(6), p(6), num_groups=1),
    use("LayerNormalization", x(B, 3, 4), p(4), p(4), axis=2),
    use("LayerNormalization", x(B, 3, 4), p(3, 4), axis=1),
    use("LayerNormalization", x(B, 3, 4), p(4), p(4), axis=2, outputs=3),
    use("RMSNormalization", x(B, 3, 4), p(4), axis=2),
    use("LRN", x(B, 6, 3, 3), size=3, alpha=0.5),
    use("LRN", x(B, 6, 3), size=4, alpha=0.5, standard=False),
]
RESHAPED = [
    use("Flatten", x(B, 4, 3, 2), axis=1),
    use("Flatten", x(B, 4, 3, 2), axis=2),
    use("Flatten", x(B, 4), axis=0),
    use("Reshape", x(B, 6, 5), shape=(-1, 2, 3, 5)),
    use("Reshape", x(B, 2, 3, 5), shape=(-1, 6, 5)),
    use("Reshape", x(B, 4, 6), shape=(-1, 8, 3)),
    use("Reshape", x(B, 6, 4), shape=(-1, 4, 6)),
    use("Reshape", x(B, 6, 4, 5), shape=(-1, 4, 6, 5)),
    use("Reshape", x(B, 3, 4), shape=(-1, 4)),
    use("Reshape", x(-3, 4), shape=(-1, 3, 4)),
    use("Reshape", x(-6, 4), shape=(-1, 3, 4)),
    use("Reshape", x(B, 1, 6, 1), shape=(-1, 2, 1, 3)),
    use("Reshape", x(2, B, 3), shape=(-1, 3)),
    use("Squeeze", x(B, 4, 1, 1), axes=(2, 3)),
    use("Squeeze", x(B, 1, 4)),
    use("Unsqueeze", x(B, 4), axes=(2, 3)),
    use("Unsqueeze", x(B, 4), axes=(1,)),
    use("Transpose", x(B, 4, 3, 2), perm=(0, 2, 3, 1)),
    use("Transpose", x(B, 4)),
]
ARRANGED = [
    use("Concat", x(B, 4, 3), x(B, 2, 3), axis=1),
    use("Concat", x(B, 4), x(B, 4), x(B, 1), axis=1),
    use("Concat", x(B, 4, 3), x(B, 4, 2), axis=2),
    use("Split", x(B, 6, 3), axis=1, split=(4, 2), outputs=2),
    use("Split", x(B, 6), axis=1, split=(2, 3, 1), outputs=3),
    use("Split", x(B, 5, 3), axis=1, num_outputs=2, outputs=2),
    use("Expand", x(B, 1, 3), shape=(1, 4, 3)),
    use("Expand", x(B, 4, 3), shape=(1, 4, 3)),
    use("DepthToSpace", x(B, 12, 2, 3), blocksize=2),
    use("DepthToSpace", x(B, 12, 2, 3), blocksize=2, mode="CRD"),
    use("SpaceToDepth", x(B, 3, 4, 6), blocksize=2),
    use("Slice", x(B, 7, 3), starts=(1,), ends=(5,), axes=(1,)),
    use("Slice", x(B, 7, 3), starts=(0,), ends=(5,), axes=(1,), steps=(1,)),
    use("Slice", x(B, 7, 6), starts=(3, 1), ends=(7, 6), axes=(1, 2), steps=(1, 2)),
    use("Slice", x(B, 6, 4), starts=(1, 0), ends=(6, 2**62), axes=(1, 2), steps=(3, 2)),
    use("Slice", x(B, 7), starts=(6,), ends=(-8,), axes=(1,), steps=(-1,)),
    use("Slice", x(B, 7), starts=(0, -4), ends=(2**62, 2**62)),
    use("Gather", x(B, 7, 3), p(3, draw=indices(0, 4, 2)), axis=1),
    use("Gather", x(B, 7, 3), p(draw=indices(5)), axis=1),
    use("Gather", x(B, 7), p(2, 2, draw=indices(0, 4, -1, 2)), axis=1),
    use("Gather", p(7, 4), x(B, 2, draw=lambda rng, shape: rng.integers(0, 7, shape)), axis=0),
    use("Pad", x(B, 4, 5), pads=(0, 0, 1, 0, 0, 2), constant_value=0.0),
    use("Pad", x(B, 4, 5), pads=(0, 1, 0, 0, 0, -1), constant_value=1.5),
    *(use("Pad", x(B, 4, 5), pads=(0, 0, 2, 0, 0, 3), mode=mode) for mode in ("reflect", "edge", "wrap")),
]
RESIZED = [
    *(
        use("Resize", x(B, 3, 4, 5), scales=(1.0, 1.0, 2.0, 0.6), mode=mode, coordinate_transformation_mode=coordinates)
        for mode in ("nearest", "linear", "cubic")
        for coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")
    ),
    use("Resize", x(B, 3, 4, 5), scales=(1.0, 1.0, 1.5, 0.7), nearest_mode="floor"),
    use("Resize", x(B, 3, 4, 5), scales=(1.0, 1.0, 1.5, 0.7), nearest_mode="ceil"),
    use("Resize", x(B, 3, 4, 5), scales=(1.0, 1.0, 1.5, 0.7), nearest_mode="round_prefer_ceil"),
    use("Resize", x(B, 3, 4, 5), sizes=(-1, 3, 8, 3), mode="linear"),
    use("Resize", x(B, 3, 4, 5), scales=(0.5, 0.6), axes=(2, 3), mode="linear", antialias=1),
    use("Resize", x(B, 3, 4, 5), scales=(0.5, 0.6), axes=(2, 3), mode="cubic", antialias=1, exclude_outside=1),
    use("Resize", x(B, 3, 4, 5), sizes=(9, 9), axes=(2, 3), mode="linear", keep_aspect_ratio_policy="not_larger"),
    use(
        "Resize", x(B, 3, 4, 5), roi=(0.1, -0.2, 0.8, 1.1), sizes=(3, 4), axes=(2, 3), mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=2.0,
    ),
]
SAMPLES: list[Sample] = [
    *POINTWISE, *ARITHMETIC, *WEIGHTED, *POOLS, *REDUCED, *NORMALISED, *RESHAPED, *ARRANGED, *RESIZED, *MORE,
]
