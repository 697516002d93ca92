"""Nets that take any number of samples by their inputs, and work for one number alone.

torch's older exporter writes the batch of its example into states of recurrent layers, and wherever a shape is read as
Python's integers; whoever then names the first axis of the inputs has a file that fails at every other batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from onnx import ModelProto

from onnxzip.errors import InvalidModelError
from onnxzip.loading.dims import batch_name

_EXAMPLES = (2, 3, 4, 8, 1)  # batches that nets are exported with; what stands for one may stand for any other


def as_of_one_batch(
    path: Path, model: ModelProto, fold: Callable[[int], object], error: InvalidModelError
) -> InvalidModelError:
    """The error of a net that does not work for several batches, with the batch that it does work for, where there is one.

    Args:
        path: for messages.
        fold: looks at the model for one batch.
        error: what is wrong with the others.
    """
    batch = next(_working(fold), None)
    if batch is None:
        return error
    name = batch_name(model) or "NAME"
    fixing = f"python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param {name} --dim_value 1 IN OUT"
    others = f"put that batch into its inputs (`{fixing}`)" if batch == 1 else "for one sample alone, with a batch of 1"
    return InvalidModelError(
        f"{path}: its inputs take any number of samples, but it works for a batch of {batch} alone, that of the example that "
        f"it was exported with. Export it with `dynamo=True`, or {others}. At another batch, {error}"
    )


def _working(fold: Callable[[int], object]) -> Iterator[int]:
    for batch in _EXAMPLES:
        try:
            fold(batch)
        except InvalidModelError:
            continue
        yield batch
