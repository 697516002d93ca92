"""A net that takes one sample at a time as one that takes any number: for a merge with nets that do, and to train it.

    inputs [1, ...] -> [N, ...]        Reshape to [1, ...] -> to [-1, ...], where the other entries are numbers, and to
                                       [T, 1, ...] -> to [T, -1, ...], where there is no other 1

It must give the same for several samples at once as for each alone, which is tried on noise; else the net is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.loading.dims import ports_of_graph
from onnxzip.loading.stored import step_of, tensors_of
from onnxzip.net import BATCH, Net, bind_batch
from onnxzip.runtime import open_session

SAMPLES, CLOSE = 3, 1e-4


def is_fixed(net: Net) -> bool:
    """Whether a net takes exactly one sample."""
    return all(port.shape[:1] == (1,) for port in net.inputs)


def is_free(net: Net) -> bool:
    """Whether a net takes any number of samples."""
    return all(port.shape[:1] == (BATCH,) for port in net.inputs)


def freed(path: Path, model: ModelProto, alone: Net, to_net: Callable[[ModelProto], Net]) -> Net:
    """The net with a free batch.

    Args:
        path: for messages.
        model: as it is in the file, with a batch of 1; it is not changed.
        alone: the net of that model.
        to_net: a model as a net.

    Raises:
        UnsupportedError: it mixes its samples, its batch stands in more than inputs and shapes, or it has a tail.
    """
    if alone.tail is not None:
        raise _refusal(path, f"what begins with node {alone.tail.begins[0][0]!r} is kept as it is")
    try:
        net = to_net(with_free_batch(model))
        differs = differing(alone, net)
    except (InvalidModelError, UnsupportedError) as error:
        raise _refusal(path, str(error)) from error
    if differs is not None:
        raise _refusal(path, f"its output {differs!r} is another for several samples than for each")
    return replace(net, batch="")


def _refusal(path: Path, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: takes one sample at a time, other nets take any number, and it cannot be made to: {why}. "
        "Export all nets with one kind of batch."
    )


def with_free_batch(model: ModelProto) -> ModelProto:
    """A copy of a model whose inputs, and shapes that begin with the one sample, leave the number of samples open."""
    new = deepcopy(model)
    graph = new.graph
    for port in ports_of_graph(new):
        port.type.tensor_type.shape.dim[0].dim_param = "N"
    for port in graph.output:
        port.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    known = tensors_of(graph)
    for k, node in enumerate(graph.node):
        if node.op_type == "Reshape" and node.input[1] in known:
            _free_reshape(new, node, known[node.input[1]], f"{node.input[1]}.free.{k}")
    return new


def _free_reshape(model: ModelProto, node: NodeProto, tensor: TensorProto, name: str) -> None:
    """Let the first axis, or the only one of 1, be what the others leave; a shape with -1 in it keeps that, and takes the
    batch over by 0."""
    shape = numpy_helper.to_array(tensor).tolist()
    if not shape or (shape[0] != 1 and (shape.count(1) != 1 or -1 in shape)):
        return
    free = [*shape]
    free[shape.index(1)] = 0 if -1 in shape else -1
    model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(free)], free))
    node.input[1] = name


def differing(alone: Net, net: Net) -> str | None:
    """The first output that is not the same for several samples at once as for each by itself.

    Raises:
        UnsupportedError: ONNX Runtime cannot run one of them on several samples.
    """
    rng = np.random.default_rng(0)
    feeds = {p.name: rng.standard_normal(bind_batch(p.shape, SAMPLES)).astype(p.dtype) for p in net.inputs}
    together, session = open_session(net, "cpu", 1).run(feeds), open_session(alone, "cpu", 1)
    for k in range(SAMPLES):
        for name, want in session.run({n: v[k : k + 1] for n, v in feeds.items()}).items():
            got, largest = np.atleast_1d(together[name])[k : k + 1], max(float(np.abs(want).max()), 1e-6)
            if got.shape != want.shape or not np.allclose(got, want, rtol=0, atol=(CLOSE + step_of(want.dtype)) * largest):
                return name
    return None
