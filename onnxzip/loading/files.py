"""From a path to a checked ModelProto: every way in which a file can be unusable gets its own message here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import uses_external_data

from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.loading.beside import is_linked, with_external_data
from onnxzip.loading.dims import TASKS
from onnxzip.loading.halves import computed_type
from onnxzip.loading.mapped import read_small
from onnxzip.loading.repairing import check_changed, put_right
from onnxzip.loading.stored import HALVES
from onnxzip.runtime import entries_of, newest_versions, parts_of

OLDEST_OPSET = 7
_LAID_OUT = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})  # domains of ONNX Runtime's own layouts of images
_QUANTISED = re.compile("Quantize|Integer|NBits|Bnb4|^QLinear|^QAttention|^QGemm|^QMoE")
_READ_AS_FLOAT32 = HALVES | {TensorProto.FLOAT}
_OTHER_FLOATS = {
    kind: name for name, kind in TensorProto.DataType.items()
    if kind not in _READ_AS_FLOAT32 and ("FLOAT" in name or name in ("DOUBLE", "COMPLEX64", "COMPLEX128"))
}


def read(path: Path) -> ModelProto:
    """The model in a file, with external data resolved, checked by onnx.

    Raises:
        InvalidModelError: the file is missing, empty, truncated, not ONNX, or refused by onnx's checker.
        UnsupportedError: it is valid, but newer or older than what can be handled, quantised, or of float64.
    """
    model = read_any_float(path)
    _refuse_number_formats(path, model)
    return model


def read_mapped(path: Path) -> ModelProto:
    """As `read`, but large external data stay outside: `large_params` has them."""
    model = read_to_look(path)
    _refuse_number_formats(path, model)
    return model


def read_to_run(path: Path) -> ModelProto:
    """As `read_mapped`, quantised nets too: for those who cut a net and leave its numbers to ONNX Runtime."""
    model = read_to_look(path)
    _refuse_sparse(path, model)
    _refuse_other_floats(path, ((p.name, p.type.tensor_type.elem_type) for p in (*model.graph.input, *model.graph.output)))
    return model


def read_to_look(path: Path) -> ModelProto:
    """As `read_mapped`, whatever types of numbers the file holds."""
    return _read(path, read_small)


def read_any_float(path: Path) -> ModelProto:
    """As `read`, whatever types of numbers the file holds."""
    return _read(path, lambda path, model: onnx.load_external_data_for_model(model, str(path.parent)))


def _read(path: Path, load: Callable[[Path, ModelProto], None]) -> ModelProto:
    _refuse_unreadable(path)
    model = _decoded(path, lambda: onnx.load(path, format="protobuf", load_external_data=False))
    _refuse_layouts(path, model)
    try:
        if put_right(path, model):
            check_changed(path, model)
        else:
            onnx.checker.check_model(str(path))
        _refuse_lost(path, model)
        load(path, model)
    except onnx.checker.ValidationError as error:
        beside = with_external_data([path])[1:]
        unfit = any(is_linked(file) or not file.exists() for file in beside)
        advice = "Put a copy of that file there" if unfit else "Export the net again"
        raise InvalidModelError(f"{path}: refused by onnx's checker: {plain(error)}. {advice}.") from error
    except (OSError, ValueError) as error:
        raise InvalidModelError(f"{path}: its external data cannot be read: {plain(error)}. Keep it beside.") from error
    return model


def parse(content: bytes, where: Path) -> ModelProto:
    """As `read_any_float`, of what is in a file; `where` is for messages.

    Raises:
        InvalidModelError: it is no ONNX net, is refused by onnx's checker, or has params outside of it.
        UnsupportedError: it is newer or older than what can be handled.
    """
    model = _decoded(where, lambda: ModelProto.FromString(content))
    if has_external_data(model):
        raise InvalidModelError(f"{where}: its params lie in other files. Give the path of the .onnx file.")
    try:
        onnx.checker.check_model(model if put_right(where, model) else content)
    except onnx.checker.ValidationError as error:
        raise InvalidModelError(f"{where}: refused by onnx's checker: {plain(error)}. Export the net again.") from error
    return model


def _decoded(where: Path, decode: Callable[[], ModelProto]) -> ModelProto:
    """The model that a file holds, if it is one of a version that is known."""
    try:
        model = decode()
    except DecodeError as error:
        raise InvalidModelError(f"{where}: not an ONNX file, or a truncated one. Export or copy it again.") from error
    if not model.graph.node:
        raise InvalidModelError(f"{where}: holds no ONNX graph with nodes. Export the net again.")
    _refuse_versions(where, model)
    return model


def has_external_data(model: ModelProto) -> bool:
    """Whether some of the numbers lie in other files; not so after they were loaded."""
    held = (a.t for node in model.graph.node for a in node.attribute if a.HasField("t"))
    return any(uses_external_data(t) for t in (*model.graph.initializer, *held))


def opset_of(model: ModelProto) -> int:
    """Version of the default domain that a model follows; 0 where it names none."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def plain(error: BaseException) -> str:
    """An error's text on one line, short enough to read."""
    return " ".join(str(error).split())[:300].rstrip(".")


