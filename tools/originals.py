"""What the viewers of matched channels share: a fused file, its originals, and where each space's channels are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from onnxzip.exporting.naming import named_files
from onnxzip.exporting.traces import NodeTrace, Trace, read_trace
from onnxzip.loading import load_model, look_at
from onnxzip.loading.files import read_any_float, read_mapped
from onnxzip.loading.fixing import with_fixed
from onnxzip.net import Net, Node


@dataclass(frozen=True)
class Opened:
    """A fused net with its originals.

    Attributes:
        path, fused, trace: the fused file.
        files, nets: the originals by task, in the form that the merge saw.
    """

    path: Path
    fused: Net
    trace: Trace
    files: Mapping[str, Path]
    nets: Mapping[str, Net]


@dataclass(frozen=True)
class Shared:
    """A fused node whose rows several tasks share, and the nodes that it was made from.

    Attributes:
        rows: of the fused node: those that all of the tasks share.
        channels: task -> original channel of each of these rows.
    """

    space: str
    node: Node
    trace: NodeTrace
    rows: np.ndarray
    channels: Mapping[str, np.ndarray]


def save(figure: Figure, path: Path) -> None:
    """Write a picture: the same bytes for the same picture, and text as text."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "onnxzip"}):
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)


def opened(path: Path, originals: list[str]) -> Opened:
    """Read a fused file and its originals, given as NAME=FILE."""
    fused = look_at(path, read_any_float(path))
    files = named_files(originals)
    trace = read_trace(fused.metadata, str(path))
    models = {t: with_fixed(read_mapped(file), trace.origins[t].fixed) for t, file in files.items()}
    nets = {t: load_model(model, files[t], t, fused.opset) for t, model in models.items()}
    return Opened(path, fused, trace, files, nets)


def shared_rows(given: Opened) -> Iterator[Shared]:
    """For each space, the node that first makes channels which all of the given tasks share."""
    for space in given.trace.match:
        for node in given.fused.nodes:
            trace = given.trace.nodes.get(node.name, NodeTrace())
            if trace.step != space or not set(given.nets) <= set(trace.maps):
                continue
            rows = np.flatnonzero(np.all([trace.maps[t][0] >= 0 for t in given.nets], axis=0))
            if len(rows):
                yield Shared(space, node, trace, rows, {t: trace.maps[t][0][rows] for t in given.nets})
                break
