"""How alike matched channels are on data, space by space: before the merge, and what the fused channel keeps of each.

    python tools/correlation.py both.onnx tops=a.onnx shoes=b.onnx --data tops=a.npz --data shoes=b.npz [-o picture.svg]

    before   correlation of the two originals' channels of a pair, on the samples of both tasks
    after    correlation of the fused channel with each original's, on that task's own samples

Channels are compared where the space is first produced, before the activation (of a branch: after its skip is added), over
all samples and positions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnxruntime as ort
from originals import Opened, Shared, opened, save, shared_rows

from onnxzip.analysis.coupling import linear_view
from onnxzip.exporting.naming import named_data
from onnxzip.inspection.weights import sum_of
from onnxzip.net import Net, Node

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Values = Mapping[str, np.ndarray]


def values_of(path: Path, names: list[str], x: np.ndarray) -> Values:
    """Inner values of a file for some samples."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def named(net: Net, name: str) -> Node:
    """A node by its name."""
    return next(n for n in net.nodes if n.name == name)


def made(net: Net, node: Node, values: Values) -> np.ndarray:
    """The channels that a node with weights makes: [channels, samples * positions]."""
    found = linear_view(net, node)
    assert found is not None
    axis = found[0].channel(found[1])
    value = np.moveaxis(values[sum_of(net, node)].astype(np.float64), axis, 0)
    return value.reshape(len(value), -1)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row; 0 where a row is constant."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    size = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.where(size > 0, size, 1))


def read_samples(path: Path, count: int) -> np.ndarray:
    """The first samples of an .npz, uint8 scaled to 0..1 as a merge does."""
    with np.load(path) as data:
        x = data["x"][:count]
    return x.astype(np.float32) / 255 if x.dtype == np.uint8 else x.astype(np.float32)


def compare(given: Opened, shared: list[Shared], samples: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Per space: `before`, and `after TASK`, one number a pair."""
    everything = np.concatenate([samples[t] for t in given.nets])
    origins = {t: [named(net, s.trace.origins[t]) for s in shared] for t, net in given.nets.items()}
    inner = {
        t: values_of(given.files[t], [sum_of(given.nets[t], n) for n in nodes], everything) for t, nodes in origins.items()
    }
    after, start = {}, 0
    for task in given.nets:
        stop = start + len(samples[task])
        fused = values_of(given.path, [sum_of(given.fused, s.node) for s in shared], samples[task])
        own = {name: value[start:stop] for name, value in inner[task].items()}
        after[task] = fused, own
        start = stop
    found = []
    for k, space in enumerate(shared):
        channels = {t: made(net, origins[t][k], inner[t])[space.channels[t]] for t, net in given.nets.items()}
        first, *others = channels.values()
        entry = {"before": np.mean([correlations(first, other) for other in others], axis=0)}
        for task, (fused, own) in after.items():
            mine = made(given.nets[task], origins[task][k], own)[space.channels[task]]
            entry[f"after {task}"] = correlations(made(given.fused, space.node, fused)[space.rows], mine)
        found.append(entry)
    return found


def draw(shared: list[Shared], found: list[dict[str, np.ndarray]], path: Path) -> None:
    """One group of strips a space: one dot a pair."""
    figure, axis = plt.subplots(figsize=(7.5, 0.42 * len(shared) + 1.2))
    for k, (name, colour) in enumerate(zip(found[0], ("#8b93a1", "#e07b39", "#4f7fd1", "#b65fb0", "#c2a012"), strict=False)):
        for row, entry in enumerate(found):
            y = row + 0.22 * (k - (len(found[0]) - 1) / 2)
            ticks = np.stack([entry[name], entry[name], np.full(len(entry[name]), np.nan)], axis=1).reshape(-1)
            places = np.tile([y - 0.08, y + 0.08, np.nan], len(entry[name]))
            axis.plot(ticks, places, color=colour, alpha=0.7, linewidth=1, label=name if row == 0 else None)
    axis.set_yticks(range(len(shared)), [s.space for s in shared], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("correlation of a pair")
    axis.legend(frameon=False, ncols=len(found[0]), loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)
    save(figure, path)


def main() -> None:
    """Print the table, and draw the picture where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fused", type=Path, help="a net that onnxzip has merged")
    parser.add_argument("originals", nargs="+", metavar="NAME=FILE.onnx")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=FILE.npz")
    parser.add_argument("--samples", type=int, default=200, help="of each task")
    parser.add_argument("-o", "--output", type=Path, help="picture: .svg, .png or .pdf")
    arguments = parser.parse_args()
    given, data = opened(arguments.fused, arguments.originals), named_data(arguments.data) or {}
    samples = {t: read_samples(Path(data.get(t, data.get("", ""))), arguments.samples) for t in given.nets}
    shared = list(shared_rows(given))
    if not shared:
        raise SystemExit(f"{arguments.fused}: these tasks share no channels")
    found = compare(given, shared, samples)
    print("| " + " | ".join(["space", "pairs", *found[0]]) + " |")
    print("| " + " | ".join(["---", *["--:"] * (1 + len(found[0]))]) + " |")
    for space, entry in zip(shared, found, strict=True):
        print("| " + " | ".join([space.space, str(len(space.rows)), *(f"{v.mean():.3f}" for v in entry.values())]) + " |")
    if arguments.output is not None:
        draw(shared, found, arguments.output)


if __name__ == "__main__":
    main()
