"""The report of a merge, and of a plan: plain dicts that go to JSON as they are."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, load, load_from_string, numpy_helper

from onnxzip.analysis import Plan
from onnxzip.analysis.appended import notes_on_caches
from onnxzip.analysis.kinship import notes_on_kinship
from onnxzip.analysis.states import notes_on_states
from onnxzip.analysis.strands import SpacePlan
from onnxzip.calibration.sources import Samples
from onnxzip.config import Options
from onnxzip.exporting.origin import Origin
from onnxzip.exporting.verifying import Evidence
from onnxzip.fusion.tied import distinct_shapes
from onnxzip.fusion.zipped import Zipped
from onnxzip.loading.beside import bytes_read
from onnxzip.loading.fixing import Fixed
from onnxzip.loading.weights import weights_by_type
from onnxzip.net import Axis, Net, macs, macs_of, place_in_file
from onnxzip.runtime import peak_rss_bytes

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Size:
    """What a net costs: params (`weights_by_type`), bytes of its file, multiply-accumulates per sample."""

    params: int
    bytes: int
    macs: int

    def as_dict(self) -> dict[str, int]:
        return {"params": self.params, "bytes": self.bytes, "macs": self.macs}


def sha256_of(path: Path) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def source_size(path: Path, multiplications: int) -> Size:
    """Of an original file, with what it reads of others."""
    return Size(weights_by_type(load(path, load_external_data=False)).total(), bytes_read(path), multiplications)


def planned_size(plan: Plan, skeleton: ModelProto) -> Size:
    """Of the fused net before its weights are known.

    Args:
        skeleton: the fused net without params, but with those of tails.
    """
    shapes = distinct_shapes(plan)
    width = dtype_of(plan.stored).itemsize
    payload = sum(
        width * math.prod(s) + len(numpy_helper.from_array(np.zeros(0, np.float32), n).SerializeToString()) + 8
        for n, s in shapes.items()
    )
    params = sum(math.prod(s) for s in shapes.values()) + weights_by_type(skeleton).total()
    return Size(params, skeleton.ByteSize() + payload, macs_of((p.node for p in plan.layout.placed), plan.layout.shapes))


def original_size(origin: Origin) -> Size | None:
    """Of an original, as a fused file tells it; None where it does not."""
    if origin.params is None or origin.bytes is None or origin.macs is None:
        return None
    return Size(origin.params, origin.bytes, origin.macs)


def ratios(size: Size, parts: Iterable[Size]) -> dict[str, Any]:
    """A size, and what fraction of the sum of others it is; null where that sum is zero."""
    found: dict[str, Any] = dict(size.as_dict())
    every = [p.as_dict() for p in parts]
    for key, value in size.as_dict().items():
        total = sum(p[key] for p in every)
        found[f"{key}_ratio"] = value / total if total else None
    return found


def task_entry(path: Path, digest: str, size: Size, fixed: Fixed) -> dict[str, Any]:
    """What a report says of one task."""
    return {"source": str(path), "sha256": digest, **size.as_dict(), "fixed": dict(fixed)}


def fused_entry(path: Path) -> dict[str, Any]:
    """What a report says of the fused file that it is about."""
    return {"source": str(path), "sha256": sha256_of(path), "bytes": path.stat().st_size}


def original_entry(file: Path, origin: Origin) -> dict[str, Any]:
    """What a report says of a file given as a task's original."""
    digest = sha256_of(file)
    return {
        "source": str(file), "sha256": digest, "same_source": digest == origin.sha256, "fixed": dict(origin.fixed),
    }


def evidence_entry(evidence: Evidence) -> dict[str, Any]:
    """Fidelity and accuracy of one task."""
    accuracy = None if evidence.before is None else {"before": evidence.before, "after": evidence.after}
    return {
        "fidelity": {
            "relative_error": evidence.relative_error,
            "deviation": evidence.deviation,
            "top1_agreement": evidence.agreement,
            "samples": evidence.samples,
        },
        "accuracy": accuracy,
    }


def spaces_entry(plan: Plan, zipped: Zipped | None) -> list[dict[str, Any]]:
    """One line for each space that could be shared, in the order of the zip."""
    return [_space_entry(plan, space, zipped) for space in plan.shared_spaces()]


def _space_entry(plan: Plan, space: SpacePlan, zipped: Zipped | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": space.name,
        "channels": dict(space.sizes),
        "shared": space.shared,
        "groups": sum(space.counts.values()),
    }
    if partly := {o: n for o, n in space.counts.items() if 1 < len(o) < len(space.sizes)}:
        entry["partly"] = [{"tasks": [t for t in plan.tasks if t in o], "channels": n} for o, n in partly.items()]
    if zipped is None:
        return entry
    first = next((s.name for s in plan.steps if space.number in s.spaces), None)  # None: tables alone make it
    by_key = zipped.fits.get(first, {}) if first is not None else {}
    found = next((by_key[k] for k in sorted(by_key, key=len, reverse=True) if by_key[k]), ())
    return entry | {"error": _mean(max(f.error, 0.0) for f in found), "damping": _mean(f.damping for f in found)}


