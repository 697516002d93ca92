"""A fused file is merged with a further net: its tasks keep their names, and mean what they meant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import entries, failed, images, outputs_of, run, write_net

DATA = ("--data", "d.npz")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three nets, the first two merged to ab.onnx as p and q, and data."""
    for name, seed, classes in (("a", 1, 4), ("b", 2, 3), ("c", 3, 5)):
        write_net(tmp_path / f"{name}.onnx", seed, classes=classes)
    np.savez(tmp_path / "d.npz", x=images(100))
    monkeypatch.chdir(tmp_path)
    assert run("merge", "p=a.onnx", "q=b.onnx", "--share", "0.5", *DATA, "-o", "ab.onnx").code == 0
    return tmp_path


@pytest.mark.parametrize("share", ["0", "0.5", "1"])
def test_tasks_keep_their_names_and_can_be_taken_out(folder: Path, share: str) -> None:
    ran = run("merge", "both=ab.onnx", "r=c.onnx", "--share", share, *DATA, "-o", "abc.onnx", "--json")
    assert ran.code == 0 and set(json.loads(ran.out)["tasks"]) == {"both", "r"}
    x = images(9, 3)
    together = outputs_of(folder / "abc.onnx", x)
    assert list(together) == ["p_logits", "q_logits", "r_logits"]
    for task in "pqr":
        assert run("split", "abc.onnx", "--task", task, "-o", f"{task}.onnx").code == 0
        alone = outputs_of(folder / f"{task}.onnx", x)
        assert list(alone) == ["logits"]
        np.testing.assert_allclose(alone["logits"], together[f"{task}_logits"], rtol=1e-5, atol=1e-5)
    if share == "0":
        before = outputs_of(folder / "ab.onnx", x) | {"r_logits": outputs_of(folder / "c.onnx", x)["logits"]}
        for name, want in before.items():
            np.testing.assert_allclose(together[name], want, rtol=1e-5, atol=1e-5)


def test_what_the_file_says_is_true(folder: Path) -> None:
    run("merge", "both=ab.onnx", "r=c.onnx", "--share", "0.5", *DATA, "-o", "abc.onnx")
    first, found = entries(folder / "ab.onnx"), entries(folder / "abc.onnx")
    assert json.loads(found["onnxzip.tasks"]) == ["p", "q", "r"]
    sources, before = json.loads(found["onnxzip.sources"]), json.loads(first["onnxzip.sources"])
    for task, file in (("p", "a.onnx"), ("q", "b.onnx"), ("r", "c.onnx")):
        assert sources[task]["source"] == file and sources[task]["outputs"] == {"logits": f"{task}_logits"}
        assert task == "r" or sources[task]["sha256"] == before[task]["sha256"]
    merged = json.loads(found["onnxzip.merged_from"])
    assert list(merged) == ["both"] and merged["both"]["source"] == "ab.onnx" and merged["both"]["tasks"] == ["p", "q"]
    owners = json.loads(found["onnxzip.owners"])
    assert {t for tasks, _, _ in owners for t in tasks} == {"p", "q", "r"} and ["p", "q", "r"] in [o[0] for o in owners]
    owned = {n for _, nodes, _ in owners for n in nodes}
    assert owned == {n.name for n in onnx.load(folder / "abc.onnx").graph.node}
    strands = [key for space in json.loads(found["onnxzip.spaces"]).values() for key, _ in space]
    assert {t for key in strands for t in key} == {"p", "q", "r"}


def test_the_first_files_still_judge_and_teach(folder: Path) -> None:
    run("merge", "both=ab.onnx", "r=c.onnx", "--share", "1", *DATA, "-o", "abc.onnx")
    against = [x for t, f in (("p", "a"), ("q", "b"), ("r", "c")) for x in (f"{t}={f}.onnx",)]
    command = [x for pair in against for x in ("--against", pair)]
    report = json.loads(run("verify", "abc.onnx", *command, *DATA, "--json").out)
    assert all(entry["same_source"] for entry in report["tasks"].values()) and set(report["tasks"]) == set("pqr")
    teachers = [x for pair in against for x in ("--teacher", pair)]
    assert run("retrain", "abc.onnx", *teachers, *DATA, "--steps", "3", "-o", "better.onnx").code == 0
    assert run("bundle", "abc.onnx", "-o", "parts").code == 0 and (folder / "parts" / "q.onnx").exists()


