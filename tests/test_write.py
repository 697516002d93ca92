"""Writing a file: completely or not at all."""

from __future__ import annotations

import errno
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from merging import failed, images, run, write_net
from processes import files_no_larger_than

import onnxzip
from onnxzip.config import RetrainOptions
from onnxzip.errors import UsageError
from onnxzip.exporting.report import to_text
from onnxzip.exporting.staging import put, staged, write, write_all, write_together
from onnxzip.exporting.write import check_writable, write_atomically


def test_a_new_file_and_one_replaced_by_force(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_atomically(path, b"first", force=False)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="--force") as caught:
        write_atomically(path, b"second", force=False)
    assert caught.value.exit_code == 2 and path.read_bytes() == b"first"
    write_atomically(path, b"second", force=True)
    assert path.read_bytes() == b"second" and path.stat().st_mode & 0o777 == 0o640 and os.listdir(tmp_path) == ["net.onnx"]


def test_permissions_of_a_new_file_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "net.onnx", b"data", force=False)
    finally:
        os.umask(old)
    assert (tmp_path / "net.onnx").stat().st_mode & 0o777 == 0o640


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory"):
        check_writable(tmp_path, force=True)
    with pytest.raises(UsageError, match="does not exist"):
        check_writable(tmp_path / "none" / "net.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="does not exist"):
        check_writable(tmp_path / "file" / "net.onnx")


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="not writable"):
        check_writable(tmp_path / "net.onnx")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write_atomically(path, b"new", force=True)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["net.onnx"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(old: Path, new: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "net.onnx", b"new", force=False)
    assert os.listdir(tmp_path) == []


class TestTogether:
    def test_what_does_not_fit_keeps_the_others_from_being_written(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        small, large = tmp_path / "small", tmp_path / "other" / "large"
        files = [(small, partial(write, b"new")), (large, partial(write, bytes(5000)))]
        for there in (False, True):
            if there:
                small.write_bytes(b"old")
            with files_no_larger_than(4000), pytest.raises(UsageError, match=r"large: cannot be written: File too large"):
                write_together(files, force=True)
            assert small.exists() is there and not (there and small.read_bytes() != b"old")
            assert sorted(os.listdir(tmp_path)) == ["other", *(["small"] if there else [])] and os.listdir(large.parent) == []
        write_together(files, force=True)
        assert small.read_bytes() == b"new" and large.stat().st_size == 5000

    def test_one_place_twice(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="given twice"):
            write_together([(tmp_path / "file", partial(write, b"one")), (tmp_path / "file", partial(write, b"two"))])
        assert os.listdir(tmp_path) == []

    def test_a_net_and_its_report(self, tmp_path: Path) -> None:
        merged = onnxzip.merge({t: write_net(tmp_path / f"{t}.onnx", k) for k, t in enumerate("ab")}, images(64))
        before = sorted(os.listdir(tmp_path))
        (tmp_path / "m.onnx").mkdir()
        with pytest.raises(UsageError, match="is a directory"):
            merged.save(tmp_path / "n.onnx", report=tmp_path / "m.onnx")
        (tmp_path / "m.onnx").rmdir()
        with pytest.raises(UsageError, match="given twice"):
            merged.save(tmp_path / "m.onnx", report=tmp_path / "m.onnx")
        assert sorted(os.listdir(tmp_path)) == before
        merged.save(tmp_path / "m.onnx", report=tmp_path / "r.json")
        assert (tmp_path / "m.onnx").read_bytes() == merged.content
        assert (tmp_path / "r.json").read_text() == to_text(merged.report)

    def test_nothing_that_was_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nets and data, also by another name, after the folder has changed, and of a retraining."""
        monkeypatch.chdir(tmp_path)
        nets = {t: write_net(Path(f"{t}.onnx"), k) for k, t in enumerate("ab")}
        np.savez("d.npz", x=images(64))
        Path("link.npz").symlink_to("d.npz")
        Path("losses.py").write_text("def loss(outputs, targets, labels):\n    return outputs['logits'].square().mean()\n")
        merged = onnxzip.merge(nets, {"a": "d.npz", "b": Path("link.npz")})
        merged.save("m.onnx")
        options = RetrainOptions(loss="losses:loss", learning_rate=0.01)
        done = onnxzip.retrain("m.onnx", nets, "d.npz", steps=1, options=options, device="cpu")
        before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        for name in ("a.onnx", "d.npz", "link.npz"):
            for save in (merged.save, merged.save_report, done.save):
                with pytest.raises(UsageError, match="is read by this command"):
                    save(tmp_path / name, force=True)
        with pytest.raises(UsageError, match="is read by this command"):
            done.save(tmp_path / "losses.py", force=True)
        with pytest.raises(UsageError, match="is read by this command"):
            merged.save("n.onnx", force=True, report=tmp_path / "d.npz")
        assert before == {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}

    def test_node_data_and_a_page(self, tmp_path: Path) -> None:
        files = {t: write_net(tmp_path / f"{t}.onnx", k) for k, t in enumerate("ab")}
        onnxzip.merge(files, images(64)).save(tmp_path / "m.onnx")
        before = sorted(os.listdir(tmp_path))
        with files_no_larger_than(100_000):
            made = "--node-data", tmp_path / "n.json", "--html", tmp_path / "p.html"
            failed(2, "inspect", tmp_path / "m.onnx", *made, words=("p.html", "File too large"))
        assert sorted(os.listdir(tmp_path)) == before
        assert run("inspect", tmp_path / "m.onnx", *made).code == 0
        assert sorted(os.listdir(tmp_path)) == sorted([*before, "n.json", "p.html"])

    def test_a_signal_while_files_are_moved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """All are in their places, and that is what is said."""
        nets = [write_net(tmp_path / f"{t}.onnx", k) for k, t in enumerate("ab")]
        before, rename = os.listdir(tmp_path), os.rename

        def interrupted(old: Path, new: Path) -> None:
            signal.raise_signal(signal.SIGTERM)
            rename(old, new)

        monkeypatch.setattr(os, "rename", interrupted)
        made = "-o", tmp_path / "m.onnx", "--report", tmp_path / "r.json"
        said = failed(143, "merge", *nets, *made, words=("interrupted; the result was written",))
        assert "nothing" not in said
        assert sorted(os.listdir(tmp_path)) == sorted([*before, "m.onnx", "r.json"])


class TestLinks:
    def test_force_replaces_what_a_link_leads_to(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        link, target = tmp_path / "link.onnx", tmp_path / "there" / "net.onnx"
        link.symlink_to(target)
        for data in (b"new where nothing was", b"replaced"):
            with pytest.raises(UsageError, match="exists already"):
                write_atomically(link, data)
            write_atomically(link, data, force=True)
            assert link.is_symlink() and target.read_bytes() == data
        assert os.listdir(tmp_path / "there") == ["net.onnx"] and sorted(os.listdir(tmp_path)) == ["link.onnx", "there"]

    def test_the_folder_of_what_a_link_leads_to_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "link.onnx").symlink_to(tmp_path / "none" / "net.onnx")
        with pytest.raises(UsageError, match="none does not exist"):
            check_writable(tmp_path / "link.onnx", force=True)

    def test_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "link.onnx").symlink_to(tmp_path / "link.onnx")
        with pytest.raises(UsageError, match="leads to itself"):
            check_writable(tmp_path / "link.onnx", force=True)

    def test_staged_files_and_folders(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        for name in ("file", "folder"):
            (tmp_path / name).symlink_to(tmp_path / "there" / name)
        with staged(tmp_path / "file") as stage:
            (stage / "folder").mkdir()
            write_all(stage, {"file": b"net", "folder/inner": b"part"})
            put({stage / name: tmp_path / name for name in ("file", "folder")})
        assert all((tmp_path / name).is_symlink() for name in ("file", "folder"))
        assert (tmp_path / "there" / "file").read_bytes() == b"net"
        assert (tmp_path / "there" / "folder" / "inner").read_bytes() == b"part"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, force: bool, linked: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "pipe"
    if linked:
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no regular file"):
        check_writable(path, force)
    with pytest.raises(UsageError, match="no regular file"):
        write_atomically(path, b"data", force)
    assert (tmp_path / "pipe").is_fifo()


def test_names_as_long_as_they_can_be(tmp_path: Path) -> None:
    longest = tmp_path / ("n" * 255)
    write_atomically(longest, b"data")
    with staged(longest) as stage:
        write_all(stage, {longest.name: b"more"})
        put({stage / longest.name: longest})
    assert longest.read_bytes() == b"more" and os.listdir(tmp_path) == [longest.name]
    with pytest.raises(UsageError, match="name too long"):
        check_writable(tmp_path / ("n" * 256))
