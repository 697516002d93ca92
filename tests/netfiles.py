"""Files written from text, and the check that a net computes what its file computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, numpy_helper, parser

from onnxzip.loading import load
from onnxzip.net import Net, bind_batch
from onnxzip.runtime import open_session, to_model

RTOL = 1e-5


def written(folder: Path, graph: str, opset: int = 13, ir_version: int = 8, imports: str = "", **given: np.ndarray) -> Path:
    """A file made of a graph's text; inputs whose name does not begin with x become random initializers."""
    text = f'<ir_version: {ir_version}, opset_import: ["": {opset}{imports}]> {graph}'
    model = parser.parse_model(text)
    rng = np.random.default_rng(7)
    for port in [p for p in model.graph.input if not p.name.startswith("x")]:
        shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
        array = given.get(port.name, np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape), np.float32))
        model.graph.initializer.append(numpy_helper.from_array(array, port.name))
        if ir_version > 3:
            model.graph.input.remove(port)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    del model.graph.value_info[:]
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def originals_outputs(model: ModelProto | Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    return list(ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds))


def random_feeds(net: Net, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    return {p.name: rng.standard_normal(bind_batch(p.shape, batch)).astype(p.dtype) for p in net.inputs}


def check_same(path: Path, net: Net, batches: tuple[int, ...] = (1, 4)) -> None:
    """The net lowered again is valid ONNX and computes what the file computes, under the same names."""
    lowered = to_model(net)
    onnx.checker.check_model(lowered, full_check=True)
    original = onnx.load(path)
    assert [o.name for o in lowered.graph.output] == [o.name for o in original.graph.output]
    session = open_session(net, device="cpu", threads=1)
    for batch in batches:
        feeds = random_feeds(net, batch)
        for want, got in zip(originals_outputs(path, feeds), session.run(feeds).values(), strict=True):
            np.testing.assert_allclose(got, want, rtol=RTOL, atol=RTOL * float(np.abs(want).max()))


def loaded(path: Path, batches: tuple[int, ...] = (1, 4)) -> Net:
    """Load a file, check that the net computes the same and obeys what every net obeys."""
    net = load(path)
    check_same(path, net, batches)
    check_canonical(net)
    return net


def check_canonical(net: Net) -> None:
    names = [n.name for n in net.nodes]
    assert all(names) and len(set(names)) == len(names)
    known = {p.name for p in net.inputs} | set(net.params)
    for node in net.nodes:
        assert all(v is None or v in known for v in node.inputs), node
        assert not node.inputs or node.inputs[-1] is not None
        known |= set(node.outputs)
    assert set(net.shapes) == known == set(net.dtypes)
    assert {v for n in net.nodes for v in n.inputs} >= set(net.params)
    for name, array in net.params.items():
        assert array.flags.c_contiguous and not array.flags.writeable and net.shapes[name] == array.shape


def ops(net: Net) -> list[str]:
    return [node.op for node in net.nodes]
