"""The zoo: well-known architectures, each merged with a copy of itself whose channels are in another order.

    python tools/zoo_table.py                     prints the table
    python tools/zoo_table.py --write             puts it into README.md between its two markers

Nets of tests/zoo are written by torch in two dialects (dynamo needs onnxscript), those below them come with onnx, in full
size; all have random weights. Differences of outputs are relative to the largest output: of the merge at share 1, with weights
that are off by a millionth; at share 0; of the copy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import torch
from figures import put_into_readme

from onnxzip.analysis import analyse
from onnxzip.loading import load
from onnxzip.net import Net

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from fusing import outputs, permuted
from zoo.catalogue import DIALECTS, LIGHT, ZOO, exported, filled, inputs_of, module_of
from zoo.laws import apart_from, channels_of, examine, refusals_of

BEGIN, END = "<!-- zoo: begin (python tools/zoo_table.py --write) -->", "<!-- zoo: end -->"
HEAD = ["net", "dialect", "params", "spaces shared", "channels shared", "refusals", "share 1", "share 0", "copy", "plan, s"]


def loaded(model: onnx.ModelProto, folder: Path) -> Net:
    """A model in canonical form."""
    path = folder / "net.onnx"
    onnx.save(model, path)
    return load(path, "net")


def size_of(net: Net) -> str:
    """Number of params, in short."""
    count = sum(a.size for a in net.params.values())
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"


def exported_rows(names: list[str], folder: Path) -> Iterator[list[str]]:
    """One row a net and dialect."""
    for name in names:
        for dialect in DIALECTS:
            entry = ZOO[name]
            net = loaded(exported(module_of(entry, 1), entry, dialect), folder)
            feeds, fresh = ({k: v.numpy() for k, v in inputs_of(entry, n, seed).items()} for n, seed in ((60, 3), (9, 8)))
            found = examine(net, feeds, fresh)
            apart = (max(found.same, found.nearly), found.unshared, found.reordered)
            yield [
                name, dialect, size_of(net), f"{found.shared} of {found.spaces}",
                f"{found.shared_channels} of {found.channels}", refused(found.refusals), *(f"{e:.0e}" for e in apart),
                f"{found.seconds:.2f}",
            ]


def light_rows() -> Iterator[list[str]]:
    """One row for each net that comes with onnx: its plan, and whether the order of its channels means nothing."""
    for path in LIGHT:
        first = filled(load(path, "a"), 1)
        second = permuted(first, 5, "b")
        start = time.perf_counter()
        plan = analyse([first, replace(first, name="b")])
        seconds = time.perf_counter() - start
        feeds = {p.name: np.random.default_rng(0).standard_normal(p.shape, np.float32) for p in first.inputs}
        copy = apart_from(outputs(second, feeds), outputs(first, feeds))
        spaces, shared = plan.shared_spaces(), [s for s in plan.shared_spaces() if s.shared == max(s.sizes.values())]
        yield [
            path.stem.removeprefix("light_"), "caffe2", size_of(first), f"{len(shared)} of {len(spaces)}",
            f"{sum(map(channels_of, shared))} of {sum(map(channels_of, spaces))}", refused(refusals_of(plan)), "", "",
            f"{copy:.0e}", f"{seconds:.2f}",
        ]


def refused(refusals: tuple[tuple[str, str], ...]) -> str:
    """How many, and the first one's reason."""
    return f"{len(refusals)}: {refusals[0][1]}" if refusals else ""


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="*", default=list(ZOO), choices=list(ZOO), help="those of tests/zoo")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [HEAD, ["---", "---", *["--:"] * 3, "---", *["--:"] * 4]]
    with tempfile.TemporaryDirectory() as folder:
        for row in chain(exported_rows(arguments.nets, Path(folder)), light_rows()):
            print("| " + " | ".join(row) + " |", flush=True)
            lines.append(row)
    if arguments.write:
        put_into_readme(BEGIN, "\n".join("| " + " | ".join(line) + " |" for line in lines), END)


if __name__ == "__main__":
    main()
