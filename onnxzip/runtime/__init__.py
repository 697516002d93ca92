"""Running nets: a net lowered to ONNX (proto), a net in ONNX Runtime (session), other graphs there (graphs)."""

from onnxzip.runtime.graphs import Graph
from onnxzip.runtime.memory import give_back_freed
from onnxzip.runtime.proto import to_model
from onnxzip.runtime.session import CUDA, Session, Value, newest_versions, open_file, open_session, provider_for, quiet

__all__ = [
    "CUDA", "Graph", "Session", "Value", "give_back_freed", "newest_versions", "open_file", "open_session", "provider_for",
    "quiet", "to_model",
]
