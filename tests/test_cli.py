"""The command line: what goes to stdout and stderr, how options are given, what is imported when."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from merging import MODELS, entries, failed, images, outputs_of, run, snapshot, write_net
from processes import ended, started

import onnxzip.pipeline
from onnxzip.cli import main
from onnxzip.config import (
    DataOptions,
    JobOptions,
    MergeSteps,
    OutputOptions,
    PlanOptions,
    RetrainData,
    RetrainOptions,
    RetrainSteps,
    RunOptions,
    VerifyOptions,
    WaitOptions,
    ZipOptions,
)
from onnxzip.errors import UsageError
from onnxzip.ops.lazy import execute, lazy_module
from onnxzip.pairs import shares_of
from onnxzip.values import size_of

FORCED = {"merge": ("--force",), "split": ("--force",), "plan": (), "--version": ()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nets and data for them, in the current folder."""
    write_net(tmp_path / "a.onnx", 1)
    write_net(tmp_path / "b.onnx", 2, classes=3)
    np.savez(tmp_path / "d.npz", x=images(100))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestMerge:
    def test_two_commands_give_a_net_that_can_be_trusted(self, folder: Path) -> None:
        before = snapshot(folder)
        ran = run("merge", "tops=a.onnx", "shoes=b.onnx", "--data", "d.npz", "-o", "m.onnx", "--report", "r.json")
        assert ran.code == 0 and ran.err == ""
        assert set(snapshot(folder)) == {*before, "m.onnx", "r.json"} and before.items() <= snapshot(folder).items()
        outputs = outputs_of(folder / "m.onnx", images(5))
        assert {n: y.shape for n, y in outputs.items()} == {"tops_logits": (5, 4), "shoes_logits": (5, 3)}
        for word in ("tops", "shoes", "first", "second", "top-1 agreement", "of the sum"):
            assert word in ran.out
        assert run("verify", "m.onnx", "--against", "tops=a.onnx", "--against", "shoes=b.onnx", "--data", "d.npz").code == 0

    def test_names_default_to_file_stems(self, folder: Path) -> None:
        assert run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "d.npz").code == 0
        assert list(outputs_of(folder / "m.onnx", images(2))) == ["a_logits", "b_logits"]

    def test_without_data_the_first_line_says_so(self, folder: Path) -> None:
        ran = run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--seed", "7", "--report", "r.json")
        assert ran.code == 0 and "900 samples of noise (seed 7)" in ran.out.splitlines()[0]
        assert json.loads((folder / "r.json").read_text())["noise"] == {"samples": 900, "seed": 7}
        assert "noise" not in run("merge", "a.onnx", "b.onnx", "-o", "n.onnx", "--data", "d.npz").out

    def test_json_is_the_report(self, folder: Path) -> None:
        ran = run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "d.npz", "--json", "--report", "r.json")
        assert json.loads(ran.out) == json.loads((folder / "r.json").read_text())

    def test_the_same_command_gives_the_same_bytes(self, folder: Path) -> None:
        for out in ("m.onnx", "n.onnx"):
            assert run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "--share", "0.5", "-o", out).code == 0
        assert (folder / "m.onnx").read_bytes() == (folder / "n.onnx").read_bytes()
        assert run("merge", "a.onnx", "b.onnx", "-o", "o.onnx", "--seed", "1").code == 0
        assert (folder / "m.onnx").read_bytes() != (folder / "o.onnx").read_bytes()

    def test_the_same_file_twice_is_shared_entirely(self, folder: Path) -> None:
        ran = run("merge", "p=a.onnx", "q=a.onnx", "-o", "m.onnx", "--data", "d.npz", "--json")
        report = json.loads(ran.out)
        assert all(s["shared"] == s["groups"] == s["channels"]["p"] for s in report["spaces"])
        assert all(t["fidelity"]["relative_error"] < 1e-4 for t in report["tasks"].values())

    def test_nothing_shared_is_the_nets_side_by_side(self, folder: Path) -> None:
        x = images(9)
        for layout in ("strands", "wide"):
            assert run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--share", "0", "--layout", layout, "--force").code == 0
            fused = outputs_of(folder / "m.onnx", x)
            for name in "ab":
                np.testing.assert_array_equal(fused[f"{name}_logits"], outputs_of(folder / f"{name}.onnx", x)["logits"])

    def test_the_opset_of_the_result(self, folder: Path) -> None:
        x = images(9)
        for opset in (17, 20, 22):
            flags = () if opset == 17 else ("--opset", str(opset))
            assert run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--share", "0", "--force", *flags).code == 0
            assert [o.version for o in onnx.load(folder / "m.onnx").opset_import] == [opset]
            for name in "ab":
                want = outputs_of(folder / f"{name}.onnx", x)["logits"]
                np.testing.assert_allclose(outputs_of(folder / "m.onnx", x)[f"{name}_logits"], want, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("opset", ["0", "-1"])
    def test_an_opset_below_1_is_not_taken_for_none(self, folder: Path, opset: str) -> None:
        failed(2, "merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--opset", opset, words=(f"--opset {opset}", "below 1"))

    @pytest.mark.parametrize("opset", ["13", "99"])
    def test_an_opset_that_the_nets_cannot_be_brought_to(self, folder: Path, opset: str) -> None:
        failed(2, "merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--opset", opset, words=("a.onnx", f"opset {opset}", "17 to"))
        assert not (folder / "m.onnx").exists()

    def test_nets_with_a_batch_of_one(self, folder: Path) -> None:
        for name, seed in (("a1", 1), ("b1", 2)):
            write_net(folder / f"{name}.onnx", seed, classes=4 if name == "a1" else 3, batch="1")
        free = json.loads(run("merge", "a=a.onnx", "b=b.onnx", "-o", "m.onnx", "--data", "d.npz", "--json").out)
        fixed = json.loads(run("merge", "a=a1.onnx", "b=b1.onnx", "-o", "n.onnx", "--data", "d.npz", "--json").out)
        for task in "ab":
            want, got = (r["tasks"][task]["fidelity"]["relative_error"] for r in (free, fixed))
            assert got == pytest.approx(want, rel=1e-3)

    def test_shares_by_pattern(self, folder: Path) -> None:
        ran = run(
            "merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "d.npz", "--share", "0.25", "--share", "sec*=1", "--json"
        )
        assert {s["name"]: s["shared"] for s in json.loads(ran.out)["spaces"]} == {"first": 2, "second": 16}
        assert json.loads(entries(folder / "m.onnx")["onnxzip.shares"]) == [["*", 0.25], ["sec*", 1.0]]

    def test_outputs_keep_their_names_where_others_have_them(self, folder: Path) -> None:
        model = onnx.load(folder / "a.onnx")
        renames = {"a": "a_logits", "w0": "b_logits"}
        for node in model.graph.node:
            node.input[:] = [renames.get(v, v) for v in node.input]
            node.output[:] = [renames.get(v, v) for v in node.output]
        for tensor in model.graph.initializer:
            tensor.name = renames.get(tensor.name, tensor.name)
        onnx.save(model, folder / "strange.onnx")
        for nets in (("a=strange.onnx", "b=b.onnx"), ("b=b.onnx", "a=strange.onnx")):
            for share in (0, 0.5, 1):
                assert run("merge", *nets, "-o", "m.onnx", "--data", "d.npz", "--share", share, "--force").code == 0
                fused = outputs_of(folder / "m.onnx", images(5))
                assert list(fused) == [f"{net[0]}_logits" for net in nets]
                assert run("diff", "strange.onnx", "m.onnx", "--task", "a").code == 0

    def test_an_output_that_is_an_input(self, folder: Path) -> None:
        model = onnx.load(folder / "b.onnx")
        model.graph.output.append(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 1, 6, 6]))
        onnx.save(model, folder / "b.onnx")
        assert run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "d.npz").code == 0
        fused = outputs_of(folder / "m.onnx", images(5))
        assert list(fused) == ["a_logits", "b_logits", "b_image"]
        np.testing.assert_array_equal(fused["b_image"], images(5))

    @pytest.mark.parametrize("method", ["zip", "mtz", "average"])
    def test_methods(self, folder: Path, method: str) -> None:
        assert run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "d.npz", "--method", method).code == 0
        assert entries(folder / "m.onnx")["onnxzip.method"] == method


