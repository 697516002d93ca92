"""A fused file taken apart without copies: one small graph per task, one file of weights that all of them read.

    TASK.onnx     nodes of the task, small params, and for every other param its place in the file of weights
    weights.bin   every param once, those of the same owners side by side, the most widely shared first
    bundle.json   the files, and what a switch between tasks has to load

A param that fills many pages begins at a page, so that ONNX Runtime maps it; packing the others tightly costs nothing but
the page they share, and keeps the bundle of a small net small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from onnxzip.exporting.metadata import PREFIX, read_origins, to_json
from onnxzip.exporting.outside import length_of, write_numbers
from onnxzip.exporting.splitting import split_model
from onnxzip.loading.beside import with_external_data
from onnxzip.runtime import entries_of, tensor_outside

WEIGHTS, MANIFEST = "weights.bin", "bundle.json"
SCHEMA_VERSION = 1
PAGE = 4096  # bytes
PAGED = 32 * PAGE  # params from here on begin at a page: at most 3 % of them is padding
ALIGNED = 64  # the others: a line of cache, as vector instructions like it
INSIDE = 128  # bytes that are shorter than, or about as long as, the entry that says where they are
_NOT_KEPT = ("owners", "spaces", "trace", "refusals", "seen")  # they describe the fused net, and are long


@dataclass(frozen=True)
class Placed:
    """A param in the file of weights.

    Attributes:
        owners: tasks that read it.
        offset, length: in bytes.
    """

    owners: tuple[str, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class Bundle:
    """All files of a bundle.

    Attributes:
        files: content by name, of all but the file of weights.
        graphs: task -> name of its file.
        placed: what lies in the file of weights, by param, in this order.
        tensors: these params, as the fused model has them.
    """

    files: Mapping[str, bytes]
    graphs: Mapping[str, str]
    placed: Mapping[str, Placed]
    tensors: Mapping[str, TensorProto]


def bundled(model: ModelProto, where: str) -> Bundle:
    """A fused model as a bundle; `where` is for messages.

    Raises:
        InvalidModelError: the model was not made by onnxzip.
    """
    tasks = list(read_origins(entries_of(model), where))
    alone = {task: split_model(model, task, where) for task in tasks}
    tensors, placed = _weights(alone)
    graphs = {task: f"{task}.onnx" for task in tasks}
    files = {graphs[task]: _outside(alone[task], placed) for task in tasks}
    files[MANIFEST] = _manifest(files, graphs, placed)
    return Bundle(files, graphs, placed, tensors)


def write_weights(bundle: Bundle, folder: Path, path: Path) -> None:
    """The file of weights, on the disk when it returns.

    Args:
        folder: of the fused file, beside which params may lie.
    """
    write_numbers(bundle.tensors, {name: place.offset for name, place in bundle.placed.items()}, folder, path)


def is_bundled(path: Path) -> bool:
    """Whether a file is a task's graph of a bundle."""
    return path.with_name(WEIGHTS) in with_external_data([path])


def _weights(alone: Mapping[str, ModelProto]) -> tuple[dict[str, TensorProto], dict[str, Placed]]:
    """What lies in the file of weights, and where."""
    tensors: dict[str, TensorProto] = {}
    owners: dict[str, list[str]] = {}
    for task, model in alone.items():
        for tensor in model.graph.initializer:
            tensors.setdefault(tensor.name, tensor)
            owners.setdefault(tensor.name, []).append(task)
    end, placed = 0, dict[str, Placed]()
    for name in _in_order(tensors, owners, list(alone)):
        length = length_of(tensors[name])
        if length <= INSIDE:
            continue
        start = end + -end % (PAGE if length >= PAGED else ALIGNED)
        placed[name] = Placed(tuple(owners[name]), start, length)
        end = start + length
    return {name: deepcopy(tensors[name]) for name in placed}, placed  # the models are changed


def _in_order(tensors: Mapping[str, TensorProto], owners: Mapping[str, list[str]], tasks: Sequence[str]) -> Iterator[str]:
    """Params of the same owners side by side, widely shared ones first; among them large ones first, which saves padding."""
    places = {task: k for k, task in enumerate(tasks)}
    yield from sorted(
        tensors, key=lambda n: (-len(owners[n]), [places[t] for t in owners[n]], -length_of(tensors[n]) // PAGED)
    )


def _outside(model: ModelProto, placed: Mapping[str, Placed]) -> bytes:
    """A task's graph for running: larger params replaced by their places, without what tells people of the merge."""
    graph = model.graph
    for k, tensor in enumerate(graph.initializer):
        if tensor.name in placed:
            place = placed[tensor.name]
            entry = tensor_outside(tensor.name, tensor.data_type, tensor.dims, WEIGHTS, place.offset, place.length)
            graph.initializer[k].CopyFrom(entry)
    del graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
    kept = {k: v for k, v in entries_of(model).items() if k not in {PREFIX + key for key in _NOT_KEPT}}
    helper.set_model_props(model, dict(sorted(kept.items())))
    return bytes(model.SerializeToString(deterministic=True))


def _manifest(files: Mapping[str, bytes], graphs: Mapping[str, str], placed: Mapping[str, Placed]) -> bytes:
    """What a program that switches between tasks wants to know."""
    tasks = {}
    for task, name in graphs.items():
        mine = [p for p in placed.values() if task in p.owners]
        own, shared = (sum(p.length for p in mine if (p.owners == (task,)) is alone) for alone in (True, False))
        tasks[task] = {"file": name, "graph_bytes": len(files[name]), "own_bytes": own, "shared_bytes": shared}
    size = max((p.offset + p.length for p in placed.values()), default=0)
    found = {"schema_version": SCHEMA_VERSION, "weights": WEIGHTS, "weights_bytes": size, "tasks": tasks}
    return f"{to_json(found)}\n".encode()
