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
from pathlib import Path

import onnx
import torch
from figures import put_into_readme

from onnxzip.analysis import analyse
from onnxzip.loading import load
from onnxzip.net import Net

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from zoo.catalogue import DIALECTS, LIGHT, ZOO, exported, filled, inputs_of, module_of
from zoo.laws import channels_of, examine, refusals_of

BEGIN, END = "<!-- zoo: begin (python tools/zoo_table.py --write) -->", "<!-- zoo: end -->"
HEAD = ["net", "dialect", "params", "spaces shared", "channels shared", "refusals", "share 1", "share 0", "copy"]


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
            ]
            print(f"{name}, {dialect}: planned in {found.seconds:.2f} s of one core", flush=True)


def light_rows() -> Iterator[list[str]]:
    """One row for each net that comes with onnx: what its plan says."""
    for path in LIGHT:
        net = filled(load(path, "a"), 1)
        start = time.process_time()
        plan = analyse([net, replace(net, name="b")])
        print(f"{path.stem}: planned in {time.process_time() - start:.2f} s of one core", flush=True)
        spaces, shared = plan.shared_spaces(), [s for s in plan.shared_spaces() if s.shared == max(s.sizes.values())]
        yield [
            path.stem.removeprefix("light_"), "as it comes", size_of(net), f"{len(shared)} of {len(spaces)}",
            f"{sum(map(channels_of, shared))} of {sum(map(channels_of, spaces))}", refused(refusals_of(plan)), "", "", "",
        ]


def joined(rows: list[list[str]]) -> list[list[str]]:
    """One row for nets whose dialects differ in nothing but rounding, with the larger differences."""
    found: list[list[str]] = []
    for row in rows:
        before = found[-1] if found else [""] * len(row)
        if before[0] == row[0] and before[3:6] == row[3:6]:
            worst = [max(pair, key=float) for pair in zip(before[6:], row[6:], strict=True)]
            found[-1] = [row[0], "both", *row[2:6], *worst]
        else:
            found.append(row)
    return found


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
    with tempfile.TemporaryDirectory() as folder:
        rows = [*exported_rows(arguments.nets, Path(folder)), *light_rows()]
    lines = [HEAD, ["---", "---", *["--:"] * 3, "---", *["--:"] * 3], *joined(rows)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    print(text)
    if arguments.write:
        put_into_readme(BEGIN, text, END)


if __name__ == "__main__":
    main()
