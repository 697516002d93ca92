"""ncnn: Tencent's runtime for phones, through pnnx. It has no batch axis, and names of its own: in0, out0, out1."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxzip.shipping.records import ONNX, Arrays, Job, Target, run_in_portions
from onnxzip.shipping.targets import register

WEIGHTS = ".bin"


def convert(job: Job) -> Mapping[str, str]:
    """pnnx, in float32; what it writes besides the net of ncnn is left where the source is."""
    shapes = ",".join(str(list(t.shape)).replace(" ", "") for t in job.inputs)
    subprocess.run([str(_pnnx()), job.source.name, f"inputshape={shapes}", "fp16=0"], cwd=job.source.parent, check=True)
    for made, place in ((".ncnn.param", job.output), (".ncnn.bin", job.beside(WEIGHTS))):
        job.source.with_suffix(made).replace(place)
    names = {t.name: f"in{k}" for k, t in enumerate(job.inputs)}
    return names | {t.name: f"out{k}" for k, t in enumerate(job.outputs)}


def _pnnx() -> Path:
    """The program in the package, found without importing it, which would bring torch along."""
    spec = importlib.util.find_spec("pnnx")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'pnnx'")
    return Path(spec.origin).parent / "pnnx"


def run(job: Job, feeds: Arrays) -> Arrays:
    """ncnn on the CPU, in float32."""
    import ncnn

    with ncnn.Net() as net:
        for what in ("packed", "storage", "arithmetic"):
            setattr(net.opt, f"use_fp16_{what}", False)
        if net.load_param(str(job.output)) or net.load_model(str(job.beside(WEIGHTS))):
            raise RuntimeError(f"ncnn cannot load {job.output.name}: it has a layer that ncnn does not know")

        def once(portion: Arrays) -> Arrays:
            with net.create_extractor() as extractor:
                for tensor in job.inputs:
                    extractor.input(job.names[tensor.name], ncnn.Mat(portion[tensor.name].take(0, tensor.axis)).clone())
                return {t.name: _extracted(extractor.extract(job.names[t.name]), t.shape) for t in job.outputs}

        return run_in_portions(job, feeds, once)


def _extracted(found: tuple[int, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """An output with its batch axis."""
    code, mat = found
    if code:
        raise RuntimeError(f"ncnn gives up on the net (code {code})")
    return np.array(mat).reshape(shape)


register(
    Target(
        name="ncnn",
        makes="ncnn",
        suffix=".param",
        beside=(WEIGHTS,),
        source=ONNX,
        packages=("pnnx", "ncnn"),
        extra="ncnn",
        convert=convert,
        run=run,
        batches=(1,),
        tolerance=1e-3,
        renames=True,
    )
)
