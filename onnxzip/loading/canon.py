"""From a model to a net in canonical form: every step of loading behind the reading of the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from onnxzip.errors import UnsupportedError
from onnxzip.loading.canonical import canonical_attributes
from onnxzip.loading.contractions import layers_from_einsum
from onnxzip.loading.cuts import with_splits
from onnxzip.loading.dims import batch_name
from onnxzip.loading.folding import folded_affine
from onnxzip.loading.halves import computed_type, widened
from onnxzip.loading.importing import to_net
from onnxzip.loading.linear import canonical_linear
from onnxzip.loading.normalising import folded_normalisation
from onnxzip.loading.normed import folded_norms
from onnxzip.loading.numbers import with_plain_numbers
from onnxzip.loading.preparing import opset_imports, prepare
from onnxzip.loading.recurrence import with_layers_for_gates
from onnxzip.loading.removal import without_idle_nodes
from onnxzip.loading.repeated import with_params_for_repeats
from onnxzip.loading.scores import with_scales_behind
from onnxzip.loading.shapes import fold_for_both_batches
from onnxzip.loading.spelled_out import recognised
from onnxzip.loading.synonyms import without_synonyms
from onnxzip.loading.tails import parted
from onnxzip.loading.weights import stored_type
from onnxzip.net import Net
from onnxzip.runtime import docs_of, fields_of

ONE_FLOAT: frozenset[np.dtype] = frozenset({np.dtype(np.float32)})
ANY_FLOAT = ONE_FLOAT | {np.dtype(np.float64)}


def mergeable(path: Path, name: str, model: ModelProto, opset: int) -> Net:
    """As `net_of`, of a net that can be merged: what it gives for a sample does not depend on others, or on chance; recurrent
    nodes are taken apart, and what exporters write in several ways is in one.

    Raises:
        InvalidModelError, UnsupportedError: as `net_of`; it has no outputs, or is in training mode.
    """
    if not model.graph.output:
        raise UnsupportedError(f"{path}: has no outputs, so that nothing of it is needed. Export it with what it is to give.")
    net = net_of(path, name, model, opset)
    for node in net.nodes:
        if node.attrs.get("training_mode") and node.attrs.get("ratio") != 0:
            raise UnsupportedError(
                f"{path}: node {node.name!r} ({node.op}) is in training mode. Export the net in evaluation mode: after "
                "`model.eval()` in torch, and without `training=TrainingMode.TRAINING`."
            )
    net = with_layers_for_gates(with_plain_numbers(net))
    net = without_idle_nodes(without_synonyms(with_splits(net)))
    return without_idle_nodes(with_scales_behind(net))


def net_of(path: Path, name: str, model: ModelProto, opset: int, floats: frozenset[np.dtype] = ONE_FLOAT) -> Net:
    """The net of a model that has numbers for all axes behind the batch.

    Args:
        path: for messages, and for params beside it.
        floats: types that a constant of floats may have.

    Raises:
        InvalidModelError, UnsupportedError: its shapes contradict each other, or it cannot be merged.
    """
    whole = prepare(path, widened(path, model), opset)
    prepared, tail = parted(path, whole)
    net = replace(
        to_net(path, name, prepared, fold_for_both_batches(path, prepared), floats),
        stored=stored_type(model), computed=TensorProto.DataType.Name(computed_type(model)), fields=fields_of(model),
        docs=docs_of(model), batch=batch_name(model), opsets=opset_imports(whole), tail=tail,
    )
    net = canonical_linear(layers_from_einsum(recognised(without_idle_nodes(canonical_attributes(net)))))
    return folded_affine(folded_norms(folded_normalisation(with_params_for_repeats(net))))
