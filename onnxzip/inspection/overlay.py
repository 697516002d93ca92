"""Node data for Google's Model Explorer: how much of each node is shared, as colours over the graph of the file.

    { graph: { results: { node or value: { value } }, gradient: [ { stop, bgColor, textColor } ] } }

as `model_explorer.node_data_builder` writes it. The graph and its nodes go by the names that the adapter for ONNX gives them:
those in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxzip.errors import UsageError

GRADIENT = (("#e07b39", "#000000", 0.0), ("#f3efe6", "#000000", 0.5), ("#1f9e89", "#000000", 1.0))


def node_data(report: Mapping[str, Any]) -> dict[str, Any]:
    """The share of every node of a fused file, 0 for a task's own to 1.

    Args:
        report: of `inspect`.

    Raises:
        UsageError: the file is no merge's result, so that there are no shares.
    """
    if report["kind"] != "merged":
        raise UsageError(f"{report['file']['source']}: was not made by onnxzip: its nodes have no shares. Merge nets first.")
    results = {node["name"]: {"value": round(node["share"], 4)} for node in report["nodes"]}
    gradient = [{"stop": stop, "bgColor": ground, "textColor": text} for ground, text, stop in GRADIENT]
    return {report["graph"]: {"results": results, "gradient": gradient}}