def _refuse_unreadable(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InvalidModelError(f"{path}: its name is no UTF-8, and ONNX Runtime opens no other. Rename it.") from error
    if os.path.isdir(path):
        raise InvalidModelError(f"{path}: is a directory. Give the .onnx file in it.")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise InvalidModelError(f"{path}: no such file.") from error
    except OSError as error:
        raise InvalidModelError(f"{path}: cannot be read: {error.strerror}.") from error
    if empty:
        raise InvalidModelError(f"{path}: the file is empty. Export or copy it again.")


def _refuse_lost(path: Path, model: ModelProto) -> None:
    """Refuse places of external data that onnx takes for others: it shortens `a/../b` to `b`, the system looks for `a`."""
    outside = [t for t in parts_of(model, TensorProto) if uses_external_data(t)]
    places = {entry.value for t in outside for entry in t.external_data if entry.key == "location"}
    for place in sorted(places):
        if not (path.parent / place).is_file():
            raise InvalidModelError(
                f"{path}: its external data lie in {place!r}, where there is no file. Save the net again with its data beside."
            )


def _refuse_versions(path: Path, model: ModelProto) -> None:
    opset, (newest, newest_ir) = opset_of(model), newest_versions()
    if not OLDEST_OPSET <= opset <= newest:
        raise UnsupportedError(
            f"{path}: has opset {opset}; opsets {OLDEST_OPSET} to {newest} are supported. Export the net with one of them."
        )
    if not 3 <= model.ir_version <= newest_ir:
        raise UnsupportedError(
            f"{path}: has ONNX IR version {model.ir_version}; versions 3 to {newest_ir} are supported. "
            "Export the net again with a release of onnx that fits."
        )


def _refuse_layouts(path: Path, model: ModelProto) -> None:
    for node in model.graph.node:
        if node.domain in _LAID_OUT:
            raise UnsupportedError(
                f"{path}: node {node.name or node.output[0]!r} ({node.op_type}) is in a layout that ONNX Runtime chose for "
                "one machine. Give the net as it was before it was optimised, or optimise it with ORT_ENABLE_EXTENDED."
            )


def _refuse_number_formats(path: Path, model: ModelProto) -> None:
    for node in model.graph.node:
        if _QUANTISED.search(node.op_type):
            raise UnsupportedError(
                f"{path}: node {node.name or node.output[0]!r} ({node.op_type}) is quantised. "
                + ("Give the float file, and quantise what comes of it." if TASKS in entries_of(model) else
                   "Merge the float nets first and quantise the result.")
            )
    _refuse_sparse(path, model)
    halves = computed_type(model) != TensorProto.FLOAT
    kinds = [(t.name, t.data_type) for t in model.graph.initializer if not (halves and t.data_type == TensorProto.DOUBLE)]
    kinds += [(p.name, p.type.tensor_type.elem_type) for p in (*model.graph.input, *model.graph.output)]
    _refuse_other_floats(path, kinds)


def _refuse_sparse(path: Path, model: ModelProto) -> None:
    for sparse in model.graph.sparse_initializer:
        raise UnsupportedError(
            f"{path}: {sparse.values.name!r} is a sparse initializer; only dense ones can be merged. Export it so."
        )


def _refuse_other_floats(path: Path, kinds: Iterable[tuple[str, int]]) -> None:
    """Kinds: names of values, and ONNX's numbers of their types."""
    for name, kind in kinds:
        if kind in _OTHER_FLOATS:
            raise UnsupportedError(
                f"{path}: {name!r} is {_OTHER_FLOATS[kind]}; only float32 nets can be merged, because the weights are fitted "
                "in float32. Convert the net to float32, merge it, and convert the result."
            )
