"""A job in several processes under torchrun, on the loopback interface: the result of one, and an end to every error."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from merging import run
from processes import MERGE, alone, check_same_nets, ended, prepare, started, torchrun

# Data that do what they should not, on the second rank alone.
HOSTILE = """
import os, signal
import numpy as np
from onnxzip.distributed import ranks

SECOND = os.environ.get("RANK") == "1"


def samples():
    return np.random.default_rng(3).standard_normal((100, 1, 6, 6), np.float32)


def broken():
    x = samples()
    if SECOND:
        x[:] = np.nan
    yield x


def killed():
    "The second rank is killed in the middle of the zip."
    inner, calls = ranks.Ranks.sum, []

    def sum(self, name, arrays):
        calls.append(name)
        if SECOND and len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, name, arrays)

    ranks.Ranks.sum = sum
    yield samples()


steps = []


def _squares(outputs, targets, signal):
    "A loss; the second rank gets a signal in its sixth step, of two tasks each."
    (name,) = outputs
    if outputs[name].requires_grad:
        steps.append(name)
        if SECOND and len(steps) == 11:
            os.kill(os.getpid(), signal)
    return (outputs[name] - targets[name]).square().mean()


def killing(outputs, targets, labels):
    return _squares(outputs, targets, signal.SIGKILL)


def interrupting(outputs, targets, labels):
    return _squares(outputs, targets, signal.SIGINT)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path)
    (tmp_path / "hostile.py").write_text(HOSTILE)
    return tmp_path


LEARN = ("--learning-rate", "0.01", "--batch", "32")


@pytest.mark.parametrize(
    ("ranks", "options"),
    [(2, ("--share", "0.5")), (3, ("--layout", "wide")), (2, ("--samples", "63")), (2, ("--retrain", "6", *LEARN))],
)
def test_a_merge_is_that_of_one_process(folder: Path, ranks: int, options: tuple[str, ...]) -> None:
    """With 63 samples columns outnumber rows, so that the rows themselves are gathered; none of the last block is held out."""
    one = alone(folder, *MERGE, *options, "-o", "one.onnx", "--json")
    many = torchrun(folder, ranks, *MERGE, *options, "-o", "many.onnx", "--json")
    assert one.code == many.code == 0, many.err
    check_same_nets(folder, "one.onnx", "many.onnx")
    want, got = json.loads(one.out), json.loads(many.out)
    assert got["samples"] == want["samples"] and got["merged"] == want["merged"]
    for task in "ab":
        assert got["tasks"][task]["fidelity"] == pytest.approx(want["tasks"][task]["fidelity"], rel=1e-5)
    assert [s["damping"] for s in got["spaces"]] == [s["damping"] for s in want["spaces"]]
    assert sorted(p.name for p in folder.glob("*.onnx*")) == ["a.onnx", "b.onnx", "many.onnx", "one.onnx"]


RETRAIN = (
    *("retrain", "fused.onnx", "--teacher", "a=a.onnx", "--teacher", "b=b.onnx", "--data", "a=a.npz", "--data", "b=b.npz"),
    *LEARN,
)


@pytest.fixture
def fused(folder: Path) -> Path:
    """A folder with a fused net that retraining makes better."""
    prepare(folder, 600)
    assert alone(folder, *MERGE, "--samples", "60", "-o", "fused.onnx").code == 0
    return folder


@pytest.mark.parametrize("ranks", [2, 3])
def test_retraining_is_that_of_one_process(fused: Path, ranks: int) -> None:
    """A batch of 32 falls into unequal parts of three; 6 steps are taken, and kept."""
    command = (*RETRAIN, "--steps", "6", "--json", "-o")
    one, many = alone(fused, *command, "one.onnx"), torchrun(fused, ranks, *command, "many.onnx")
    assert one.code == many.code == 0, many.err
    want, got = json.loads(one.out), json.loads(many.out)
    assert got["retrain"]["kept_step"] == want["retrain"]["kept_step"] == 6
    assert (fused / "many.onnx").read_bytes() != (fused / "fused.onnx").read_bytes()
    check_same_nets(fused, "one.onnx", "many.onnx")
    for task in "ab":
        for when in ("start", "end"):
            assert got["retrain"]["tasks"][task][when] == pytest.approx(want["retrain"]["tasks"][task][when], rel=1e-4)
        assert got["tasks"][task]["fidelity"] == pytest.approx(want["tasks"][task]["fidelity"], rel=1e-4)


def test_one_process_goes_on_where_two_were_stopped(fused: Path) -> None:
    """The second rank is killed in the sixth step; the first one's checkpoint of the fourth serves whoever comes."""
    command = (*RETRAIN, "--steps", "12", "--loss", "hostile:killing", "-o")
    checkpoint = ("--checkpoint", "c.pt", "--checkpoint-every", "4")
    assert alone(fused, *command, "one.onnx").code == 0
    stopped = torchrun(fused, 2, *command, "many.onnx", *checkpoint)
    assert stopped.code != 0 and stopped.out == "" and not [*fused.glob("many.onnx*"), *fused.glob("*.part")]
    assert (fused / "c.pt").exists() and not list(fused.glob("*.part"))
    resumed = alone(fused, *command, "many.onnx", *checkpoint, "--resume")
    assert resumed.code == 0, resumed.err
    check_same_nets(fused, "one.onnx", "many.onnx")


