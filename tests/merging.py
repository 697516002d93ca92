"""What the tests of whole merges share: two small nets as files, their data, and the command line run in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser
from typer.testing import CliRunner

from onnxzip.cli.commands import app

MODELS = Path(__file__).parent.parent / "models"
SHAPE = (1, 6, 6)
NET = """<ir_version: 8, opset_import: ["": 17]>
net (float[{batch},1,6,6] image) => (float[{batch},{classes}] logits) {{
    [first] a = Conv <pads = [1,1,1,1]> (image, w0, b0)
    b = Relu (a)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (b)
    f = Flatten (p)
    [second] c = Gemm <transB = 1> (f, w1, b1)
    d = Relu (c)
    [head] logits = Gemm <transB = 1> (d, w2, b2)
}}"""


@dataclass(frozen=True)
class Ran:
    """What a command has left behind."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Ran:
    """The command line, in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="onnxzip")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def failed(code: int, *arguments: object, words: tuple[str, ...]) -> str:
    """A command fails with this code; what it says on stderr is one message with these words and no traceback."""
    ran = run(*arguments)
    assert ran.code == code, ran
    assert "Traceback" not in ran.err
    for word in words:
        assert word.lower() in ran.err.lower(), (word, ran.err)
    return ran.err


def write_net(path: Path, seed: int, classes: int = 4, width: int = 8, batch: str = "N", **given: np.ndarray) -> Path:
    """A small convolutional net with weights of its own."""
    model = parser.parse_model(NET.format(classes=classes, batch=batch))
    rng = np.random.default_rng(seed)
    shapes = {
        "w0": (width, 1, 3, 3),
        "b0": (width,),
        "w1": (2 * width, 9 * width),
        "b1": (2 * width,),
        "w2": (classes, 2 * width),
        "b2": (classes,),
    }
    for name, shape in shapes.items():
        scale = np.sqrt(2 / max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 0.1
        array = given.get(name, (scale * rng.standard_normal(shape)).astype(np.float32))
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path.write_bytes(model.SerializeToString())
    return path


def images(count: int, seed: int = 5) -> np.ndarray:
    """Samples for the small nets."""
    return np.random.default_rng(seed).standard_normal((count, *SHAPE), np.float32)


def outputs_of(model: Path | bytes, x: np.ndarray, name: str = "image") -> dict[str, np.ndarray]:
    """All outputs of a file with one input for some samples."""
    return fed(model, {name: x})


def fed(model: Path | bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a file for some samples by input."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(
        str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its hash."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def entries(path: Path) -> dict[str, str]:
    """Metadata of a file."""
    return {p.key: p.value for p in onnx.load(path).metadata_props}