class TestConfig:
    def test_a_file_gives_options_and_flags_override_it(self, folder: Path) -> None:
        (folder / "c.yaml").write_text(
            "share: {'*': 0.25, sec*: 0.5}\nlayout: wide\nseed: 3\ndata: {a: d.npz, b: d.npz}\nmemory: 2M\n"
        )
        ran = run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--config", "c.yaml", "--seed", "4", "--json")
        report = json.loads(ran.out)
        assert (report["layout"], report["seed"], report["noise"]) == ("wide", 4, None)
        assert {s["name"]: s["shared"] for s in report["spaces"]} == {"first": 2, "second": 8}

    def test_keys_are_the_flags(self) -> None:
        text = run("merge", "--help").out
        records = DataOptions, PlanOptions, ZipOptions, RunOptions, MergeSteps, RetrainOptions, OutputOptions
        for record in (*records, JobOptions, WaitOptions):
            for field in fields(record):
                assert f"--{field.name.replace('_', '-')}" in text
        text = run("retrain", "--help").out
        for record in (RetrainData, RetrainSteps, RetrainOptions, RunOptions, OutputOptions, WaitOptions):
            for field in fields(record):
                assert f"--{field.name.replace('_', '-')}" in text

    def test_the_python_function_has_the_same_options_and_defaults(self) -> None:
        parameters = dict(inspect.signature(onnxzip.merge).parameters)
        for record in (DataOptions, PlanOptions, ZipOptions, RunOptions, MergeSteps):
            for field in fields(record):
                if field.name not in ("data", "share"):
                    assert parameters[field.name].default == field.default
        assert shares_of(parameters["share"].default) == PlanOptions().share
        retrain = inspect.signature(onnxzip.retrain).parameters
        for record in (RetrainData, RetrainSteps, RunOptions):
            assert all(retrain[f.name].default == f.default for f in fields(record) if f.name != "data")
        verify = inspect.signature(onnxzip.verify).parameters
        assert all(verify[f.name].default == f.default for f in fields(VerifyOptions))

    @pytest.mark.parametrize(
        ("raw", "shares"),
        [
            (0.5, (("*", 0.5),)),
            (["0.8", "s*=0.3"], (("*", 0.8), ("s*", 0.3))),
            ({"a": 1, "b": 0}, (("a", 1.0), ("b", 0.0))),
            ("/0/Conv=0.1", (("/0/Conv", 0.1),)),
            ((("*", 0.5),), (("*", 0.5),)),
        ],
    )
    def test_shares(self, raw: object, shares: tuple[tuple[str, float], ...]) -> None:
        assert shares_of(raw) == shares

    @pytest.mark.parametrize(("raw", "size"), [("500M", 500 << 20), ("2g", 2 << 30), ("1.5 KiB", 1536), (12, 12)])
    def test_sizes(self, raw: object, size: int) -> None:
        assert size_of(raw) == size
        with pytest.raises(UsageError):
            size_of(f"{raw}x")


