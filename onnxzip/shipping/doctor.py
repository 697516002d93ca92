"""doctor: which targets, execution providers and GPUs can be used here, and how to get the others."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxzip.exporting.metadata import own_version
from onnxzip.exporting.report import SCHEMA_VERSION
from onnxzip.ops.lazy import execute, torch
from onnxzip.runtime import CUDA, cuda_works, installed_builds
from onnxzip.shipping.backends import how_to_get, named_python, probe
from onnxzip.shipping.records import Target
from onnxzip.shipping.targets import known_targets


def examine(python: Path | None = None) -> dict[str, Any]:
    """What can be used here, as plain values.

    Args:
        python: is looked at for all targets; None for those that the environment names, else onnxzip's own.

    Raises:
        UsageError: that is no Python.
    """
    known = known_targets()
    chosen = {name: python or named_python(target) for name, target in known.items()}
    packages = list(dict.fromkeys(p for target in known.values() for p in target.packages))
    found = {p: probe(p, packages) for p in dict.fromkeys(chosen.values())}
    return {
        "schema_version": SCHEMA_VERSION,
        "onnxzip": own_version(),
        "python": sys.executable,
        "onnxruntime": _onnxruntime(),
        "torch": _torch(),
        "targets": {name: _target(t, chosen[name], found[chosen[name]]) for name, t in known.items()},
    }


def _target(target: Target, python: Path, found: Mapping[str, str | None]) -> dict[str, Any]:
    """One target."""
    missing = [p for p in target.packages if found[p] is None]
    return {
        "makes": target.makes,
        "usable": not missing,
        "python": str(python),
        "packages": {p: found[p] for p in target.packages},
        "missing": missing,
        "not_run": target.not_run or None,
        "how": how_to_get(target) if missing else None,
    }


def _onnxruntime() -> dict[str, Any]:
    """What merges and is compared with: both builds at once overwrite each other."""
    builds, works = installed_builds(), cuda_works()
    how = None
    if len(builds) > 1:
        how = "Both builds overwrite each other. Run pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them."
    elif CUDA not in ort.get_available_providers():
        how = "For a GPU install onnxruntime-gpu in place of onnxruntime."
    elif not works:
        how = "For a GPU of NVIDIA install its driver, and CUDA and cuDNN: pip install 'onnxruntime-gpu[cuda,cudnn]'."
    return {
        "version": ort.__version__,
        "builds": builds,
        "providers": ort.get_available_providers(),
        "cuda_works": works,
        "how": how,
    }


def _torch() -> dict[str, Any]:
    """What retrains."""
    execute(torch)
    works = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if works else [],
    }
