"""Running nets: a net lowered to ONNX (proto, fields), a net in ONNX Runtime (session), other graphs there (graphs)."""

from onnxzip.runtime.batch import fixed_batch
from onnxzip.runtime.builds import installed_builds
from onnxzip.runtime.fields import can_stand, docs_of, entries_of, fields_of, put_docs, put_fields
from onnxzip.runtime.graphs import Graph
from onnxzip.runtime.inner import renamed_graph
from onnxzip.runtime.memory import give_back_freed, let_go, peak_rss_bytes
from onnxzip.runtime.nodes import (
    SHAPES_ONLY,
    graphs_in,
    needed_nodes,
    needed_values,
    numbers_read_by,
    operator_of,
    parts_of,
    put_nodes,
    read_by,
    rename_values,
    value_of,
)
from onnxzip.runtime.opset import at_older_opset
from onnxzip.runtime.proto import BATCH_NAME, tensor_outside, to_model
from onnxzip.runtime.session import (
    CUDA,
    Session,
    Value,
    cuda_works,
    newest_versions,
    open_file,
    open_session,
    provider_for,
    quiet,
)

__all__ = [
    "BATCH_NAME",
    "CUDA",
    "SHAPES_ONLY",
    "Graph",
    "Session",
    "Value",
    "at_older_opset",
    "can_stand",
    "cuda_works",
    "docs_of",
    "entries_of",
    "fields_of",
    "fixed_batch",
    "give_back_freed",
    "graphs_in",
    "installed_builds",
    "let_go",
    "needed_nodes",
    "needed_values",
    "newest_versions",
    "numbers_read_by",
    "open_file",
    "open_session",
    "operator_of",
    "parts_of",
    "peak_rss_bytes",
    "provider_for",
    "put_docs",
    "put_fields",
    "put_nodes",
    "quiet",
    "read_by",
    "rename_values",
    "renamed_graph",
    "tensor_outside",
    "to_model",
    "value_of",
]
