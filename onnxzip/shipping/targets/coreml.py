"""coreml: an ML program for Apple's devices, in float32. Core ML exists there only, so nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping

from onnxzip.shipping.records import PROGRAM, Job, Target
from onnxzip.shipping.targets import register

DEBUGGING = "executorch_debug_handle_mapping.json"  # as large as the program, and of no use without ExecuTorch


def convert(job: Job) -> Mapping[str, str]:
    """coremltools, from the exported program; for iOS 16 and macOS 13, or later."""
    import coremltools
    import torch

    program = torch.export.load(job.source).run_decompositions({})
    outputs = {t.name: t.name if t.name.isidentifier() else f"output_{k}" for k, t in enumerate(job.outputs)}
    model = coremltools.convert(
        program,
        outputs=[coremltools.TensorType(name=name) for name in outputs.values()],
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS16,
        skip_model_load=True,
    )
    model.save(str(job.output))
    (job.output / DEBUGGING).unlink(missing_ok=True)
    inputs = zip(job.inputs, program.graph_signature.user_inputs, strict=True)
    return {**{t.name: str(name) for t, name in inputs}, **outputs}


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
