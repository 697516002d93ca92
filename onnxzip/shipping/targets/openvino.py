"""openvino: the files of Intel's OpenVINO, weights as they are in the net (its tools would halve them to float16).

OpenVINO computes in bfloat16 where the processor has it; the comparison asks for float32, as everybody does who compares.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxzip.shipping.records import ONNX, Arrays, Job, Target, run_in_portions
from onnxzip.shipping.targets import register


def convert(job: Job) -> Mapping[str, str]:
    """By the reader of OpenVINO's runtime, which reports to nobody, unlike its converter."""
    import openvino

    openvino.save_model(openvino.Core().read_model(job.source), job.output, compress_to_fp16=False)
    return {}


def run(job: Job, feeds: Arrays) -> Arrays:
    """OpenVINO on the CPU."""
    import openvino

    compiled = openvino.Core().compile_model(job.output, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def once(portion: Arrays) -> Arrays:
        found = compiled(dict(portion))
        return {t.name: found[t.name] for t in job.outputs}

    return run_in_portions(job, feeds, once)


register(
    Target(
        name="openvino",
        makes="OpenVINO IR",
        suffix=".xml",
        beside=(".bin",),
        source=ONNX,
        packages=("openvino",),
        extra="openvino",
        convert=convert,
        run=run,
        batch=None,
        quantizes=True,
    )
)
