"""A file as the net that it is, with its own params: nothing is folded into them, so that each can be trained and put back.

    file -> one opset, widened to float32 -> params as inputs -> folded, inferred -> Net -> inputs as params again

While shapes and constants are folded the params stand among the graph's inputs: what is computed from them stays computed,
what is computed from shapes alone goes. Constants remain: what sets an operator (bounds of a Clip, scales of a Resize), what
an operator without a record reads, numbers without an axis in Constant nodes, and what lies in local functions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxzip.errors import UnsupportedError
from onnxzip.loading.beside import bytes_read, fits_one_file
from onnxzip.loading.canonical import canonical_attributes
from onnxzip.loading.dims import at_usual_sizes, bound, free_axes
from onnxzip.loading.files import has_external_data, opset_of, parse, read_any_float
from onnxzip.loading.freeing import with_free_batch
from onnxzip.loading.halves import float32_throughout
from onnxzip.loading.importing import operator_in, to_net
from onnxzip.loading.in_front import axes_of, placed, with_samples_in_front
from onnxzip.loading.masks import masks_of
from onnxzip.loading.preparing import OLDEST_CANONICAL_OPSET, prepare
from onnxzip.loading.removal import without_idle_nodes
from onnxzip.loading.shapes import Runs, fold_for_both_batches
from onnxzip.loading.stored import held_by, holders, read_floats
from onnxzip.net import Axis, Net
from onnxzip.ops import find
from onnxzip.runtime import needed_values, numbers_read_by, operator_of, put_nodes

_COMPUTED: frozenset[np.dtype] = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
IN_MEMORY = Path("<net in memory>")


@dataclass(frozen=True)
class Faithful:
    """A file read for training.

    Attributes:
        content: the file, its external data inlined.
        net: what it computes, in canonical attributes; its params are the file's trainable ones by their names, and constants.
        trainable: names of the params that are stored in the file and can be put back.
        frozen: those among them that are no weights: running statistics, exponents, single numbers, masks.
        sizes: free axes of the inputs, and the sizes for which `net` has its numbers.
        called: what the file calls the sizes of these axes; "" where it has no name for one.
    """

    content: bytes
    net: Net
    trainable: tuple[str, ...]
    frozen: frozenset[str]
    sizes: Mapping[Axis, int]
    called: Mapping[Axis, str]


def read_faithfully(
    source: bytes | Path, sizes: Mapping[Axis, int] | None = None, any_batch: bool = False
) -> Faithful:
    """Read a file, or what is in one.

    Args:
        sizes: of the free axes of its inputs; None for those that a fused file was made at, else usual ones.
        any_batch: whether `net` is to take any number of samples where the file takes one (see freeing.py).

    Raises:
        InvalidModelError: it is no valid ONNX net.
        UnsupportedError: operators in it have no record (all of them are named), or it cannot be brought to one form.
    """
    where = source if isinstance(source, Path) else IN_MEMORY
    model = read_any_float(fitting(source)) if isinstance(source, Path) else parse(source, where)
    content = content_of(source, model)
    axes = axes_of(model)
    lifted = with_samples_in_front(_lifted(model), axes)
    lifted = with_free_batch(lifted) if any_batch else lifted
    name = where.stem if isinstance(source, Path) else model.graph.name
    constants = {node.output[0] for node in model.graph.node if held_by(node)}
    if sizes is not None:
        found = _read(bound(lifted, sizes), where, name, content, constants, sizes)
    else:
        found = at_usual_sizes(where, lifted, lambda m, at: _read(m, where, name, content, constants, at))
    return replace(found, net=placed(found.net, axes), called=free_axes(lifted))


def _read(
    lifted: ModelProto, where: Path, name: str, content: bytes, in_nodes: Collection[str], sizes: Mapping[Axis, int]
) -> Faithful:
    """Read a model that has numbers for all axes behind the batch."""
    values = {name: read_floats(holder) for name, holder in holders(lifted)}
    prepared = prepare(where, float32_throughout(lifted), max(OLDEST_CANONICAL_OPSET, opset_of(lifted)))
    names = _as_inputs(prepared.graph, values)
    runs = fold_for_both_batches(where, prepared)
    _refuse_unknown(where, runs)
    net = without_idle_nodes(canonical_attributes(to_net(where, name, prepared, runs, _COMPUTED)))
    read = {v for node in net.nodes for v in node.inputs} | {p.name for p in net.outputs}
    trained = tuple(name for name in names if name in read)
    net = replace(
        net,
        inputs=tuple(port for port in net.inputs if port.name not in set(names)),
        params={**net.params, **{name: values[name] for name in trained}},
    )
    return Faithful(content, net, trained, _frozen(net, trained, in_nodes), dict(sizes), {})


def content_of(source: bytes | Path, model: ModelProto) -> bytes:
    """The content of a file; where it has external data, of one that holds them.

    Args:
        source: the file, or what is in it.
        model: what is in it, with its external data.
    """
    if isinstance(source, bytes):
        return source
    content = source.read_bytes()
    if not has_external_data(ModelProto.FromString(content)):
        return content
    return bytes(model.SerializeToString(deterministic=True))


def fitting(path: Path) -> Path:
    """A net whose params are to change, or to be taken elsewhere; refused before it is read if one file cannot hold it.

    Raises:
        UnsupportedError: it cannot.
    """
    if path.is_file() and not fits_one_file(size := bytes_read(path)):
        raise UnsupportedError(
            f"{path}: with its external data it has {size:,} bytes: more than the 2 GB that one ONNX file can hold, as is "
            "needed for it to be trained or exported. Take a net that is smaller: share more of it, or `split` off a task."
        )
    return path


def _lifted(model: ModelProto) -> ModelProto:
    """A copy in which Constant nodes of floats are initializers; a number without an axis stays where it is."""
    copy, kept = deepcopy(model), []
    for node in copy.graph.node:
        held = held_by(node)
        if held is None or (array := read_floats(held)).ndim == 0:
            kept.append(node)
        elif isinstance(held, TensorProto):
            copy.graph.initializer.add().CopyFrom(held)
            copy.graph.initializer[-1].name = node.output[0]
        else:
            copy.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    put_nodes(copy.graph, kept)
    return copy


def _as_inputs(graph: GraphProto, values: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Turn the params that can be trained into inputs of the graph; their names."""
    fixed = _settings(graph)
    stored = {t.name: t for t in graph.initializer}
    names = [n for n, v in values.items() if n in stored and n not in fixed and v.size]
    gone = set(names)
    for items in (graph.initializer, graph.input):
        for at in reversed([k for k, item in enumerate(items) if item.name in gone]):
            del items[at]
    for name in names:
        graph.input.append(helper.make_tensor_value_info(name, stored[name].data_type, values[name].shape))
    return tuple(names)


