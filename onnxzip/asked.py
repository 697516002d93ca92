"""What is asked of a merge or of a retraining, checked before the long work that would fail by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxzip.analysis import Plan
from onnxzip.calibration.checking import Feed
from onnxzip.calibration.reading import files_given
from onnxzip.calibration.sources import Given
from onnxzip.config import Options, RetrainOptions
from onnxzip.errors import InvalidDataError, UsageError
from onnxzip.exporting.again import Kept, kept_tasks, namer
from onnxzip.exporting.metadata import features_of
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.shown import made_in, telling
from onnxzip.foreign import module_files
from onnxzip.fusion.assembling import check_ports
from onnxzip.net import Classes, Port, classes_of, picked_from
from onnxzip.net.classes import VALUES
from onnxzip.ops.evaluate import check_runnable
from onnxzip.ops.lazy import execute, torch
from onnxzip.peers import Peers
from onnxzip.retraining.heads import check_kinds, kinds_from, teaches


def read_beside(data: Any, options: RetrainOptions) -> tuple[Path, ...]:
    """Files that are read beside nets, to which nothing may be written: data, and the module of a loss."""
    modules = module_files(options.loss) if isinstance(options.loss, str) else []
    return (*files_given(data), *(file.absolute() for file in modules))


def checked_plan(plan: Plan, files: Mapping[str, Path], options: Options, peers: Peers) -> dict[str, Classes]:
    """What the outputs of each net of a plan say of classes, if the nets can be fed, told apart and, where asked for, taught.

    Raises:
        UsageError, UnsupportedError, InvalidDataError, BackendMissingError: saying what cannot be done.
    """
    kept = kept_tasks({t: n.metadata for t, n in plan.nets.items()})
    check_ports(plan, namer(kept))
    _check_channels(plan)
    classes = _classes(plan, kept, kinds_from(options.retrain.head))
    if options.steps.retrain:
        _check_retraining(plan, files, kept, options, peers)
    return classes


def check_labelled(given: Given, feeds: Mapping[str, Feed], options: RetrainOptions) -> None:
    """Refuse a weight for labels where there are none, or nothing that they could teach.

    Raises:
        UsageError: saying which of both, and how to give some.
    """
    if not options.label_weight or any(pool.labels for pool in given.pools):
        return
    flag, able = f"--label-weight {options.label_weight:g}", [t for t, feed in feeds.items() if feed.classes is not None]
    if not able:
        raise UsageError(f"{flag}: no task has an output [batch, classes], which labels could teach. Leave it out.")
    raise UsageError(f"{flag} needs labels: an array 'y' of classes in the data for {' or '.join(map(repr, able))}")


def check_loss_of(plan: Plan, files: Mapping[str, Path], given: Given, options: Options) -> None:
    """Refuse a loss of the user's before the zip, as far as the original nets tell what it will be given.

    Raises:
        UsageError: it fails, or nothing can be trained by it.
        InvalidDataError: an output of an original net is NaN or Inf.
    """
    if not (options.steps.retrain and options.retrain.loss):
        return
    from onnxzip.retraining.lesson import Lesson, check_loss
    from onnxzip.retraining.student import device_for
    from onnxzip.retraining.teachers import teachers_of

    originals = dict[str, tuple[Path | bytes, Origin]]()
    for task, net in plan.nets.items():
        outputs = {p.name: p.name for p in net.outputs if teaches(p, net.inputs[0].shape[0])}
        alone: Path | bytes = files[task]
        if net.tail is not None or not outputs:
            alone, outputs = telling(files[task], net, outputs)
        originals[task] = alone, Origin("", "", plan.overlay.inputs[task], outputs, axes=net.axes, fixed=net.fixed)
    lesson = Lesson(teachers_of(originals, options.run.device), given.pools, 0)
    check_loss(lesson, options.retrain, device_for(options.run.device))


def _classes(plan: Plan, kept: Kept, given: Mapping[str, str]) -> dict[str, Classes]:
    """What the outputs of each net of a plan say of classes.

    Args:
        given: what the user says of outputs of the fused net.

    Raises:
        UsageError: it has no such output.
    """
    named, found = namer(kept), {}
    ports = {task: [p for p in net.outputs if p.name in net.ends] for task, net in plan.nets.items()}
    check_kinds([named(task, p.name) for task, own in ports.items() for p in own], given)
    for task, net in plan.nets.items():
        kinds = dict.fromkeys(features_of(net, plan.added(task)), VALUES)
        kinds |= {p.name: kind for p in ports[task] if (kind := given.get(named(task, p.name))) is not None}
        told = classes_of({p.name: p for p in ports[task]}, net.nodes, net.inputs[0].shape[0], kinds)
        found[task] = replace(told, loose=net.made)
    return found


def _check_channels(plan: Plan) -> None:
    """Refuse samples with other channels than the convolutions that read them: an input may leave their number to the data.

    Raises:
        InvalidDataError: saying both, and whether the channels stand last.
    """
    for task, net in plan.nets.items():
        shapes = {p.name: p.shape for p in net.inputs}
        for node in net.nodes:
            if node.op != "Conv" or (name := node.inputs[0]) not in shapes or (kernel := node.inputs[1]) not in net.params:
                continue
            shape, reads = shapes[name], net.params[str(kernel)].shape[1] * int(node.attrs["group"])
            if shape[1] != reads:
                hint = ". Move their channels to the front" if shape[-1] == reads else ""
                raise InvalidDataError(
                    f"input {name!r}: {task!r} convolves {reads} channels, samples {list(shape[1:])} have {shape[1]}{hint}"
                )


def _check_retraining(plan: Plan, files: Mapping[str, Path], kept: Kept, options: Options, peers: Peers) -> None:
    """Refuse what `retrain_content` would refuse after the zip, of all that can be told before."""
    for net in plan.nets.values():
        check_runnable(net)
    execute(torch)
    from onnxzip.retraining.request import check_request

    outputs, named = dict[str, list[Port]](), namer(kept)
    for name, net in plan.nets.items():
        read = net.ends if net.tail is None else {*net.ends, *made_in(files[name])}
        ports = {p.name: p._replace(name=named(name, p.name)) for p in net.outputs if p.name in read}
        tasks = kept[name].items() if name in kept else ()
        picks = {n: Port(v, net.dtypes[v], net.shapes[v]) for n in ports if (v := picked_from(net.nodes, n)) is not None}
        of = {task: [*origin.outputs.values(), *origin.before_tail.values()] for task, origin in tasks} or {name: [*ports]}
        outputs |= {
            task: [*(ports[o] for o in own if o in ports), *(picks[o] for o in own if o in picks)] for task, own in of.items()
        }
    check_request(outputs, plan.inputs[0].shape[0], options.retrain, options.run, peers)
