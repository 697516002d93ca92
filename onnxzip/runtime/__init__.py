"""Running nets: a net lowered to ONNX (proto), a net in ONNX Runtime (session), other graphs there (graphs)."""

from onnxzip.runtime.batch import fixed_batch
from onnxzip.runtime.graphs import Graph
from onnxzip.runtime.memory import give_back_freed, let_go
from onnxzip.runtime.opset import at_older_opset
from onnxzip.runtime.proto import to_model
from onnxzip.runtime.session import (
    CUDA,
    Session,
    Value,
    cuda_works,
    installed_builds,
    newest_versions,
    open_file,
    open_session,
    provider_for,
    quiet,
)

__all__ = [
    "CUDA",
    "Graph",
    "Session",
    "Value",
    "at_older_opset",
    "cuda_works",
    "fixed_batch",
    "give_back_freed",
    "installed_builds",
    "let_go",
    "newest_versions",
    "open_file",
    "open_session",
    "provider_for",
    "quiet",
    "to_model",
]
