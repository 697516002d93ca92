"""`retrain`, and `merge --retrain`: what they write and say, what they refuse, how they are interrupted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import Ran, failed, images, run, snapshot, write_net

import onnxzip
import onnxzip.pipeline
import onnxzip.teaching
from onnxzip.calibration.rows import ArrayRows, Pool
from onnxzip.calibration.seen import fingerprints, judged
from onnxzip.config import DataOptions, RetrainOptions
from onnxzip.errors import UsageError
from onnxzip.exporting.metadata import read_seen
from onnxzip.net import Port
from onnxzip.retraining.batches import parted, parts_of
from onnxzip.runtime import entries_of

RUN = ("retrain", "m.onnx", "--teacher", "a=a.onnx", "--teacher", "b=b.onnx", "--data", "d.npz", "--device", "cpu")
SHORT = ("--batch", 16, "--learning-rate", 0.01)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nets, the two merged on few samples, and more samples."""
    folder = tmp_path_factory.mktemp("made")
    nets = {n: write_net(folder / f"{n}.onnx", k, classes=3 + k) for k, n in enumerate("ab")}
    x = images(600)
    np.savez(folder / "d.npz", x=x, y=np.arange(600) % 3)
    onnxzip.merge(nets, x[:64]).save(folder / "m.onnx")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder."""
    for path in made.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def retrained(*arguments: object) -> Ran:
    return run(*RUN, *SHORT, *arguments)


class TestRetrain:
    def test_result(self, folder: Path) -> None:
        before = snapshot(folder)
        ran = retrained("--steps", 40, "-o", "r.onnx", "--report", "r.json")
        assert ran.code == 0 and ran.err == ""
        assert set(snapshot(folder)) == {*before, "r.onnx", "r.json"} and before.items() <= snapshot(folder).items()
        for word in ("Fidelity", "40 steps", "loss before", "relative error before", "accuracy before", "learning rate 0.01"):
            assert word in ran.out
        report = json.loads((folder / "r.json").read_text())
        assert report["retrain"]["steps"] == 40 and report["retrain"]["seconds"] > 0
        assert report["samples"] == {"a": 600, "b": 600}
        assert {"load", "data", "retrain", "verify", "total"} == set(report["seconds"])
        for task in report["tasks"].values():
            assert task["fidelity"]["relative_error"] < task["start"]["fidelity"]["relative_error"]
            assert task["accuracy"]["before"] == task["start"]["accuracy"]["before"] and task["same_source"]
        assert run("verify", "r.onnx", "--against", "a=a.onnx", "--against", "b=b.onnx", "--data", "d.npz").code == 0
        assert run("split", "r.onnx", "--task", "a", "-o", "s.onnx").code == 0

    def test_no_steps_copy_the_file(self, folder: Path) -> None:
        ran = retrained("--steps", 0, "-o", "r.onnx")
        assert ran.code == 0 and "the start" in ran.out
        assert (folder / "r.onnx").read_bytes() == (folder / "m.onnx").read_bytes()

    def test_json_is_the_report(self, folder: Path) -> None:
        ran = retrained("--steps", 5, "-o", "r.onnx", "--json", "--report", "r.json")
        assert json.loads(ran.out) == json.loads((folder / "r.json").read_text())

    def test_without_data_the_first_line_says_so(self, folder: Path) -> None:
        ran = run("retrain", "m.onnx", "--teacher", "a=a.onnx", "--teacher", "b=b.onnx", "--steps", 2, "-o", "r.onnx", *SHORT)
        assert ran.code == 0 and "samples of noise (seed 0)" in ran.out.splitlines()[0]

    def test_options_from_a_file(self, folder: Path) -> None:
        (folder / "c.yaml").write_text("steps: 7\nbatch: 8\nlearning-rate: 0.003\nhead: [a_logits=values]\nsamples: 100\n")
        arguments = [a for a in RUN if a not in SHORT]
        report = json.loads(run(*arguments, "--config", "c.yaml", "-o", "r.onnx", "--json").out)
        assert (report["retrain"]["steps"], report["retrain"]["learning_rate"]) == (7, 0.003)
        assert report["samples"] == {"a": 100, "b": 100}
        assert report["retrain"]["tasks"]["a"]["start"]["top1_agreement"] is None

    def test_bars_tell_the_losses(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("COLUMNS", "160")
        err = retrained("--steps", 5, "-o", "r.onnx").err
        assert all(word in err for word in ("load", "data", "retrain", "verify", "5/5"))
        assert re.search(r"a \d+\.\d{4}  b \d+\.\d{4}", err)


class TestJudges:
    """A retraining is judged on samples that the merge was not made from, in whatever file and order they come."""

    @pytest.mark.parametrize("seed", [0, 7])
    def test_the_same_data_judge_as_they_judged_the_merge(self, folder: Path, seed: int) -> None:
        x = np.load("d.npz")["x"]
        merged = onnxzip.merge({"a": "a.onnx", "b": "b.onnx"}, x, seed=3)
        merged.save("m.onnx", force=True)
        np.save("again.npy", x[np.random.default_rng(seed).permutation(len(x))])
        ran = run(*RUN[:-3], "again.npy", *RUN[-2:], "--steps", 0, "-o", "r.onnx", "--report", "r.json", "--seed", seed)
        assert ran.code == 0 and ran.err == ""
        report = json.loads((folder / "r.json").read_text())
        assert report["samples"] == {"a": 600, "b": 600}
        for task, entry in merged.report["tasks"].items():
            start = report["tasks"][task]["start"]["fidelity"]
            assert 50 <= start["samples"] <= entry["fidelity"]["samples"]  # a few are taken for others
            assert start["relative_error"] == pytest.approx(entry["fidelity"]["relative_error"], rel=0.1)

    def test_samples_that_the_merge_knows_all_are_told(self, folder: Path) -> None:
        x = np.array(np.broadcast_to(images(1), (64, *images(1).shape[1:])))
        onnxzip.merge({"a": "a.onnx", "b": "b.onnx"}, x).save("m.onnx", force=True)
        np.savez("d.npz", x=x)
        ran = retrained("--steps", 0, "-o", "r.onnx")
        assert ran.code == 0 and "the merge was made from all samples of a, b" in ran.err

    def test_a_file_that_does_not_tell(self, folder: Path) -> None:
        model = onnx.load("m.onnx")
        kept = {p.key: p.value for p in model.metadata_props if p.key != "onnxzip.seen"}
        onnx.helper.set_model_props(model, kept)
        onnx.save(model, "m.onnx")
        ran = retrained("--steps", 0, "-o", "r.onnx")
        assert ran.code == 0 and "does not tell which samples it was made from" in ran.err
        onnx.helper.set_model_props(model, {**kept, "onnxzip.seen": '[[["a"],"?"]]'})
        onnx.save(model, "m.onnx")
        failed(3, *RUN, "--steps", 0, "-o", "s.onnx", words=("m.onnx", "onnxzip.seen is damaged"))

    def test_what_a_merge_of_merges_has_seen(self, folder: Path) -> None:
        net = write_net(folder / "c.onnx", 5)
        merged = onnxzip.merge({"ab": "m.onnx", "c": net}, images(40, 9))
        seen = read_seen(entries_of(merged.model), "merged")
        assert seen is not None and set(seen) == {"a", "b", "c"}
        before = read_seen(entries_of(onnx.load("m.onnx")), "m.onnx")
        assert before is not None and np.isin(before["a"], seen["a"]).all() and np.isin(seen["c"], seen["a"]).all()
        assert len(seen["a"]) > len(seen["c"])


@pytest.mark.parametrize("samples", [50, 100, 1000])
def test_rows_that_are_new_judge(samples: int) -> None:
    x = np.random.default_rng(1).standard_normal((100, 3)).astype(np.float32)
    rows = ArrayRows({"x": x}, (Port("x", np.dtype(np.float32), (-1, 3)),), DataOptions(), "x")
    pool = Pool(("a",), rows, {}, np.random.default_rng(2).permutation(100))
    usual = parted(pool.order[:samples])
    fresh = judged(pool, samples, np.zeros(0, np.uint16), parted)
    for got, want in zip(parts_of(fresh), usual, strict=True):
        assert np.array_equal(got, want)
    known = pool.order[:70]
    found = judged(pool, samples, fingerprints({"x": x[known]}), parted)
    assert len(found.order) == min(samples, 100) == len(np.unique(found.order))
    train, held = parts_of(found)
    assert len(held) == len(usual[1]) and not set(held) & {*known, *train}
    everything = judged(pool, samples, fingerprints({"x": x}), parted)
    assert everything.judges is None and np.array_equal(everything.order, pool.order[:samples])


class TestMerge:
    def test_it_retrains_before_it_verifies(self, folder: Path) -> None:
        arguments = ("merge", "a.onnx", "b.onnx", "--data", "d.npz", "--samples", 64, "--device", "cpu")
        plain = json.loads(run(*arguments, "-o", "p.onnx", "--json").out)
        ran = run(*arguments, "-o", "r.onnx", "--retrain", 40, *SHORT, "--report", "r.json")
        report = json.loads((folder / "r.json").read_text())
        assert ran.code == 0 and "Retraining: 40 steps" in ran.out
        assert plain["retrain"] is None and {"steps", "seconds"} <= set(report["retrain"])
        for task in report["retrain"]["tasks"].values():
            assert task["end"]["relative_error"] < task["start"]["relative_error"]
        assert report["seconds"]["retrain"] >= report["retrain"]["seconds"] > 0
        assert report["merged"]["params"] == plain["merged"]["params"]

    def test_no_steps(self, folder: Path) -> None:
        for name, extra in (("p.onnx", ()), ("q.onnx", ("--retrain", "0"))):
            assert run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", name, *extra).code == 0
        assert (folder / "p.onnx").read_bytes() == (folder / "q.onnx").read_bytes()


class TestRefusals:
    def refused(self, code: int, folder: Path, *arguments: object, words: tuple[str, ...]) -> None:
        before = snapshot(folder)
        failed(code, *arguments, words=words)
        assert snapshot(folder) == before

    def test_teachers(self, folder: Path) -> None:
        write_net(folder / "other.onnx", 9, classes=3)
        write_net(folder / "wide.onnx", 9, classes=7)
        start = ("retrain", "m.onnx", "--data", "d.npz", "-o", "r.onnx", "--steps", 3)
        a, b = ("--teacher", "a=a.onnx"), ("--teacher", "b=b.onnx")
        self.refused(2, folder, *start, *a, words=("'b'", "no teacher", "--teacher b="))
        self.refused(2, folder, *start, *a, *b, "--teacher", "c=a.onnx", words=("no task 'c'",))
        self.refused(2, folder, *start, "--teacher", "a=other.onnx", *b, words=("other.onnx", "'a'", "--any-teacher"))
        self.refused(3, folder, *start, "--teacher", "a=none.onnx", *b, words=("none.onnx", "no such file"))
        self.refused(3, folder, *start, "--teacher", "a=wide.onnx", *b, "--any-teacher", words=("a_logits", "7"))
        self.refused(3, folder, "retrain", "a.onnx", *a, *b, "-o", "r.onnx", words=("a.onnx", "not made by onnxzip"))
        ran = run(*start, "--teacher", "a=other.onnx", *b, "--any-teacher", *SHORT)
        assert ran.code == 0 and "not byte for byte" in ran.err

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--steps", -1), ("--steps -1", "negative")),
            (("--batch", 0), ("--batch 0",)),
            (("--learning-rate", 0), ("--learning-rate 0", "not positive")),
            (("--temperature", -2), ("--temperature -2",)),
            (("--label-weight", 1.5), ("--label-weight 1.5", "between 0 and 1")),
            (("--head", "a_logits=wrong"), ("OUTPUT=KIND",)),
            (("--head", "c=values"), ("no such output", "a_logits")),
            (("--loss", "nothing:here"), ("--loss nothing:here",)),
            (("--resume",), ("--checkpoint",)),
            (("--resume", "--checkpoint", "none.pt"), ("none.pt", "no such checkpoint")),
            (("--checkpoint", "a.onnx"), ("a.onnx", "is read by this command")),
            (("--checkpoint", "nowhere/c.pt"), ("nowhere", "does not exist")),
            (("--checkpoint-every", 0), ("--checkpoint-every 0",)),
        ],
    )
    def test_options(self, folder: Path, arguments: tuple[object, ...], words: tuple[str, ...]) -> None:
        self.refused(2, folder, *RUN, "-o", "r.onnx", *arguments, words=words)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--head", "a_logits=wrong"), ("OUTPUT=KIND",)),
            (("--head", "c=values"), ("no such output", "a_logits, b_logits")),
            (("--loss", "nothing:here"), ("--loss nothing:here", "no such Python callable")),
            (("--resume", "--checkpoint", "none.pt"), ("none.pt", "no such checkpoint")),
        ],
    )
    def test_options_are_judged_before_data_are_read(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], words: tuple[str, ...]
    ) -> None:
        for module in (onnxzip.pipeline, onnxzip.teaching):
            monkeypatch.setattr(module, "collect", unreachable)
        self.refused(2, folder, "merge", "a.onnx", "b.onnx", "-o", "r.onnx", "--retrain", 5, *arguments, words=words)
        self.refused(2, folder, *RUN, "-o", "r.onnx", *arguments, words=words)

    @pytest.mark.parametrize(
        ("body", "word"),
        [
            ("3.0", "no tensor of one number"),
            ("y['logits']", "no tensor of one number"),
            ("(y['logits'] - t['logits']).mean().detach()", "has no gradient"),
            ("y['logits'].mean() * float('nan')", "is NaN"),
            ("(y['logits'] - t['logits']).mean().log()", "is NaN"),
            ("y['logit'].mean()", "failed: KeyError"),
        ],
    )
    def test_losses_that_teach_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, word: str, request: pytest.FixtureRequest
    ) -> None:
        """They are told before the zip, on what the original nets say; `retrain` tells them before its first step."""
        module = "loss" + "".join(c for c in request.node.name if c.isalnum())
        (folder / f"{module}.py").write_text(f"def of(y, t, labels):\n    return {body}\n")
        monkeypatch.setattr(onnxzip.pipeline, "_zip", unreachable)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        rest = ("--data", "d.npz", "-o", "r.onnx", "--loss", f"{module}:of")
        words = (f"--loss {module}:of" if "tensor" not in word else "task 'a'", word)
        self.refused(2, folder, "merge", "a.onnx", "b.onnx", "--retrain", 5, *rest, words=words)
        self.refused(2, folder, *RUN[:6], *rest, "--steps", 5, words=words)

    def test_a_loss_that_is_no_number_for_the_fused_net(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The originals' own outputs, on which both tasks are tried, do not tell it."""
        text = "CALLS = []\ndef of(y, t, labels):\n    CALLS.append(0)\n"
        (folder / "far.py").write_text(text + "    return y['logits'].mean() * (1.0 if len(CALLS) < 3 else float('inf'))\n")
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        words = ("--loss far:of", "at the start")
        self.refused(2, folder, *RUN, "-o", "r.onnx", "--loss", "far:of", "--steps", 5, words=words)

    def test_tasks_that_nothing_can_teach(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxzip.pipeline, "collect", unreachable)
        model = onnx.load("b.onnx")
        model.graph.node.append(onnx.helper.make_node("Cast", ["logits"], ["kind"], to=onnx.TensorProto.INT64))
        model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("kind", onnx.TensorProto.INT64, ["N", 4]))
        onnx.save(model, "kinds.onnx")
        words = ("'kinds'", "none of its outputs are floating-point numbers")
        self.refused(3, folder, "merge", "a.onnx", "kinds.onnx", "-o", "r.onnx", "--retrain", 5, words=words)

    def test_heads_of_a_merge_of_merges(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxzip.pipeline, "collect", unreachable)
        start = ("merge", "m.onnx", "c=a.onnx", "-o", "r.onnx", "--retrain", 5)
        self.refused(2, folder, *start, "--head", "d=values", words=("outputs: a_logits, b_logits, c_logits",))

    def test_options_for_retraining_without_retraining(self, folder: Path) -> None:
        start, given = ("merge", "a.onnx", "b.onnx", "-o", "r.onnx"), ("--head", "a_logits=values", "--label-weight", 0.7)
        self.refused(2, folder, *start, *given, words=("--label-weight: for retraining only", "--retrain STEPS"))
        self.refused(2, folder, *start, "--checkpoint", "c.pt", "--resume", words=("--checkpoint, --resume",))
        with pytest.raises(UsageError, match="--batch: for retraining only"):
            onnxzip.merge({n: f"{n}.onnx" for n in "ab"}, retrain_options=RetrainOptions(batch=8))

    def test_data(self, folder: Path) -> None:
        np.savez(folder / "few.npz", x=images(10))
        start = RUN[:6]
        self.refused(3, folder, *start, "--data", "few.npz", "-o", "r.onnx", words=("few.npz", "10 samples", "32"))
        self.refused(3, folder, *start, "--data", "none.npz", "-o", "r.onnx", words=("none.npz", "no such file"))

    def test_a_weight_for_labels_without_labels(self, folder: Path) -> None:
        np.savez(folder / "plain.npz", x=images(100))
        words = ("--label-weight 0.5", "'y'")
        data = ("--data", "plain.npz", "--label-weight", "0.5", "-o", "r.onnx")
        self.refused(2, folder, *RUN[:6], *data, words=words)
        self.refused(2, folder, "merge", "a.onnx", "b.onnx", "--retrain", 5, *data, words=words)

    def test_a_weight_for_labels_that_nothing_takes(self, folder: Path) -> None:
        """Of nets without classes no labels are asked for; of some with them, labels for these."""
        for name in "ab":
            model = onnx.load(f"{name}.onnx")
            model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["logits", "place"], ["map"]))
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "place"))
            shape = ["N", model.graph.output[0].type.tensor_type.shape.dim[1].dim_value, 1]
            model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("map", onnx.TensorProto.FLOAT, shape))
            onnx.save(model, f"{name}2.onnx")
        rest = ("--data", "d.npz", "--label-weight", "0.5", "-o", "r.onnx", "--retrain", 5)
        self.refused(2, folder, "merge", "a2.onnx", "b2.onnx", *rest, words=("no task has an output [batch, classes]",))
        np.savez("plain.npz", x=images(100))
        data = ("--data", "a=plain.npz", "--data", "b2=d.npz", *rest[2:])
        self.refused(2, folder, "merge", "a.onnx", "b2.onnx", *data, words=("needs labels", "in the data for 'a'"))

    def test_outputs_that_exist(self, folder: Path) -> None:
        for name, flag in (("r.onnx", "-o"), ("c.pt", "--checkpoint")):
            (folder / name).write_bytes(b"mine")
            others = () if flag == "-o" else ("-o", "q.onnx")
            self.refused(2, folder, *RUN, *others, flag, name, words=(name, "--force"))


