"""A net in int8, by onnxruntime.quantization: weights per channel, activations by the ranges that the calibration data show.

Four fifths of each source's samples show the ranges; the others tell how close the result is (`Source.held`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnxzip.calibration.sources import Samples
from onnxzip.shipping.preparing import Prepared
from onnxzip.shipping.records import Job

_ADVICE = "root"  # the logger by which onnxruntime recommends steps that a fused net has behind it


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Samples that show ranges, in portions of the net's batch."""

    def __init__(self, samples: Samples, prepared: Prepared) -> None:
        self._portions = _portions(samples, prepared)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._portions, None)


def _portions(samples: Samples, prepared: Prepared) -> Iterator[dict[str, np.ndarray]]:
    job = Job(Path(), Path(), prepared.inputs, (), {})
    for source in samples.sources:
        shown = {name: array[~source.held()] for name, array in source.inputs.items()}
        for _, portion in job.portions(prepared.fed(shown)):
            yield portion


def quantized(prepared: Prepared, samples: Samples) -> Prepared:
    """The net with weights and activations in int8, its inputs and outputs as they were."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        advice = logging.getLogger(_ADVICE)
        level = advice.level
        advice.setLevel(logging.ERROR)
        try:
            quantize_static(
                prepared.model,
                path,
                _Reader(samples, prepared),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            advice.setLevel(level)
        return replace(prepared, model=onnx.load(path))
