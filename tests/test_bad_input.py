"""Every bad input: the right exit code, a message that says what and where, no file written, no input touched."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from merging import failed, images, run, snapshot, write_net
from PIL import Image
from processes import files_no_larger_than

import onnxzip
import onnxzip.pipeline
import onnxzip.teaching
from onnxzip.calibration.frontier import Frontier
from onnxzip.config import DataOptions, ExportOptions, RetrainOptions
from onnxzip.errors import UsageError
from onnxzip.runtime.session import cuda_works

USAGE, INVALID, BACKEND, INTERRUPTED = 2, 3, 4, 130


@pytest.fixture
def nets(tmp_path: Path) -> Iterator[Path]:
    """A folder with two nets and data for them; whatever a test does, nothing that was there changes and nothing is added."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_net(folder / "a.onnx", 1)
    write_net(folder / "b.onnx", 2)
    np.savez(folder / "good.npz", x=images(64))
    yield folder


def refused(code: int, nets: Path, *arguments: object, words: tuple[str, ...]) -> None:
    """`merge` of the two nets with more arguments fails and leaves everything as it was."""
    merge_refused(code, nets, nets / "a.onnx", nets / "b.onnx", *arguments, words=words)


def merge_refused(code: int, nets: Path, *arguments: object, words: tuple[str, ...]) -> None:
    before = snapshot(nets)
    out = nets.parent / "out"
    out.mkdir(exist_ok=True)
    failed(code, "merge", *arguments, "-o", out / "merged.onnx", "--report", out / "report.json", words=words)
    assert snapshot(nets) == before and snapshot(out) == {}


