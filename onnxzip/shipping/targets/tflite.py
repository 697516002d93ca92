"""tflite: Google's LiteRT, the former TensorFlow Lite, through litert-torch. Axes stay as in the net: channels first."""

from __future__ import annotations

from collections.abc import Mapping

from onnxzip.shipping.records import PROGRAM, Arrays, Job, Target, run_in_portions
from onnxzip.shipping.targets import register


def convert(job: Job) -> Mapping[str, str]:
    """The exported program, traced again by litert-torch."""
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter

    program = torch.export.load(job.source)
    samples = tuple(torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in job.inputs)
    litert_torch.convert(program.module(), samples).export(str(job.output))
    (signature,) = Interpreter(str(job.output)).get_signature_list().values()
    return {
        tensor.name: str(name)
        for key in ("inputs", "outputs")
        for tensor, name in zip(getattr(job, key), sorted(signature[key], key=_place), strict=True)
    }


def _place(name: str) -> int:
    """Position of an input or output: the number at the end of its name."""
    return int(name.rpartition("_")[2])


def run(job: Job, feeds: Arrays) -> Arrays:
    """LiteRT's interpreter, on the CPU."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(job.output), num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()

    def once(portion: Arrays) -> Arrays:
        found = signature(**{job.names[t.name]: portion[t.name] for t in job.inputs})
        return {t.name: found[job.names[t.name]] for t in job.outputs}

    return run_in_portions(job, feeds, once)


register(
    Target(
        name="tflite",
        makes="LiteRT, the former TensorFlow Lite",
        suffix=".tflite",
        source=PROGRAM,
        packages=("torch", "litert_torch", "ai_edge_litert"),
        extra="tflite",
        convert=convert,
        run=run,
        renames=True,
    )
)
