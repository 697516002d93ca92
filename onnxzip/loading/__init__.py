"""Files to nets in canonical form.

    files      read, with every check of a file (mapped: large params that stay in files of their own)
    halves     weights of half types as float32
    preparing  functions inlined, vendors' fused operators taken apart, one opset, names for all
    shapes     folded and inferred for two batch sizes
    freeing    nets for one sample as nets for any number
    importing  as a Net
    canonical  attributes in one form each (windows: of convolutions and pools)
    removal    nodes that compute nothing
    spelled_out  what exporters write node by node: Gelu, HardSwish, norms
    linear     Gemm and MatMul
    normalising what is done to the input before the first layer
    folding    per-channel affine maps, BatchNormalization among them
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
from onnx import ModelProto

from onnxzip.loading.canonical import canonical_attributes
from onnxzip.loading.faithful import widened as widened_throughout
from onnxzip.loading.files import opset_of, read_mapped
from onnxzip.loading.folding import folded_affine
from onnxzip.loading.freeing import freed, is_fixed, is_free
from onnxzip.loading.halves import stored_type, widened
from onnxzip.loading.importing import to_net
from onnxzip.loading.linear import canonical_linear
from onnxzip.loading.normalising import folded_normalisation
from onnxzip.loading.preparing import OLDEST_CANONICAL_OPSET, prepare
from onnxzip.loading.removal import without_idle_nodes
from onnxzip.loading.shapes import fold_for_both_batches
from onnxzip.loading.spelled_out import recognised
from onnxzip.net import Net

__all__ = ["load", "load_all", "load_model", "look_at"]

ONE_FLOAT: frozenset[np.dtype] = frozenset({np.dtype(np.float32)})
ANY_FLOAT = ONE_FLOAT | {np.dtype(np.float64)}
LARGE_BYTES = 16 << 20  # of params; beyond it garbage is collected: tensors of graphsurgeon hold themselves and their values


def load(path: str | PathLike[str], name: str | None = None, opset: int | None = None) -> Net:
    """A file as a net in canonical form.

    Args:
        path: an ONNX file; external data are looked for beside it.
        name: of the net; None for the file's stem.
        opset: to bring the net to; None for the file's own, at least 13.

    Raises:
        InvalidModelError: the file is no valid ONNX net.
        UnsupportedError: it is one that cannot be merged.
        UsageError: the opset is below the file's.
    """
    path = Path(path)
    return load_model(read_mapped(path), path, name, opset)


def load_model(model: ModelProto, where: Path, name: str | None = None, opset: int | None = None) -> Net:
    """A model as a net in canonical form; `where` is for messages.

    Raises:
        UnsupportedError, UsageError: as `load`.
    """
    return _net(where, name or where.stem, model, opset or max(OLDEST_CANONICAL_OPSET, opset_of(model)))


def load_all(files: Mapping[str, str | PathLike[str]], opset: int | None = None) -> tuple[Net, ...]:
    """Files as nets of one opset, the highest of theirs unless another one is asked for; each is named by its key.

    Where some take any number of samples, those that take one are made to as well.

    Raises:
        InvalidModelError, UnsupportedError: as `load`.
    """
    models = {name: (Path(path), read_mapped(Path(path))) for name, path in files.items()}
    opset = opset or max((OLDEST_CANONICAL_OPSET, *(opset_of(model) for _, model in models.values())))
    nets = tuple(_net(path, name, model, opset) for name, (path, model) in models.items())
    if any(is_free(net) for net in nets):
        nets = tuple(_freed(*models[n.name], n, opset) if is_fixed(n) else n for n in nets)
    if sum(a.nbytes for net in nets for a in net.params.values()) > LARGE_BYTES:
        gc.collect()
    return nets


def look_at(path: Path, model: ModelProto) -> Net:
    """As `load`, for those who only look: nets of any number format, half types as float32.

    Args:
        model: what is in the file, as `read_any_float` gives it; it is not changed.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    opset = max(OLDEST_CANONICAL_OPSET, opset_of(model))
    return replace(_net(path, path.stem, widened_throughout(copy), opset, ANY_FLOAT), stored=stored_type(model))


def _freed(path: Path, model: ModelProto, net: Net, opset: int) -> Net:
    return freed(path, model, net, lambda free: _net(path, net.name, free, opset))


def _net(path: Path, name: str, model: ModelProto, opset: int, floats: frozenset[np.dtype] = ONE_FLOAT) -> Net:
    wide, stored = widened(path, model)
    prepared = prepare(path, wide, opset)
    net = replace(to_net(path, name, prepared, fold_for_both_batches(path, prepared), floats), stored=stored)
    return folded_affine(folded_normalisation(canonical_linear(recognised(without_idle_nodes(canonical_attributes(net))))))