class TestModels:
    def test_missing(self, nets: Path) -> None:
        merge_refused(INVALID, nets, nets / "a.onnx", nets / "none.onnx", words=("none.onnx", "no such file"))

    def test_empty(self, nets: Path) -> None:
        (nets / "empty.onnx").touch()
        merge_refused(INVALID, nets, nets / "a.onnx", nets / "empty.onnx", words=("empty.onnx", "is empty"))

    def test_truncated(self, nets: Path) -> None:
        (nets / "half.onnx").write_bytes((nets / "a.onnx").read_bytes()[:1500])
        merge_refused(INVALID, nets, nets / "a.onnx", nets / "half.onnx", words=("half.onnx",))

    def test_not_onnx(self, nets: Path) -> None:
        (nets / "text.onnx").write_text("this is no net\n" * 50)
        merge_refused(INVALID, nets, nets / "text.onnx", nets / "a.onnx", words=("text.onnx", "not an ONNX file"))

    def test_a_directory(self, nets: Path) -> None:
        merge_refused(INVALID, nets, f"x={nets}", nets / "a.onnx", words=("is a directory",))

    def test_a_name_that_is_no_text(self, nets: Path) -> None:
        named = nets / os.fsdecode(b"caf\xe9.onnx")
        write_net(named, 1)
        merge_refused(INVALID, nets, f"a={named}", nets / "b.onnx", words=("its name is no UTF-8",))

    @pytest.mark.parametrize("text", ["", "a="])
    def test_no_name(self, nets: Path, text: str) -> None:
        merge_refused(USAGE, nets, text, nets / "b.onnx", words=(f"{text!r} names no file",))
        refused(USAGE, nets, "--data", text, words=(f"{text!r} names no file",))

    def test_a_single_net(self, nets: Path) -> None:
        merge_refused(USAGE, nets, nets / "a.onnx", words=("at least two nets", "got 1"))

    def test_two_tasks_of_one_name(self, nets: Path) -> None:
        merge_refused(USAGE, nets, nets / "a.onnx", nets / "a.onnx", words=("two tasks are called 'a'", "NAME=FILE"))
        merge_refused(USAGE, nets, f"t={nets / 'a.onnx'}", f"t={nets / 'b.onnx'}", words=("'t'",))

    @pytest.mark.parametrize("name", ["", "a b", "a:b", ".x"])
    def test_names_that_no_output_could_have(self, nets: Path, name: str) -> None:
        merge_refused(USAGE, nets, nets / "a.onnx", f"{name}={nets / 'b.onnx'}", words=("task name", repr(name), "NAME=FILE"))

    def test_a_file_whose_name_no_output_could_have(self, nets: Path) -> None:
        (nets / "my net.onnx").write_bytes((nets / "b.onnx").read_bytes())
        merge_refused(USAGE, nets, nets / "a.onnx", nets / "my net.onnx", words=("'my net'", "NAME=FILE"))

    def test_inputs_that_differ(self, nets: Path) -> None:
        model = onnx.load(nets / "b.onnx")
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 7
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 7
        onnx.save(model, nets / "other.onnx")
        words = ("'image'", "6 for a, 7 for other", "contradict")
        merge_refused(INVALID, nets, nets / "a.onnx", nets / "other.onnx", words=words)

    def test_nothing_in_common(self, nets: Path) -> None:
        text = '<ir_version: 8, opset_import: ["": 17]> n (float[N,1,6,6] image) => (float[N,1,6,6] y) { y = Sigmoid (image) }'
        (nets / "sigmoid.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
        merge_refused(INVALID, nets, nets / "a.onnx", nets / "sigmoid.onnx", words=("share nothing",))

    def test_sparse_initializers(self, nets: Path) -> None:
        model = onnx.load(nets / "b.onnx")
        dense = next(t for t in model.graph.initializer if t.name == "w1")
        values, where = np.ones(3, np.float32), np.array([0, 5, 9])
        sparse = onnx.helper.make_sparse_tensor(
            onnx.numpy_helper.from_array(values, "w1"), onnx.numpy_helper.from_array(where, "places"), list(dense.dims)
        )
        model.graph.initializer.remove(dense)
        model.graph.sparse_initializer.append(sparse)
        onnx.save(model, nets / "sparse.onnx")
        merge_refused(INVALID, nets, nets / "a.onnx", nets / "sparse.onnx", words=("'w1'", "sparse initializer", "dense"))

    def test_outputs_of_one_name(self, nets: Path) -> None:
        for name, new in (("a", "b_kind"), ("b", "kind")):
            model = onnx.load(nets / f"{name}.onnx")
            model.graph.node[-1].output[0] = model.graph.output[0].name = new
            onnx.save(model, nets / f"{name}2.onnx")
        words = ("output 'kind' of 'a_b' would be called 'a_b_kind'", "output 'b_kind' of 'a'", "NAME=FILE.onnx")
        merge_refused(USAGE, nets, f"a={nets / 'a2.onnx'}", f"a_b={nets / 'b2.onnx'}", words=words)
        failed(USAGE, "plan", f"a={nets / 'a2.onnx'}", f"a_b={nets / 'b2.onnx'}", words=words)

    def test_an_output_that_would_have_the_name_of_an_input(self, nets: Path) -> None:
        model = onnx.load(nets / "a.onnx")
        model.graph.node[0].input[0] = model.graph.input[0].name = "a_logits"
        onnx.save(model, nets / "a.onnx")
        refused(USAGE, nets, words=("output 'logits' of 'a'", "as input 'a_logits' is", "NAME=FILE.onnx"))

    def test_an_output_that_is_a_param(self, nets: Path) -> None:
        model = onnx.load(nets / "b.onnx")
        model.graph.output.append(onnx.helper.make_tensor_value_info("b0", onnx.TensorProto.FLOAT, [8]))
        onnx.save(model, nets / "constant.onnx")
        words = ("constant.onnx", "output 'b0'", "does not depend on any input")
        merge_refused(INVALID, nets, nets / "a.onnx", nets / "constant.onnx", words=words)

    def test_nan_among_the_weights(self, nets: Path) -> None:
        write_net(nets / "sick.onnx", 3, w0=np.full((8, 1, 3, 3), np.nan, np.float32))
        merge_refused(INVALID, nets, nets / "a.onnx", nets / "sick.onnx", words=("'sick'", "NaN"))

    def test_a_fixed_batch_of_more_than_one(self, nets: Path) -> None:
        for name in "pq":
            write_net(nets / f"{name}.onnx", 3, batch="4")
        merge_refused(INVALID, nets, nets / "p.onnx", nets / "q.onnx", words=("'image'", "[4, 1, 6, 6]", "dynamic or 1"))


class TestData:
    def test_missing(self, nets: Path) -> None:
        refused(INVALID, nets, "--data", nets / "none.npz", words=("none.npz", "no such file"))

    def test_paths_longer_than_paths_can_be(self, nets: Path) -> None:
        long = "n" * 300
        merge_refused(INVALID, nets, nets / "a.onnx", f"b={nets / long}.onnx", words=("name too long",))
        merge_refused(INVALID, nets, nets / "a.onnx", f"b={nets / long / 'b.onnx'}", words=("name too long",))
        refused(INVALID, nets, "--data", nets / f"{long}.npz", words=("no such file",))
        refused(INVALID, nets, "--data", f"a={nets / 'good.npz'}", "--data", f"b={nets / long}.npz", words=("no such file",))

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("fails", ("own:fails", "called without arguments", "ZeroDivisionError: division by zero")),
            ("asks", ("own:asks", "called without arguments", "TypeError", "'path'")),
            ("later", ("own:later", "failed to give a batch", "KeyError")),
            ("leaves", ("own:leaves", "called without arguments", "SystemExit: 0")),
            ("moves", ("own:moves", "changes the current folder to /")),
            ("moves_later", ("own:moves_later", "changes the current folder to /")),
        ],
    )
    def test_a_callable_that_fails_when_called(
        self, nets: Path, name: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (nets / "own.py").write_text(
            "import os, sys\n"
            "def fails():\n    return 1 / 0\ndef asks(path):\n    return path\ndef later():\n    yield {}['x']\n"
            "def leaves():\n    sys.exit(0)\ndef moves():\n    os.chdir('/')\ndef moves_later():\n    yield os.chdir('/')\n"
        )
        monkeypatch.chdir(nets)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        refused(INVALID, nets, "--data", f"own:{name}", words=words)
        assert Path.cwd() == nets
        del sys.modules["own"]

    @pytest.mark.parametrize("full", [True, False])
    def test_no_room_for_batches(self, nets: Path, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Small batches, which a buffer would hold until the file is closed."""
        small = (images(8) for _ in range(20))
        with files_no_larger_than(4000) if full else nullcontext():
            if not full:
                monkeypatch.setattr(tempfile, "tempdir", str(nets / "none"))
            with pytest.raises(UsageError, match="no room for its samples"):
                onnxzip.merge({n: nets / f"{n}.onnx" for n in "ab"}, small)

    def test_no_folder_for_live_values(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(nets / "none"))
        refused(USAGE, nets, "--data", nets / "good.npz", "--memory", 0, words=("no room for live values", "TMPDIR"))

    def test_a_module_that_fails(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (nets / "broken.py").write_text("nothing = here\n")
        monkeypatch.chdir(nets)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        refused(INVALID, nets, "--data", "broken:any", words=("broken:any", "module fails", "NameError"))

    def test_a_text_called_npz(self, nets: Path) -> None:
        (nets / "text.npz").write_text("1 2 3\n")
        refused(INVALID, nets, "--data", nets / "text.npz", words=("text.npz", "is no .npz"))

    def test_nan_in_one_sample(self, nets: Path) -> None:
        x = images(300)
        x[123, 0, 0, 0] = np.nan
        np.savez(nets / "nan.npz", x=x)
        before = snapshot(nets)
        told = failed(
            INVALID, "merge", nets / "a.onnx", nets / "b.onnx", "-o", nets / "o.onnx", "--data", nets / "nan.npz",
            words=("'image'", "NaN", "at least 1 of them"),
        )
        assert "of 30" not in told and snapshot(nets) == before

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY\x01\x00garbage", b"text"])
    def test_corrupt(self, nets: Path, content: bytes) -> None:
        (nets / "bad.npz").write_bytes(content)
        refused(INVALID, nets, "--data", nets / "bad.npz", words=("bad.npz",))

    def test_truncated(self, nets: Path) -> None:
        (nets / "half.npz").write_bytes((nets / "good.npz").read_bytes()[:4000])
        refused(INVALID, nets, "--data", nets / "half.npz", words=("half.npz", "cannot be read"))

    def test_a_broken_member(self, nets: Path) -> None:
        content = bytearray((nets / "good.npz").read_bytes())
        content[2000:2100] = bytes(100)
        (nets / "flipped.npz").write_bytes(bytes(content))
        refused(INVALID, nets, "--data", nets / "flipped.npz", words=("flipped.npz", "cannot be read"))

    def test_another_kind_of_file(self, nets: Path) -> None:
        (nets / "data.csv").write_text("1,2,3")
        refused(INVALID, nets, "--data", nets / "data.csv", words=("data.csv", ".npz"))

    def test_a_folder_without_images(self, nets: Path) -> None:
        (nets / "photos").mkdir()
        refused(INVALID, nets, "--data", nets / "photos", words=("photos", "no images"))

    def test_a_wrong_input_name(self, nets: Path) -> None:
        np.savez(nets / "d.npz", imgae=images(64))
        refused(INVALID, nets, "--data", nets / "d.npz", words=("d.npz", "'image'", "'imgae'"))

    @pytest.mark.parametrize(
        ("shape", "hint"), [((6, 6, 1), "transpose(0, 3, 1, 2)"), ((6, 6), "reshape(-1, 1, 6, 6)"), ((1, 7, 6), "[1, 7, 6]")]
    )
    def test_a_wrong_shape(self, nets: Path, shape: tuple[int, ...], hint: str) -> None:
        np.savez(nets / "d.npz", x=np.zeros((64, *shape), np.float32))
        refused(INVALID, nets, "--data", nets / "d.npz", words=("d.npz", "'image'", "[1, 6, 6]", hint))

    def test_channels_last_where_the_data_tell_their_number(self, nets: Path) -> None:
        text = """<ir_version: 8, opset_import: ["": 17]> n (float[N,C,H,W] image) => (float[N,8] y)
            { a = Conv (image, w) b = Relu (a) c = Conv (b, v) d = GlobalAveragePool (c) y = Flatten (d) }"""
        for k, name in enumerate("pq"):
            model = onnx.parser.parse_model(text)
            for param, shape in (("w", (8, 3, 3, 3)), ("v", (8, 8, 1, 1))):
                array = np.random.default_rng(k).standard_normal(shape, np.float32)
                model.graph.initializer.append(onnx.numpy_helper.from_array(array, param))
            onnx.save(model, nets / f"{name}.onnx")
        np.savez(nets / "d.npz", x=np.zeros((64, 6, 7, 3), np.float32))
        words = ("'image'", "convolves 3 channels", "[6, 7, 3] have 6", "channels to the front")
        merge_refused(INVALID, nets, nets / "p.onnx", nets / "q.onnx", "--data", nets / "d.npz", words=words)

    @pytest.mark.parametrize(("value", "kind"), [("s", "strings"), (1j, "complex")])
    def test_a_wrong_dtype(self, nets: Path, value: object, kind: str) -> None:
        np.savez(nets / "d.npz", x=np.full((64, 1, 6, 6), value))
        refused(INVALID, nets, "--data", nets / "d.npz", words=("d.npz", "'image'", kind))

    def test_objects_are_never_unpickled(self, nets: Path) -> None:
        trap = nets.parent / "sprung"
        np.savez(nets / "d.npz", x=np.array([Trap(str(trap))] * 3, object))
        np.save(nets / "d.npy", np.array([Trap(str(trap))], object))
        for name in ("d.npz", "d.npy"):
            refused(INVALID, nets, "--data", nets / name, words=(name, "never unpickled"))
        assert not trap.exists()

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_and_inf(self, nets: Path, value: float) -> None:
        x = images(64)
        x[3, 0, 2, 2] = value
        np.savez(nets / "d.npz", x=x)
        refused(INVALID, nets, "--data", nets / "d.npz", words=("d.npz", "1 of ", "'image'", "NaN or Inf"))

    def test_a_number_too_large_for_float32(self, nets: Path) -> None:
        np.savez(nets / "d.npz", x=np.full((64, 1, 6, 6), 1e300))
        refused(INVALID, nets, "--data", nets / "d.npz", words=("at least 57 of them", "the largest of float32"))

    def test_too_few_samples(self, nets: Path) -> None:
        np.savez(nets / "d.npz", x=images(31))
        refused(INVALID, nets, "--data", nets / "d.npz", words=("d.npz", "31 samples", "at least 32"))

    @pytest.mark.parametrize("bad", [-1, 4])
    def test_labels_out_of_range(self, nets: Path, bad: int) -> None:
        np.savez(nets / "d.npz", x=images(64), y=np.array([0] * 63 + [bad]))
        refused(INVALID, nets, "--data", nets / "d.npz", words=("d.npz", "labels", str(bad), "4 classes"))

    def test_labels_that_are_not_integers(self, nets: Path) -> None:
        np.savez(nets / "d.npz", x=images(64), y=np.zeros(64, np.float32))
        refused(INVALID, nets, "--data", nets / "d.npz", words=("d.npz", "labels", "float32"))

    def test_another_number_of_labels(self, nets: Path) -> None:
        np.savez(nets / "d.npz", x=images(64), y=np.zeros(63, np.int64))
        refused(INVALID, nets, "--data", nets / "d.npz", words=("d.npz", "64", "63"))

    def test_an_unknown_task(self, nets: Path) -> None:
        refused(INVALID, nets, "--data", f"c={nets / 'good.npz'}", words=("'c'", "a, b"))
        words = ("data for 'lwo'", "did you mean 'low'")
        given = (f"low={nets / 'a.onnx'}", nets / "b.onnx", "--data", f"lwo={nets / 'good.npz'}")
        merge_refused(INVALID, nets, *given, words=words)

    def test_a_task_without_data(self, nets: Path) -> None:
        refused(INVALID, nets, "--data", f"a={nets / 'good.npz'}", words=("no data for 'b'",))

    def test_two_data_for_one_task(self, nets: Path) -> None:
        refused(USAGE, nets, "--data", nets / "good.npz", "--data", nets / "good.npz", words=("two data for all tasks",))

    def test_a_callable_that_fails(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(nets)
        (nets / "failing_batches.py").write_text("def some():\n    yield 1 / 0\nnone = 3\n")
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        refused(INVALID, nets, "--data", "failing_batches:some", words=("failing_batches:some", "ZeroDivisionError"))
        refused(INVALID, nets, "--data", "failing_batches:none", words=("not callable",))
        refused(INVALID, nets, "--data", "failing_batches:nothing", words=("failing_batches:nothing", "'nothing'"))

    def test_a_module_that_does_not_exist(self, nets: Path) -> None:
        refused(INVALID, nets, "--data", "no_such_module:batches", words=("no_such_module:batches",))


class Trap:
    """Unpickling this would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (self.path,)


class TestOptions:
    @pytest.mark.parametrize("share", ["1.2", "-0.1", "nan", "half", "=0.5", "second=2"])
    def test_shares(self, nets: Path, share: str) -> None:
        refused(USAGE, nets, "--share", share, words=("share",))

    def test_a_pattern_that_fits_no_space(self, nets: Path) -> None:
        refused(USAGE, nets, "--share", "stage9*=0.5", words=("stage9*", "fits no space", "first"))

    def test_a_method_in_capitals(self, nets: Path) -> None:
        refused(USAGE, nets, "--method", "MTZ", words=("did you mean 'mtz'?",))

    def test_an_unknown_method(self, nets: Path) -> None:
        refused(USAGE, nets, "--method", "zipp", words=("'zipp'", "did you mean 'zip'"))

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--layout", "tall"),
            ("--device", "gpu"),
            ("--samples", "10"),
            ("--samples", "many"),
            ("--seed", "-1"),
            ("--memory", "lots"),
            ("--size", "0"),
            ("--size", "999999999"),
            ("--std", "0"),
            ("--std", "nan"),
            ("--std", "1e-50"),
            ("--mean", "nan"),
            ("--mean", "inf"),
            ("--mean", "a,b"),
        ],
    )
    def test_values_that_cannot_be_used(self, nets: Path, option: str, value: str) -> None:
        refused(USAGE, nets, option, value, words=(option.strip("-"), value.strip("-")))

    def test_retraining_is_for_a_later_version(self, nets: Path) -> None:
        refused(USAGE, nets, "--retrain", "-1", words=("--retrain -1", "negative"))
        refused(USAGE, nets, "--retrain", "few", words=("--retrain", "'few'", "whole number"))
        assert run("merge", nets / "a.onnx", nets / "b.onnx", "-o", nets / "o.onnx", "--retrain", "0").code == 0

    def test_an_unknown_flag_and_a_missing_one(self, nets: Path) -> None:
        refused(USAGE, nets, "--shaer", "0.5", words=("--shaer",))
        failed(USAGE, "merge", nets / "a.onnx", nets / "b.onnx", words=("--output",))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("shaer: 0.5", ("'shaer'", "did you mean 'share'")),
            ("share: 1.5", ("share 1.5",)),
            ("- a\n- b", ("list",)),
            ("share: [", ("YAML",)),
            ("seed: x", ("--seed", "'x'")),
            ("force: 3", ("--force",)),
            ("share: 0.5\nseed: 1\nshare: 0.8", ("'share' stands there twice",)),
        ],
    )
    def test_config_files(self, nets: Path, text: str, words: tuple[str, ...]) -> None:
        (nets / "c.yaml").write_text(text)
        refused(USAGE, nets, "--config", nets / "c.yaml", words=words)

    def test_a_missing_config_file(self, nets: Path) -> None:
        refused(USAGE, nets, "--config", nets / "c.yaml", words=("c.yaml", "cannot be read"))


