"""Reports of what leaves onnxzip, as rich tables: bundles, exports, and what can be exported here."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxzip.inspection.tables import Report, in_bytes, noise_line, number_table, percent


def bundle_tables(report: Report) -> Iterator[RenderableType]:
    """What a bundle holds, and what each task loads."""
    columns = "graph", "own weights", "shared weights", "switch to it loads"
    shown = number_table("Bundle", "task", *columns)
    for name, task in report["tasks"].items():
        graph, own, shared = (task[f"{key}_bytes"] for key in ("graph", "own", "shared"))
        loaded = percent((graph + own) / (graph + own + shared))
        shown.add_row(name, in_bytes(graph), in_bytes(own), in_bytes(shared), loaded)
    yield shown
    yield Text(f"{report['bytes']:,} bytes, {percent(report['bytes_ratio'])} of the fused file's {report['fused_bytes']:,}")


def export_tables(report: Report) -> Iterator[RenderableType]:
    """What an export has made, and how close it is to the fused net."""
    yield from noise_line(report, "Compared")
    how = "the net that was converted" if report["not_run"] else f"the files, run by {_versions(report['packages'])},"
    columns = "samples", "max error", "relative error", "top-1 agreement"
    shown = number_table(f"Fidelity of {how} to the fused net", "task", *columns)
    for name, task in report["tasks"].items():
        errors = f"{task['max_error']:.2g}", f"{task['relative_error']:.2g}"
        shown.add_row(name, f"{task['samples']:,}", *errors, percent(task["agreement"]))
    yield shown
    if report["not_run"]:
        yield Text(f"Converted, not run: {report['not_run']}.")
    files = number_table("Files", "file", "bytes", "of the fused file")
    for path, size in report["files"].items():
        files.add_row(path, f"{size:,}", percent(size / report["fused"]["bytes"]))
    yield files


def doctor_tables(report: Report) -> Iterator[RenderableType]:
    """What can be used here."""
    shown = Table(title="Targets of `onnxzip export`", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("target", "makes", "usable", "packages"):
        shown.add_column(column, overflow="fold")
    for name, target in report["targets"].items():
        usable = "no" if not target["usable"] else "converts" if target["not_run"] else "yes"
        missing = f"missing: {', '.join(target['missing'])}"
        shown.add_row(name, target["makes"], usable, _versions(target["packages"]) if target["usable"] else missing)
    yield shown
    runtime = report["onnxruntime"]
    builds = ", ".join(runtime["builds"]) or "a build of its own"
    yield Text(f"ONNX Runtime {runtime['version']} ({builds}): {', '.join(runtime['providers'])}")
    yield Text(f"CUDA in ONNX Runtime: {'works' if runtime['cuda_works'] else 'cannot be used here'}")
    yield Text(f"torch {report['torch']['version']}: {', '.join(report['torch']['gpus']) or 'no GPU'}")
    advice = [runtime["how"], *(f"{name}: {t['how']}" for name, t in report["targets"].items())]
    for line in [a for a in advice if a and not a.endswith("None")]:
        yield Text(line)


def _versions(packages: Report) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())
