"""A report of `inspect` as one HTML page that needs nothing else: style, scripts, libraries and data stand in it.

The page's own style and scripts lie beside this module in `page`, the libraries in `page/vendor`, with their licences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

LIBRARIES = ("d3.min.js", "plot.umd.min.js", "dagre.min.js")
SCRIPTS = ("common.js", "layout.js", "graph.js", "panel.js", "charts.js", "main.js")


def page_of(report: Mapping[str, Any]) -> str:
    """The page.

    Args:
        report: of `inspect`, with `latency` (how, runs) and `made_by`; of fused files perhaps with `fidelity`.
    """
    scripts = [_script(f"vendor/{name}") for name in LIBRARIES] + [_script(name) for name in SCRIPTS]
    data = json.dumps(report, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
    parts = {"style": _held("style.css"), "data": data.replace("<!--", "<\\u0021--"), "scripts": "\n".join(scripts)}
    return re.sub(r"/\*\{(\w+)\}\*/", lambda found: parts[found[1]], _held("template.html"))


def _script(name: str) -> str:
    source = re.sub(r"^//# sourceMappingURL=.*$", "", _held(name), flags=re.MULTILINE)
    return f"<script>\n{source.replace('</script', '<' + chr(92) + '/script')}\n</script>"


def _held(name: str) -> str:
    return resources.files("onnxzip.inspection").joinpath("page", *name.split("/")).read_text(encoding="utf-8")
