"""What the targets of `export` make of merged sample nets: how far they are off, and how large their files are.

    python tools/targets.py                 prints the table
    python tools/targets.py --write         puts it into README.md between its two markers

Each net is merged from two sample nets in layout `strands`, exported, run by the target's own runtime on test images and
compared with the fused net. Targets whose packages are in another Python are found by ONNXZIP_PYTHON_TARGET; those that have
none are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from figures import MODELS, nets_of, put_into_readme

import onnxzip
from onnxzip.shipping.doctor import examine
from onnxzip.shipping.targets import known_targets

FAMILIES, SHARES, PAIR = ("lenet5", "resnet", "mobilenet"), (1.0, 0.5), ("fashion-low", "fashion-high")
SAMPLES = 64  # a task; the int8 net is calibrated with four fifths of INT8_SAMPLES
INT8, INT8_SAMPLES = "ort, int8", 500
BEGIN, END = "<!-- targets: begin (python tools/targets.py --write) -->", "<!-- targets: end -->"


def data_of(nets: Mapping[str, Path], kind: str) -> dict[str, Path]:
    """Samples by task: `calibration` or `test`."""
    return {task: MODELS / "data" / f"{name}-{kind}.npz" for task, name in zip(nets, PAIR, strict=True)}


def cell(report: Mapping[str, Any]) -> str:
    """Worst error of a task, and bytes of all files that a device needs."""
    tasks = report["tasks"].values()
    size = sum(n for path, n in report["files"].items() if not path.endswith((".json", ".txt", ".config")))
    kilobytes = f"{size / 1000:,.0f} kB"
    if report["quantized"]:
        return f"{max(t['relative_error'] for t in tasks):.3f}, {100 * min(t['agreement'] for t in tasks):.1f} %, {kilobytes}"
    return f"{max(t['max_error'] for t in tasks):.0e}{'*' if report['not_run'] else ''}, {kilobytes}"


def row(family: str, share: float, targets: Iterable[str], folder: Path) -> Iterator[str]:
    """One merged net in all targets."""
    nets = nets_of(family, PAIR)
    fused = folder / f"{family}-{share}.onnx"
    onnxzip.merge(nets, data_of(nets, "calibration"), share=share).save(fused)
    yield from (family, f"{share:g}", f"{fused.stat().st_size / 1000:,.0f} kB")
    test = data_of(nets, "test")
    for name in targets:
        output = fused.with_suffix(known_targets()[name].suffix)
        output = output.with_name(f"{name}-{output.name}")
        report = onnxzip.export(fused, name, output, test, samples=SAMPLES)
        yield cell(report)
    output = folder / f"int8-{family}-{share}.ort"
    yield cell(onnxzip.export(fused, "ort", output, test, samples=INT8_SAMPLES, quantize=True))


def table(families: Iterable[str], shares: Iterable[float]) -> str:
    """Markdown, line by line as it is made."""
    usable = [name for name, target in examine()["targets"].items() if target["usable"]]
    head = ["family", "share", "fused file", *(f"`{name}`" for name in usable), INT8]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    with tempfile.TemporaryDirectory() as name:
        for family in families:
            for share in shares:
                lines.append(list(row(family, share, usable, Path(name))))
                print("| " + " | ".join(lines[-1]) + " |", flush=True)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    text = table(arguments.families, arguments.shares)
    print(text)
    if arguments.write:
        put_into_readme(BEGIN, text, END)


if __name__ == "__main__":
    main()
