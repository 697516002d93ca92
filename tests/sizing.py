"""A file whose inputs take any size, merged with a permuted copy of itself: what the tests of such nets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from fusing import Fused, fuse_planned, permuted
from merging import fed

from onnxzip.analysis import Plan, analyse_sized
from onnxzip.calibration.samples import Source
from onnxzip.fusion.assembling import output_name
from onnxzip.loading import Loaded, family, load_family
from onnxzip.loading.sized import AtSize
from onnxzip.matching.methods import find_method
from onnxzip.runtime import to_model

Arrays = Mapping[str, np.ndarray]


def with_copy(path: Path, sizes: Mapping[str, int] | None) -> Loaded:
    """A file as `a`, and as `b` with its channels in another order, for samples of a size."""
    loaded = load_family(family({"a": path, "b": path}), None if sizes is None else {"a": sizes, "b": sizes})
    params = permuted(loaded.at[0].nets[1], 7).params
    at = tuple(AtSize(one.sizes, (one.nets[0], replace(one.nets[1], params=params))) for one in loaded.at)
    return replace(loaded, at=at)


def planned_with_copy(path: Path, sizes: Mapping[str, int] | None = None, share: float = 1.0) -> Plan:
    """The plan of both."""
    return analyse_sized(with_copy(path, sizes), [("*", share)])


def fused_with_copy(path: Path, feeds: Arrays, sizes: Mapping[str, int], share: float = 1.0) -> Fused:
    """Both merged on the same samples."""
    plan = planned_with_copy(path, sizes, share)
    return fuse_planned(plan, [Source(("a", "b"), feeds, {})], find_method("zip"))


def check_at(fused: Fused, path: Path, feeds: Arrays, tolerance: float) -> None:
    """Law 4 at a size: both tasks of the fused file compute what the file does."""
    content = to_model(fused.net).SerializeToString()
    found, want = fed(content, feeds), fed(path, feeds)
    for name, array in want.items():
        for task in "ab":
            got = found[output_name(task, name)]
            assert got.shape == array.shape
            np.testing.assert_allclose(got, array, rtol=0, atol=tolerance * float(np.abs(array).max()))


def input_dims(fused: Fused) -> dict[str, list[str | int]]:
    """The axes of the fused file's inputs: names of those of any size."""
    model = to_model(fused.net)
    onnx.checker.check_model(model, full_check=True)
    return {p.name: [d.dim_param or d.dim_value for d in p.type.tensor_type.shape.dim] for p in model.graph.input}
