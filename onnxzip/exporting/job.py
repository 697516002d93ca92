"""What the result of a merge depends on: the same in all processes that do one together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from onnxzip.analysis import Plan
from onnxzip.calibration.sources import Samples
from onnxzip.config import Options
from onnxzip.exporting.metadata import own_version
from onnxzip.exporting.report import sha256_of


def job_of(plan: Plan, files: Mapping[str, Path], samples: Samples, options: Options) -> dict[str, object]:
    """All that must be the same in every process, as JSON values by what they are."""
    steps = options.steps.retrain
    return {
        "onnxzip": own_version(),
        "tasks": list(files),
        **{f"sha256 of {task}": sha256_of(path) for task, path in files.items()},
        **{f"samples of {', '.join(s.tasks)}": s.total for s in samples.sources},
        **{f"hash of the first samples of {', '.join(s.tasks)}": s.mark for s in samples.sources},
        "mean": list(options.data.mean),
        "std": list(options.data.std),
        "size": options.data.size,
        "share": [[glob, share] for glob, share in options.plan.share],
        "layout": options.plan.layout,
        "opset": options.plan.opset,
        **({"apart": list(options.plan.apart)} if options.plan.apart else {}),
        **{f"fixed inputs of {t}": dict(net.fixed) for t, net in plan.nets.items() if net.fixed},
        "method": options.zip.method,
        "repair": options.zip.repair,
        "seed": options.run.seed,
        "retraining": str((steps, replace(options.retrain, checkpoint=None, resume=False))) if steps else None,
    }


def digest_of(samples: Samples) -> str:
    """Hash of the samples that one process has."""
    return " ".join(s.digest() for s in samples.sources)
