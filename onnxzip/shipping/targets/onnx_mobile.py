"""onnx-mobile: an ONNX file for runtimes that lag behind: static shapes, an old opset, the oldest IR that holds it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from onnxzip.shipping.records import ONNX, Arrays, Job, Target, run_in_portions
from onnxzip.shipping.targets import register

OPSET = 13  # ONNX 1.8, of 2020: what is older has no per-channel int8


def convert(job: Job) -> Mapping[str, str]:
    """The net is prepared already."""
    shutil.copyfile(job.source, job.output)
    return {}


def run(job: Job, feeds: Arrays) -> Arrays:
    """ONNX Runtime, without its own optimisations: what the file says, node by node."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(job.output), options, providers=["CPUExecutionProvider"])
    names = [t.name for t in job.outputs]
    return run_in_portions(job, feeds, lambda portion: dict(zip(names, session.run(names, dict(portion)), strict=True)))


register(
    Target(
        name="onnx-mobile",
        makes="ONNX with static shapes at an old opset",
        suffix=".onnx",
        source=ONNX,
        packages=("onnxruntime",),
        extra="",
        convert=convert,
        run=run,
        opset=OPSET,
        quantizes=True,
    )
)
