"""Runs a case of the benchmark: merges, retrains, counts errors before and after; one result file a case, none run twice."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from bench_cases import REFERENCES, Case
from figures import MODELS, ROOT, nets_of, samples_of
from references import RATES, STARTS, train

import onnxzip
from onnxzip.exporting.report import versions
from onnxzip.exporting.write import write_atomically

CHUNK = 100  # test images that are run at a time
TRIAL = 100  # steps by which a learning rate is chosen


class Bench:
    """Results and what they are made of.

    Args:
        work: folder for results.
        data: folder that models/fetch.py has written; None for the committed samples: 1,000 images a task to calibrate with,
            2,000 to test.
    """

    def __init__(self, work: Path, data: Path | None) -> None:
        self.work, self.data = work, data
        work.mkdir(parents=True, exist_ok=True)

    def known(self, case: Case) -> dict[str, Any] | None:
        """The result of a case, if it has been run."""
        file = self.work / f"{case.name}.json"
        return json.loads(file.read_text()) if file.exists() else None

    def run(self, case: Case) -> dict[str, Any]:
        """The result of a case; it is run where it is not known."""
        found = self.known(case)
        if found is None:
            found = self._run(case)
            self.keep(case, found)
        return found

    def keep(self, case: Case, found: Mapping[str, Any]) -> None:
        """Write the result of a case."""
        write_atomically(self.work / f"{case.name}.json", json.dumps(found).encode(), force=True)

    def _run(self, case: Case) -> dict[str, Any]:
        nets = nets_of(case.family, case.tasks)
        if case.steps:
            begun = time.perf_counter()
            content = self._retrain(case, nets)
            seconds = time.perf_counter() - begun
        else:
            begun = time.perf_counter()
            content = self._merge(case)
            seconds = time.perf_counter() - begun
            write_atomically(self._merged(case), content, force=True)
        before = {t: _original_error(self.data, p, n) for (t, p), n in zip(nets.items(), case.tasks, strict=True)}
        after = {t: error(self.data, content, f"{t}_logits", n) for t, n in zip(nets, case.tasks, strict=True)}
        rises = [after[t] - before[t] for t in nets]
        return {
            "increase": float(np.mean(rises)), "before": list(before.values()), "after": list(after.values()),
            "size": _params(content) / sum(_params(p.read_bytes()) for p in nets.values()), "bytes": len(content),
            "seconds": seconds, "test_images": [len(test_images(self.data, n)[1]) for n in case.tasks],
            "sha256": hashlib.sha256(content).hexdigest(), "sources": [_hash(p) for p in nets.values()],
            "versions": versions(), "commit": commit(),
        }

    def _retrain(self, case: Case, nets: Mapping[str, Path]) -> bytes:
        """What the steps of a case make of its start.

        The first net's trunk has nothing to gain for its first task: `retrain`, which lets no task pay for another, would give
        it back as it is. So it is trained by Adam, at the best of three rates after 100 steps.
        """
        start, data = self.start(case._replace(steps=0)), self._images(case)
        if case.method != "trunk":
            return whole(onnxzip.retrain(start, nets, data, steps=case.steps, seed=case.seed))

        def tried(rate: float) -> float:
            content = train(start, nets, data, TRIAL, rate, case.seed)
            return sum(error(self.data, content, f"{t}_logits", n) for t, n in zip(nets, case.tasks, strict=True))

        return train(start, nets, data, case.steps, min(RATES, key=tried), case.seed)

    def start(self, case: Case) -> Path:
        """The file that a case without retraining leaves; made again where only its result was taken."""
        file = self._merged(case)
        if not file.exists():
            self.keep(case, self._run(case))
        return file

    def _merged(self, case: Case) -> Path:
        return self.work / f"{case.name}.onnx"

    def _merge(self, case: Case) -> bytes:
        nets, data = nets_of(case.family, case.tasks), self._images(case)
        if case.method in REFERENCES:
            return bytes(STARTS[case.method](nets, data, case.samples, case.seed).SerializeToString(deterministic=True))
        return onnxzip.merge(
            nets, data, share=case.share, layout=case.layout, method=case.method.removesuffix("+repair"),
            repair=case.method.endswith("+repair"), samples=case.samples, seed=case.seed,
        ).content

    # data -------------------------------------------------------------------------------------------------------------

    def _images(self, case: Case) -> dict[str, Path]:
        """Unlabelled training images by task."""
        return {t: self._train(samples_of(n)) for t, n in zip(nets_of(case.family, case.tasks), case.tasks, strict=True)}

    def _train(self, name: str) -> Path:
        if self.data is None:
            return MODELS / "data" / f"{name}-calibration.npz"
        file = self.work / f"{name}-train.npz"
        if not file.exists():
            part = file.with_suffix(".part.npz")
            np.savez(part, x=_split(self.data, name).train_x)
            part.replace(file)
        return file


@cache
def _split(data: Path, name: str) -> Any:
    sys.path.insert(0, str(MODELS))
    from tasks import TASKS, read_task  # of the recipe

    return read_task(data, TASKS[name])


@cache
def test_images(data: Path | None, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Labelled test images of a task."""
    name = samples_of(task)
    if data is None:
        with np.load(MODELS / "data" / f"{name}-test.npz") as given:
            return given["x"], given["y"]
    split = _split(data, name)
    return split.test_x, split.test_y


