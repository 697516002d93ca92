"""Fourier transforms: DFT along an axis, STFT of a signal; the last axis holds real and imaginary parts.

    n i c *s -> n o d *s               frequencies take the place of samples: their order has a meaning
"""

from __future__ import annotations

from typing import Any

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import first, names, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _axis(attrs: Any, rank: int) -> int:
    axis = attrs.get("axis")
    return int(-2 if axis is None else axis) % rank


def _dft_line(view: View) -> Line:
    rank = len(first(view))
    before, after = names(rank), names(rank)
    axis = _axis(view.attrs, rank)
    for k in (axis, rank - 1):
        before[k], after[k] = f"i{k}", f"o{k}"
    return Line(text([before], [after]), pinned=frozenset({before[axis], after[axis], before[-1], after[-1]}))


def _dft(
    x: Any, *, inverse: int, onesided: int, dft_length: Any = None, axis: Any = None
) -> Any:
    """Complex or real input, complex output; the inverse of a one-sided spectrum is real."""
    at = _axis({"axis": axis}, x.ndim)
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    n = None if dft_length is None else int(dft_length)
    if inverse and onesided:
        return torch.fft.irfft(signal, n, at).unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, n, at))
    y = torch.view_as_real(torch.fft.fft(signal, n, at))
    return y.narrow(at, 0, y.shape[at] // 2 + 1) if onesided else y


def _stft_line(view: View) -> Line:
    windowed = len(view.inputs) > 2 and view.inputs[2] is not None
    line = f"b l c{', w' if windowed else ''} -> b f q d"
    return Line(line, pinned=frozenset("lcwfqd"))


def _stft(
    signal: Any, _: Any = None, window: Any = None, *, frame_step: Any, onesided: int, frame_length: Any = None
) -> Any:
    """The transform of each frame, weighted by the window."""
    length = int(frame_length) if frame_length is not None else window.shape[0]
    frames = signal.unfold(1, length, int(frame_step))
    frames = frames if window is None else frames * window
    return _dft(frames.transpose(-1, -2), inverse=0, onesided=onesided, axis=-2)


register(Operator("DFT", _dft_line, _dft, Symmetry.LINEAR, constants={1: "dft_length", 2: "axis"}))
register(Operator("STFT", _stft_line, _stft, Symmetry.LINEAR, constants={1: "frame_step", 3: "frame_length"}))
