"""Nets that others have published, fetched on first use into a cache outside the repository, or skipped with the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxzip

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
from real_data import UnavailableError, clips, log_power
from real_nets import Case, errors, outputs, personal_ratings, ratings, readers, wake_words

FRAMES = 41


def had(make: Callable[[], Case]) -> Case:
    """A case, or a skip with the reason."""
    try:
        return make()
    except UnavailableError as error:
        pytest.skip(str(error))


def shared_of(report: dict[str, object]) -> list[tuple[int, int]]:
    spaces = report["spaces"]
    return [(s["shared"], max(s["channels"].values())) for s in spaces]  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [ratings, personal_ratings, readers])
def test_nets_of_one_architecture_correspond_from_end_to_end(make: Callable[[], Case]) -> None:
    found = shared_of(onnxzip.plan(had(make).nets))
    assert len(found) >= 9 and all(shared == channels for shared, channels in found)


def test_wake_word_nets_of_two_structures_share_what_they_can() -> None:
    """One net has no norm, and leaves after the first layer; one decides in an If."""
    report = onnxzip.plan(had(lambda: wake_words("alexa", "hey_marvin", "hey_jarvis")).nets)
    assert report["spaces"][0]["channels"] == {"alexa": 128, "marvin": 128, "jarvis": 128}
    assert any("alexa" in r["why"] for r in report["refusals"])


def test_wake_word_nets_merge_sample_by_sample() -> None:
    case = had(lambda: wake_words("hey_marvin", "hey_jarvis"))
    try:
        calibration, test = case.data(4)
    except UnavailableError as error:
        pytest.skip(str(error))
    merged = onnxzip.merge(case.nets, calibration, share=0.5)
    assert merged.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    wanted = {task: outputs(str(file), test)[0] for task, file in case.nets.items()}
    assert max(errors(case, wanted, merged, test)) < 0.3


def shortened(path: Path, folder: Path) -> Path:
    """A rating net for shorter clips: it is convolutional, and ends in a maximum over time."""
    model = onnx.load(path)
    port = model.graph.input[0]
    assert port.type.tensor_type.elem_type == TensorProto.FLOAT
    port.type.tensor_type.shape.dim[1].dim_value = FRAMES
    del model.graph.value_info[:]
    onnx.save(model, folder / path.name)
    return folder / path.name


def test_rating_nets_merge_far_better_than_by_mtz(tmp_path: Path) -> None:
    case = had(ratings)
    try:
        sound = clips(14, 1)
    except UnavailableError as error:
        pytest.skip(str(error))
    seconds = sound[:, : 8 * 16_000].reshape(-1, 16_000)
    x = np.stack([log_power(s)[:FRAMES] for s in seconds])
    short = Case(case.name, {t: shortened(f, tmp_path) for t, f in case.nets.items()}, case.data)
    wanted = {task: outputs(str(file), x[:8])[0] for task, file in short.nets.items()}
    found = {m: errors(short, wanted, onnxzip.merge(short.nets, x[8:], method=m), x[:8]) for m in ("zip", "mtz")}
    assert max(found["zip"]) < 0.25 * max(found["mtz"])
