"""Write the table of nets in README.md from index.json.

    python models/table.py

The table stands between two marker comments; everything else in the README is left as it is.
"""

from __future__ import annotations

import json
from pathlib import Path

from atomic import atomic_path

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def table(entries: list[dict[str, object]]) -> str:
    """Return the Markdown table of some index entries."""
    lines = [
        "| net | parameters | bytes | seed | epochs | test accuracy | on the committed sample |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in entries:
        lines.append(
            f"| `{entry['file']}` | {entry['params']:,} | {entry['bytes']:,} | {entry['seed']} | {entry['epochs']}"
            f" | {entry['test_accuracy']:.4f} | {entry['sample_accuracy']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Replace the table in place."""
    readme = FOLDER / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    with atomic_path(readme) as temporary:
        temporary.write_text(before + BEGIN + table(json.loads((FOLDER / "index.json").read_text())) + END + after)


if __name__ == "__main__":
    main()
