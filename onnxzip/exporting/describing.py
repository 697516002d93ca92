"""The fused net with all that its file says of itself, and the content of that file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.calibration.samples import Source
from onnxzip.calibration.seen import fingerprints, of_all
from onnxzip.config import Options
from onnxzip.errors import UnsupportedError
from onnxzip.exporting.again import Kept, kept_tasks, merged_from, namer, origins_by_task, tasks_of
from onnxzip.exporting.annotating import annotate
from onnxzip.exporting.carried import states_of
from onnxzip.exporting.metadata import PREFIX, describe, origins_of, read_seen, seen_entry, to_json
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.provenance import provenance
from onnxzip.exporting.report import macs_before, sha256_of, source_size
from onnxzip.exporting.sayings import Said, merged_sayings, said_by_task
from onnxzip.exporting.shelf import WEIGHTS, Shelf
from onnxzip.exporting.stored import stored_model
from onnxzip.exporting.tails import attach, with_tails
from onnxzip.exporting.trial import check_other_size
from onnxzip.fusion.assembling import assemble
from onnxzip.fusion.zipped import Zipped
from onnxzip.loading.beside import fits_one_file
from onnxzip.loading.dims import RECORDED
from onnxzip.loading.in_front import AXES
from onnxzip.loading.weights import FLOAT32
from onnxzip.net import Axis, Net, in_file, within_one
from onnxzip.peers import Peers
from onnxzip.runtime import open_file, open_session, put_docs, to_model


def described(
    plan: Plan, zipped: Zipped, files: Mapping[str, Path], sources: Iterable[Source], options: Options, peers: Peers
) -> tuple[Net, dict[str, Origin]]:
    """The fused net with its metadata, the same in all processes, and where its nets come from.

    Args:
        sources: the samples that it was made from.
    """
    kept, choice = kept_tasks({t: n.metadata for t, n in plan.nets.items()}), options.plan
    assembled = with_tails(plan, assemble(plan, zipped.params, namer(kept)), namer(kept))
    net = in_file(assembled)
    sizes = {t: source_size(p, macs_before(plan, t)).as_dict() for t, p in files.items()}
    told = {t: (p.name, sha256_of(p), sizes[t]) for t, p in files.items()}
    origins = origins_of(plan, net, told, states_of(plan, zipped.orders))
    said, tasks = merged_sayings(_said(plan, kept), origins_by_task(origins, kept))
    every = partial(tasks_of, kept=kept)
    found = provenance(plan, zipped, kept, peers)
    entries = describe(plan, net, tasks, options.zip.method, choice.layout, choice.share, every, found)
    entries |= {**merged_from(origins, kept), **_sizes(plan, assembled, every), **_seen(plan, sources, every, peers)}
    entries |= {AXES: to_json(assembled.axes)} if assembled.axes else {}
    return replace(net, metadata={**said.entries, **entries}, fields=said.fields, docs=_docs(plan, net)), origins


def _docs(plan: Plan, net: Net) -> dict[str, str]:
    """What the fused file says of its inputs, as the first net does that has them, and of its outputs, as their nets do."""
    ends = [one.docs.get(end, "") for one in plan.nets.values() for end in one.ends]
    found: dict[str, str] = {}
    for task, names in plan.overlay.inputs.items():
        found = {fused: plan.nets[task].docs.get(own, "") for fused, own in names.items()} | found
    return found | dict(zip(net.ends, ends, strict=True))


def _said(plan: Plan, kept: Kept) -> dict[str, Said]:
    """What the file says that each task was first made from."""
    found: dict[str, Said] = {}
    for name, net in plan.nets.items():
        if name in kept:
            found |= said_by_task(net.metadata, net.fields, kept[name], name)
        else:
            found[name] = Said({k: v for k, v in net.metadata.items() if not k.startswith(PREFIX)}, net.fields)
    return found


def _seen(
    plan: Plan, sources: Iterable[Source], tasks_of: Callable[[str], Iterable[str]], peers: Peers
) -> dict[str, str]:
    """The entry that tells which samples it was made from, here and, where it has a fused net in it, before."""
    before = [read_seen(n.metadata, t) or {} for t, n in plan.nets.items()]
    found: list[tuple[Iterable[str], np.ndarray]] = [([task], marks) for one in before for task, marks in one.items()]
    for source in sources:
        tasks = [task for one in source.tasks for task in tasks_of(one)]
        known_by = of_all(source.inputs, plan.overlay.inputs.values())
        marks = fingerprints(known_by).astype(np.int64)  # not all peers can exchange uint16
        found.append((tasks, peers.gather(f"samples of {', '.join(source.tasks)}", {"seen": marks})["seen"]))
    return seen_entry(found)


def _sizes(plan: Plan, net: Net, tasks_of: Callable[[str], Iterable[str]]) -> dict[str, str]:
    """The entry that tells at which sizes of free axes each task was calibrated; empty where there are none."""
    free = [(p.name, d) for p in net.inputs for d in range(len(p.shape)) if Axis(p.name, d) in net.sizes.axes]
    sizes = {
        task: [[name, d, plan.at(one).layout.shapes[name][d]] for name, d in free]
        for one in plan.tasks for task in tasks_of(one)
    }
    return {RECORDED: to_json(sizes)} if free else {}


def shelf_for(plan: Plan) -> Shelf | None:
    """A shelf for the params of a fused net that one file cannot hold."""
    names = [w.name for w in plan.layout.weights] + [t.name for t in plan.layout.taken]
    large = not fits_one_file(4 * sum(math.prod(plan.layout.shapes[n]) for n in names))
    return Shelf() if large and plan.stored == FLOAT32 else None


def checked_bytes(plan: Plan, zipped: Zipped, net: Net, shelf: Shelf | None) -> bytes:
    """As `to_bytes`; a net that takes any size has been run at another one than that of its data.

    Raises:
        UnsupportedError, VerificationError: as `to_bytes` and `check_other_size`.
    """
    content = to_bytes(net, shelf)
    if plan.others:
        kept = kept_tasks({t: n.metadata for t, n in plan.nets.items()})
        other = in_file(assemble(plan.others[-1], zipped.params, namer(kept)))
        if shelf is None and net.tail is None:
            planned = open_file("planned", bytes(stored_model(other).SerializeToString()), "cpu", 1)
        else:
            planned = open_session(other, "cpu", 1)
        if net.tail is None:
            free = open_file("fused", content if shelf is None else shelf.graph, "cpu", 1)
        else:  # what the tails read is compared
            free = open_session(net, "cpu", 1)
        check_other_size(free, planned, other.inputs, within_one(other.nodes, [p.name for p in other.outputs]))
    return content


def to_bytes(net: Net, shelf: Shelf | None = None) -> bytes:
    """A fused net as the content of its file, less what lies on a shelf; the shelf has that file, too.

    Raises:
        UnsupportedError: an ONNX file cannot be that large.
    """
    places = {} if shelf is None else shelf.places(net.params)
    size = sum(a.nbytes for name, a in net.params.items() if name not in places)
    if not fits_one_file(size):
        raise UnsupportedError(
            f"the fused net has {size:,} bytes of params: more than the 2 GB that one ONNX file can hold. Share more of them."
        )
    model = to_model(net, places, WEIGHTS) if places else stored_model(net)
    attach(model, net)
    put_docs(model, net.docs)
    annotate(model, net.metadata)
    content = bytes(model.SerializeToString(deterministic=True))
    if shelf is not None:
        shelf.graph.write_bytes(content)
    return content