def test_data_for_the_tasks_of_a_fused_net_serve_it_together(folder: Path) -> None:
    for name, seed, count in (("dp", 7, 60), ("dq", 8, 80)):
        np.savez(folder / f"{name}.npz", x=images(count, seed), y=np.zeros(count, np.int64))
    data = ("--data", "p=dp.npz", "--data", "q=dq.npz", "--data", "r=d.npz")
    ran = run("merge", "both=ab.onnx", "r=c.onnx", *data, "-o", "abc.onnx", "--json")
    assert json.loads(ran.out)["samples"] == {"both": 126, "r": 90}
    np.savez(folder / "all.npz", x=np.concatenate([images(60, 7), images(80, 8)]))
    same = run("merge", "both=ab.onnx", "r=c.onnx", "--data", "both=all.npz", "--data", "r=d.npz", "-o", "same.onnx")
    assert same.code == 0 and (folder / "same.onnx").read_bytes() == (folder / "abc.onnx").read_bytes()
    failed(2, "merge", "both=ab.onnx", "r=c.onnx", *data, "--data", "both=all.npz", "-o", "x.onnx", words=("'both'", "p, q"))


def test_names_that_are_taken(folder: Path) -> None:
    run("merge", "p=b.onnx", "s=c.onnx", *DATA, "-o", "bc.onnx")
    assert run("merge", "one=ab.onnx", "two=bc.onnx", *DATA, "-o", "four.onnx").code == 0
    assert json.loads(entries(folder / "four.onnx")["onnxzip.tasks"]) == ["one.p", "q", "two.p", "s"]
    names = list(outputs_of(folder / "four.onnx", images(2)))
    assert names == ["one.p_logits", "q_logits", "two.p_logits", "s_logits"]
    assert run("split", "four.onnx", "--task", "two.p", "-o", "x.onnx").code == 0
    failed(2, "merge", "one=ab.onnx", "one.p=c.onnx", "p=a.onnx", *DATA, "-o", "x2.onnx", words=("'one.p'", "NAME=FILE"))


def test_one_task_taken_out_is_an_ordinary_net(folder: Path) -> None:
    """It goes by the name that the user gives it, and comes from the file that it is."""
    run("split", "ab.onnx", "--task", "p", "-o", "p.onnx")
    assert run("merge", "t=p.onnx", "r=c.onnx", *DATA, "-o", "tc.onnx").code == 0
    found = entries(folder / "tc.onnx")
    assert json.loads(found["onnxzip.tasks"]) == ["t", "r"] and "onnxzip.merged_from" not in found
    assert json.loads(found["onnxzip.sources"])["t"]["source"] == "p.onnx"


def test_labels_of_inner_tasks_are_not_held_against_the_net(folder: Path) -> None:
    """p has four classes, q three: whose labels are meant by those of the net nobody could say."""
    for name, classes in (("dp", 4), ("dq", 3), ("dr", 5)):
        np.savez(folder / f"{name}.npz", x=images(60, classes), y=np.arange(60) % classes)
    assert run("merge", "q=b.onnx", "p=a.onnx", *DATA, "-o", "ba.onnx").code == 0
    data = [x for t in "pqr" for x in ("--data", f"{t}=d{t}.npz")]
    ran = run("merge", "both=ba.onnx", "r=c.onnx", *data, "-o", "x.onnx", "--json")
    assert ran.code == 0 and "labels 'y' not used for 'both'" in " ".join(ran.err.split())
    tasks = json.loads(ran.out)["tasks"]
    assert tasks["both"]["accuracy"] is None and tasks["r"]["accuracy"] is not None


def test_data_for_some_inner_tasks_are_not_enough(folder: Path) -> None:
    command = "merge", "both=ab.onnx", "r=c.onnx", "--data", "q=d.npz", "--data", "r=d.npz", "-o", "x.onnx"
    failed(3, *command, words=("no data for 'p'",))
    failed(3, "merge", "x=ab.onnx", "p=c.onnx", "--data", "p=d.npz", "--data", "q=d.npz", "-o", "x.onnx", words=("'x.p'",))
    assert run(*command, "--data", "d.npz").code == 0
