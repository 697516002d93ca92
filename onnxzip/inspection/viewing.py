"""What a page tells beside the report of `inspect`: latencies measured now, and what the merge's own report has found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxzip.errors import InvalidDataError
from onnxzip.exporting.metadata import own_version, read_origins
from onnxzip.exporting.report import versions
from onnxzip.exporting.splitting import split_model
from onnxzip.inspection.latency import median_milliseconds
from onnxzip.loading.fixing import NONE_FIXED
from onnxzip.net import Axis
from onnxzip.runtime import entries_of

Originals = Mapping[str, str | PathLike[str]]
SAME: Mapping[str, str] = {}


def page_report(
    report: Mapping[str, Any], file: Path, model: ModelProto, against: Originals, merging: Path | None,
    tick: Callable[[int], None],
) -> dict[str, Any]:
    """The report with what a page shows beside it.

    Args:
        report: of `inspect`; file, model: what it is about.
        against: original files by task, whose latency is measured, too.
        merging: the report that `merge` has written.
        tick: called with 1 for each net that was measured.

    Raises:
        UnsupportedError: ONNX Runtime cannot run one of the nets.
        InvalidDataError: `merging` is no report of this file's merge.
    """
    contents: list[tuple[dict[str, Any], Path | bytes]] = [
        ({"name": f"{task}, original", "task": task, "original": True}, Path(path)) for task, path in against.items()
    ]
    contents.append(({"name": "this file", "task": None, "original": False}, file))
    for task in report.get("tasks", {}):
        alone = split_model(model, task, str(file)).SerializeToString()
        contents.append(({"name": f"{task} alone", "task": task, "original": False}, alone))
    origins = read_origins(entries_of(model), str(file)) if against else {}
    runs = []
    for entry, content in contents:
        origin = origins[str(entry["task"])] if entry["original"] else None
        sizes, fixed = _sizes(report, origin.inputs if origin else SAME), origin.fixed if origin else NONE_FIXED
        milliseconds, count = median_milliseconds(entry["name"], content, sizes, fixed, file.parent)
        runs.append(entry | {"milliseconds": milliseconds, "runs": count})
        tick(1)
    least = min(run["runs"] for run in runs)
    at = "".join(dict.fromkeys(f", {e['name'] or e['input']} = {e['size']}" for e in report["sizes"]))
    how = (
        f"ONNX Runtime {versions()['onnxruntime']} on the CPU of the machine that made this page, one thread, one sample of "
        f"noise{at}; medians of {least} runs or more."
    )
    found = {"latency": {"how": how, "runs": runs}, "made_by": own_version()}
    return dict(report) | found | ({"fidelity": fidelity_of(merging, report)} if merging is not None else {})


def _sizes(report: Mapping[str, Any], called: Mapping[str, str]) -> dict[Axis, int]:
    """The sizes of free axes that all numbers of a report are for.

    Args:
        called: input of the file -> what the net that is measured calls it, where it is another name.
    """
    return {Axis(called.get(e["input"], e["input"]), e["axis"]): e["size"] for e in report["sizes"]}


def fidelity_of(path: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Fidelity and accuracy of each task, from the report of the merge.

    Raises:
        InvalidDataError: it is none, or one of another merge.
    """
    file, hint = report["file"]["source"], "Give the report of the merge that has written this file."
    try:
        merging = json.loads(path.read_text(encoding="utf-8"))
        missing = [task for task in report.get("tasks", {}) if task not in merging["tasks"]]
        if missing:
            raise InvalidDataError(
                f"{path}: tells nothing of task {missing[0]!r} of {file}, but of {', '.join(merging['tasks'])}. {hint}"
            )
        found = {
            task: {
                **{key: merging["tasks"][task]["fidelity"][key] for key in ("relative_error", "top1_agreement")},
                **{key: (merging["tasks"][task]["accuracy"] or {}).get(key) for key in ("before", "after")},
            }
            for task in report.get("tasks", {})
        }
        same = all(merging["tasks"][t]["sha256"] == entry["sha256"] for t, entry in report.get("tasks", {}).items())
    except OSError as error:
        raise InvalidDataError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidDataError(f"{path}: is no report of a merge ({type(error).__name__}: {error}). {hint}") from error
    if not found or not same:
        raise InvalidDataError(f"{path}: is the report of another merge than {file}. {hint}")
    return found
