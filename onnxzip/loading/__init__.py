"""Files to nets in canonical form.

    files      read, with every check of a file (repairing: made valid; mapped: large params that stay in files of their own;
               beside: these files)
    halves     half types as float32 (half_ports: inputs and outputs of them; stored: where params stand, and in which bits;
               weights: what a file's weights are, and of which type)
    preparing  functions inlined, one opset, names for all (vendor: fused operators taken apart; branches: Ifs as Wheres)
    dims       axes that may have any size
    fixing     inputs that are one number, as constants
    in_front   samples in front, wherever the file has them
    families   nets that are merged, and their free axes (inputs: which are one; sized: loaded for several sizes; varying:
               constants that differ; computed: those that follow from shapes)
    tails      the end that cannot be analysed, cut off
    shapes     folded and inferred for two batch sizes (subgraphs: branches and bodies; lookups: by indices that grow with the
               batch; growing: what is made for each sample; overwritten: in place; one_batch: where one works alone)
    freeing    nets for one sample as nets for any number
    importing  as a Net (portions: which cuts where the batch does)
    canonical  attributes in one form each (windows: of convolutions and pools)
    removal    nodes that compute nothing
    spelled_out  what exporters write node by node: Gelu, HardSwish, norms; what converted opsets do: Softmax (patterns: trees
               of operators; local_response: LRN)
    linear     Gemm and MatMul (contractions: Einsums that are; params: changed without changing others' params)
    repeated   params that go through layers of their own before they meet data
    normalising what is done to the input before the first layer (normed: behind norms of it)
    levelling  what is done to it in different ways by the nets of a merge
    folding    per-channel affine maps, BatchNormalization among them (canon: all steps one after the other)
    cuts       Slices and Gathers that take a value apart as Splits, for a merge
    synonyms   operators that say the same in one of them, for a merge (settled: those that do so at all sizes)
    scores     factors in front of products and behind them as one, for a merge
    numbers    constants of one entry, for a merge
    recurrence recurrent nodes as a layer and steps in time, for a merge (carried: states that come back from these, and frames
               of calls before; giving_back: which outputs give them back)
    faithful   a file as the net that it is, to be trained and put back (masks: params that hide, and are no weights)
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

from onnx import ModelProto

from onnxzip.loading.canon import ANY_FLOAT, mergeable, net_of
from onnxzip.loading.dims import at_usual_sizes
from onnxzip.loading.families import LARGE_BYTES, Family, Numbers, family
from onnxzip.loading.files import opset_of, read_mapped
from onnxzip.loading.fixing import check_fixed
from onnxzip.loading.halves import computing_in_float32
from onnxzip.loading.in_front import axes_of, placed, with_samples_in_front
from onnxzip.loading.preparing import OLDEST_CANONICAL_OPSET
from onnxzip.loading.settled import settled
from onnxzip.loading.sized import Loaded, load_sized
from onnxzip.loading.weights import stored_type
from onnxzip.net import Net, in_file

__all__ = ["Family", "Loaded", "family", "load", "load_all", "load_family", "load_model", "look_at"]


def load(path: str | PathLike[str], name: str | None = None, opset: int | None = None) -> Net:
    """A file as a net in canonical form; axes without a number get a usual one.

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
    opset, axes = opset or max(OLDEST_CANONICAL_OPSET, opset_of(model)), axes_of(model)
    turned = with_samples_in_front(model, axes)
    return placed(at_usual_sizes(where, turned, lambda sized, _: mergeable(where, name or where.stem, sized, opset)), axes)


def load_all(files: Mapping[str, str | PathLike[str]], opset: int | None = None) -> tuple[Net, ...]:
    """Files as nets of one opset, the highest of theirs unless another one is asked for; each is named by its key.

    Where some take any number of samples, those that take one are made to as well. Axes without a number get a usual one.

    Raises:
        InvalidModelError, UnsupportedError: as `load`.
    """
    return load_family(family({name: Path(path) for name, path in files.items()}, opset)).at[0].nets


def load_family(nets: Family, wanted: Mapping[str, Numbers] | None = None) -> Loaded:
    """Nets at the sizes of their data, and at others where sizes are free.

    Args:
        wanted: task -> sizes; None for the files' own numbers, and usual ones for the rest.

    Raises:
        InvalidModelError, UnsupportedError: as `load`; a net does not work at the size of its data, or has an input that is
            one number, which nobody has said.
    """
    check_fixed(nets.models)
    found = settled(load_sized(nets, wanted))
    if sum(a.nbytes for net in found.at[0].nets for a in net.params.values()) > LARGE_BYTES:
        gc.collect()
    return found


def look_at(path: Path, model: ModelProto) -> Net:
    """As `load`, for those who only look: nets of any number format, half types as float32; inputs and outputs as in the file.

    Args:
        model: what is in the file, as `read_to_look` gives it; it is not changed.
    """
    opset, axes = max(OLDEST_CANONICAL_OPSET, opset_of(model)), axes_of(model)
    wide = computing_in_float32(with_samples_in_front(model, axes))
    net = at_usual_sizes(path, wide, lambda sized, _: net_of(path, path.stem, sized, opset, ANY_FLOAT))
    return replace(in_file(placed(net, axes)), stored=stored_type(model))
