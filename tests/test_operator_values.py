"""The torch function of every operator computes what ONNX says: on ONNX's own cases, and on the samples of the laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from backend_cases import NEWEST, REASONS, Case, cases, reason
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from operator_samples import Sample
from operator_samples_shaped import SAMPLES

from onnxzip.errors import UnsupportedError
from onnxzip.loading import load
from onnxzip.net import Node
from onnxzip.ops import find, registered
from onnxzip.ops.evaluate import evaluate

# operators of which none of ONNX's cases leaves a node in a canonical net: the samples alone speak for their values
NO_CASE = {
    "Cast": "no case casts to float32 from what a float32 net can hold",
    "Dropout": "loading takes it out",
    "GlobalLpPool": "ONNX has no case",
    "GroupNormalization": "see REASONS",
    "MeanVarianceNormalization": "see REASONS",
}
LEAST_CASES = 450
RUN = [case for case in cases() if reason(case.name) is None]


def run_case(case: Case, folder: Path) -> list[str]:
    net = case.net(folder)
    results = evaluate(net, {name: torch.from_numpy(array) for name, array in case.feeds.items()})
    for port, want in zip(net.outputs, case.wanted, strict=True):
        np.testing.assert_allclose(results[port.name].numpy(), want, rtol=case.rtol, atol=case.atol, err_msg=case.name)
        assert results[port.name].numpy().dtype == want.dtype
    return [node.op for node in net.nodes]


@pytest.fixture(scope="module")
def covered() -> set[str]:
    return set()


@pytest.mark.parametrize("case", RUN, ids=lambda case: case.name)
def test_onnx_cases(case: Case, tmp_path: Path, covered: set[str]) -> None:
    covered.update(run_case(case, tmp_path))


def test_enough_cases_run_and_every_reason_is_needed() -> None:
    names = [case.name for case in cases()]
    assert len(RUN) >= LEAST_CASES
    for why in set(REASONS.values()):
        assert any(reason(name) == why for name in names), why
