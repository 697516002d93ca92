"""Weights of matched channels side by side, as a picture: each original's, and what the fused net has made of them.

    python tools/channel_pairs.py both.onnx tops=a.onnx shoes=b.onnx -o pairs.svg
    python tools/channel_pairs.py both.onnx tops=a.onnx shoes=b.onnx --space '/3/*' -o pairs.png

A layer that reads an image shows its filters; any other layer one line a channel: its weights on the channels it reads, in
the fused net's order, so that what belongs together stands below each other.
"""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path

import matplotlib
import numpy as np
from originals import Opened, Shared, opened, save, shared_rows

from onnxzip.inspection.weights import matrix_of
from onnxzip.net import Net, Node

matplotlib.use("Agg")
from matplotlib import pyplot as plt

IMAGE_CHANNELS, COLOURS = (1, 3), "RdBu_r"


def rows_of(net: Net, node: Node, channels: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Weights of some output channels on some input channels: [channels, taps, inputs]; a missing input is zero."""
    matrix = matrix_of(net, node)
    if matrix is None:
        raise SystemExit(f"{node.name}: has no weights of its own")
    groups, outputs, taps, inputs = matrix.shape
    rows = matrix.reshape(groups * outputs, taps, inputs)[channels]
    if groups > 1:
        return np.asarray(rows)
    return np.asarray(np.where(columns >= 0, rows[:, :, np.maximum(columns, 0)], 0.0))


def sides_of(given: Opened, shared: Shared) -> dict[str, np.ndarray]:
    """The same rows in each original and in the fused net."""
    found = {}
    for task, net in given.nets.items():
        origin = next(n for n in net.nodes if n.name == shared.trace.origins[task])
        found[task] = rows_of(net, origin, shared.channels[task], shared.trace.maps[task][1])
    every = np.arange(len(shared.trace.maps[next(iter(given.nets))][1]))
    return found | {"fused": rows_of(given.fused, shared.node, shared.rows, every)}


def kernel_of(net: Net, node: Node) -> tuple[int, ...]:
    """Height and width of a filter that can be shown as an image; empty where there is none."""
    weight = next(net.params[v] for v in node.inputs if v in net.params)
    return weight.shape[2:] if weight.ndim == 4 and weight.shape[1] in IMAGE_CHANNELS and weight.shape[2] > 1 else ()


def draw(given: Opened, shared: Shared, most: int) -> plt.Figure:
    """The picture of one space."""
    sides = {name: rows[:most] for name, rows in sides_of(given, shared).items()}
    kernel = kernel_of(given.fused, shared.node)
    return filters(shared, sides, kernel) if kernel else lines(shared, sides)


def filters(shared: Shared, sides: dict[str, np.ndarray], kernel: tuple[int, ...]) -> plt.Figure:
    """One column a pair, one row a net."""
    count = len(next(iter(sides.values())))
    figure, axes = plt.subplots(len(sides), count, figsize=(0.55 * count + 1, 0.6 * len(sides) + 0.5), squeeze=False)
    for row, (name, weights) in zip(axes, sides.items(), strict=True):
        for axis, one in zip(row, weights, strict=True):
            image = one.mean(axis=1).reshape(kernel)
            axis.imshow(image, cmap=COLOURS, vmin=-abs(image).max(), vmax=abs(image).max())
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(f"{shared.space}: filters of matched channels, cheapest pair first", fontsize=9)
    return figure


def lines(shared: Shared, sides: dict[str, np.ndarray]) -> plt.Figure:
    """One block a net, one line a pair."""
    count = len(next(iter(sides.values())))
    size = 3.2 * len(sides), 0.09 * count + 1
    figure, axes = plt.subplots(1, len(sides), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, (name, weights) in zip(axes[0], sides.items(), strict=True):
        flat = weights.transpose(0, 2, 1).reshape(count, -1)
        bound = np.quantile(abs(flat), 0.99)
        axis.imshow(flat, cmap=COLOURS, vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("weights, by fused input channel", fontsize=8)
    axes[0][0].set_ylabel("pair, cheapest first", fontsize=8)
    figure.suptitle(f"{shared.space}: weights of matched channels", fontsize=9)
    return figure


def main() -> None:
    """Draw one picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fused", type=Path, help="a net that onnxzip has merged")
    parser.add_argument("originals", nargs="+", metavar="NAME=FILE.onnx")
    parser.add_argument("--space", default="*", help="which space, as a pattern; the first that fits is drawn")
    parser.add_argument("--most", type=int, default=12, help="pairs to draw")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture: .svg, .png or .pdf")
    arguments = parser.parse_args()
    given = opened(arguments.fused, arguments.originals)
    fitting = [s for s in shared_rows(given) if fnmatch.fnmatch(s.space, arguments.space)]
    if not fitting:
        known = ", ".join(s.space for s in shared_rows(given))
        raise SystemExit(f"no space with shared channels fits {arguments.space!r} (spaces: {known})")
    figure = draw(given, fitting[0], arguments.most)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