@cache
def _original_error(data: Path | None, path: Path, task: str) -> float:
    return error(data, path.read_bytes(), "logits", task)


def whole(done: onnxzip.Merged) -> bytes:
    """The file, unless its retraining was interrupted: then it holds the best weights so far, which are no result."""
    if done.report["retrain"] and done.report["retrain"]["interrupted"]:
        raise KeyboardInterrupt("interrupted while retraining; there is no result")
    return done.content


def error(data: Path | None, content: bytes, output: str, task: str) -> float:
    """Test error of one output of a file, in percent."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    images, labels = test_images(data, task)
    wrong = 0
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        (logits,) = session.run([output], {session.get_inputs()[0].name: images[part].astype(np.float32) / 255})
        wrong += int((logits.argmax(axis=1) != labels[part]).sum())
    return 100 * wrong / len(images)


@cache
def commit() -> str:
    """Of the code that is measured; empty outside a repository."""
    line = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()


def _params(content: bytes) -> int:
    """Numbers in all floating params of a file."""
    model = onnx.load_from_string(content)
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def row_of(case: Case, found: Mapping[str, Any]) -> dict[str, object]:
    """One line of the CSV."""
    lists = {k: " ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in found[k]) for k in ("before", "after")}
    fields = case._asdict() | {"tasks": "+".join(case.tasks)}
    return fields | {
        "increase": f"{found['increase']:.3f}", **lists, "size": f"{found['size']:.4f}", "bytes": found["bytes"],
        "seconds": f"{found['seconds']:.2f}", "test_images": " ".join(map(str, found["test_images"])),
        "sha256": found["sha256"][:12], "sources": " ".join(h[:12] for h in found["sources"]),
        "versions": " ".join(f"{k}={v}" for k, v in found["versions"].items()), "commit": found.get("commit", ""),
    }


def result_of(row: Mapping[str, str]) -> tuple[Case, dict[str, Any]]:
    """What a line of the CSV tells; hashes and errors as short as they stand there."""
    tasks, share = tuple(row["tasks"].split("+")), float(row["share"])
    counts = (int(row[k]) for k in ("samples", "steps", "seed"))
    return Case(row["family"], tasks, row["method"], share, row["layout"], *counts), {
        "increase": float(row["increase"]), **{k: [float(x) for x in row[k].split()] for k in ("before", "after")},
        "size": float(row["size"]), "bytes": int(row["bytes"]), "seconds": float(row["seconds"]),
        "test_images": [int(n) for n in row["test_images"].split()], "sha256": row["sha256"],
        "sources": row["sources"].split(), "versions": dict(v.split("=") for v in row["versions"].split()),
        "commit": row["commit"],
    }
