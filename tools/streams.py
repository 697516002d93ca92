"""What streaming nets lose that share the units of their states: the LSTMs of `models/`, some rows of an image a call.

    python tools/streams.py [--write]       prints the table; into README.md between its two markers

Samples are calls in the midst of streams, one of each calibration image, with the states of the original net. Each net then
goes through the test images on states of its own; the increase of test error is the mean of both tasks, and of all pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from figures import MODELS, PAIRS, nets_of, samples_of, show
from onnx import ModelProto, numpy_helper, parser

import onnxzip

BEGIN, END = "<!-- streams: begin (python tools/streams.py --write) -->", "<!-- streams: end -->"
SIDE, UNITS, STATES = 28, 64, "hc"
CALLS = (28, 7, 1)  # rows each
STEPS = 300
NET = """<ir_version: 8, opset_import: ["": 17]>
stream (float[N,{rows},28] x, float[1,N,64] h, float[1,N,64] c) => (float[N,{classes}] y, float[1,N,64] hn, float[1,N,64] cn)
<int64[1] one = {{1}}, int64 last = {{-1}}> {{
    e = Transpose <perm = [1,0,2]> (x)
    q, hn, cn = LSTM <hidden_size = 64> (e, wi, wh, wb, , h, c)
    s = Squeeze (q, one)
    g = Gather <axis = 0> (s, last)
    y = Gemm <transB = 1> (g, w, b)
}}"""
Arrays = dict[str, np.ndarray]


def streaming(net: Path, rows: int) -> ModelProto:
    """A sample LSTM that reads so many rows a call, and gives its states back."""
    model = onnx.load(net)
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    recurrent = next(n for n in model.graph.node if n.op_type == "LSTM").input
    weights = {"w": known["last.weight"], "b": known["last.bias"]}
    weights |= {name: known[recurrent[k]] for k, name in ((1, "wi"), (2, "wh"), (3, "wb"))}
    made = parser.parse_model(NET.format(rows=rows, classes=len(weights["b"])))
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    return made


def data_of(task: str, part: str) -> Arrays:
    """Images [n, 28, 28] in 0..1 of a sample task as `x`, and the classes of test images as `y`."""
    with np.load(MODELS / "data" / f"{samples_of(task)}-{part}.npz") as held:
        return {**held, "x": held["x"].reshape(-1, SIDE, SIDE).astype(np.float32) / 255}


def run(content: bytes, images: np.ndarray, rows: int, prefix: str = "") -> tuple[np.ndarray, list[Arrays]]:
    """What a net says of whole images, and what each call has read."""
    session, calls = ort.InferenceSession(content, providers=["CPUExecutionProvider"]), list[Arrays]()
    now = {s: np.zeros((1, len(images), UNITS), np.float32) for s in STATES}
    scores = np.zeros(0)
    for k in range(0, SIDE, rows):
        calls.append({"x": images[:, k : k + rows], **now})
        scores, *ends = session.run([f"{prefix}y", *(f"{prefix}{s}n" for s in STATES)], calls[-1])
        now = dict(zip(STATES, ends, strict=True))
    return scores, calls


def calibration(content: bytes, task: str, rows: int) -> Arrays:
    """One call of each image, drawn at random."""
    images = data_of(task, "calibration")["x"]
    _, calls = run(content, images, rows)
    which = np.random.default_rng(0).integers(0, len(calls), len(images))
    return {
        name: np.stack([calls[k][name].take(n, axis) for n, k in enumerate(which)], axis)
        for name, axis in (("x", 0), *((s, 1) for s in STATES))
    }


def increases(pair: tuple[str, str], rows: int, folder: Path) -> list[float]:
    """Points for the zip, for it after some steps, and for `mtz`, mean of both tasks."""
    files, data = {}, {}
    for task, net in nets_of("lstm", pair).items():
        files[task] = folder / f"{task}-{rows}.onnx"
        onnx.save(streaming(net, rows), files[task])
    for (task, file), name in zip(files.items(), pair, strict=True):
        data[task] = calibration(file.read_bytes(), name, rows)
    found = []
    for options in ({}, {"retrain": STEPS}, {"method": "mtz"}):
        merged, more = onnxzip.merge(files, data, **options), []
        for (task, file), name in zip(files.items(), pair, strict=True):
            test, both = data_of(name, "test"), ((file.read_bytes(), ""), (merged.content, f"{task}_"))
            before, after = (run(content, test["x"], rows, prefix)[0] for content, prefix in both)
            more.append(np.mean(before.argmax(1) == test["y"]) - np.mean(after.argmax(1) == test["y"]))
        found.append(100 * float(np.mean(more)))
    return found


def lines(folder: Path) -> Iterator[str]:
    """Of the table, below its heading."""
    for rows in CALLS:
        means = np.mean([increases(pair, rows, folder) for pair in PAIRS], axis=0)
        yield f"| {rows} | " + " | ".join(f"{m:.1f}" for m in means) + " |"


def main() -> None:
    """Print the table, and write it where asked."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = options.parse_args()
    head = [f"| rows a call | zip | after {STEPS} steps | `mtz` |", "| --: | --: | --: | --: |"]
    show(head, lines, (BEGIN, END) if arguments.write else None)


if __name__ == "__main__":
    main()