def test_an_interrupt_of_one_rank_stops_all_and_keeps_the_best(fused: Path) -> None:
    command = (*RETRAIN, "--steps", "1000", "--loss", "hostile:interrupting", "--json", "-o", "m.onnx")
    ends = by_hand(fused, command, command)
    assert [code for code, _ in ends] == [130, 130], ends
    assert (fused / "m.onnx").read_bytes() != (fused / "fused.onnx").read_bytes()


def test_bad_data_of_one_rank_end_all_with_its_message(folder: Path) -> None:
    ran = torchrun(folder, 3, *MERGE[:3], "--data", "hostile:broken", "-o", "m.onnx")
    assert ran.code != 0 and ran.out == ""
    assert ran.err.count("error: hostile:broken") == 1 and "NaN or Inf" in ran.err
    assert "exitcode  : 3" in ran.err and 'Traceback (most recent call last):\n  File "hostile' not in ran.err
    assert not [*folder.glob("m.onnx*"), *folder.glob("*.part")]


def test_a_killed_rank_ends_the_job(folder: Path) -> None:
    ran = torchrun(folder, 3, *MERGE[:3], "--data", "hostile:killed", "-o", "m.onnx")
    assert ran.code != 0 and ran.out == ""
    assert "SIGKILL" in ran.err or "exitcode  : -9" in ran.err
    assert not [*folder.glob("m.onnx*"), *folder.glob("*.part")]


def meeting(ranks: int) -> dict[str, str]:
    """Where ranks that are started one by one meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def by_hand(folder: Path, *commands: tuple[object, ...]) -> list[tuple[int, str]]:
    """Ranks started one by one, with the variables that torchrun would set: exit codes and messages."""
    shared = meeting(len(commands))
    found = []
    contexts = [started(folder, "-m", "onnxzip", *c, **shared, RANK=str(k)) for k, c in enumerate(commands)]
    processes = [c.__enter__() for c in contexts]
    try:
        for process in processes:
            ran = ended(process)
            found.append((ran.code, ran.err))
    finally:
        for context in contexts:
            context.__exit__(None, None, None)
    return found


def test_survivors_of_a_killed_rank_say_so_without_torchrun(folder: Path) -> None:
    first, second = by_hand(folder, *[(*MERGE[:3], "--data", "hostile:killed", "-o", "m.onnx")] * 2)
    assert second[0] == -9
    assert first[0] == 5 and "another process of this job has ended" in first[1] and "Traceback" not in first[1]
    assert not [*folder.glob("m.onnx*"), *folder.glob("*.part")]


@pytest.mark.parametrize("command", [MERGE, RETRAIN])
def test_a_rank_that_never_comes_is_waited_for_no_longer_than_asked(folder: Path, command: tuple[str, ...]) -> None:
    ran = alone(folder, *command, "-o", "m.onnx", "--exchange-timeout", "2", **meeting(2), RANK="0")
    assert ran.code == 5 and "another process of this job has ended or cannot be reached" in ran.err
    assert not (folder / "m.onnx").exists()


def test_ranks_that_do_different_jobs_are_refused(folder: Path) -> None:
    ends = by_hand(folder, (*MERGE, "-o", "m.onnx", "--seed", "1"), (*MERGE, "-o", "m.onnx"))
    assert [code for code, _ in ends] == [2, 2]
    assert "seed: 1" in ends[0][1] and ends[1][1] == ""
    assert not (folder / "m.onnx").exists()


@pytest.mark.parametrize("command", ["merge", "retrain"])
def test_ranks_that_have_different_data_are_refused(fused: Path, command: str) -> None:
    words = MERGE if command == "merge" else RETRAIN
    np.savez(fused / "other.npz", **{k: v[::-1] for k, v in np.load(fused / "a.npz").items()})
    ends = by_hand(fused, (*words, "-o", "m.onnx"), (*[w.replace("a=a.npz", "a=other.npz") for w in words], "-o", "m.onnx"))
    assert [code for code, _ in ends] == [2, 2]
    assert "hash of the first samples of a" in ends[0][1] and ends[1][1] == ""
    assert not (fused / "m.onnx").exists()


def test_an_error_of_all_is_told_once(folder: Path) -> None:
    ends = by_hand(folder, *[("merge", "a.onnx", "none.onnx", "-o", "m.onnx")] * 2)
    assert [code for code, _ in ends] == [3, 3]
    assert "none.onnx" in ends[0][1] and ends[1][1] == ""


def test_too_few_samples_for_the_ranks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    arguments = (*MERGE, "--samples", "40", "-o", "m.onnx", "--shard", "1/9", "--exchange", "meet")
    ran = run(*arguments)
    assert ran.code == 3 and "40 samples are too few for 9 processes" in ran.err and "at most 8" in ran.err


def test_torch_is_not_imported_by_one_process(folder: Path) -> None:
    code = (
        f"import sys, onnxzip.cli\nassert onnxzip.cli.main([*{MERGE!r}, '-o', 'm.onnx']) == 0\n"
        "assert not any(name.startswith('torch.') for name in sys.modules), 'torch'"
    )
    with started(folder, "-c", code) as process:
        ran = ended(process)
    assert ran.code == 0, ran.err