class TestPlan:
    def test_it_says_what_a_merge_then_does(self, folder: Path) -> None:
        before = snapshot(folder)
        planned = json.loads(run("plan", "a.onnx", "b.onnx", "--share", "0.5", "--json").out)
        assert snapshot(folder) == before
        merged = json.loads(
            run("merge", "a.onnx", "b.onnx", "--share", "0.5", "-o", "m.onnx", "--data", "d.npz", "--json").out
        )
        for key in ("name", "channels", "shared", "groups"):
            assert [s[key] for s in planned["spaces"]] == [s[key] for s in merged["spaces"]]
        for key in ("params", "macs"):
            assert planned["merged"][key] == merged["merged"][key]
        assert planned["merged"]["bytes"] == pytest.approx(merged["merged"]["bytes"], abs=5000)  # names, owners, origins
        assert planned["refusals"] == merged["refusals"]

    def test_its_table(self, folder: Path) -> None:
        ran = run("plan", "a.onnx", "b.onnx", "--layout", "wide")
        assert ran.code == 0 and all(word in ran.out for word in ("first", "second", "params", "of the sum", "multiply-adds"))

    def test_refusals_are_told(self, folder: Path) -> None:
        write_net(folder / "c.onnx", 3)
        text = '<ir_version: 8, opset_import: ["": 17]> n (float[N,1,6,6] image) => (float[N,8,6,6] y) {'
        text += " a = Conv <pads = [1,1,1,1]> (image, w0, b0) s = Relu (a) y = Softplus (s) }"
        import onnx

        model, donor = onnx.parser.parse_model(text), onnx.load(folder / "a.onnx")
        model.graph.initializer.extend(t for t in donor.graph.initializer if t.name in ("w0", "b0"))
        onnx.save(model, folder / "short.onnx")
        ran = run("plan", "a.onnx", "short.onnx", "--json")
        report = json.loads(ran.out) if ran.code == 0 else {"refusals": [{"where": ran.err, "why": ran.err}]}
        assert report["refusals"] and all(r["where"] and r["why"] for r in report["refusals"])


    @pytest.mark.parametrize("batch", ["1", "4"])
    def test_it_refuses_what_a_merge_refuses(self, folder: Path, batch: str) -> None:
        nets = [write_net(folder / f"{name}.onnx", seed, batch=batch) for seed, name in enumerate("cd")]
        for command in (("plan", *nets), ("merge", *nets, "-o", "m.onnx")):
            if batch == "1":
                assert run(*command).code == 0
            else:
                failed(3, *command, words=("'image'", "[4, 1, 6, 6] only"))


