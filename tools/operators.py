"""The table of operators in the README, made from the registry.

    python tools/operators.py               prints it
    python tools/operators.py --write       puts it into README.md between its two markers
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from figures import put_into_readme

from onnxzip.ops import listed, registered

BEGIN, END = "<!-- operators: begin (python tools/operators.py --write) -->", "<!-- operators: end -->"
KINDS = {
    "linear": "with weights",
    "convolution": "with weights",
    "recurrent": "recurrent",
    "attention": "attention",
    "pointwise": "each scalar alone",
    "arithmetic": "with broadcasting",
    "normalization": "normalisation",
    "pooling": "pooling",
    "reduction": "reduction",
    "reshaping": "other axes",
    "arranging": "other places",
    "selecting": "other places",
    "patches": "other places",
    "resizing": "between grid points",
    "sampling": "between grid points",
    "indexing": "by index",
    "ordered": "in order",
    "spectral": "matrices and spectra",
    "contraction": "matrices and spectra",
}


def families() -> dict[str, list[str]]:
    """Operators by the module that registers them, under the name of its kind."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS.values()}
    for operator in registered():
        module = (operator.line if callable(operator.line) else operator.torch).__module__.rpartition(".")[2]
        found[KINDS[module]].append(operator.name)
    return found


def lines() -> Iterator[str]:
    """Markdown: what is known, and what is left alone."""
    yield f"{sum(1 for _ in registered())} operators of ONNX's default domain have a record, from which everything follows:"
    yield ""
    yield "| kind | operators |"
    yield "| --- | --- |"
    for kind, names in families().items():
        yield f"| {kind} | {', '.join(names)} |"
    yield ""
    yield "The others are left alone, and `plan` says why:"
    yield ""
    yield "| why | operators |"
    yield "| --- | --- |"
    for why in dict.fromkeys(listed().values()):
        yield f"| {why} | {', '.join(name for name, reason in listed().items() if reason == why)} |"


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    text = "\n".join(lines())
    if parser.parse_args().write:
        put_into_readme(BEGIN, text, END)
    else:
        print(text)


if __name__ == "__main__":
    main()
