"""split and bundle: the tasks of a fused file one by one, each run against the fused net before anything is written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxzip.errors import UsageError
from onnxzip.exporting.bundling import MANIFEST, WEIGHTS, Bundle, bundled, write_weights
from onnxzip.exporting.metadata import read_origins, read_tails
from onnxzip.exporting.naming import path_of
from onnxzip.exporting.opening import opened
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.originals import sized_ports
from onnxzip.exporting.outside import files_of, whole
from onnxzip.exporting.splitting import split_model
from onnxzip.exporting.staging import put, staged, write_all, write_together
from onnxzip.exporting.trial import TRIALS, check_alike, trial_feeds
from onnxzip.exporting.verifying import as_array, run_rows
from onnxzip.exporting.write import check_outputs, check_unread, check_writable
from onnxzip.loading.beside import bytes_read
from onnxzip.loading.files import read_to_run
from onnxzip.runtime import Session, entries_of

Path_ = str | PathLike[str]
DEVICE = "cpu"  # of the trials: to the bits of one provider


def split(fused: Path_, task: str) -> ModelProto:
    """One task of a fused file alone, its outputs under their original names; run against the fused net.

    Raises:
        InvalidModelError: the file was not made by `merge`.
        UsageError: it has no such task.
        UnsupportedError: the task alone has more than the 2 GB that one model can hold; as a file it can be written.
        VerificationError: the task alone does not compute what it computes in the fused net.
    """
    path = path_of(fused, "fused net")
    model = read_to_run(path)
    alone = split_model(model, task, str(path))
    _check_alone(path, model, alone, task)
    return whole(alone, path.parent, f"Write it with `onnxzip split {path} --task {task} -o FILE.onnx`.")


def split_to(fused: Path_, task: str, output: Path, force: bool = False) -> list[Path]:
    """As `split`, written completely or not at all; beyond 2 GB with its large params in `output`.data.

    Params that lie beside the fused file are copied from file to file.

    Returns:
        The files.

    Raises:
        InvalidModelError, VerificationError: as `split`.
        UsageError: there is no such task; a file exists (without force), is one of the fused net's, or cannot be written.
    """
    path = path_of(fused, "fused net")
    check_outputs([output], [path], force=force)
    model = read_to_run(path)
    alone = split_model(model, task, str(path))
    files = files_of(alone, path.parent, output)
    check_outputs([file for file, _ in files], [path], force=force)
    _check_alone(path, model, alone, task)
    write_together(files, force)
    return [file for file, _ in files]


def _check_alone(path: Path, model: ModelProto, alone: ModelProto, task: str) -> None:
    """Run one task alone against the fused net; large params are read where they lie."""
    before, after = (read_origins(entries_of(m), str(path))[task] for m in (model, alone))
    trial = _Trial(path, model)
    trial.check(task, opened(task, alone.SerializeToString(), DEVICE, folder=path.parent), before, after)


def bundle(fused: Path_, folder: Path_, force: bool = False) -> dict[str, Any]:
    """Write a fused file as one small file per task and one file of weights that all of them read.

    Args:
        fused: a file that `merge` has made.
        folder: is made; it appears when all files are in it and every task has been run from it against the fused net.
        force: whether it may replace a bundle.

    Returns:
        What the bundle says of itself, and the bytes of both.

    Raises:
        InvalidModelError: the file was not made by `merge`.
        UsageError: the folder exists (without force), is no bundle, or holds the fused file.
        VerificationError: a task does not compute what it computes in the fused net.
    """
    path, place = path_of(fused, "fused net"), Path(folder)
    check_folder(place, force)
    check_unread(place.rglob("*"), [path])
    model = read_to_run(path)
    made = bundled(model, str(fused))
    trial = _Trial(path, model)
    with staged(place) as stage:
        part = stage / place.name
        part.mkdir()
        write_all(part, made.files)
        write_weights(made, path.parent, part / WEIGHTS)
        for task, name in made.graphs.items():
            after = read_origins(entries_of(read_to_run(part / name)), name)[task]
            trial.check(task, opened(task, part / name, DEVICE), trial.origins[task], after)
        put({part: place})
        total = sum(p.stat().st_size for p in place.iterdir())
    return _report(path, made, total)


def check_folder(folder: Path, force: bool) -> None:
    """Find out whether a bundle can be put there.

    Raises:
        UsageError: something is in the way, or the folder above is missing or not writable.
    """
    if not os.path.isdir(folder):
        if folder.exists():
            raise UsageError(f"{folder}: is a file. Name a folder.")
        check_writable(folder)
        return
    known = {MANIFEST, WEIGHTS}
    strange = [p.name for p in sorted(folder.iterdir()) if p.name not in known and (p.suffix != ".onnx" or p.is_dir())]
    if strange or not (folder / MANIFEST).is_file():
        found = f"it holds {strange[0]!r}" if strange else f"it has no {MANIFEST}"
        raise UsageError(f"{folder}: is a folder that is no bundle: {found}. Name a new one.")
    if not force:
        raise UsageError(f"{folder}: exists already. Use --force to replace it.")


class _Trial:
    """The fused net on noise, to compare its tasks with."""

    def __init__(self, path: Path, model: ModelProto) -> None:
        self.origins = read_origins(entries_of(model), str(path))
        samples = 1 if read_tails(entries_of(model)) else TRIALS
        self.feeds = trial_feeds(sized_ports(model), np.random.default_rng(0), samples)
        self.outputs = self._run(opened("fused", path, DEVICE), self.feeds)

    def check(self, task: str, alone: Session, before: Origin, after: Origin) -> None:
        """Compare one task alone with the fused net; the origins say what its ports are called there and here."""
        there = {own: name for name, own in after.inputs.items()}
        found = self._run(alone, {there[own]: self.feeds[name] for name, own in before.inputs.items()})
        check_alike(
            f"task {task!r} alone",
            {before.outputs[o]: found[name] for o, name in after.outputs.items()},
            {name: self.outputs[name] for name in before.outputs.values()},
        )

    def _run(self, session: Session, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: as_array(output) for name, output in run_rows(session, feeds).items()}


def _report(path: Path, made: Bundle, total: int) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(made.files[MANIFEST])
    merged = bytes_read(path)
    return described | {"bytes": total, "fused_bytes": merged, "bytes_ratio": total / merged}

