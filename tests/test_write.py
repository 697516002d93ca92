"""Writing a file: completely or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from onnxzip.errors import UsageError
from onnxzip.exporting.staging import put, staged, write_all
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
            put({stage / name: tmp_path / name for name in ("file", "folder")}, stage)
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
        put({stage / longest.name: longest}, stage)
    assert longest.read_bytes() == b"more" and os.listdir(tmp_path) == [longest.name]
    with pytest.raises(UsageError, match="name too long"):
        check_writable(tmp_path / ("n" * 256))
