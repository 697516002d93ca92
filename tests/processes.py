"""What the tests of jobs in several processes share: nets and data in a folder, and onnxzip in processes of its own."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import onnx
from merging import Ran, images, outputs_of, write_net
from onnx import numpy_helper

RTOL = 1e-5
MERGE = ("merge", "a.onnx", "b.onnx", "--data", "a=a.npz", "--data", "b=b.npz")
PATIENCE = 120  # seconds after which a job that should have ended counts as hanging


def prepare(folder: Path, samples: int = 150) -> None:
    """Two nets, data for each, and a module of hostile data, in a folder."""
    write_net(folder / "a.onnx", 1)
    write_net(folder / "b.onnx", 2, classes=3)
    np.savez(folder / "a.npz", x=images(samples))
    np.savez(folder / "b.npz", x=images(samples + 17, 6))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What this process writes into a file beyond so many bytes is refused meanwhile, as by a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def started(
    folder: Path, *arguments: object, stdout: int | IO[str] = subprocess.PIPE, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A Python process in a session of its own, none of which survives the test; its stdout is buffered, as it usually is."""
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**usual, "OMP_NUM_THREADS": "1", **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(process: subprocess.Popen[str]) -> Ran:
    """What a process has left behind; it must end by itself."""
    out, err = process.communicate(timeout=PATIENCE)
    return Ran(process.returncode, out, err)


def alone(folder: Path, *arguments: object, **environment: str) -> Ran:
    """onnxzip in one process."""
    with started(folder, "-m", "onnxzip", *arguments, **environment) as process:
        return ended(process)


def torchrun(folder: Path, ranks: int, *arguments: object, **environment: str) -> Ran:
    """onnxzip in several processes that torchrun starts on the loopback interface."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "-m", "onnxzip")
    with started(folder, *launch, *arguments, **environment) as process:
        return ended(process)


def check_same_nets(folder: Path, first: str, second: str) -> None:
    """Both files hold the same net, with params and outputs equal to RTOL, by norm."""
    nets = [onnx.load(folder / name) for name in (first, second)]
    params = [{t.name: numpy_helper.to_array(t) for t in net.graph.initializer} for net in nets]
    assert params[0].keys() == params[1].keys()
    x = images(20, 9)
    outputs = [outputs_of(folder / name, x) for name in (first, second)]
    for want, got in (params, outputs):
        for name in want:
            check_close(got[name], want[name])


def check_close(got: np.ndarray, want: np.ndarray) -> None:
    """Equal to RTOL, by norm."""
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= RTOL * np.linalg.norm(want)
