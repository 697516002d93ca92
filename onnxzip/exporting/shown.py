"""What classes are picked from, as further outputs: a task that says nothing but classes has none that could teach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto, shape_inference

from onnxzip.exporting.metadata import Origin
from onnxzip.exporting.originals import Originals, ports_in
from onnxzip.loading.files import read
from onnxzip.net import Node, picked_from

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
Teaching = Mapping[str, tuple[Path | bytes, Origin]]  # task -> its original, or what would be in such a file


def shown(content: bytes, originals: Originals) -> tuple[bytes, Teaching]:
    """A fused net and its originals; those of tasks without any output of floats say what an ArgMax or TopK picks from, too.

    Args:
        content: of a fused file.
        originals: of its tasks.
    """
    model, found, values = ModelProto.FromString(content), dict[str, tuple[Path | bytes, Origin]](), dict[str, None]()
    ports, _ = ports_in(model)
    for task, (file, origin) in originals.items():
        found[task] = file, origin
        if any(ports[new].dtype.kind not in "iub" for new in origin.outputs.values()):
            continue
        alone = read(file)
        ours, theirs = picks_in(model, origin.outputs.values()), picks_in(alone, origin.outputs)
        pairs = {theirs[name]: ours[new] for name, new in origin.outputs.items() if name in theirs and new in ours}
        if pairs:
            found[task] = _saying(alone, pairs), replace(origin, outputs={**origin.outputs, **pairs})
            values |= dict.fromkeys(pairs.values())
    return _saying(model, values) if values else content, found


def saying_scores(file: Path, outputs: Iterable[str]) -> tuple[bytes, dict[str, str]]:
    """What is in an original's file, with what its outputs are picked from as outputs, too; and these, by their names."""
    alone = read(file)
    values = picks_in(alone, outputs).values()
    return _saying(alone, values), {v: v for v in values}


def picks_in(model: ModelProto, outputs: Iterable[str]) -> dict[str, str]:
    """Outputs of a model that are picked from floats -> these."""
    nodes = [Node(n.name, n.op_type, tuple(v or None for v in n.input), tuple(n.output)) for n in model.graph.node]
    found = {name: value for name in outputs if (value := picked_from(nodes, name)) is not None}
    known = _known(model) if found else {}
    return {n: v for n, v in found.items() if v in known and known[v].type.tensor_type.elem_type in _FLOATS}


def _saying(model: ModelProto, values: Iterable[str]) -> bytes:
    """What is in a model with some values as outputs behind its own."""
    known = _known(model)
    whole = ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.extend(known[value] for value in values)
    return bytes(whole.SerializeToString(deterministic=True))


def _known(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Types of inputs and inner values."""
    graph = shape_inference.infer_shapes(model).graph
    return {v.name: v for v in (*graph.value_info, *graph.input)}
