"""Samples of operators that compare, count, index, scatter, and read between grid points; recurrent ones; attention."""

from __future__ import annotations

import numpy as np
from operator_samples import B, Draw, Sample, indices, p, positive, truths, use, x

from onnxzip.net import Shape


def below(size: int) -> Draw:
    """Positions in an axis of this length."""
    return lambda rng, shape: rng.integers(0, size, shape)


def distinct(size: int) -> Draw:
    """Positions that do not repeat along the last axis."""
    return lambda rng, shape: np.argsort(rng.uniform(size=(*shape[:-1], size)), -1)[..., : shape[-1]].astype(np.int64)


def places(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Positions in a whole value of twice the size, none of them twice."""
    return rng.permutation(2 * int(np.prod(shape)))[: int(np.prod(shape))].reshape(shape)


def lengths(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.integers(1, 6, shape).astype(np.int32)


def rounded(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.integers(0, 3, shape).astype(float)


def regions(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """x1, y1, x2, y2 inside an image of 6 by 5."""
    corners = rng.uniform(0.3, 2.0, (*shape[:-1], 2))
    return np.concatenate([corners, corners + rng.uniform(1.2, 2.4, corners.shape)], -1)


def numbered_regions(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    sample = rng.integers(0, 2, (*shape[:-1], 1))
    return np.concatenate([sample, regions(rng, (*shape[:-1], 4))], -1)


COMPARED = [
    *(
        use(op, x(B, 4, 3, draw=rounded), second)
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        for second in (x(B, 4, 3, draw=rounded), p(4, 1, draw=rounded))
    ),
    *(use(op, x(B, 4, 3, draw=truths), x(B, 1, 3, draw=truths)) for op in ("And", "Or", "Xor")),
    use("Mod", x(B, 4), p(4, draw=positive), fmod=1),
    use("Mod", x(B, 4), x(B, 4), fmod=1),
]
ORDERED = [
    use("CumSum", x(B, 4, 3), axis=1),
    use("CumSum", x(B, 4, 3), axis=2, exclusive=1, reverse=1),
    use("CumProd", x(B, 4, 3), axis=1),
    use("CumProd", x(B, 4, 3), axis=2, exclusive=1, reverse=1),
    *(use(op, x(B, 4, 3), axis=1) for op in ("ArgMax", "ArgMin")),
    *(use(op, x(B, 4, 3, draw=rounded), axis=2, keepdims=0, select_last_index=1) for op in ("ArgMax", "ArgMin")),
    use("TopK", x(B, 4, 5), axis=2, count=(3,), outputs=2),
    use("TopK", x(B, 4, 5), axis=1, count=(2,), largest=0, outputs=2),
    use("Trilu", x(B, 4, 5)),
    use("Trilu", x(B, 4, 5), upper=0, k=1),
    use("ReverseSequence", x(5, B, 3), x(B, draw=lambda rng, shape: rng.integers(1, 6, shape))),
    use("ReverseSequence", x(B, 5, 3), x(B, draw=lambda rng, shape: rng.integers(1, 6, shape)), batch_axis=0, time_axis=1),
]
INDEXED = [
    use("GatherElements", x(B, 4, 5), x(B, 4, 3, draw=below(5)), axis=2),
    use("GatherElements", x(B, 4, 5), x(B, 2, 5, draw=below(4)), axis=1),
    use("GatherND", x(B, 4, 5), x(B, 3, 1, draw=below(4)), batch_dims=1),
    use("GatherND", p(4, 5, 3), x(B, 2, draw=below(4))),
    use("GatherND", p(4, 5, 3), x(B, 2, 1, draw=below(4))),
    use("ScatterElements", x(B, 4, 5), x(B, 4, 3, draw=distinct(5)), x(B, 4, 3), axis=2),
    use("ScatterElements", x(B, 4, 5), x(B, 4, 3, draw=below(5)), x(B, 4, 3), axis=2, reduction="add"),
    use("ScatterND", p(6, 3), x(B, 1, draw=lambda rng, shape: np.arange(shape[0]).reshape(shape)), x(B, 3)),
    use("ScatterND", x(B, 4), p(3, 2, draw=indices(0, 1, 1, 2, 0, 3, shape=(3, 2))), p(3), reduction="mul"),
    use("TensorScatter", x(B, 3, 6, 2), x(B, 3, 2, 2), x(B, draw=below(4)), axis=2, standard=False),
    use("TensorScatter", x(B, 6, 2), x(B, 3, 2), x(B, draw=below(6)), axis=1, mode="circular", standard=False),
    use("OneHot", x(B, 3, draw=below(5)), None, p(2), depth=5, standard=False),
    use("OneHot", x(B, 3, draw=below(5)), None, p(2), depth=5, axis=1, standard=False),
]
GROUPED = {"group": 2, "offset_group": 2, "strides": (2, 2), "pads": (1, 1, 1, 2)}
READ_BETWEEN = [
    *(
        use("GridSample", x(B, 3, 5, 4), x(B, 2, 3, 2), mode=mode, padding_mode=padding, align_corners=corners)
        for mode, padding, corners in (
            ("linear", "zeros", 0), ("nearest", "border", 1), ("cubic", "zeros", 0), ("linear", "reflection", 1)
        )
    ),
    use("GridSample", x(B, 2, 4, 3, 3), x(B, 2, 2, 2, 3)),
    use("AffineGrid", x(B, 2, 3), size=(-1, 3, 4, 5), standard=False),
    use("AffineGrid", x(B, 3, 4), size=(-1, 3, 2, 3, 4), align_corners=1, standard=False),
    use(
        "RoiAlign", x(B, 3, 6, 5), p(4, 4, draw=regions), p(4, draw=indices(0, 1, 1, 0)), output_height=2, output_width=3,
        sampling_ratio=2,
    ),
    use(
        "RoiAlign", x(B, 3, 6, 5), p(4, 4, draw=regions), p(4, draw=indices(0, 1, 1, 0)), output_height=2, output_width=2,
        mode="max", coordinate_transformation_mode="output_half_pixel",
    ),
    use("MaxRoiPool", x(B, 3, 6, 5), p(3, 5, draw=numbered_regions), pooled_shape=(2, 2)),
    use("DeformConv", x(B, 4, 5, 5), p(6, 4, 3, 3), x(B, 18, 3, 3), p(6), x(B, 9, 3, 3)),
    use("DeformConv", x(B, 4, 5, 6), p(6, 2, 3, 2), x(B, 24, 3, 4), **GROUPED),
    use("MaxPool", x(B, 3, 6, 5), kernel_shape=(2, 3), strides=(2, 1), pads=(1, 0, 1, 2), outputs=2),
    use("MaxPool", x(B, 3, 6, 5), kernel_shape=(2, 3), storage_order=1, outputs=2),
    use("MaxUnpool", x(B, 3, 2), x(B, 3, 2, draw=places), kernel_shape=(3,), strides=(2,)),
]
RECURRENT = [
    use("LSTM", x(5, B, 3), p(1, 16, 3), p(1, 16, 4), p(1, 32), hidden_size=4, outputs=3),
    use(
        "LSTM", x(5, B, 3), p(2, 16, 3), p(2, 16, 4), p(2, 32), None, p(2, B, 4), p(2, B, 4), p(2, 12), hidden_size=4,
        direction="bidirectional", outputs=3,
    ),
    use("LSTM", x(B, 5, 3), p(1, 16, 3), p(1, 16, 4), hidden_size=4, layout=1, input_forget=1, clip=0.4, standard=False),
    use("GRU", x(5, B, 3), p(1, 12, 3), p(1, 12, 4), p(1, 24), hidden_size=4, outputs=2),
    use(
        "GRU", x(5, B, 3), p(2, 12, 3), p(2, 12, 4), p(2, 24), x(B, draw=lengths),
        hidden_size=4, direction="bidirectional", linear_before_reset=1, outputs=2,
    ),
    use("RNN", x(5, B, 3), p(1, 4, 3), p(1, 4, 4), p(1, 8), hidden_size=4, direction="reverse", outputs=2),
    use(
        "RNN", x(5, B, 3), p(1, 4, 3), p(1, 4, 4), p(1, 8), hidden_size=4, activations=("LeakyRelu",),
        activation_alpha=(0.3,), outputs=2,
    ),
    use("LSTM", x(5, B, 16), None, p(1, 16, 4), p(1, 16), hidden_size=4, outputs=3, standard=False),
    use(
        "GRU", x(5, B, 12), None, p(1, 12, 4), p(1, 12), x(B, draw=lengths), p(1, B, 4), hidden_size=4, direction="reverse",
        outputs=2, standard=False,
    ),
    use("RNN", x(5, B, 4), None, p(1, 4, 4), hidden_size=4, outputs=2, standard=False),
]
ATTENDED = [
    use("Attention", x(B, 2, 3, 4), x(B, 2, 5, 4), x(B, 2, 5, 6)),
    use("Attention", x(B, 3, 8), x(B, 5, 8), x(B, 5, 12), q_num_heads=2, kv_num_heads=2, scale=0.3),
    use("Attention", x(B, 4, 3, 4), x(B, 2, 5, 4), x(B, 2, 5, 6), is_causal=1),
    use(
        "Attention", x(B, 3, 16), x(B, 5, 8), x(B, 5, 8), p(3, 5), q_num_heads=4, kv_num_heads=2, softcap=2.0, outputs=4,
        standard=False,
    ),
    use(
        "Attention", x(B, 2, 3, 4), x(B, 2, 3, 4), x(B, 2, 3, 4), p(3, 7, draw=truths), x(B, 2, 4, 4), x(B, 2, 4, 4),
        is_causal=1, outputs=3, standard=False,
    ),
    use("RotaryEmbedding", x(B, 2, 3, 4), x(B, 3, 2), x(B, 3, 2)),
    use("RotaryEmbedding", x(B, 3, 8), p(6, 1), p(6, 1), x(B, 3, draw=below(6)), num_heads=2, rotary_embedding_dim=2),
    use("RotaryEmbedding", x(B, 2, 3, 4), x(B, 3, 2), x(B, 3, 2), interleaved=1),
]
TRANSFORMED = [
    use("DFT", x(B, 3, 8, 1), axis=2),
    use("DFT", x(B, 8, 3, 2), axis=1, inverse=1),
    use("DFT", x(B, 3, 8, 1), axis=2, onesided=1, dft_length=6),
    use("STFT", x(B, 16, 1), None, p(8), frame_step=4, frame_length=8),
    use("STFT", x(B, 16, 1), frame_step=4, frame_length=8),
    use("Det", x(B, 2, 3, 3)),
    use("Tile", x(B, 4, 3), repeats=(1, 2, 1)),
    use("Tile", x(B, 1, 3), repeats=(1, 4, 2)),
    use("Col2Im", x(B, 12, 6), image_shape=(3, 4), block_shape=(2, 2), standard=False),
    use("Col2Im", x(B, 12, 4), image_shape=(3, 4), block_shape=(2, 2), strides=(2, 3), pads=(1, 0, 0, 1), standard=False),
    use("CenterCropPad", x(B, 4, 5), shape=(3, 8), axes=(1, 2)),
    use("CenterCropPad", x(B, 4, 6, 5), shape=(7, 2), axes=(2, 3)),
    use("CenterCropPad", x(B, 4, 6), shape=(4, 3), axes=(1, 2)),
]
MORE: list[Sample] = [*COMPARED, *ORDERED, *INDEXED, *READ_BETWEEN, *RECURRENT, *ATTENDED, *TRANSFORMED]
