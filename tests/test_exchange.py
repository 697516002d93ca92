"""Shards that meet in a folder: the result of one, caught up after death, refused if foreign."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import failed, run, snapshot, write_net
from onnx.numpy_helper import to_array
from PIL import Image
from processes import MERGE, check_close, check_same_nets, ended, prepare, started

from onnxzip.calibration import frontier
from onnxzip.calibration.device import DevicePlace
from onnxzip.calibration.store import Store
from onnxzip.config import DataOptions, Options, PlanOptions, RunOptions
from onnxzip.distributed.exchange import Exchange
from onnxzip.distributed.sheets import read_sheet
from onnxzip.errors import InvalidDataError, PeerError, UsageError
from onnxzip.merged import Merged
from onnxzip.pipeline import merge_files
from onnxzip.progress import Silent

MODELS = Path(__file__).parent.parent / "models"
FILES = {"a": "a.onnx", "b": "b.onnx"}
DATA = {"a": "a.npz", "b": "b.npz"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shard(k: int, n: int, options: Options | None = None, timeout: float = 60, where: str = "meet") -> Merged:
    """What one shard comes to."""
    return merge_files(FILES, DATA, options or Options(), Silent(), Exchange(Path(where), k - 1, n, timeout))


def together(*options: Options | None, timeout: float = 60) -> list[Future[Merged]]:
    """Shards at the same time."""
    with ThreadPoolExecutor(len(options)) as pool:
        return [pool.submit(shard, k + 1, len(options), o, timeout) for k, o in enumerate(options)]


def test_two_commands_give_the_net_of_one(folder: Path) -> None:
    assert run(*MERGE, "-o", "one.onnx").code == 0
    with ExitStack() as stack:
        command = ("-m", "onnxzip", *MERGE, "-o", "two.onnx", "--exchange", "meet", "--shard")
        first, second = (ended(p) for p in [stack.enter_context(started(folder, *command, f"{k}/2")) for k in (1, 2)])
    assert first.code == second.code == 0, (first.err, second.err)
    assert "merged" in first.out and second.out == ""
    check_same_nets(folder, "one.onnx", "two.onnx")


@pytest.mark.parametrize("options", [Options(), Options(plan=PlanOptions((("*", 0.5),), "wide"))])
def test_every_shard_comes_to_the_result_of_one_process(folder: Path, options: Options) -> None:
    merge_files(FILES, DATA, options, Silent()).save("one.onnx")
    for k, done in enumerate(together(options, options, options)):
        done.result().save(f"shard{k}.onnx")
        check_same_nets(folder, "one.onnx", f"shard{k}.onnx")
        assert (folder / f"shard{k}.onnx").read_bytes() == (folder / "shard0.onnx").read_bytes()


@pytest.mark.parametrize("family", ["mobilenet", "lstm"])
def test_so_it_is_where_streams_are_turned_and_states_fitted(tmp_path: Path, family: str) -> None:
    """Axes, and what hidden units say to each other, are found from what all shards have, and look the same way in each."""
    nets = {t: MODELS / f"{family}-fashion-{t}.onnx" for t in ("low", "high")}
    data = {t: MODELS / "data" / f"fashion-{t}-calibration.npz" for t in nets}
    options = Options(DataOptions(samples=200))
    one = merge_files(nets, data, options, Silent())
    with ThreadPoolExecutor(2) as pool:
        peers = [Exchange(tmp_path / "meet", k, 2, 60) for k in range(2)]
        done = [f.result() for f in [pool.submit(merge_files, nets, data, options, Silent(), p) for p in peers]]
    params = [{p.name: to_array(p) for p in onnx.load_from_string(m.content).graph.initializer} for m in (one, *done)]
    for name, want in params[0].items():
        for other in params[1:]:
            check_close(other[name], want)


@pytest.mark.parametrize("samples", [2000, 60])
def test_so_it_is_where_an_onnx_graph_forms_the_moments(
    folder: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    """As on a GPU; with 60 samples columns outnumber rows, so that the rows themselves come back and are gathered."""
    places = []

    def graph_place(device: str, store: Store, threads: int) -> DevicePlace:
        places.append(DevicePlace(store, device, threads))
        return places[-1]

    monkeypatch.setattr(frontier, "place_for", graph_place)
    options = Options(DataOptions(samples=samples), run=RunOptions(device="cpu"))
    merge_files(FILES, DATA, options, Silent()).save("one.onnx")
    for done in together(options, options):
        done.result().save("shard.onnx", force=True)
        check_same_nets(folder, "one.onnx", "shard.onnx")
    assert len(places) == 3 and all(place.returned > 0 for place in places)


def test_a_shard_that_is_started_again_catches_up(folder: Path) -> None:
    with pytest.raises(PeerError, match=r"shard 1/2 has not written .*00001-1-of-2"):
        shard(2, 2, timeout=0.2)
    before = snapshot(folder / "meet")
    want = [done.result().content for done in together(None, None)]
    after = snapshot(folder / "meet")
    assert before.items() <= after.items() and len(after) > len(before)
    assert [shard(k, 2, timeout=0.2).content for k in (1, 2)] == want, "all is there: nobody waits"
    assert snapshot(folder / "meet") == after


def test_files_say_what_they_depend_on(folder: Path) -> None:
    [done.result() for done in together(None, None)]
    sheets = [read_sheet(path) for path in sorted((folder / "meet").glob("*-2-of-2.npz"))]
    one = next(s for s in sheets if s.header["step"] == "first, source 0")
    job = one.header["job"]
    assert job["sha256 of a"] == snapshot(folder)["a.onnx"] and job["share"] == [["*", 1.0]] and job["seed"] == 0
    assert one.header["shard"] == 2 and len(one.header["samples"].split()) == 2
    mine = [i for i in range(135) if i // 20 % 2 == 1]  # a tenth of 150 judges; the others in blocks of 20
    fitted = [i for i in mine if i % 5 != 4]
    assert one.arrays["0.count"].tolist() == [len(fitted) * 36, (len(mine) - len(fitted)) * 36]


@pytest.mark.parametrize(
    ("option", "words"), [(RunOptions(seed=1), "seed"), (None, "sha256 of b"), (PlanOptions((("*", 0.5),)), "share")]
)
def test_shards_of_different_jobs_are_refused(folder: Path, option: RunOptions | PlanOptions | None, words: str) -> None:
    [done.result() for done in together(None, None)]
    before = snapshot(folder / "meet")
    options = Options(run=option) if isinstance(option, RunOptions) else Options(plan=option) if option else Options()
    if option is None:
        write_net(folder / "b.onnx", 3, classes=3)
    with pytest.raises(UsageError, match=f"is of another merge .*{words}"):
        shard(1, 2, options, timeout=1)
    assert snapshot(folder / "meet") == before


def test_other_samples_than_last_time_are_refused(folder: Path) -> None:
    [done.result() for done in together(None, None)]
    prepare(folder)
    np.savez(folder / "a.npz", x=np.load(folder / "a.npz")["x"] + 1)
    with pytest.raises(UsageError, match=r"is of another merge .*samples"):
        shard(1, 2, timeout=1)


@pytest.mark.parametrize("stored", ["array", "photos"])
def test_shards_of_other_data_with_as_many_samples_are_refused(folder: Path, stored: str) -> None:
    data: dict[str, str] = DATA if stored == "array" else {"": "photos"}
    write_photos(folder / "photos", 0)
    for k in (1, 2):
        with pytest.raises(PeerError if k == 1 else UsageError) as raised:
            merge_files(FILES, data, Options(), Silent(), Exchange(Path("meet"), k - 1, 2, 0.2))
        np.savez(folder / "a.npz", x=np.load(folder / "a.npz")["x"] + 1)
        write_photos(folder / "photos", 1)
    told = str(raised.value)
    assert "is of another merge (hash of the first samples of a" in told and "number" not in told
    assert [p.name for p in (folder / "meet").iterdir() if "-2-of-2" in p.name] == ["00001-2-of-2.npz"]


def write_photos(path: Path, seed: int) -> None:
    """Pictures of noise."""
    path.mkdir(exist_ok=True)
    for k, noise in enumerate(np.random.default_rng(seed).integers(0, 256, (40, 8, 8), np.uint8)):
        Image.fromarray(noise).save(path / f"{k}.png")


def test_another_number_of_shards_is_refused(folder: Path) -> None:
    [done.result() for done in together(None, None)]
    with pytest.raises(UsageError, match="another number of shards than 3"):
        shard(1, 3, timeout=1)


def test_a_damaged_file_is_refused(folder: Path) -> None:
    [done.result() for done in together(None, None)]
    path = folder / "meet" / "00003-2-of-2.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidDataError, match=r"00003-2-of-2.npz: .*damaged"):
        shard(1, 2, timeout=1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--shard", "1/2"), ("--exchange",)),
        (("--exchange", "meet"), ("--shard",)),
        (("--shard", "3/2", "--exchange", "meet"), ("3/2", "2/3")),
        (("--shard", "0/2", "--exchange", "meet"), ("0/2",)),
        (("--shard", "1/2", "--exchange", ""), ("--exchange", "is no folder")),
        (("--shard", "1/2", "--exchange", "a.onnx"), ("a.onnx", "cannot be made")),
        (("--shard", "1/2", "--exchange", "meet", "--exchange-timeout", "0"), ("--exchange-timeout", "positive")),
    ],
)
def test_wrong_flags(folder: Path, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    before = snapshot(folder)
    failed(2, *MERGE, "-o", "m.onnx", *flags, words=words)
    assert snapshot(folder) == before


def test_torchrun_and_shards_at_once_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    failed(2, *MERGE, "-o", "m.onnx", "--shard", "1/2", "--exchange", "meet", words=("torchrun",))


def test_files_that_no_shard_has_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", zz=np.ones(3))
    (tmp_path / "y.npz").write_bytes(b"none")
    for name in ("x.npz", "y.npz", "z.npz"):
        with pytest.raises(InvalidDataError, match=rf"{name}: holds no moments, or is damaged"):
            read_sheet(tmp_path / name)
