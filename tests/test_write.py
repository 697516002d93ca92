"""Writing a file: completely or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from onnxzip.errors import UsageError
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
