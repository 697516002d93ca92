"""Other values of nets as their outputs: what teaches, and what tails read.

    a task that says nothing but classes    is taught by what these are picked from, too
    a task with a tail                      by what its tail reads; the tail itself is left out
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from onnxzip.errors import UnsupportedError
from onnxzip.exporting.metadata import PREFIX, read_origins, read_tails, to_json
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.originals import Originals
from onnxzip.loading.files import read
from onnxzip.loading.weights import nodes_of
from onnxzip.net import Net, picked_from
from onnxzip.runtime import entries_of, needed_nodes

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
Teaching = Mapping[str, tuple[Path | bytes, Origin]]  # task -> its original, or what would be in such a file


def shown(content: bytes, originals: Originals) -> tuple[bytes, Teaching]:
    """A fused net and its originals, with outputs for all that teaches, and without tails.

    Args:
        content: of a fused file.
        originals: of its tasks.
    """
    fused = _Values(ModelProto.FromString(content))
    tails, found, ends = _of_tails(fused.model), dict[str, tuple[Path | bytes, Origin]](), dict[str, None]()
    for task, (file, origin) in originals.items():
        outputs = {name: new for name, new in origin.outputs.items() if new not in tails}
        whole = outputs == origin.outputs and any(map(fused.is_float, outputs.values()))
        found[task] = (file, origin) if whole else _taught_by_more(fused, file, replace(origin, outputs=outputs))
        ends |= dict.fromkeys(found[task][1].outputs.values())
    return content if list(ends) == fused.outputs else fused.telling(ends), found


def _taught_by_more(fused: _Values, file: Path, origin: Origin) -> tuple[bytes, Origin]:
    """An original, and what the fused net calls its outputs, with what its tail reads, or what classes are picked from."""
    alone, outputs = _Values(read(file)), origin.outputs
    before = {v: new for v, new in origin.before_tail.items() if v in alone.made and new not in outputs.values()}
    more = {v: new for v, new in before.items() if alone.is_float(v) and fused.is_float(new)}
    if not more and not any(map(fused.is_float, outputs.values())):
        more = _picks(alone, fused, {**outputs, **before})
    taught = {**outputs, **more}
    return alone.telling(taught), replace(origin, outputs=taught)


def telling(file: Path, net: Net, teaching: Iterable[str]) -> tuple[bytes, dict[str, str]]:
    """What is in an original's file, with all that teaches as its outputs, and without its tail; and these, by their names.

    Args:
        net: as it was loaded: what a tail reads is among its outputs.
        teaching: those of its outputs that teach; where none does, what classes are picked from teaches.
    """
    alone = _Values(read(file))
    names = [v for v in teaching if v in alone.made] or list(alone.picks(p.name for p in net.outputs).values())
    return alone.telling(names), {v: v for v in names}


def without_tails(model: ModelProto) -> ModelProto:
    """A fused net that ends in what its tails read.

    Raises:
        UnsupportedError: a task has a tail, and its metadata do not tell what that reads.
    """
    entries, gone, values = entries_of(model), _of_tails(model), _Values(model)
    origins = read_origins(entries, "the fused net")
    for task, origin in origins.items():
        kept = {name: new for name, new in origin.outputs.items() if new not in gone}
        read_too = {v: new for v, new in origin.before_tail.items() if new in values.made and new not in kept.values()}
        if not kept | read_too:
            raise UnsupportedError(f"task {task!r}: the file does not tell what its end reads. Merge the nets again.")
        origins[task] = replace(origin, outputs=kept | read_too, before_tail={})
    ends = dict.fromkeys(new for origin in origins.values() for new in origin.outputs.values())
    whole: ModelProto = ModelProto.FromString(values.telling(ends))
    entries[PREFIX + "sources"] = to_json({task: asdict(origin) for task, origin in origins.items()})
    entries.pop(PREFIX + "tails", None)
    helper.set_model_props(whole, entries)
    return whole


def made_in(file: Path) -> set[str]:
    """Names of the values that the nodes of a file make."""
    return _Values(read(file)).made


class _Values:
    """The values of a model.

    Attributes:
        outputs: names of its outputs.
        made: names of what its nodes make.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.outputs = [p.name for p in model.graph.output]
        self.made = {v for n in model.graph.node for v in n.output if v}

    @cached_property
    def _inferred(self) -> dict[str, ValueInfoProto]:
        graph = shape_inference.infer_shapes(self.model).graph
        return {v.name: v for v in (*graph.value_info, *graph.input, *graph.output)}

    def _told(self, value: str) -> ValueInfoProto | None:
        declared = (p for p in self.model.graph.output if p.name == value)
        return next(declared, None) or self._inferred.get(value)

    def is_float(self, value: str) -> bool:
        """Whether a value holds floats, as far as can be told."""
        told = self._told(value)
        return told is not None and told.type.tensor_type.elem_type in _FLOATS

    def picks(self, values: Iterable[str]) -> dict[str, str]:
        """Values that an ArgMax or TopK has picked from floats -> these."""
        nodes = nodes_of(self.model.graph)
        found = {name: value for name in values if (value := picked_from(nodes, name)) is not None}
        return {name: value for name, value in found.items() if self.is_float(value)}

    def telling(self, outputs: Iterable[str]) -> bytes:
        """What would be in the file of the model with other outputs, and with the nodes that these need."""
        ports = [port for value in outputs if (port := self._told(value)) is not None]
        whole = deepcopy(self.model)
        nodes = needed_nodes(self.model.graph, [p.name for p in ports])
        whole.graph.ClearField("output")
        whole.graph.output.extend(ports)
        whole.graph.ClearField("node")
        whole.graph.node.extend(nodes)
        return bytes(whole.SerializeToString(deterministic=True))


def _of_tails(model: ModelProto) -> set[str]:
    """The outputs of a fused net that tails compute."""
    entries = entries_of(model)
    origins = read_origins(entries, "the fused net")
    return {origins[task].outputs[name] for task, names in read_tails(entries).items() for name in names}


def _picks(alone: _Values, fused: _Values, values: Mapping[str, str]) -> dict[str, str]:
    """What some values of an original and of the fused net are picked from."""
    theirs, ours = alone.picks(values), fused.picks(values.values())
    return {theirs[name]: ours[new] for name, new in values.items() if name in theirs and new in ours}