def _mean(values: Iterable[float]) -> float | None:
    known = [v for v in values if math.isfinite(v)]
    return sum(known) / len(known) if known else None


def refusals_entry(plan: Plan) -> list[dict[str, str]]:
    """Places left unmerged."""
    return [{"where": r.where, "why": r.why} for r in plan.refusals]


def extensions_entry(plan: Plan) -> list[dict[str, str]]:
    """Neutral layers that nets were given, where others have more."""
    return [{"where": e.where, "why": e.why} for e in plan.extensions]


def sizes_entry(plan: Plan) -> list[dict[str, Any]]:
    """Axes of the fused net's inputs that may have any size, and the sizes they had here."""
    return [
        {
            "input": port.name, "axis": place_in_file(Axis(port.name, d), port.axis).dim,
            "name": plan.sizes.axes[Axis(port.name, d)],
            "sizes": {t: plan.at(t).layout.shapes[port.name][d] for t in plan.tasks if port.name in plan.overlay.inputs[t]},
        }
        for port in plan.inputs for d in range(len(port.shape)) if Axis(port.name, d) in plan.sizes.axes
    ]


def stored_entry(plan: Plan) -> dict[str, Any]:
    """Types in which most weights lie, of the nets and of the fused one."""
    return {"merged": dtype_of(plan.stored).name, "tasks": {t: dtype_of(n.stored).name for t, n in plan.nets.items()}}


def dtype_of(stored: str) -> np.dtype:
    """The numpy dtype of a type as ONNX calls it."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(stored)))


def macs_before(plan: Plan, task: str) -> int:
    """Multiply-accumulates per sample of a net as it came."""
    net, added = plan.nets[task], plan.added(task)
    return macs_of((n for n in net.nodes if n.name not in added), net.shapes) - net.more_macs


def merge_report(
    plan: Plan,
    net: Net,
    content: bytes,
    beside: int,
    originals: Mapping[str, tuple[Path, Origin]],
    evidence: Mapping[str, Evidence],
    zipped: Zipped,
    samples: Samples,
    seconds: Mapping[str, float],
    options: Options,
) -> dict[str, Any]:
    """All of a merge; `beside`: bytes of its file of weights."""
    sizes = {t: size for t, (_, origin) in originals.items() if (size := original_size(origin)) is not None}
    merged = Size(weights_by_type(load_from_string(content)).total(), len(content) + beside, macs(net))
    return {
        "schema_version": SCHEMA_VERSION,
        "tasks": {
            t: task_entry(path, origin.sha256, sizes[t], origin.fixed) | {"outputs": dict(origin.outputs)}
            | evidence_entry(evidence[t])
            for t, (path, origin) in originals.items()
        },
        "merged": ratios(merged, sizes.values()),
        "spaces": spaces_entry(plan, zipped),
        "identical": {s.name: zipped.same[s.number] for s in plan.shared_spaces() if zipped.same.get(s.number)},
        "extensions": extensions_entry(plan),
        "refusals": refusals_entry(plan),
        "sizes": sizes_entry(plan),
        "stored": stored_entry(plan),
        "seconds": dict(seconds),
        "peak_rss_bytes": peak_rss_bytes(),
        "retrain": None,
        **samples_entry(samples, options.run.seed),
        "method": options.zip.method,
        "repair": options.zip.repair,
        "layout": options.plan.layout,
        "shares": [list(p) for p in options.plan.share],
        "apart": list(options.plan.apart),
        "seed": options.run.seed,
        "versions": versions(),
    }


def samples_entry(samples: Samples, seed: int) -> dict[str, Any]:
    """What was calibrated or compared with."""
    first = samples.sources[0]
    return {
        "noise": {"samples": first.total, "seed": seed} if samples.noise else None,
        "scaled_uint8": list(samples.scaled),
        "samples": {t: samples.of(t).total for s in samples.sources for t in s.tasks},
    }


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    return {name: version(name) for name in ("onnxzip", "numpy", "scipy", "onnx")} | {"onnxruntime": onnxruntime.__version__}


def to_text(report: Mapping[str, Any], encoding: str = "utf-8") -> str:
    """A report as JSON; where an encoding lacks some letter, as UTF-8 does of names that are no text, in ASCII."""
    texts = (json.dumps(report, indent=2, ensure_ascii=escaped, allow_nan=False) + "\n" for escaped in (False, True))
    return next(text for text in texts if _has_codes(text, encoding))


def _has_codes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def plan_report(plan: Plan, files: Mapping[str, Path], skeleton: ModelProto, layout: str) -> dict[str, Any]:
    """What a merge would share, save and refuse."""
    sizes = {t: source_size(path, macs_before(plan, t)) for t, path in files.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "tasks": {t: task_entry(path, sha256_of(path), sizes[t], plan.nets[t].fixed) for t, path in files.items()},
        "merged": ratios(planned_size(plan, skeleton), sizes.values()),
        "spaces": spaces_entry(plan, None),
        "extensions": extensions_entry(plan),
        "refusals": refusals_entry(plan),
        "sizes": sizes_entry(plan),
        "stored": stored_entry(plan),
        "layout": layout,
        "notes": [*notes_on_states(plan), *notes_on_caches(plan), *notes_on_kinship(plan)],
    }
