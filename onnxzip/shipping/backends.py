"""Which Python has a target's packages, and calls of the worker in it.

--python FILE    before ONNXZIP_PYTHON_TARGET (`ONNXZIP_PYTHON_TFLITE`) before the Python that runs onnxzip
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxzip.errors import BackendMissingError, UnsupportedError, UsageError
from onnxzip.shipping.records import Arrays, Job, Target
from onnxzip.shipping.worker import FEEDS, FOUND, JOB, NAMES, NOT_IMPORTABLE

VARIABLE = "ONNXZIP_PYTHON_"
WORKER = Path(__file__).parent / "worker.py"
# of our own environment, and misleading in another
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True)
class Backend:
    """A target with a Python that has its packages.

    Attributes:
        versions: of the packages.
    """

    target: Target
    python: Path
    versions: Mapping[str, str]

    def convert(self, job: Job) -> Job:
        """Make the target's files; the job with what the runtime calls inputs and outputs.

        Raises:
            UnsupportedError: the target cannot take the net.
            BackendMissingError: one of its packages cannot be imported.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._call("convert", job, folder, "convert the net")
            names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
        if not job.output.exists():
            raise UnsupportedError(f"target {self.target.name}: made no {job.output.name}")
        return replace(job, names=names)

    def run(self, job: Job, feeds: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, as the target's runtime computes them from its files.

        Raises:
            UnsupportedError: the runtime cannot run them.
            BackendMissingError: one of its packages cannot be imported.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.savez(folder / FEEDS, allow_pickle=False, **feeds)
            self._call("run", job, folder, "run what was made of the net")
            with np.load(folder / FOUND) as found:
                return {t.name: found[f"output {k}"] for k, t in enumerate(job.outputs)}

    def _call(self, verb: str, job: Job, folder: Path, what: str) -> None:
        (folder / JOB).write_text(json.dumps(job.as_json()), encoding="utf-8")
        done = _run(self.python, verb, self.target.name, str(folder))
        if done.returncode == NOT_IMPORTABLE:
            why = f"{_last(done.stderr)} ({self.python})"
            raise BackendMissingError(f"target {self.target.name}: {why}. {how_to_get(self.target)}")
        if done.returncode:
            versions = ", ".join(f"{k} {v}" for k, v in self.versions.items())
            ended = f"signal {-done.returncode}" if done.returncode < 0 else _last(done.stderr)
            raise UnsupportedError(f"target {self.target.name}: cannot {what} ({versions}): {ended}")


def backend_for(target: Target, python: Path | None = None) -> Backend:
    """A target ready for use.

    Args:
        python: has its packages; None for the one that the environment or onnxzip's own.

    Raises:
        UsageError: that is no Python.
        BackendMissingError: it lacks a package; the message says how to get it.
    """
    chosen = python or named_python(target)
    versions = probe(chosen, target.packages)
    missing = [p for p in target.packages if versions[p] is None]
    if missing:
        needs = f"target {target.name} needs {', '.join(missing)}, not found by {chosen}"
        raise BackendMissingError(f"{needs}. {how_to_get(target)}")
    return Backend(target, chosen, {p: str(versions[p]) for p in target.packages})


def named_python(target: Target) -> Path:
    """The Python that the environment names for a target, else the one that runs onnxzip."""
    return Path(os.environ.get(variable_of(target)) or sys.executable)


def variable_of(target: Target) -> str:
    """The environment variable that names a Python for a target."""
    return VARIABLE + target.name.upper().replace("-", "_")


def probe(python: Path, packages: Sequence[str]) -> dict[str, str | None]:
    """Versions of packages in a Python; None for what is missing.

    Raises:
        UsageError: it is no Python.
    """
    try:
        done = _run(python, "probe", *packages)
    except OSError as error:
        raise UsageError(f"{python}: is no Python that can be run ({error.strerror}). Name one with --python.") from error
    if done.returncode:
        raise UsageError(f"{python}: cannot be asked for its packages: {_last(done.stderr)}")
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def _run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The worker in a Python; its output is kept for messages."""
    same = python.resolve() == Path(sys.executable).resolve() and python.parent == Path(sys.executable).parent
    environment = {k: v for k, v in os.environ.items() if same or k not in _OURS}
    command = [str(python), str(WORKER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, errors="replace")


def _last(text: str) -> str:
    """The last line of some output that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "it said nothing"


def how_to_get(target: Target) -> str:
    """How to get a target's packages."""
    if not target.extra:
        return "They come with onnxzip: install it again."
    return (
        f"Install them with pip install 'onnxzip[{target.extra}]', or name another Python that has them "
        f"with --python FILE or {variable_of(target)}=FILE."
    )