class TestPackage:
    def test_all_that_is_public_is_there_when_asked_for(self) -> None:
        code = (
            "import sys, onnxzip\nassert 'numpy' not in sys.modules\nassert 'merge' in dir(onnxzip) and onnxzip.__version__\n"
            "assert onnxzip.merge is onnxzip.pipeline.merge\nfrom onnxzip import *\n"
            "assert issubclass(UsageError, OnnxzipError)\n"
            "assert not hasattr(onnxzip, 'fuse') and not hasattr(onnxzip, '_fuse')"
        )
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


class TestProcess:
    def test_torch_is_not_executed(self) -> None:
        nets = [str(MODELS / f"lenet5-{task}.onnx") for task in ("digits", "animals")]
        code = (
            "import sys, onnxzip.cli\n"
            f"assert onnxzip.cli.main(['plan', *{nets!r}]) == 0\n"
            "assert not any(name.startswith('torch.') for name in sys.modules), 'torch'"
        )
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_exit_codes_reach_the_shell(self, folder: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "onnxzip", "merge", "a.onnx", "none.onnx", "-o", "m.onnx"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (3, "") and done.stderr.startswith("error: none.onnx")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
    @pytest.mark.parametrize(
        "command",
        [
            ("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx"),
            ("plan", "a.onnx", "b.onnx"),
            ("plan", "a.onnx", "b.onnx", "--json"),
            ("split", "m.onnx", "--task", "a", "-o", "s.onnx"),
            ("plan", "--help"),
            ("--version",),
        ],
        ids=" ".join,
    )
    def test_stdout_that_cannot_be_written(self, folder: Path, command: tuple[str, ...]) -> None:
        """What was written besides stays, and no exit code says that a verification has failed."""
        if command[0] == "split":
            assert run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx").code == 0
        with open("/dev/full", "w") as full, started(folder, "-m", "onnxzip", *command, stdout=full) as process:
            ran = ended(process)
        assert (ran.code, ran.err) == (2, "error: stdout: cannot be written: No space left on device\n")
        for place in command:
            assert not place.endswith(".onnx") or (folder / place).stat().st_size > 1000
        reading, writing = os.pipe()
        os.close(reading)
        again = (*command, *FORCED[command[0]])
        with open(writing, "w") as closed, started(folder, "-m", "onnxzip", *again, stdout=closed) as process:
            ran = ended(process)
        assert (ran.code, ran.err) == (2, "")

    @pytest.mark.parametrize(
        ("encoding", "letter", "told"), [("ascii", "ü", "\\xfc"), ("cp1252", "λ", "\\u03bb"), ("utf-8", "\udce9", "\\udce9")]
    )
    def test_letters_that_stdout_has_no_code_for(self, folder: Path, encoding: str, letter: str, told: str) -> None:
        merge = "merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx"
        assert run(*merge).code == 0
        split = "split", "m.onnx", "--task", "a", "-o", f"{letter}.onnx"
        with started(folder, "-m", "onnxzip", *split, PYTHONIOENCODING=encoding) as process:
            ran = ended(process)
        assert (ran.code, ran.err) == (0, "") and ran.out.startswith(f"{told}.onnx: task a, ")
        name = letter if letter.isalpha() else "ü"
        (folder / "a.onnx").rename(folder / f"{name}.onnx")
        plan = "plan", f"{name}.onnx", "b.onnx", "--json"
        with started(folder, "-m", "onnxzip", *plan, PYTHONIOENCODING=encoding) as process:
            ran = ended(process)
        assert ran.code == 0 and list(json.loads(ran.out)["tasks"]) == [name, "b"]

    def test_no_number_is_broken_on_a_narrow_terminal(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run("merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx").code == 0
        wide = run("inspect", "m.onnx").out
        for name, value in (("TTY_COMPATIBLE", "1"), ("NO_COLOR", "1"), ("COLUMNS", "50")):
            monkeypatch.setenv(name, value)
        narrow = re.sub(r"\x1b\[[\d;]*m", "", run("inspect", "m.onnx").out)
        assert narrow != wide and sorted(re.findall(r"[\d.,]+", narrow)) == sorted(re.findall(r"[\d.,]+", wide))

    def test_data_whose_name_is_no_text(self, folder: Path) -> None:
        name = os.fsdecode(b"caf\xe9.npz")
        np.savez(folder / name, x=(255 * images(100)).clip(0, 255).astype(np.uint8))
        assert run("merge", "a.onnx", "b.onnx", "--data", name, "-o", "m.onnx", "--report", "r.json").code == 0
        assert json.loads((folder / "r.json").read_text(encoding="ascii"))["scaled_uint8"] == [name]

    def test_a_folder_that_is_gone(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "gone").mkdir()
        monkeypatch.chdir(folder / "gone")
        (folder / "gone").rmdir()
        failed(2, "plan", folder / "a.onnx", folder / "b.onnx", words=("current folder cannot be found",))

    def test_what_the_user_s_code_prints(self, folder: Path) -> None:
        (folder / "loud.py").write_text(
            "import numpy\nprint('one')\ndef batches():\n    print('two')\n    yield numpy.zeros((64, 1, 6, 6), 'f4')\n"
        )
        merge = "merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "loud:batches", "--json"
        with started(folder, "-m", "onnxzip", *merge) as process:
            ran = ended(process)
        assert ran.code == 0 and json.loads(ran.out)["schema_version"] == 1 and ran.err.startswith("one\ntwo\n")

    def test_an_interrupt_while_the_result_is_printed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(report: object) -> list[str]:
            signal.raise_signal(signal.SIGTERM)
            return []

        monkeypatch.setattr(onnxzip.cli.making, "merge_tables", interrupted)
        merge = "merge", "a.onnx", "b.onnx", "--data", "d.npz", "-o", "m.onnx"
        said = failed(143, *merge, words=("while the result was printed",))
        assert "nothing was written" not in said and (folder / "m.onnx").exists()

    def test_an_interrupt(self, folder: Path) -> None:
        (folder / "slow.py").write_text(
            "import time, numpy\n"
            "def batches():\n    open('started', 'w').close()\n    time.sleep(60)\n    yield numpy.zeros((64, 1, 6, 6))\n"
        )
        command = [sys.executable, "-m", "onnxzip", "merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "slow:batches"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=os.setpgrp
        )
        for _ in range(300):
            if (folder / "started").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (130, "") and "interrupted" in err and "Traceback" not in err
        assert not [*folder.glob("m.onnx*"), *folder.glob("*.part")]

    @pytest.mark.parametrize("module", ["typer.core", "numpy._core.multiarray", "onnx.checker", "onnxruntime"])
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
    def test_whatever_ends_it_while_modules_load(self, folder: Path, module: str, name: str) -> None:
        """Python says on stderr which module it has loaded; what follows is still to come then."""
        command = "-X", "importtime", "-m", "onnxzip", "merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "d.npz"
        process = subprocess.Popen(
            [sys.executable, *command], stderr=subprocess.PIPE, text=True, preexec_fn=os.setpgrp
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.split("|")[-1].strip() == module:
                break
        process.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=60)
        said = [line for line in err.splitlines() if not line.startswith("import time:")]
        assert (process.returncode, said) == (128 + getattr(signal, name), ["interrupted; nothing was written"])
        assert not (folder / "m.onnx").exists()

    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_whatever_ends_it_no_no_scratch_is_left(self, folder: Path, name: str) -> None:
        code = (
            "import os, signal, sys, time\nimport onnxzip.cli\nfrom onnxzip.calibration.frontier import Frontier\n"
            "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
            "plain = Frontier.advance\n"
            "def advance(self, *arguments, **named):\n    plain(self, *arguments, **named)\n"
            "    open('started', 'w').close()\n    time.sleep(60)\n"
            "Frontier.advance = advance\n"
            "sys.exit(onnxzip.cli.main(['merge', 'a.onnx', 'b.onnx', '-o', 'm.onnx', '--data', 'd.npz', '--memory', '0']))"
        )
        scratch = folder / "scratch"
        scratch.mkdir()
        with started(folder, "-c", code, TMPDIR=str(scratch)) as process:
            for _ in range(300):
                if (folder / "started").exists() or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert list(scratch.glob("onnxzip-*"))
            process.send_signal(getattr(signal, name))
            ran = ended(process)
        assert ran.code == 128 + getattr(signal, name) and ran.out == ""
        assert ran.err == "interrupted; nothing was written\n"
        assert not list(scratch.glob("onnxzip-*")) and not [*folder.glob("m.onnx*"), *folder.glob("*.part")]

    def test_nohup_holds(self, folder: Path) -> None:
        code = (
            "import os, signal, sys\nimport onnxzip.cli, onnxzip.pipeline\n"
            "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nplain = onnxzip.pipeline.load_family\n"
            "def load(*arguments):\n    os.kill(os.getpid(), signal.SIGHUP)\n    return plain(*arguments)\n"
            "onnxzip.pipeline.load_family = load\n"
            "sys.exit(onnxzip.cli.main(['merge', 'a.onnx', 'b.onnx', '-o', 'm.onnx', '--data', 'd.npz']))"
        )
        with started(folder, "-c", code) as process:
            assert ended(process).code == 0

    def test_an_interrupt_that_a_library_turns_into_another_error(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*arguments: object) -> None:
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                raise AttributeError("half imported") from None

        monkeypatch.setattr(onnxzip.pipeline, "load_family", interrupted)
        assert "interrupted" in failed(143, "merge", "a.onnx", "b.onnx", "-o", "m.onnx", words=())
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def test_an_interrupt_while_torch_is_imported(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "late.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n")
        monkeypatch.syspath_prepend(folder)
        try:
            module = lazy_module("late")
            with pytest.raises(KeyboardInterrupt):
                execute(module)
            assert module.whole
        finally:
            del sys.modules["late"]

    def test_main_returns_the_code(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == onnxzip.__version__
        assert main(["no-such-command"]) == 2 and main([]) == 2
        assert main(["merge", "--help"]) == 0


def test_bars_appear_on_a_terminal_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--data", "d.npz").err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    err = run("merge", "a.onnx", "b.onnx", "-o", "n.onnx", "--data", "d.npz").err
    for stage in ("load", "analyse", "data", "sweep", "zip", "verify"):
        assert stage in err
