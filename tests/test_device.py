"""The path that keeps live values on the device and computes moments there, forced on the provider at hand, against numpy.

On a CPU the device's memory is the host's: graphs, indices and bookkeeping are the same as on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from fusing import Fused, make, outputs, samples_for
from zipping import MODELS, ROOMY, images_of, planned, silent, sources_of

from onnxzip.analysis import Plan, analyse
from onnxzip.calibration import device as device_module
from onnxzip.calibration import places
from onnxzip.calibration.device import DevicePlace
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.places import HostPlace, Place, place_for
from onnxzip.calibration.samples import Source
from onnxzip.calibration.store import Store
from onnxzip.errors import InvalidDataError
from onnxzip.fusion import underway
from onnxzip.fusion.assembling import assemble
from onnxzip.fusion.statistics import StepStatistics
from onnxzip.fusion.zipping import zip_nets
from onnxzip.linalg.moments import ChannelMoments, Moments
from onnxzip.matching.methods import ZIP
from onnxzip.net import Net
from onnxzip.runtime.session import CPU, CUDA, cuda_works

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not cuda_works(), reason="no CUDA device"))]
FAMILIES = [
    *((f, 0.5) for f in ("tokens", "lenet", "bottleneck", "inception", "grouped", "multiplier", "conv1d", "unet")),
    ("time_first", 0.5), *((f, 1.0) for f in ("mlp", "mobilenet", "grouped", "channel_minor", "frames")),
]
COUNTS = {"low": 60, "high": 85}


@contextmanager
def swept(plan: Plan, sources: Sequence[Source], device: str, place: Callable[[Store], Place]) -> Iterator[Frontier]:
    """A frontier in a place, with all targets."""
    with Store(ROOMY) as store:
        frontier = Frontier(plan, sources, store, device, 1, 0, place(store))
        frontier.sweep(plan.steps, False, silent)
        yield frontier


def sample_pair(family: str, share: float) -> tuple[Plan, list[Source]]:
    """Two of the sample nets with their images."""
    plan = planned({t: MODELS / f"{family}-fashion-{t}.onnx" for t in COUNTS}, share)
    return plan, sources_of(plan, {t: images_of(f"fashion-{t}", n) for t, n in COUNTS.items()})


def small_pair(nets: Sequence[Net], share: float) -> tuple[Plan, list[Source]]:
    """Two small nets with noise."""
    return analyse(nets, [("*", share)], "strands"), [Source(tuple(n.name for n in nets), samples_for(nets[0]), {})]


def close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Equal to the precision of float32 sums."""
    scale = float(np.abs(expected).max()) if expected.size else 0.0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=4e-6 * scale, err_msg=what)


def same_moments(found: Moments | ChannelMoments, expected: Moments | ChannelMoments, what: str) -> None:
    assert found.count == expected.count > 0, what
    for name in ("zz", "zp", "pp"):
        close(np.asarray(getattr(found, name)), np.asarray(getattr(expected, name)), f"{what} {name}")


class Compared(StepStatistics):
    """Statistics by numpy, compared with those that a device makes of the same values."""

    device = "cpu"
    steps: list[str]

    def __init__(self, frontier: Frontier, *rest: object) -> None:
        super().__init__(frontier, *rest)  # type: ignore[arg-type]
        host = frontier.place
        assert isinstance(host, HostPlace)
        frontier.place = DevicePlace(host._store, self.device, 1)
        other = StepStatistics(frontier, *rest)  # type: ignore[arg-type]
        frontier.place = host
        for k, source in self.sources.items():
            mine = other.sources[k]
            assert (mine.columns, mine.targets, mine.width) == (source.columns, source.targets, source.width)
            for side in ("train", "held"):
                for found, expected in zip(getattr(mine, side), getattr(source, side), strict=True):
                    same_moments(found, expected, f"{self.step.name} {side}")
            for a, b in zip(mine.kept, source.kept, strict=True):
                np.testing.assert_array_equal(a.z, b.z)
                close(a.p, b.p, f"{self.step.name} p")
        self.steps.append(self.step.name)


