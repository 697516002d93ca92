"""coreml: an ML program for Apple's devices, in float32. Core ML exists there only, so nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping

from onnxzip.shipping.records import PROGRAM, Job, Target
from onnxzip.shipping.targets import register


def convert(job: Job) -> Mapping[str, str]:
    """coremltools, from the exported program; for iOS 16 and macOS 13, or later."""
    import coremltools
    import torch

    program = torch.export.load(job.source).run_decompositions({})
    model = coremltools.convert(
        program,
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS16,
        skip_model_load=True,
    )
    model.save(str(job.output))
    described = model.get_spec().description
    return {
        tensor.name: str(port.name)
        for tensors, ports in ((job.inputs, described.input), (job.outputs, described.output))
        for tensor, port in zip(tensors, ports, strict=True)
    }


register(
    Target(
        name="coreml",
        makes="Core ML program",
        suffix=".mlpackage",
        source=PROGRAM,
        packages=("torch", "coremltools"),
        extra="coreml",
        convert=convert,
        run=None,
        folder="Manifest.json",
        renames=True,
        not_run="Core ML exists on Apple's systems only",
    )
)
