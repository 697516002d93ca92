"""A fused file as the net that a target is handed: some tasks or all, shapes static where asked, at the opset asked for.

A static net has nothing left that computes shapes: no Shape, no Gather. Chips that take over nets want it so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from onnxzip.calibration.checking import Feed
from onnxzip.errors import UnsupportedError
from onnxzip.exporting.metadata import check_outputs, read_origins
from onnxzip.exporting.originals import check_no_tail, feeds_for, ports_of
from onnxzip.exporting.shown import without_tails
from onnxzip.exporting.splitting import split_model
from onnxzip.fusion.rejoining import joined_recurrence
from onnxzip.loading import load_model
from onnxzip.loading.faithful import fitting
from onnxzip.loading.files import opset_of, plain, read
from onnxzip.loading.weights import nodes_of
from onnxzip.net import Net, Port, in_file, within_one
from onnxzip.runtime import at_older_opset, entries_of, fixed_batch, to_model
from onnxzip.shipping.records import Tensor


@dataclass(frozen=True)
class Prepared:
    """A net that is shipped.

    Attributes:
        model: the net.
        inputs, outputs: of the model, in its order.
        fused: the file that it comes from.
        reference: what it has to compute as: that file, or what would be in a file that ends where it does.
        feeds: what the tasks in it are fed with.
        outputs_of: task -> {output in the fused file: output in the model}.
        inputs_of: input in the model -> input in the fused file.
        axes: input or output in the model -> axis of its samples, where the fused file tells that it is not the first one.
    """

    model: ModelProto
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    fused: Path
    reference: Path | bytes
    feeds: Mapping[str, Feed]
    outputs_of: Mapping[str, Mapping[str, str]]
    inputs_of: Mapping[str, str]
    axes: Mapping[str, int]

    def bounded(self, task: str) -> set[str]:
        """Outputs of a task, by their names in the fused file, that lie between -1 and 1."""
        found = within_one(nodes_of(self.model.graph), self.outputs_of[task].values())
        return {fused for fused, name in self.outputs_of[task].items() if name in found}

    def fed(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the model is fed with, of what the fused file is, samples in front; zeros for inputs of tasks that the samples
        are not for."""
        count, found = len(next(iter(feeds.values()))), dict[str, np.ndarray]()
        for port in self.inputs:
            name, size = self.inputs_of[port.name], (*port.shape[: port.axis], *port.shape[port.axis + 1 :])
            found[port.name] = feeds[name] if name in feeds else np.zeros((count, *size), port.dtype)
        return found


def prepare_net(
    fused: Path, task: str | None, batch: int | None, opset: int | None, before_end: bool = False, oldest: int | None = None
) -> Prepared:
    """The net that a target is handed.

    Args:
        fused: a file that `merge` or `split` has made.
        task: which alone; None for all.
        batch: samples it takes at once; None for any number, as the fused file.
        opset: None for the oldest from `oldest` on that can say all that the net says.
        before_end: whether it ends in what tails read.
        oldest: None for the fused file's own.

    Raises:
        InvalidModelError, UnsupportedError: the file was not made by onnxzip, or cannot be brought to that opset, or has more
            than the 2 GB that one file can hold.
        UsageError: it has no such task.
    """
    model = read(fitting(fused))
    model = without_tails(model) if before_end else model
    reference = bytes(model.SerializeToString()) if before_end else fused
    before = read_origins(entries_of(model), str(fused))
    wanted = {t: o for t, o in before.items() if task in (None, t)}
    check_outputs(wanted, [p.name for p in model.graph.output], str(fused))
    feeds = feeds_for(model, {t: (fused, o) for t, o in wanted.items()}, of=task or next(iter(before)))
    if task is not None:
        model = split_model(model, task, str(fused))
    after = read_origins(entries_of(model), str(fused))
    check_no_tail(
        model, fused, "operators that no target is given; `--before-end` exports up to what the first of them read, "
        "`--task NAME` a task that has none"
    )
    least = oldest if opset is None else opset
    least = least if least is not None and least > opset_of(model) else None
    net = joined_recurrence(load_model(model, fused, task, least))
    if opset is not None and opset < net.opset:
        net = at_older_opset(net, opset, str(fused))
    elif opset is None and oldest is not None:
        net = next(_at_opsets(net, oldest, str(fused)), net)
    prepared = _checked(to_model(in_file(net if batch is None else fixed_batch(net, batch))), str(fused))
    ends = zip(ports_of(prepared.graph.output), net.outputs, strict=True)
    return Prepared(
        prepared,
        tuple(_tensor(p, free.axis) for p, free in zip(ports_of(prepared.graph.input), net.inputs, strict=True)),
        tuple(_output(port, free, net.inputs[0].shape[0]) for port, free in ends),
        fused,
        reference,
        feeds,
        {t: {before[t].outputs[o]: name for o, name in after[t].outputs.items()} for t in after},
        {new: name for t in after for name, own in before[t].inputs.items() for new, o in after[t].inputs.items() if o == own},
        net.axes,
    )


def _at_opsets(net: Net, oldest: int, where: str) -> Iterator[Net]:
    """The net at those older opsets that can say all that it says, the oldest first."""
    for opset in range(oldest, net.opset):
        try:
            yield at_older_opset(net, opset, where)
        except UnsupportedError:
            continue


def _tensor(port: Port, axis: int = 0) -> Tensor:
    return Tensor(port.name, port.shape, str(port.dtype), axis)


def _output(port: Port, free: Port, batch: int) -> Tensor:
    """An output; `free` is the same one of the net, for any number of samples, or for `batch`."""
    if free.axis:
        return _tensor(port, free.axis)
    fixed = (0, free.shape[0] // batch if batch > 0 and free.shape and not free.shape[0] % batch else 1)
    axis, rows = next(((k, -size) for k, size in enumerate(free.shape) if size < 0), fixed)
    return replace(_tensor(port), axis=axis, rows=rows)


def _checked(model: ModelProto, where: str) -> ModelProto:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        opset = opset_of(model)
        raise UnsupportedError(f"{where}: is no valid net at opset {opset}: {plain(error)}. Use another --opset.") from error
    return model