def unreachable(*arguments: object, **named: object) -> None:
    raise AssertionError("the work has begun")


def _alone() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.setpgrp()


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "onnxzip", *RUN, *SHORT, *arguments]
    return subprocess.Popen(
        [str(a) for a in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_alone
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert path.exists(), process.communicate()


class TestProcess:
    def test_killed_and_resumed(self, folder: Path) -> None:
        """The process is killed behind its first checkpoint; resumed, it writes what it would have written."""
        steps = ("--steps", 60, "--checkpoint-every", 20, "--checkpoint", "c.pt")
        straight = retrained(*steps, "-o", "s.onnx")
        assert straight.code == 0
        (folder / "c.pt").unlink()
        process = started(*steps, "-o", "r.onnx")
        wait_for(folder / "c.pt", process)
        process.kill()
        process.communicate(timeout=60)
        (folder / "r.onnx").unlink(missing_ok=True)
        assert retrained(*steps, "--resume", "-o", "r.onnx").code == 0
        assert (folder / "r.onnx").read_bytes() == (folder / "s.onnx").read_bytes()
        assert not list(folder.glob("*.part")) and not list(folder.glob(".*.part"))

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_interrupted(self, folder: Path, number: int, code: int) -> None:
        long = "--steps", 200_000, "--checkpoint", "c.pt", "--checkpoint-every", 50
        process = started(*long, "-o", "r.onnx", "--report", "r.json")
        wait_for(folder / "c.pt", process)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        assert "best weights so far were written" in err and "Traceback" not in err and "Retraining:" in out
        report = json.loads((folder / "r.json").read_text())
        assert report["retrain"]["interrupted"] and 50 <= report["retrain"]["steps"] < 200_000
        assert run("verify", "r.onnx", "--against", "a=a.onnx", "--data", "d.npz").code == 0
