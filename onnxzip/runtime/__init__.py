"""Running nets: a net lowered to ONNX (proto), a net in ONNX Runtime (session)."""

from onnxzip.runtime.memory import give_back_freed
from onnxzip.runtime.proto import to_model
from onnxzip.runtime.session import Session, newest_versions, open_file, open_session, provider_for, quiet

__all__ = ["Session", "give_back_freed", "newest_versions", "open_file", "open_session", "provider_for", "quiet", "to_model"]
