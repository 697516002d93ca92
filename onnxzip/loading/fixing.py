"""Inputs that are one number for all samples (a sample rate, a temperature): settings of a net, and constants once known.

    the user says it, or the data do    ->    a param, before anything is folded: an If that it decides is the branch it takes
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from onnxzip.errors import UnsupportedError, UsageError
from onnxzip.loading.dims import ports_of_graph
from onnxzip.pairs import Fixes, Number
from onnxzip.values import nearest

Fixed = Mapping[str, Number]  # input -> its number
NONE_FIXED: Fixed = {}
Models = Mapping[str, tuple[Path, ModelProto]]  # task -> file and what is in it


def lone_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs without any axis."""
    return [p for p in _tensors(model) if not p.type.tensor_type.shape.dim]


def _tensors(model: ModelProto) -> list[ValueInfoProto]:
    return [p for p in ports_of_graph(model) if p.type.WhichOneof("value") == "tensor_type"]


def asked_numbers(models: Models, asked: Fixes) -> dict[str, dict[str, Number]]:
    """By task the inputs that the user fixes; the last number for one counts.

    Args:
        asked: INPUT of all nets that have it, or TASK:INPUT, and its number.

    Raises:
        UsageError: there is no such input, it holds more than one number, or none of that kind.
    """
    found: dict[str, dict[str, Number]] = {task: {} for task in models}
    for text, number in asked:
        for task, port in _named(models, text).items():
            dims = [d.dim_value or d.dim_param or "any" for d in port.type.tensor_type.shape.dim]
            if any(d != 1 for d in dims):
                shape = ", ".join(map(str, dims))
                raise UsageError(f"--fix {text}: input {port.name!r} of {task!r} has the shape [{shape}]: no single number")
            held = held_by(port, number)
            if held is None:
                raise UsageError(f"--fix {text}={number}: input {port.name!r} of {task!r} is {kind_of(port)}")
            found[task][port.name] = held
    return found


def _named(models: Models, text: str) -> dict[str, ValueInfoProto]:
    """By task the input that is meant."""
    ports = {task: {p.name: p for p in _tensors(model)} for task, (_, model) in models.items()}
    task, _, own = text.partition(":")
    found = {t: mine[text] for t, mine in ports.items() if text in mine}
    if found:
        return found
    own, meant = (own, [task]) if task in models else (text, list(models))
    known = dict.fromkeys(name for t in meant for name in ports[t])
    if own not in known:
        near = nearest(own, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"--fix {text}: no input of {', '.join(meant)} is called {own!r}{hint} (inputs: {', '.join(known)})")
    return {task: ports[task][own]}


def kind_of(port: ValueInfoProto) -> np.dtype:
    """numpy's type of an input."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type))


def held_by(port: ValueInfoProto, number: Number) -> Number | None:
    """A number as an input takes it; None where it cannot."""
    dtype = kind_of(port)
    if dtype.kind == "b":
        return bool(number) if number in (0, 1) else None
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return int(number) if limits.min <= number <= limits.max and number == int(number) else None
    if dtype.kind in "OSU":
        return None
    with np.errstate(over="ignore"):
        return float(number) if np.isfinite(np.float64(number).astype(dtype)) else None


def with_fixed(model: ModelProto, numbers: Fixed) -> ModelProto:
    """A copy of a model some of whose inputs are params; the model itself where none is."""
    if not numbers:
        return model
    copy = deepcopy(model)
    for port in [p for p in copy.graph.input if p.name in numbers]:
        shape = (1,) * len(port.type.tensor_type.shape.dim)
        array = np.full(shape, numbers[port.name], kind_of(port))
        copy.graph.input.remove(port)
        copy.graph.initializer.append(numpy_helper.from_array(array, port.name))
    return copy


def check_fixed(models: Models) -> None:
    """Refuse nets whose inputs are not all fixed that are one number for all samples.

    Raises:
        UnsupportedError: saying which, and how to give the number.
    """
    for task, (_, model) in models.items():
        for port in lone_inputs(model):
            raise UnsupportedError(
                f"input {port.name!r} of {task!r} is one number for all samples, and nobody says which. Give "
                f"--fix {port.name}=NUMBER (--fix {task}:{port.name}=NUMBER for this net alone), or data that hold it as "
                f"{port.name!r}. It is a constant of the fused net then."
            )
