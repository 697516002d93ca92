"""ort: the format of ONNX Runtime's mobile builds, the operators that such a build must have, and what phones make of the net.

NET.ort                         the net, optimised for any processor
NET.required_operators.config   for ONNX Runtime's build with --include_ops_by_config
NET.usability.txt               how much of it NNAPI and Core ML can take over
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Mapping

from onnxzip.shipping.records import ONNX, Arrays, Job, Target, run_in_portions
from onnxzip.shipping.targets import register

OPERATORS, USABILITY = ".required_operators.config", ".usability.txt"


def convert(job: Job) -> Mapping[str, str]:
    """By ONNX Runtime's own tools, which would import torch where it is installed, for other work than this."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    convert_onnx_models_to_ort(job.source, job.output.parent, [OptimizationStyle.Fixed])
    made = job.output.parent / job.source.with_suffix(".ort").name
    config = made.with_suffix(OPERATORS)
    text = config.read_text(encoding="utf-8").replace(str(made.resolve()), job.output.name)
    config.unlink()
    os.replace(made, job.output)
    job.beside(OPERATORS).write_text(text, encoding="utf-8")
    job.beside(USABILITY).write_text(_usability(job), encoding="utf-8")
    return {}


def _usability(job: Job) -> str:
    """What the usability checker says of the net."""
    from onnxruntime.tools.mobile_helpers import usability_checker

    said, logger = io.StringIO(), logging.getLogger("usability")
    logger.addHandler(logging.StreamHandler(said))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    usability_checker.analyze_model(job.source, skip_optimize=False, logger=logger)
    return said.getvalue().replace(str(job.source), job.output.name)


def run(job: Job, feeds: Arrays) -> Arrays:
    """ONNX Runtime, from the file as it is."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry("session.load_model_format", "ORT")
    session = ort.InferenceSession(str(job.output), options, providers=["CPUExecutionProvider"])
    names = [t.name for t in job.outputs]
    return run_in_portions(job, feeds, lambda portion: dict(zip(names, session.run(names, dict(portion)), strict=True)))


register(
    Target(
        name="ort",
        makes="ORT format for ONNX Runtime's mobile builds",
        suffix=".ort",
        beside=(OPERATORS, USABILITY),
        source=ONNX,
        packages=("onnxruntime", "flatbuffers"),
        extra="",
        convert=convert,
        run=run,
        batch=None,
        quantizes=True,
    )
)