def compare_all_steps(monkeypatch: pytest.MonkeyPatch, device: str, plan: Plan, sources: Sequence[Source]) -> None:
    monkeypatch.setattr(Compared, "steps", [], raising=False)
    monkeypatch.setattr(Compared, "device", device)
    monkeypatch.setattr(underway, "StepStatistics", Compared)
    with swept(plan, sources, "cpu", HostPlace) as frontier:
        zip_nets(plan, ZIP, frontier, tick=silent)
    assert len(Compared.steps) >= 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("family", "share"), [("lenet5", 0.5), ("resnet", 0.5), ("mobilenet", 0.5), ("lenet300", 1.0), ("lstm", 1.0)]
)
def test_statistics_of_the_sample_nets(monkeypatch: pytest.MonkeyPatch, device: str, family: str, share: float) -> None:
    monkeypatch.setattr(device_module, "ROWS_BYTES", 1 << 20)  # batches go in several portions
    compare_all_steps(monkeypatch, device, *sample_pair(family, share))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("family", "share"), FAMILIES)
def test_statistics_of_every_kind_of_layer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, family: str, share: float
) -> None:
    """Strided, grouped, depthwise with and without a multiplier, transposed, 1-D, MatMul over tokens, several parts, skips."""
    compare_all_steps(monkeypatch, device, *small_pair([make(tmp_path, family, seed) for seed in (1, 2)], share))


def merged(plan: Plan, sources: Sequence[Source], device: str, place: Callable[[Store], Place]) -> tuple[Fused, Place]:
    with swept(plan, sources, device, place) as frontier:
        found = zip_nets(plan, ZIP, frontier, tick=silent)
        return Fused(plan, found, assemble(plan, found.params)), frontier.place


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["lenet5", "mobilenet", "lstm"])
def test_merged_nets_are_as_good(device: str, family: str) -> None:
    """With moments and rows from the device the fused net is as close to its originals, and all targets are dropped."""
    plan, sources = sample_pair(family, 1.0)
    wrong = {}
    for name, where, place in (("host", "cpu", HostPlace), ("device", device, lambda s: DevicePlace(s, device, 1))):
        fused, used = merged(plan, sources, where, place)
        per_task = []
        for task, net in plan.nets.items():
            x = images_of(f"fashion-{task}", 300)[200:]
            (got,) = (v for n, v in outputs(fused.net, {"x": x}).items() if n.startswith(task))
            (want,) = outputs(net, {"x": x}).values()
            per_task.append(float(np.linalg.norm(got - want) / np.linalg.norm(want)))
        wrong[name] = np.mean(per_task)
        if isinstance(used, DevicePlace):
            targets = [key for key in used._values if isinstance(key, tuple) and key[0] == "target"]
            assert used.returned > 0 and not targets
    assert wrong["device"] == pytest.approx(wrong["host"], rel=0.05)


def test_values_stay_on_the_device_within_its_budget() -> None:
    plan, sources = sample_pair("lenet5", 1.0)
    with swept(plan, sources, "cpu", lambda s: DevicePlace(s, "cpu", 1)) as roomy:
        targets = [v for key, (v, _) in roomy.place._values.items() if key[0] == "target"]  # type: ignore[attr-defined]
        wanted = sum(len(roomy.batches[roomy.source_of[t]]) for s in plan.steps for t in s.tasks)
        assert len(targets) == wanted and isinstance(targets[0], ort.OrtValue)
        assert roomy.place.returned == 0  # type: ignore[attr-defined]
    whole, place = merged(plan, sources, "cpu", lambda s: DevicePlace(s, "cpu", 1))
    tight, spilled = merged(plan, sources, "cpu", lambda s: DevicePlace(s, "cpu", 1, 200_000))
    assert spilled.used <= 200_000 and spilled.returned > place.returned  # type: ignore[attr-defined]
    for name, array in whole.zipped.params.items():
        assert np.array_equal(array, tight.zipped.params[name])


def test_values_that_are_not_finite_are_found() -> None:
    plan, sources = sample_pair("lenet300", 1.0)
    (name, x), *_ = sources[1].inputs.items()
    broken = Source(sources[1].tasks, {name: np.where(np.arange(len(x)).reshape(-1, 1, 1, 1) == 7, np.inf, x)}, {})
    with (
        pytest.raises(InvalidDataError, match=r"'high'.*NaN or Inf"),
        swept(plan, [sources[0], broken], "cpu", lambda s: DevicePlace(s, "cpu", 1)),
    ):
        pass


@pytest.mark.parametrize(("provider", "kind"), [(CPU, HostPlace), (CUDA, DevicePlace)])
def test_the_provider_decides_the_place(monkeypatch: pytest.MonkeyPatch, provider: str, kind: type) -> None:
    monkeypatch.setattr(places, "provider_for", lambda device: provider)
    with Store(ROOMY) as store:
        assert isinstance(place_for("auto", store, 1), kind)
