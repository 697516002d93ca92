"""executorch: PyTorch's runtime for devices, with XNNPACK for all that it can do. Inputs and outputs go by their position."""

from __future__ import annotations

from collections.abc import Mapping

from onnxzip.shipping.records import PROGRAM, Arrays, Job, Target, run_in_portions
from onnxzip.shipping.targets import register


def convert(job: Job) -> Mapping[str, str]:
    """The exported program, lowered to XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.load(job.source)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    job.output.write_bytes(lowered.buffer)
    names = {t.name: f"input {k}" for k, t in enumerate(job.inputs)}
    return names | {t.name: f"output {k}" for k, t in enumerate(job.outputs)}


def run(job: Job, feeds: Arrays) -> Arrays:
    """ExecuTorch's runtime, on the CPU."""
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(job.output).load_method("forward")

    def once(portion: Arrays) -> Arrays:
        found = method.execute([torch.from_numpy(portion[t.name]) for t in job.inputs])
        return {t.name: value.numpy() for t, value in zip(job.outputs, found, strict=True)}

    return run_in_portions(job, feeds, once)


register(
    Target(
        name="executorch",
        makes="ExecuTorch with XNNPACK",
        suffix=".pte",
        source=PROGRAM,
        packages=("torch", "executorch"),
        extra="executorch",
        convert=convert,
        run=run,
        renames=True,
    )
)