def _settings(graph: GraphProto) -> set[str]:
    """Every value that a constant input of an operator, or an operator without a record, is computed from."""
    return needed_values(graph, [v for node in graph.node for v in _constant_inputs(node)], numbers_read_by)


def _constant_inputs(node: NodeProto) -> Sequence[str]:
    record = find(operator_of(node))
    if record is None:
        return numbers_read_by(node)
    return [node.input[at] for at in record.constants if at < len(node.input)]


def _refuse_unknown(where: Path, runs: Runs) -> None:
    """Before types and shapes are asked for, which an unknown operator may not have."""
    found: dict[str, list[str]] = {}
    for node in runs.first.nodes:
        if find(op := operator_in(node)) is None:
            found.setdefault(op, []).append(repr(node.name))
    if found:
        listed = "; ".join(f"{op} (node {', '.join(names)})" for op, names in found.items())
        raise UnsupportedError(f"{where}: operators without a torch function: {listed}. Export the net without them.")


def _frozen(net: Net, trained: Collection[str], in_nodes: Collection[str]) -> frozenset[str]:
    """Params that are no weights.

    Statistics are of data, and a step can make a variance negative; an exponent's gradient needs a logarithm; a single number
    without an axis, or in a Constant node, is part of a formula (the epsilon of a norm that is spelled out); masks hide what
    they are added to (`masks`).
    """
    fixed = {v for node in net.nodes if node.op == "BatchNormalization" for v in node.inputs[3:5]}
    fixed |= {v for node in net.nodes if node.op == "Pow" for v in node.inputs[1:2]}
    fixed |= {name for name in trained if net.params[name].ndim == 0}
    fixed |= {name for name in trained if net.params[name].size == 1 and name in in_nodes}
    fixed |= masks_of(net, trained)
    return frozenset(name for name in trained if name in fixed)