def test_a_device_that_is_not_there(nets: Path) -> None:
    if cuda_works():
        pytest.skip("there is one")
    refused(BACKEND, nets, "--device", "cuda", words=("device cuda", "onnxruntime-gpu"))


class TestOutputs:
    def run_into(self, nets: Path, out: Path, *more: object, words: tuple[str, ...]) -> None:
        before = snapshot(nets.parent)
        failed(USAGE, "merge", nets / "a.onnx", nets / "b.onnx", "-o", out, *more, words=words)
        assert snapshot(nets.parent) == before

    def test_the_output_exists(self, nets: Path) -> None:
        (nets / "o.onnx").write_bytes(b"mine")
        self.run_into(nets, nets / "o.onnx", words=("o.onnx", "exists already", "--force"))
        assert run("merge", nets / "a.onnx", nets / "b.onnx", "-o", nets / "o.onnx", "--force").code == 0
        assert (nets / "o.onnx").stat().st_size > 1000

    def test_the_folder_is_missing(self, nets: Path) -> None:
        self.run_into(nets, nets / "none" / "o.onnx", words=("none", "does not exist"))

    def test_the_folder_is_not_writable(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        self.run_into(nets, nets / "o.onnx", words=("not writable",))

    @pytest.mark.parametrize("flag", ["-o", "--report", "--checkpoint"])
    @pytest.mark.parametrize(("place", "words"), [("", "names no file"), ("made/", "made/: names a folder")])
    def test_a_place_that_names_no_file(
        self, nets: Path, flag: str, place: str, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(nets)
        output = () if flag == "-o" else ("-o", "m.onnx", "--retrain", 1)
        before = snapshot(nets)
        failed(USAGE, "merge", "a.onnx", "b.onnx", "--data", "good.npz", *output, flag, place, words=(words,))
        assert snapshot(nets) == before

    def test_the_output_is_a_folder(self, nets: Path) -> None:
        self.run_into(nets, nets, "--force", words=("is a directory",))

    def test_the_output_is_an_input(self, nets: Path) -> None:
        self.run_into(nets, nets / "a.onnx", "--force", words=("a.onnx", "read by this command"))
        self.run_into(nets, nets / "good.npz", "--force", "--data", nets / "good.npz", words=("good.npz",))

    def test_the_output_holds_the_weights_of_an_input(self, nets: Path) -> None:
        model = onnx.load(nets / "b.onnx")
        onnx.save(model, nets / "b.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        self.run_into(nets, nets / "w.bin", "--force", words=("w.bin", "read by this command"))
        for flag in ("--report", "--checkpoint"):
            self.run_into(nets, nets / "o.onnx", flag, nets / "w.bin", "--force", words=("w.bin", "read by this command"))
        model = onnx.load(nets / "b.onnx")
        (nets / "w.bin").unlink()
        onnx.save(model, nets / "b.onnx", save_as_external_data=True, location="o.onnx.data", size_threshold=0)
        self.run_into(nets, nets / "o.onnx", "--force", words=("o.onnx.data", "read by this command"))

    def test_other_commands_leave_the_weights_of_an_input_alone(self, nets: Path) -> None:
        assert run("merge", nets / "a.onnx", nets / "b.onnx", "--data", nets / "good.npz", "-o", nets / "m.onnx").code == 0
        (nets / "made").mkdir()
        fused, weights = nets / "made" / "m.onnx", nets / "made" / "bundle.json"
        onnx.save(onnx.load(nets / "m.onnx"), fused, save_as_external_data=True, location=weights.name, size_threshold=0)
        before = snapshot(nets)
        for command in (
            ("split", fused, "--task", "a", "-o", weights),
            ("inspect", fused, "--html", weights),
            ("bundle", fused, "-o", fused.parent),
            ("export", fused, "--target", "onnx-mobile", "-o", fused),
            ("retrain", fused, "--teacher", f"a={nets / 'a.onnx'}", "--teacher", f"b={nets / 'b.onnx'}", "-o", weights),
        ):
            failed(USAGE, *command, "--force", words=("is read by this command",))
            assert snapshot(nets) == before

    def test_the_output_is_read_for_data_options_or_a_loss(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run("merge", nets / "a.onnx", nets / "b.onnx", "--data", nets / "good.npz", "-o", nets / "m.onnx").code == 0
        monkeypatch.chdir(nets)
        (nets / "shots" / "old").mkdir(parents=True)
        (nets / "package").mkdir()
        for k in range(32):
            Image.new("L", (6, 6), 8 * k).save(nets / "shots" / "old" / f"{k}.png")
        (nets / "other.png").symlink_to("shots/old/3.png")
        for module in ("samples.py", "package/__init__.py", "package/losses.py"):
            (nets / module).write_text("def one(*arguments): raise AssertionError\n")
        (nets / "c.yaml").write_text("seed: 1\n")
        teachers = "--teacher", "a=a.onnx", "--teacher", "b=b.onnx"
        merge, retrain, export = ("merge", "a.onnx", "b.onnx"), ("retrain", "m.onnx", *teachers), ("export", "m.onnx")
        (nets / "read.onnx").symlink_to("c.yaml")
        for command, more, places in (
            (merge, ("--data", "shots"), ("shots/old/3.png", "other.png")),
            (merge, ("--data", "a=samples:one"), ("samples.py",)),
            (merge, ("--config", "c.yaml"), ("c.yaml",)),
            (merge, ("--retrain", 1, "--loss", "package.losses:one"), ("package/losses.py", "package/__init__.py")),
            (retrain, ("--data", "shots", "--loss", "samples:one"), ("shots/old/3.png", "samples.py")),
            (retrain, ("--config", "c.yaml"), ("c.yaml",)),
            (export, ("--target", "onnx-mobile", "--config", "c.yaml"), ("read.onnx",)),
        ):
            for place in places:
                flags = [("-o", place)]
                flags += [("-o", "o.onnx", flag, place) for flag in ("--report", "--checkpoint") if command != export]
                for given in flags:
                    self.leaves_all(nets, *command, *more, *given, "--force", words=(place, "read by this command"))

    def leaves_all(self, nets: Path, *command: object, words: tuple[str, ...]) -> None:
        before = snapshot(nets)
        failed(USAGE, *command, words=words)
        assert snapshot(nets) == before

    def test_python_leaves_the_nets_alone(self, nets: Path) -> None:
        files = {"a": nets / "a.onnx", "b": nets / "b.onnx"}
        merged = onnxzip.pipeline.merge(files, images(64))
        before = snapshot(nets)
        with pytest.raises(UsageError, match="is read"):
            merged.save(nets / "a.onnx", force=True)
        with pytest.raises(UsageError, match="is read"):
            merged.save_report(nets / "b.onnx", force=True)
        for make in (onnxzip.pipeline.merge, partial(onnxzip.teaching.retrain, nets / "a.onnx")):
            options, more = ("retrain_options", {"retrain": 1}) if make is onnxzip.pipeline.merge else ("options", {})
            with pytest.raises(UsageError, match="is read"):
                make(files, images(64), **{options: RetrainOptions(checkpoint=nets / "b.onnx")}, **more)
        assert snapshot(nets) == before
        merged.save(nets / "o.onnx")
        with pytest.raises(UsageError, match="force=True"):
            merged.save(nets / "o.onnx")

    def test_the_output_is_no_regular_file(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxzip.pipeline, "load_family", unreachable)
        pipe = nets.parent / "pipe"
        os.mkfifo(pipe)
        for more in ((), ("--force",)):
            failed(USAGE, "merge", nets / "a.onnx", nets / "b.onnx", "-o", pipe, *more, words=("no regular file",))
        assert pipe.is_fifo()

    def test_the_output_has_too_long_a_name(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxzip.pipeline, "load_family", unreachable)
        self.run_into(nets, nets / f"{'o' * 300}.onnx", words=("name too long",))
        self.run_into(nets, nets / ("o" * 300) / "o.onnx", words=("name too long",))

    def test_the_report_is_checked_before_the_work(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxzip.pipeline, "load_family", unreachable)
        self.run_into(nets, nets / "o.onnx", "--report", nets / "none" / "r.json", words=("does not exist",))
        self.run_into(nets, nets / "o.onnx", "--report", nets / "o.onnx", words=("given twice",))

    def test_the_disk_is_full(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        self.run_into(nets, nets / "o.onnx", words=("o.onnx", "No space left"))

    @pytest.mark.parametrize("retrain", [(), ("--retrain", 2)])
    def test_the_folder_of_the_report_goes_away(
        self, nets: Path, monkeypatch: pytest.MonkeyPatch, retrain: tuple[object, ...]
    ) -> None:
        """Neither is a net written without its report, nor is an old one replaced."""
        monkeypatch.chdir(nets)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        (nets / "hostile.py").write_text(
            "import os, numpy\n"
            "def samples():\n    os.rmdir('reports')\n"
            "    return numpy.random.default_rng(0).standard_normal((64, 1, 6, 6)).astype('float32')\n"
        )
        for old in (None, b"old"):
            if old is not None:
                (nets / "o.onnx").write_bytes(old)
            (nets / "reports").mkdir()
            made = "-o", "o.onnx", "--report", "reports/r.json", "--force", *retrain
            self.leaves_all(nets, "merge", "a.onnx", "b.onnx", "--data", "hostile:samples", *made, words=("reports",))
            sys.modules.pop("hostile")


def unreachable(*arguments: object) -> None:
    raise AssertionError("the work has begun")


class TestInterrupts:
    @pytest.mark.parametrize(
        ("where", "name"),
        [
            (onnxzip.pipeline, "load_family"),
            (onnxzip.pipeline, "analyse_sized"),
            (onnxzip.pipeline, "collect"),
            (Frontier, "sweep"),
            (Frontier, "advance"),
            (onnxzip.pipeline, "compare"),
            (os, "fsync"),
            (os, "rename"),
        ],
    )
    def test_no_file_is_left(self, nets: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> None:
        def interrupt(*arguments: object, **named: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(where, name, interrupt)
        refused(INTERRUPTED, nets, "--data", nets / "good.npz", words=("interrupted",))


class TestCalls:
    """The Python interface refuses what is of the wrong type as the command line does."""

    def test_nets_that_are_no_paths(self, nets: Path) -> None:
        a, data = str(nets / "a.onnx"), str(nets / "good.npz")
        model = onnx.load(nets / "b.onnx")
        for other, word in ((model, "not a ModelProto; write it to one with onnx.save"), (3, "not an int")):
            with pytest.raises(UsageError, match=f"net 'b': give the path of an ONNX file, {word}"):
                onnxzip.merge({"a": a, "b": other}, data)  # type: ignore[dict-item]
        with pytest.raises(UsageError, match="task name 3 is no text"):
            onnxzip.merge({"a": a, 3: a}, data)  # type: ignore[dict-item]
        with pytest.raises(UsageError, match=r"give paths by task name.*not a list"):
            onnxzip.merge([a, a], data)  # type: ignore[arg-type]
        for work in (partial(onnxzip.verify, against={"a": a}), partial(onnxzip.retrain, teachers={"a": a})):
            with pytest.raises(UsageError, match="fused net: give the path of an ONNX file, not a ModelProto"):
                work(model)
        with pytest.raises(UsageError, match="fused net: give the path"):
            onnxzip.split(model, "a")  # type: ignore[arg-type]

    @pytest.mark.parametrize("option", ["samples", "size", "seed", "retrain", "opset"])
    @pytest.mark.parametrize("value", [100.0, "100", True])
    def test_numbers_that_are_not_whole(self, nets: Path, option: str, value: object) -> None:
        files = {"a": nets / "a.onnx", "b": nets / "b.onnx"}
        with pytest.raises(UsageError, match=f"--{option} {value!r} is not a whole number"):
            onnxzip.merge(files, nets / "good.npz", **{option: value})  # type: ignore[arg-type]

    def test_whole_numbers_of_numpy(self, nets: Path) -> None:
        merged = onnxzip.merge({"a": nets / "a.onnx", "b": nets / "b.onnx"}, nets / "good.npz", samples=np.int64(40))
        assert merged.report["samples"] == {"a": 40, "b": 40}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"samples": None}, "--samples: None cannot be used; leave it out for 2000"),
            ({"seed": None}, "--seed: None cannot be used; leave it out for 0"),
            ({"method": None}, "--method: None cannot be used; leave it out for zip"),
            ({"mean": "grey"}, "--mean: 'grey' is not a number"),
            ({"std": [0.5, None]}, r"--std: \[0.5, None\] is not a number"),
            ({"repair": "yes"}, "--repair: 'yes' is neither true nor false"),
            ({"retrain_options": {"batch": 8}}, r"give RetrainOptions\(name=value, ..\), not a dict"),
            ({"retrain_options": {}}, r"give RetrainOptions\(name=value, ..\), not a dict"),
            ({"progress": 3}, r"progress: give an object as `onnxzip.Progress` describes it; this int has no begin\(\)"),
        ],
    )
    def test_options_of_the_wrong_type(self, nets: Path, options: dict[str, object], words: str) -> None:
        files = {"a": nets / "a.onnx", "b": nets / "b.onnx"}
        with pytest.raises(UsageError, match=words):
            onnxzip.merge(files, nets / "good.npz", **options)  # type: ignore[arg-type]

    def test_options_in_any_form_that_says_what_is_meant(self) -> None:
        assert DataOptions(mean=0.5, std=np.array([0.1, 0.2])) == DataOptions(mean=(0.5,), std=(0.1, 0.2))  # type: ignore[arg-type]
        options = RetrainOptions(checkpoint="c.pt", head="x=values", temperature=np.float32(2.5))  # type: ignore[arg-type]
        assert options == RetrainOptions(checkpoint=Path("c.pt"), head=("x=values",), temperature=2.5)
        assert RetrainOptions(head={"x": "values"}) == RetrainOptions(head=("x=values",))  # type: ignore[arg-type]
        assert ExportOptions(python="python3").python == Path("python3")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="--checkpoint: 3 cannot be used; give FILE"):
            RetrainOptions(checkpoint=3)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"--temperature: \(1, 2\) is not a number"):
            RetrainOptions(temperature=(1, 2))  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="--loss: 3 is no callable"):
            RetrainOptions(loss=3)  # type: ignore[arg-type]

    def test_who_is_no_progress(self, nets: Path) -> None:
        class Half:
            def begin(self, stage: str, total: int) -> None:
                """Nothing."""

        a = nets / "a.onnx"
        calls = (onnxzip.verify, {"against": {"a": a}}), (onnxzip.retrain, {"teachers": {"a": a}})
        for work, given in (*calls, (onnxzip.export, {"target": "ort", "path": nets / "c.ort"})):
            with pytest.raises(UsageError, match=r"this Half has no advance\(\)"):
                work(a, progress=Half(), **given)  # type: ignore[operator]

    def test_places_that_are_no_paths(self, nets: Path) -> None:
        merged = onnxzip.merge({"a": nets / "a.onnx", "b": nets / "b.onnx"}, nets / "good.npz")
        with pytest.raises(UsageError, match="save: give the path of an ONNX file, not a NoneType"):
            merged.save(None)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="save_report: give the path of a file, not an int"):
            merged.save_report(3)  # type: ignore[arg-type]
        for place in (f"{nets / 'new'}/", ""):
            for save in (merged.save, merged.save_report, partial(merged.save, nets / "m.onnx", report=place)):
                with pytest.raises(UsageError, match="names"):
                    save(*([] if isinstance(save, partial) else [place]))
        assert not (nets / "new").exists() and not (nets / "m.onnx").exists()
        with pytest.raises(UsageError, match="from_torch: give the path of an ONNX file, not a NoneType"):
            onnxzip.from_torch(onnxzip.to_torch(nets / "a.onnx"), None)  # type: ignore[arg-type]

    def test_originals_without_names(self, nets: Path) -> None:
        for work, what in ((onnxzip.verify, "against"), (onnxzip.retrain, "teachers")):
            with pytest.raises(UsageError, match=f"{what}: give paths by task name.*not a list"):
                work(nets / "a.onnx", [nets / "a.onnx"])  # type: ignore[operator]
            with pytest.raises(UsageError, match="'a': give the path of an ONNX file, not a ModelProto"):
                work(nets / "a.onnx", {"a": onnx.load(nets / "a.onnx")})  # type: ignore[operator]

    def test_modules(self, nets: Path) -> None:
        model = onnx.load(nets / "a.onnx")
        assert set(onnxzip.to_torch(model).params()) == {t.name for t in model.graph.initializer}
        with pytest.raises(UsageError, match="net: give the path of an ONNX file, not an int"):
            onnxzip.to_torch(3)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="give one that to_torch has made, not a Linear"):
            onnxzip.from_torch(torch.nn.Linear(2, 2), nets / "c.onnx")  # type: ignore[arg-type]
