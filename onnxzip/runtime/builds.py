"""The builds of ONNX Runtime, for the CPU and for GPUs, that are installed."""

from __future__ import annotations

from importlib import metadata

from onnxzip.errors import BackendMissingError


def installed_builds() -> list[str]:
    """The builds of ONNX Runtime that are installed; two at once overwrite each other's files."""
    return [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]


def refuse_two_builds() -> None:
    """Refuse to run anything where both are.

    Raises:
        BackendMissingError: saying how to put that right.
    """
    if len(installed_builds()) == 2:
        raise BackendMissingError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. "
            "Uninstall both, then install one: pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        )


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
